"""What a loss or a metric is to a learner: one number per task, and what is known about it.

Shape letters: T tasks, B examples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import tensorflow as tf

from maml_tf.types import Structure

INDICES, ONE_HOT, BINARY, VALUES = "class indices", "one-hot", "0 or 1", "values"
"""Kinds of targets that an objective takes; None: not known."""

Function = TypeVar("Function", bound=Callable[..., tf.Tensor])


class Objective:
    """`(outputs, y, sample_weight=(), mask=()) -> [T]`, with its properties.

    The losses of `maml_tf.losses` are functions with these same attributes.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        *,
        lower_is_better: bool | None = None,
        labels: str | None = None,
        from_logits: bool | None = None,
        for_shapes: Callable[[tf.TensorShape, tf.TensorShape], Objective] | None = None,
        ignored: int | None = None,
        parts: Any = None,
        whole: bool = False,
        threshold: float | None = None,
    ):
        """Describes `function`.

        Args:
          function: `(outputs, y, sample_weight, mask) -> [T]`.
          name: to report it by.
          lower_is_better: None where it is not known.
          labels: the kind of targets: `INDICES`, `ONE_HOT`, `BINARY`, `VALUES`, or None.
          from_logits: whether outputs are logits (True) or probabilities (False); None: neither.
          for_shapes: `(y's shape, outputs' shape) -> Objective`, where only these decide what it
            is, as for "accuracy".
          ignored: a class index that does not count.
          parts: of several outputs: `several_outputs.Several`.
          whole: takes all of several outputs at once.
          threshold: of a binary accuracy, above which an output counts as 1.
        """
        self.function = function
        self.name = self.__name__ = name
        self.lower_is_better = lower_is_better
        self.labels = labels
        self.from_logits = from_logits
        self.for_shapes = for_shapes
        self.ignored = ignored
        self.parts = parts
        self.whole = whole
        self.threshold = threshold
        self.made_of: Any = self  # what a user gave: a string, a Keras object, a function

    def __call__(
        self, outputs: Structure, y: Structure, sample_weight: Structure = (), mask: Structure = ()
    ) -> tf.Tensor:
        """Returns `[T]` for outputs `[T, B, ...]`, targets, and weights and a mask `[T, B]`.

        Raises:
          ValueError: it does not give one number per task, or the targets do not fit the outputs.
        """
        if tf.nest.is_nested(outputs) and self.parts is None and not self.whole:
            raise ValueError(
                f"The model has several outputs, and '{self.name}' is of one; give a list or a "
                "dictionary, one for each."
            )
        value = self.function(outputs, y, sample_weight, mask)
        return one_number_per_task(value, tf.nest.flatten(outputs)[0].shape[0], self.name)

    def __repr__(self) -> str:
        """Names it."""
        return f"<Objective {self.name}>"


def described(
    *, lower_is_better: bool, labels: str, from_logits: bool | None = None
) -> Callable[[Function], Function]:
    """Gives a function `(outputs, y, sample_weight, mask) -> [T]` an `Objective`'s attributes."""

    def describe(function: Function) -> Function:
        known = Objective(
            function,
            function.__name__,
            lower_is_better=lower_is_better,
            labels=labels,
            from_logits=from_logits,
        )
        vars(function).update({**vars(known), "made_of": function})
        return function

    return describe


def is_objective(what: object) -> bool:
    """Whether it has an `Objective`'s attributes."""
    return hasattr(what, "lower_is_better") and hasattr(what, "for_shapes")


def one_number_per_task(value: Any, tasks: int | None, name: str) -> tf.Tensor:
    """Checks, while a graph is traced, that a loss gave `[T]`."""
    if value is None or isinstance(value, dict):
        raise ValueError(f"'{name}' returned {type(value).__name__}; return one number per task.")
    value = tf.convert_to_tensor(value)
    if value.shape.rank != 1 or not value.shape.is_compatible_with([tasks]):
        raise ValueError(
            f"'{name}' returned shape {value.shape} for {tasks} tasks; return one number per task, "
            f"shape [{tasks}]: reduce over all axes but the first. (A function of `y_true, y_pred`,"
            " by these names, is called as Keras calls it, on one task at a time.)"
        )
    if not value.dtype.is_floating:
        raise ValueError(f"'{name}' returned {value.dtype.name}; cast it to a float type.")
    return value


def given(what: object) -> bool:
    """Whether a batch has it; an empty tuple, or None, stands for "not given"."""
    return what is not None and not (isinstance(what, tuple) and not what)


def weighted(values: tf.Tensor, sample_weight: Structure = (), mask: Structure = ()) -> tf.Tensor:
    """Values `[T, B, ...]` times each example's weight, and 0 where it does not exist."""
    if given(sample_weight):
        values = values * tf.cast(_aligned(sample_weight, values, "sample_weight"), values.dtype)
    if given(mask):
        exists = _aligned(tf.cast(mask, tf.bool), values, "mask")
        values = tf.where(exists, values, tf.zeros([], values.dtype))
    return values


def average(values: tf.Tensor, sample_weight: Structure = (), mask: Structure = ()) -> tf.Tensor:
    """Mean over all axes but the first of what exists; weights are factors, as in Keras.

    Args:
      values: `[T, B, ...]`.
      sample_weight: `[T, B]` or of more axes of `values`, or `()`.
      mask: the same, of bool.

    Returns:
      `[T]`; 0 for a task in which nothing exists.
    """
    total = weighted(values, sample_weight, mask)
    if not given(mask):
        return tf.reduce_mean(total, range(1, values.shape.rank))
    return tf.math.divide_no_nan(_sum(total), _sum(weighted(tf.ones_like(values), (), mask)))


def weighted_average(
    values: tf.Tensor, sample_weight: Structure = (), mask: Structure = ()
) -> tf.Tensor:
    """As `average`, divided by the sum of the weights: a metric's mean."""
    if not given(sample_weight):
        return average(values, (), mask)
    weights = weighted(tf.ones_like(values), sample_weight, mask)
    return tf.math.divide_no_nan(_sum(weighted(values, sample_weight, mask)), _sum(weights))


def summed(values: tf.Tensor, sample_weight: Structure = (), mask: Structure = ()) -> tf.Tensor:
    """As `average`, not divided."""
    return _sum(weighted(values, sample_weight, mask))


def _sum(values: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(values, range(1, values.shape.rank))


def _aligned(factor: Any, values: tf.Tensor, name: str) -> tf.Tensor:
    """Gives a factor of each example, `[T, B]` or more, the rank of `values`."""
    factor, rank = tf.convert_to_tensor(factor), values.shape.rank
    while factor.shape.rank > rank and factor.shape[-1] == 1:
        factor = tf.squeeze(factor, -1)
    missing = rank - factor.shape.rank
    shape = [*factor.shape, *[1] * missing]
    fits = factor.shape.rank >= 2 and missing >= 0
    pairs = list(zip(shape, values.shape, strict=True)) if fits else []
    if not fits or not all(a in (b, 1, None) or b is None for a, b in pairs):
        raise ValueError(
            f"{name} of shape {factor.shape} does not fit losses of shape {values.shape}; give "
            "[T, B], one number an example."
        )
    for _ in range(missing):
        factor = factor[..., tf.newaxis]
    return factor
