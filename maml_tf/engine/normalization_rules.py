"""How normalisation layers run on a stack of tasks (see layer_rules.py).

They compute in float32 at least, as Keras' own do, and give back the layer's type.

Shape letters: T tasks, B examples per task, C channels.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import layers

from maml_tf.engine.normalization import standardize
from maml_tf.engine.run import Run, stacked
from maml_tf.engine.single_task import uses_averages
from maml_tf.engine.task_axis import get_mask, lengths


@stacked.register(layers.BatchNormalization)
def _batch_normalization(layer, x, run, *, mask=None):
    """Statistics of each task's own batch, or those given; moving averages where Keras says so."""
    if getattr(layer, "renorm", False):
        raise ValueError(
            f"'{layer.name}' has renorm=True, whose corrections depend on the batches before; "
            "meta-learning needs batches that do not. Build it with renorm=False."
        )
    wide, mask = _wide(x), get_mask(x) if mask is None else mask
    axis = _channel_axis(layer.axis, wide)
    if uses_averages(layer, run.training):
        mean, variance = (
            _along(run, v, wide, [axis]) for v in (layer.moving_mean, layer.moving_variance)
        )
        y = (wide - mean) * tf.math.rsqrt(variance + layer.epsilon)
    else:
        y = run.standardize_batch(layer, wide, axis, _entries(run.mask, mask, wide, axis))
    return tf.cast(_scale_and_shift(layer, y, run, [axis]), layer.compute_dtype)


def _entries(examples: Any, mask: Any, x: tf.Tensor, axis: int) -> tf.Tensor | None:
    """What counts, of examples `[T, B]` and entries `[T, B, ...]`, to broadcast against `x`."""
    if examples is None and mask is None:
        return None
    counts = tf.ones([], tf.bool)
    if examples is not None:
        counts = tf.reshape(
            tf.cast(examples, tf.bool), [*lengths(x)[:2], *[1] * (len(x.shape) - 2)]
        )
    if mask is not None:
        counts &= tf.expand_dims(tf.cast(mask, tf.bool), axis)
    return counts


@stacked.register(layers.LayerNormalization)
def _layer_normalization(layer, x, run):
    if getattr(layer, "rms_scaling", False):
        return NotImplemented
    wide = _wide(x)
    rank = x.shape.rank - 1
    axes = [layer.axis] if isinstance(layer.axis, int) else layer.axis
    axes = sorted(1 + axis % rank for axis in axes)
    y = standardize(wide, axes, layer.epsilon)
    return tf.cast(_scale_and_shift(layer, y, run, axes), layer.compute_dtype)


@stacked.register(layers.GroupNormalization)
def _group_normalization(layer, x, run):
    if layer.axis not in (-1, x.shape.rank - 2):
        return NotImplemented
    wide = _wide(x)
    *head, c = lengths(wide)
    grouped = tf.reshape(wide, [*head, layer.groups, c // layer.groups])
    axes = [*range(2, x.shape.rank - 1), x.shape.rank]
    y = tf.reshape(standardize(grouped, axes, layer.epsilon), [*head, c])
    return tf.cast(_scale_and_shift(layer, y, run, [x.shape.rank - 1]), layer.compute_dtype)


def _wide(x: tf.Tensor) -> tf.Tensor:
    """`x` in float32 at least."""
    return tf.cast(x, keras.backend.result_type(x.dtype.name, "float32"))


def _channel_axis(axis: int, x: tf.Tensor) -> int:
    """An axis of a layer, which counts the examples' axis as 0, as one of `x [T, B, ...]`."""
    return 1 + axis % (x.shape.rank - 1)


def _along(run: Run, variable: keras.Variable, x: tf.Tensor, axes: list[int]) -> tf.Tensor:
    """A variable that lies along some axes of `x`, shaped to broadcast against it."""
    if axes == list(range(axes[0], x.shape.rank)):
        return run.aligned(variable, x)
    value = tf.cast(run.value(variable), x.dtype)
    tasks = -1 if run.is_stacked(variable) else 1
    return tf.reshape(
        value, [tasks, *(x.shape[a] if a in axes else 1 for a in range(1, len(x.shape)))]
    )


def _scale_and_shift(layer, y, run, axes):
    if layer.scale:
        y *= _along(run, layer.gamma, y, axes)
    return y + _along(run, layer.beta, y, axes) if layer.center else y
