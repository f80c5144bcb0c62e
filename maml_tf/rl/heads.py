"""Between a policy's network and its actions: one head for each kind of action space.

A head says how many numbers the network has to give, which distribution they are the parameters of,
and what a sampler draws.

A new family is a tuple in `parameters`, its distribution in `distributions`, a head here, and which
space takes it in `envs.spaces.head_for`.

Shape letters: T tasks, L steps of a task, A action numbers, K choices, N numbers that the network
gives for a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from maml_tf.rl.parameters import (
    Bernoulli,
    Categorical,
    Gaussian,
    MultiCategorical,
    SquashedGaussian,
)


class _Vector:
    """A numbers for a network to give, and as many in an action."""

    size: int  # A

    @property
    def output_size(self) -> int:
        """N."""
        return self.size

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Of one action."""
        return (self.size,)


@dataclass(frozen=True)
class GaussianHead(_Vector):
    """Real actions; with `squash` tanh of them, which stays within the bounds of a box."""

    size: int  # A
    squash: bool = False

    output_name = "means"
    has_spread = True
    dtype = np.float32

    @property
    def noise_size(self) -> int:
        """Numbers that an action is drawn with."""
        return self.size

    @property
    def has_mode(self) -> bool:
        """Whether the likeliest action is something else than what the network gives."""
        return self.squash

    def parameters(self, outputs: tf.Tensor, log_stds: tf.Tensor) -> Gaussian | SquashedGaussian:
        """Of the network's outputs `[T, L, N]`, and log-stds `[T, A]` or `[A]`."""
        return (SquashedGaussian if self.squash else Gaussian)(outputs, log_stds)

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """What actions are drawn with: standard normal `[*shape, A]`."""
        return rng.standard_normal((*shape, self.size), np.float32)

    def act(self, outputs: Any, stds: Any, noise: Any, xp: Any = np) -> Any:
        """Actions `[..., A]` of outputs `[..., A]`, spreads and noise; `xp` is NumPy or alike."""
        actions = outputs + stds * noise
        return xp.tanh(actions) if self.squash else actions

    def mode(self, outputs: tf.Tensor) -> tf.Tensor:
        """The likeliest action before tanh, as an action."""
        return tf.tanh(outputs) if self.squash else outputs


class _Choices(_Vector):
    """What heads without a spread share: logits, whole numbers, uniform noise `[..., A]`."""

    output_name = "logits"
    has_spread = False
    has_mode = True
    dtype = np.int32

    @property
    def noise_size(self) -> int:
        """Numbers that an action is drawn with."""
        return math.prod(self.action_shape)

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """What actions are drawn with: uniform in [0, 1)."""
        return rng.random((*shape, self.noise_size), np.float32)


@dataclass(frozen=True)
class CategoricalHead(_Choices):
    """One of K choices, numbered from 0."""

    size: int  # K

    action_shape = ()

    def parameters(self, outputs: tf.Tensor, log_stds: tf.Tensor | None) -> Categorical:
        """Of the network's outputs `[T, L, K]`."""
        del log_stds
        return Categorical(outputs)

    def act(self, outputs: Any, stds: Any, noise: Any, xp: Any = np) -> Any:
        """Choices `[...]` by the inverse of the cumulative distribution."""
        del stds
        return _chosen(outputs, noise, xp)

    def mode(self, outputs: tf.Tensor) -> tf.Tensor:
        """The likeliest choice."""
        return tf.argmax(outputs, -1, tf.int32)


@dataclass(frozen=True)
class MultiCategoricalHead(_Choices):
    """Several choices at once, each numbered from 0."""

    sizes: tuple[int, ...]  # K of each

    @property
    def size(self) -> int:  # type: ignore[override]
        """A."""
        return len(self.sizes)

    @property
    def output_size(self) -> int:
        """N."""
        return sum(self.sizes)

    def parameters(self, outputs: tf.Tensor, log_stds: tf.Tensor | None) -> MultiCategorical:
        """Of the network's outputs `[T, L, N]`: each choice's logits one after another."""
        del log_stds
        return MultiCategorical(tuple(tf.split(outputs, self.sizes, -1)))

    def act(self, outputs: Any, stds: Any, noise: Any, xp: Any = np) -> Any:
        """Choices `[..., A]`."""
        del stds
        return xp.stack(
            [
                _chosen(outputs[..., last - size : last], noise[..., index : index + 1], xp)
                for index, (size, last) in enumerate(
                    zip(self.sizes, np.cumsum(self.sizes), strict=True)
                )
            ],
            -1,
        )

    def mode(self, outputs: tf.Tensor) -> tf.Tensor:
        """The likeliest choices."""
        parts = tf.split(outputs, self.sizes, -1)
        return tf.stack([tf.argmax(part, -1, tf.int32) for part in parts], -1)


@dataclass(frozen=True)
class BernoulliHead(_Choices):
    """Bits."""

    size: int  # A

    def parameters(self, outputs: tf.Tensor, log_stds: tf.Tensor | None) -> Bernoulli:
        """Of the network's outputs `[T, L, A]`."""
        del log_stds
        return Bernoulli(outputs)

    def act(self, outputs: Any, stds: Any, noise: Any, xp: Any = np) -> Any:
        """Bits `[..., A]`: 1 where the noise is below the probability."""
        del stds
        return noise < 0.5 + 0.5 * xp.tanh(0.5 * outputs)  # exp would overflow

    def mode(self, outputs: tf.Tensor) -> tf.Tensor:
        """The likeliest bits."""
        return tf.cast(outputs > 0, tf.int32)


Head: TypeAlias = GaussianHead | CategoricalHead | MultiCategoricalHead | BernoulliHead


def _chosen(logits: Any, noise: Any, xp: Any) -> Any:
    """Choices `[...]` of logits `[..., K]` and uniform noise `[..., 1]`."""
    shares = xp.cumsum(xp.exp(logits - xp.max(logits, axis=-1, keepdims=True)), axis=-1)
    below = shares[..., :-1] <= noise * shares[..., -1:]
    return xp.sum(below, axis=-1)
