"""What a model itself adds to its loss: regularisers of weights and outputs, and `add_loss`.

As in Keras, they count wherever the loss counts: in the inner step and in the meta-objective.

Shape letters: T tasks, B examples per task.
"""

from __future__ import annotations

import functools
from typing import Any, TypeAlias

import keras
import tensorflow as tf

Run: TypeAlias = Any
"""`run.Run`, which stands on this module."""

_NORMS = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)
"""Regularisers whose terms are of one number each, and 0 for 0."""


def total(run: Run, variables: list[keras.Variable]) -> tf.Tensor | None:
    """Regularisers of `variables`, and what the layers of a call added: `[T]`, or None."""
    terms = list(run.penalties)
    terms += [_of_weight(run, v) for v in variables if getattr(v, "regularizer", None) is not None]
    if not terms:
        return None
    terms = [tf.broadcast_to(term, [run.num_tasks]) for term in terms]
    return tf.add_n([tf.cast(term, terms[0].dtype) for term in terms])


def of_outputs(run: Run, layer: keras.Layer, outputs: Any) -> None:
    """Adds a layer's activity regulariser, as Keras does."""
    if layer.activity_regularizer is None:
        return
    for y in tf.nest.flatten(outputs):
        examples = tf.shape(y)[1] if y.shape[1] is None else y.shape[1]
        if run.mask is not None:
            y, examples = _existing(layer, y, run.mask)
        losses = _one_a_task(layer.activity_regularizer, y)
        run.penalties.append(losses / tf.cast(examples, losses.dtype) if _is_divided() else losses)


def refuse_padding(name: str) -> None:
    """Refuses a padded set where what a layer adds to the loss may be of any example.

    Raises:
      ValueError: always.
    """
    raise ValueError(
        f"'{name}' adds a loss of its own, which would count examples that only pad a set; give "
        "sets without a mask, or a model that adds none."
    )


def _existing(layer: keras.Layer, y: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Outputs `[T, B, ...]` with 0 for examples that do not exist, and how many do, `[T]`."""
    if type(layer.activity_regularizer) not in _NORMS or y.shape[1] != mask.shape[1]:
        refuse_padding(layer.name)
    exists = tf.cast(mask, y.dtype)
    shaped = tf.reshape(exists, [*mask.shape, *[1] * (y.shape.rank - 2)])
    return y * shaped, tf.reduce_sum(exists, 1)


@functools.cache
def _is_divided() -> bool:
    """Whether this Keras divides an activity regulariser by the number of examples."""
    with tf.init_scope():
        layer = keras.layers.ActivityRegularization(l1=1.0, dtype="float32")
        layer(tf.ones([2, 1]))
        return float(layer.losses[0]) == 1.0


def _of_weight(run: Run, variable: keras.Variable) -> tf.Tensor:
    value = run.value(variable)
    if not run.is_stacked(variable):
        return tf.convert_to_tensor(variable.regularizer(value))
    return _one_a_task(variable.regularizer, value)


def _one_a_task(regularizer: Any, x: tf.Tensor) -> tf.Tensor:
    """`regularizer` of each `x[t]`: `[T]`."""
    axes = range(1, x.shape.rank)
    if type(regularizer) in _NORMS:
        absolute, square = getattr(regularizer, "l1", 0.0), getattr(regularizer, "l2", 0.0)
        return tf.cast(absolute, x.dtype) * tf.reduce_sum(tf.abs(x), axes) + tf.cast(
            square, x.dtype
        ) * tf.reduce_sum(tf.square(x), axes)
    return tf.vectorized_map(lambda own: tf.convert_to_tensor(regularizer(own)), x)
