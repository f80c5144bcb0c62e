"""How the inner loop makes a step of a gradient: gradient descent, momentum, Adam, or your own.

A state belongs to one task, begins at zero with its adaptation, and is carried from inner step to
inner step. Everything is differentiated through, twice if need be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import tensorflow as tf

from maml_tf import arguments

State = Sequence[tf.Tensor]
"""What is remembered of one weight between steps, each of the weight's shape; may be empty."""


class InnerOptimizer(Protocol):
    """What `MetaLearner(inner_optimizer=...)` takes; one weight tensor at a time."""

    def initial_state(self, weight: tf.Tensor) -> State:
        """The state before the first step, of a weight that adapts, `[T, *shape]`."""

    def update(
        self, gradient: tf.Tensor, state: State, step: int | tf.Tensor, alpha: tf.Tensor
    ) -> tuple[tf.Tensor, State]:
        """One step, in operations that are differentiated through.

        Args:
          gradient: of each task's loss, `[T, *shape]`.
          state: as the step before left it; tensors of unchanged shapes.
          step: 0, 1, ...; an int32 scalar where only the running graph knows it.
          alpha: the step size, which broadcasts to the gradient.

        Returns:
          What is added to the weight, and the state for the next step.
        """


class _Described:
    """Says what it is to a run's description, as Keras' optimizers do."""

    def get_config(self) -> dict[str, Any]:
        """Its settings."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]


@dataclasses.dataclass(frozen=True)
class SGD(_Described):
    """Gradient descent, `-alpha g`: the paper's."""

    def initial_state(self, weight: tf.Tensor) -> State:
        """Nothing."""
        return []

    def update(
        self, gradient: tf.Tensor, state: State, step: int | tf.Tensor, alpha: tf.Tensor
    ) -> tuple[tf.Tensor, State]:
        """See `InnerOptimizer`."""
        return -alpha * gradient, state  # the sign on alpha: one pass fewer


@dataclasses.dataclass(frozen=True)
class Momentum(_Described):
    """`v' = momentum v - alpha g`, and `v'` is added: `keras.optimizers.SGD(momentum=...)`."""

    momentum: float = 0.9

    def __post_init__(self):
        """Checks the number."""
        if not 0 <= arguments.number("momentum", self.momentum) <= 1:
            raise ValueError(f"momentum must be from 0 to 1, not {self.momentum}.")

    def initial_state(self, weight: tf.Tensor) -> State:
        """The velocity."""
        return [tf.zeros_like(weight)]

    def update(
        self, gradient: tf.Tensor, state: State, step: int | tf.Tensor, alpha: tf.Tensor
    ) -> tuple[tf.Tensor, State]:
        """See `InnerOptimizer`."""
        velocity = self.momentum * state[0] - alpha * gradient
        return velocity, [velocity]


@dataclasses.dataclass(frozen=True)
class Adam(_Described):
    """`keras.optimizers.Adam`: Kingma & Ba 2015, with bias correction, epsilon beside the root.

    The root of the second moment has no derivative at 0, which it has where a number's gradients
    were all 0, as behind a ReLU that is off. There it is taken as 0, which is no choice in the
    first step: the step is `alpha c m / (root + epsilon)`, and m is 0. Where gradients are about
    epsilon or less the derivative of a step is large, up to `alpha / epsilon`, and so may be a
    meta-gradient of second order; clip it, or take a larger epsilon.
    """

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7

    def __post_init__(self):
        """Checks the numbers."""
        _share("beta_1", self.beta_1)
        _share("beta_2", self.beta_2)
        arguments.positive("epsilon", self.epsilon)

    def initial_state(self, weight: tf.Tensor) -> State:
        """The two moments."""
        return [tf.zeros_like(weight), tf.zeros_like(weight)]

    def update(
        self, gradient: tf.Tensor, state: State, step: int | tf.Tensor, alpha: tf.Tensor
    ) -> tuple[tf.Tensor, State]:
        """See `InnerOptimizer`."""
        first, second = state
        first += (1 - self.beta_1) * (gradient - first)
        second += (1 - self.beta_2) * (tf.square(gradient) - second)
        count = tf.cast(step + 1, gradient.dtype)
        one, two = (1 - tf.constant(b, count.dtype) ** count for b in (self.beta_1, self.beta_2))
        scale = alpha * tf.sqrt(two) / one
        return -scale * first / (_root(second) + self.epsilon), [first, second]


BY_NAME = {"sgd": SGD, "momentum": Momentum, "adam": Adam}
"""What `inner_optimizer` may say."""

PLAIN = SGD()


def inner_optimizer_of(given: Any) -> InnerOptimizer:
    """What a user means by `inner_optimizer`.

    Raises:
      ValueError: it is none of the names, and no `InnerOptimizer`.
    """
    if isinstance(given, str) and given in BY_NAME:
        return BY_NAME[given]()
    methods = [getattr(given, name, None) for name in ("initial_state", "update")]
    if isinstance(given, type) or not all(map(callable, methods)):
        names = ", ".join(repr(name) for name in BY_NAME)
        raise ValueError(
            f"inner_optimizer must be one of {names}, or an object with initial_state(weight) and "
            f"update(gradient, state, step, alpha), not {arguments.shown(given)}."
        )
    return given


def updated(optimizer: InnerOptimizer, *given: Any) -> tuple[tf.Tensor, State]:
    """`optimizer.update(*given)`, checked.

    Raises:
      ValueError: it is no pair of a change and a state of as many tensors as before.
    """
    made, state = optimizer.update(*given), given[1]
    if not isinstance(made, tuple) or len(made) != 2 or len(made[1]) != len(state):
        raise ValueError(
            f"{type(optimizer).__name__}.update must return (change, state) with {len(state)} "
            f"tensors of state, as before the step, not {arguments.shown(made)}."
        )
    return made[0], list(made[1])


def _root(x: tf.Tensor) -> tf.Tensor:
    """The square root, with the derivative 0 at 0 in place of infinity, whose products are NaN."""
    positive = x > 0
    return tf.where(positive, tf.sqrt(tf.where(positive, x, tf.ones_like(x))), tf.zeros_like(x))


def _share(name: str, value: float) -> None:
    if not 0 <= arguments.number(name, value) < 1:
        raise ValueError(f"{name} must be 0 or more and less than 1, not {value}.")
