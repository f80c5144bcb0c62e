"""Policies at work: they draw actions for many tasks in one call.

Shape letters: T tasks, E episodes per task, O observation numbers, N numbers that a network gives
for one, A action numbers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
import tensorflow as tf

from maml_tf.rl.heads import Head
from maml_tf.rl.standardization import CLIP
from maml_tf.types import Weights

LOG_STD_FLOOR = math.log(1e-6)


class Act(Protocol):
    """A policy of T tasks, each with its own weights."""

    log_stds: np.ndarray  # [T, A]; [T, 0] where actions are choices

    def __call__(
        self, observations: np.ndarray, noise: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Acts.

        Args:
          observations: `[T, E, O]` float32.
          noise: `[T, E, ...]` float32, by `noise` of the sampler's head: standard normal `[A]` for
            real actions, uniform for choices.

        Returns:
          Actions `[T, E, ...]`, and what the network gave `[T, E, N]`: a Gaussian's means, else
          logits.
        """
        ...


@runtime_checkable
class DivisibleAct(Act, Protocol):
    """One whose parts several threads may ask for actions at the same time."""

    def part(self, tasks: slice) -> Act:
        """The policies of some of the tasks."""
        ...


class Actor:
    """A policy with its weights: draws actions for T tasks x E environments in one call."""

    def __init__(self, log_stds: np.ndarray | None, num_tasks: int, head: Head):
        """Takes log-stds `[T, A]` or `[A]`, None where there are none."""
        self.head = head
        log_stds = np.zeros(0, np.float32) if log_stds is None else log_stds
        log_stds = np.maximum(log_stds, np.asarray(LOG_STD_FLOOR, log_stds.dtype))
        self.log_stds = np.broadcast_to(log_stds, (num_tasks, log_stds.shape[-1]))  # [T, A]
        self._stds = np.exp(self.log_stds)[:, None]

    def __call__(
        self, observations: np.ndarray, noise: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws actions; see `Act`."""
        outputs = self._outputs(observations)
        return self.head.act(outputs, self._stds, noise), outputs

    def _outputs(self, observations: np.ndarray) -> np.ndarray:
        """What the network gives: `[T, E, O]` -> `[T, E, N]`."""
        raise NotImplementedError


class NetworkActor(Actor):
    """One with a network of the user's: one compiled call per time step."""

    def __init__(
        self,
        network: Callable[[Weights, np.ndarray], tf.Tensor],
        weights: Weights,
        num_tasks: int,
        head: Head,
    ):
        """Use `Policy.actor`; `network` is compiled, and one for all weights of a shape."""
        self._network, self._weights = network, [tf.convert_to_tensor(w) for w in weights]
        log_stds = np.asarray(self._weights[-1]) if head.has_spread else None
        super().__init__(log_stds, num_tasks, head)

    def _outputs(self, observations: np.ndarray) -> np.ndarray:
        return self._network(self._weights, observations).numpy()


class DenseActor(Actor):
    """One whose network is the paper's.

    In Numpy: at a time step there is so little to compute that calling TensorFlow would take as
    long (benchmarks/README.md).
    """

    def __init__(
        self,
        weights: Weights,
        num_tasks: int,
        head: Head,
        standardized: tuple[np.ndarray, np.ndarray] | None = None,
        *,
        context: bool = False,
    ):
        """Use `Policy.actor`; `standardized` is `Standardize.numbers`."""
        network = [np.asarray(w) for w in weights]
        log_stds = network.pop() if head.has_spread else None
        super().__init__(log_stds, num_tasks, head)
        self._standardized = standardized
        self._beside = network.pop(0)[..., None, :] if context else None
        biases = [bias[..., None, :] for bias in network[1::2]]
        self._layers = list(zip(network[::2], biases, strict=True))

    def part(self, tasks: slice) -> DenseActor:
        """The policies of some of the tasks."""

        def cut(array: np.ndarray) -> np.ndarray:
            return array[tasks] if array.ndim == 3 else array  # shared

        part = copy.copy(self)
        part.log_stds, part._stds = self.log_stds[tasks], cut(self._stds)
        part._beside = None if self._beside is None else cut(self._beside)
        part._layers = [(cut(kernel), cut(bias)) for kernel, bias in self._layers]
        return part

    def _outputs(self, observations: np.ndarray) -> np.ndarray:
        """Here observations enter the network."""
        x = np.asarray(observations, self._layers[0][0].dtype)
        if self._standardized is not None:
            mean, factor = self._standardized
            x = np.clip((x - mean) * factor, -CLIP, CLIP)
        if self._beside is not None:
            beside = np.broadcast_to(self._beside, (*x.shape[:-1], self._beside.shape[-1]))
            x = np.concatenate([x, beside], -1)
        for kernel, bias in self._layers[:-1]:
            x = x @ kernel
            x += bias
            np.maximum(x, 0.0, out=x)
        kernel, bias = self._layers[-1]
        return x @ kernel + bias
