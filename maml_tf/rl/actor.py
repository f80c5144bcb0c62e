"""Policies at work: they draw actions for many tasks in one call.

Shape letters: T tasks, E episodes per task, O observation and A action numbers.
"""

from __future__ import annotations

import copy
import math
from typing import Protocol, runtime_checkable

import numpy as np

from maml_tf.types import Weights

LOG_STD_FLOOR = math.log(1e-6)


class Act(Protocol):
    """A policy of T tasks, each with its own weights."""

    log_stds: np.ndarray  # [T, A]

    def __call__(
        self, observations: np.ndarray, noise: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Acts.

        Args:
          observations: `[T, E, O]` float32.
          noise: `[T, E, A]` float32, standard normal.

        Returns:
          Actions and their means, each `[T, E, A]`.
        """
        ...


@runtime_checkable
class DivisibleAct(Act, Protocol):
    """One whose parts several threads may ask for actions at the same time."""

    def part(self, tasks: slice) -> Act:
        """The policies of some of the tasks."""
        ...


class Actor:
    """A policy with its weights: draws actions for T tasks x E environments in one call.

    In Numpy: at a time step there is so little to compute that calling TensorFlow would take as
    long (benchmarks/README.md).
    """

    def __init__(self, weights: Weights, num_tasks: int, *, context: bool = False):
        """Use `GaussianPolicy.actor`."""
        *network, log_stds = (np.asarray(w) for w in weights)
        log_stds = np.maximum(log_stds, np.asarray(LOG_STD_FLOOR, log_stds.dtype))
        self.log_stds = np.broadcast_to(log_stds, (num_tasks, log_stds.shape[-1]))  # [T, A]
        self._stds = np.exp(self.log_stds)[:, None]
        self._beside = network.pop(0)[..., None, :] if context else None
        biases = [bias[..., None, :] for bias in network[1::2]]
        self._layers = list(zip(network[::2], biases, strict=True))

    def part(self, tasks: slice) -> Actor:
        """The policies of some of the tasks."""

        def cut(array: np.ndarray) -> np.ndarray:
            return array[tasks] if array.ndim == 3 else array  # shared

        part = copy.copy(self)
        part.log_stds, part._stds = self.log_stds[tasks], cut(self._stds)
        part._beside = None if self._beside is None else cut(self._beside)
        part._layers = [(cut(kernel), cut(bias)) for kernel, bias in self._layers]
        return part

    def __call__(
        self, observations: np.ndarray, noise: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws actions.

        Args:
          observations: `[T, E, O]`.
          noise: `[T, E, A]`, standard normal.

        Returns:
          Actions, mean + std * noise, and means, each `[T, E, A]`.
        """
        x = np.asarray(observations, self._stds.dtype)
        if self._beside is not None:
            beside = np.broadcast_to(self._beside, (*x.shape[:-1], self._beside.shape[-1]))
            x = np.concatenate([x, beside], -1)
        for kernel, bias in self._layers[:-1]:
            x = x @ kernel
            x += bias
            np.maximum(x, 0.0, out=x)
        kernel, bias = self._layers[-1]
        means = x @ kernel + bias
        return means + self._stds * noise, means
