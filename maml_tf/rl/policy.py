"""Policies as pure functions of their weights, with a task axis.

`policy(weights, observations)` is the parameters of the distributions of actions, plain tensors;
`policy.distribution(weights, observations)` the distributions themselves, TensorFlow Probability's.

Shape letters: T tasks, L steps of a task, E episodes per task, O observation and A action numbers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from maml_tf import arguments
from maml_tf.engine.functional import functional
from maml_tf.rl import policy_networks
from maml_tf.rl.actor import LOG_STD_FLOOR, Actor, DenseActor, NetworkActor
from maml_tf.rl.heads import GaussianHead, Head
from maml_tf.rl.parameters import Gaussian, Parameters
from maml_tf.types import Weights

if TYPE_CHECKING:
    from maml_tf.rl.sampler import Sampler

__all__ = ["Gaussian", "GaussianPolicy", "Policy", "kl", "log_prob", "policy_for"]


def log_prob(parameters: Parameters, actions: tf.Tensor) -> tf.Tensor:
    """Log pi(a|s) `[T, L]` of actions `[T, L, ...]`."""
    return parameters.distribution().log_prob(actions)


def kl(old: Parameters, new: Parameters) -> tf.Tensor:
    """KL(old || new) `[T, L]`, one number per step."""
    return old.distribution().kl_divergence(new.distribution())


class Policy:
    """pi(a|s) of any family: a network of the observation, and a head that says what it gives.

    `policy_for(sampler)` makes the one that fits an environment.

    Attributes:
      observation_size: O.
      head: see `heads`.
      model: the network.
      standardizer: its layer `Standardize`, or None.
      log_std: of a Gaussian, a weight that does not depend on the state, floored at log 1e-6; else
        None.
    """

    def __init__(
        self,
        observation_size: int,
        head: Head,
        hidden: tuple[int, ...] = (100, 100),
        seed: int = 0,
        *,
        context: bool = False,
        network: keras.Model | None = None,
        head_stddev: float | None = None,
        init_std: float = 1.0,
        standardize: bool = False,
    ):
        """Makes the weights: Glorot uniform kernels, a function of `seed`; biases 0.

        Args:
          observation_size: O.
          head: of the action space, such as `heads.CategoricalHead(K)`.
          hidden: widths of the network's ReLU layers.
          seed: seed of the initial weights, 0 or more.
          context: put a `Context` of five numbers beside the observation.
          network: a Keras model of your own in place of the one that `hidden`, `seed` and
            `context` describe; it takes the observation in any shape of O numbers, and gives
            `head.output_size` of them. It is used as it is, without a copy.
          head_stddev: of the head's initial kernel, normal; None: Glorot uniform as the others'.
            With a small one the first actions are noise alone.
          init_std: standard deviation of every action number of a Gaussian at the beginning.
          standardize: put a `Standardize` before the network: observations in units of their own
            spread. A network of your own has one as its first layer.

        Raises:
          ValueError: a size is below 1, the network does not fit or cannot be a policy's, or an
            option is of what this policy does not have.
        """
        arguments.whole("observation_size", observation_size)
        arguments.count("seed", seed, 0)
        if not isinstance(head, Head):
            raise ValueError(
                f"head is {arguments.shown(head)}; give one of maml_tf.rl.heads, such as "
                "CategoricalHead(2)."
            )
        self.observation_size, self.head = observation_size, head
        self.context = context
        self._own = network is not None
        if network is None:
            network = policy_networks.dense(
                *(observation_size, head.output_size, hidden, seed),
                context=context,
                head_stddev=head_stddev,
                standardize=arguments.boolean("standardize", standardize),
                name="mean_network" if head.has_spread else "logits_network",
            )
        else:
            _refuse_both(context=context, head_stddev=head_stddev, standardize=standardize)
            policy_networks.check(network, observation_size, head.output_size)
        self.model = network
        self.standardizer = policy_networks.standardizer(network)
        self.log_std = None
        if head.has_spread:
            self.log_std = keras.Variable(
                np.full(head.size, math.log(arguments.positive("init_std", init_std))),
                dtype=keras.config.floatx(),
                name="log_std",
            )
        elif init_std != 1:
            raise ValueError(f"init_std is {init_std}, and choices have no spread; drop it.")
        self.stored = _Stored(self.model, self.log_std)
        self._apply = functional(self.model)
        self._compiled = tf.function(self.outputs, autograph=False)

    @property
    def variables(self) -> list[keras.Variable]:
        """All weights, in the order of `Weights`: the network's, then the log-std if there is."""
        return [*self.model.trainable_variables, *([] if self.log_std is None else [self.log_std])]

    @property
    def statistics(self) -> list[keras.Variable]:
        """What no gradient moves and a training changes: those of the observations."""
        return [] if self.standardizer is None else self.standardizer.non_trainable_variables

    @property
    def action_size(self) -> int:
        """A; of a `Discrete` space K."""
        return self.head.size

    def __call__(self, weights: Weights, observations: tf.Tensor) -> Any:
        """The parameters under `weights` (shared or stacked) at `observations [T, L, O]`."""
        return self.head.parameters(self.outputs(weights, observations), self.log_stds(weights))

    def distribution(self, weights: Weights, observations: tf.Tensor) -> Any:
        """The distributions of actions: batch shape `[T, L]`, differentiable in the weights.

        Args:
          weights: shared or stacked.
          observations: `[T, L, O]`.

        Returns:
          A `tfp.distributions.Distribution`.

        Raises:
          ModuleNotFoundError: TensorFlow Probability is not installed.
        """
        return self(weights, observations).distribution()

    def actor(self, weights: Weights, num_tasks: int) -> Actor:
        """What a sampler calls at every time step; `weights` are shared or stacked."""
        if not self._own:
            numbers = self.standardizer and self.standardizer.numbers()
            return DenseActor(weights, num_tasks, self.head, numbers, context=self.context)
        return NetworkActor(self._compiled, weights, num_tasks, self.head)

    def outputs(self, weights: Weights, observations: tf.Tensor) -> tf.Tensor:
        """What the network gives, `[T, L, N]`: here observations enter it."""
        if self._own:
            observations = policy_networks.shaped(self.model, observations)
        found = self._apply(weights[: len(self.model.trainable_variables)], observations)
        return tf.cast(found, keras.config.floatx())  # as the trajectories are

    def log_stds(self, weights: Weights) -> tf.Tensor | None:
        """Floored, `[A]` or `[T, A]`; None where actions are choices."""
        return None if self.log_std is None else tf.maximum(weights[-1], LOG_STD_FLOOR)


class GaussianPolicy(Policy):
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
        squash: bool = False,
        **options: Any,
    ):
        """Makes the weights: Glorot uniform kernels, a function of `seed`; biases 0.

        Args:
          observation_size: O.
          action_size: A.
          hidden: widths of the mean network's ReLU layers.
          seed: seed of the initial weights, 0 or more.
          squash: tanh of the Gaussian, so that actions keep within a bounded box, in place of
            clipping those beyond.
          **options: those of `Policy`: `context`, `network`, `init_std` and others.

        Raises:
          ValueError: as `Policy`.
        """
        arguments.boolean("squash", squash)
        head = GaussianHead(arguments.whole("action_size", action_size), squash)
        super().__init__(observation_size, head, hidden, seed, **options)


def policy_for(sampler: Sampler, *, squash: bool = False, **options: Any) -> Policy:
    """Makes the policy that a sampler's spaces need, with fresh weights.

    Args:
      sampler: of the environment.
      squash: of a `Box` of actions; see `GaussianPolicy`.
      **options: as `Policy`'s: `hidden`, `seed`, `network` and others.

    Raises:
      ValueError: the environment shows images and there is no `network`, `squash` is given for
        other actions than a `Box` with bounds, or an option is wrong.
    """
    arguments.boolean("squash", squash)
    if sampler.shows_images and options.get("network") is None:
        raise ValueError(
            f"The environment shows images of shape {sampler.observation_shape}; give the policy a "
            "Keras model for them (network=)."
        )
    head = sampler.head
    if isinstance(head, GaussianHead):
        if squash and not sampler.bounds_actions:
            raise ValueError(
                "squash keeps actions within two bounds, and the environment's Box has not two of "
                "each; drop it, or give the Box bounds (gymnasium.wrappers.RescaleAction)."
            )
        return GaussianPolicy(sampler.observation_size, head.size, squash=squash, **options)
    if squash:
        raise ValueError("squash is for a Box of actions, and these are choices; drop it.")
    return Policy(sampler.observation_size, head, **options)


def _refuse_both(**options: bool | float | None) -> None:
    """Refuses what describes the network that a user's own stands in for."""
    for name, given in options.items():
        if given:
            raise ValueError(
                f"{name} and network are given both; build it into the network, or drop one."
            )


class _Stored(keras.Model):
    """All weights of a policy, for Keras' files: `save_weights`, `load_weights`."""

    def __init__(self, network: keras.Model, log_std: keras.Variable | None):
        super().__init__(name="policy")
        # The attributes' names are in the files.
        if log_std is None:
            self.network = network
        else:
            self.mean_network, self.log_std = network, log_std
        self.built = True
