"""A Gaussian policy as a pure function of its weights, with a task axis.

Shape letters: T tasks, L steps of a task, E episodes per task, O observation and A action numbers.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import initializers, layers

from maml_tf import arguments
from maml_tf.engine.functional import functional
from maml_tf.networks import CONTEXT_NUMBERS, Context
from maml_tf.rl.actor import LOG_STD_FLOOR, Actor
from maml_tf.types import Weights


class Gaussian(NamedTuple):
    """Diagonal Gaussians over actions; the spread of a task is the same at each of its steps."""

    means: tf.Tensor  # [T, L, A]
    log_stds: tf.Tensor  # [T, A], or [A] for all tasks


def log_prob(gaussian: Gaussian, actions: tf.Tensor) -> tf.Tensor:
    """Log pi(a|s) `[T, L]` of `actions [T, L, A]`."""
    size = actions.shape[-1]
    apart = _scaled_squares(actions - gaussian.means, gaussian.log_stds)
    return -0.5 * (apart + size * math.log(2 * math.pi)) - _sum(gaussian.log_stds)


def kl(old: Gaussian, new: Gaussian) -> tf.Tensor:
    """KL(old || new) `[T, L]`, one number per step."""
    apart = _scaled_squares(old.means - new.means, new.log_stds)
    wider = old.log_stds - new.log_stds
    return 0.5 * (apart + _sum(tf.math.expm1(2 * wider))) - _sum(wider)


def _scaled_squares(differences: tf.Tensor, log_stds: tf.Tensor) -> tf.Tensor:
    """Squares in units of the variances, summed: `[T, L]`.

    As a product, since broadcasting a few numbers along many steps is slow, in derivatives too.
    """
    precisions = tf.exp(-2 * log_stds)[..., tf.newaxis]
    return tf.matmul(tf.square(differences), precisions)[..., 0]


def _sum(of_actions: tf.Tensor) -> tf.Tensor:
    """`[T, A]` or `[A]` -> `[T, 1]` or `[1]`."""
    return tf.reduce_sum(of_actions, -1, keepdims=True)


class GaussianPolicy:
    """pi(a|s) = N(mean network(s), diag(exp(2 log_std))), as in the original program.

    The log-std does not depend on the state, starts at 0, is floored at log 1e-6, and is a weight
    like any other: adapted and meta-learned.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden: tuple[int, ...] = (100, 100),
        seed: int = 0,
        *,
        context: bool = False,
        head_stddev: float | None = None,
        init_std: float = 1.0,
    ):
        """Makes the weights: Glorot uniform kernels, a function of `seed`; biases 0.

        Args:
          observation_size: O.
          action_size: A.
          hidden: widths of the mean network's ReLU layers.
          seed: seed of the initial weights, 0 or more.
          context: put a `Context` of five numbers beside the observation.
          head_stddev: of the head's initial kernel, normal; None: Glorot uniform as the others'.
            With a small one the first actions are noise alone.
          init_std: standard deviation of every action number at the beginning.

        Raises:
          ValueError: a size is below 1.
        """
        arguments.whole("observation_size", observation_size)
        arguments.whole("action_size", action_size)
        arguments.count("seed", seed, 0)
        hidden = arguments.sizes("hidden", hidden, -(10**9))
        sizes = (observation_size, action_size, *hidden)
        if min(sizes) < 1:
            raise ValueError(f"Sizes of a policy must be 1 or more, not {sizes}.")
        self.observation_size, self.action_size = observation_size, action_size
        self.context = context
        self.model = keras.Sequential([keras.Input((observation_size,))], name="mean_network")
        if context:
            self.model.add(Context(CONTEXT_NUMBERS, name="context"))
        for index, width in enumerate((*hidden, action_size)):
            last = index == len(hidden)
            kernel = initializers.GlorotUniform(1000 * seed + index)
            if last and head_stddev is not None:
                kernel = initializers.RandomNormal(0.0, head_stddev, 1000 * seed + index)
            self.model.add(
                layers.Dense(
                    width,
                    activation=None if last else "relu",
                    kernel_initializer=kernel,
                    name="head" if last else f"dense_{index + 1}",
                )
            )
        self.log_std = keras.Variable(
            np.full(action_size, math.log(arguments.positive("init_std", init_std))),
            dtype=keras.config.floatx(),
            name="log_std",
        )
        self.stored = _Stored(self.model, self.log_std)
        self._apply = functional(self.model)

    @property
    def variables(self) -> list[keras.Variable]:
        """All weights, in the order of `Weights`: the mean network's, then the log-std."""
        return [*self.model.trainable_variables, self.log_std]

    def __call__(self, weights: Weights, observations: tf.Tensor) -> Gaussian:
        """The policy under `weights` (shared or stacked) at `observations [T, L, O]`."""
        means = self._apply(weights[:-1], observations)
        return Gaussian(means, tf.maximum(weights[-1], LOG_STD_FLOOR))

    def actor(self, weights: Weights, num_tasks: int) -> Actor:
        """What a sampler calls at every time step; `weights` are shared or stacked."""
        return Actor(weights, num_tasks, context=self.context)


class _Stored(keras.Model):
    """All weights of a policy, for Keras' files: `save_weights`, `load_weights`."""

    def __init__(self, mean_network: keras.Model, log_std: keras.Variable):
        super().__init__(name="policy")
        self.mean_network, self.log_std = mean_network, log_std
        self.built = True
