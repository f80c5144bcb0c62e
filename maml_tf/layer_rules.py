"""How each Keras layer type runs on a stack of tasks; one rule a type.

Every rule takes `(layer, x [T, B, ...], run)` and reads weights through `run`, shared `[*shape]` or
stacked `[T, *shape]`. To add a layer type, add a rule; to remove one is always right and only
slower, for the layer then falls back to one task at a time (functional.py).

Shape letters: T tasks, B examples a task, C channels in, F features out.
"""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import layers

from maml_tf.convolution import Geometry, convolve
from maml_tf.functional import stacked
from maml_tf.networks import Context
from maml_tf.normalization import standardize


def _fold(x: tf.Tensor) -> tf.Tensor:
    """`[T, B, ...]` -> `[T * B, ...]`."""
    return tf.reshape(x, [-1, *_lengths(x)[2:]])


def _unfold(x: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """`[T * B, ...]` -> `[T, B, ...]`, with the T and B of `like`."""
    return tf.reshape(x, [*_lengths(like)[:2], *_lengths(x)[1:]])


def _lengths(x: tf.Tensor) -> list:
    """The shape of `x`, static wherever it is known."""
    return [tf.shape(x)[i] if n is None else n for i, n in enumerate(x.shape)]


# --- layers that treat each example alone and have no weights: tasks become examples -------------

_EXAMPLE_WISE = (
    *(layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Softmax),
    *(layers.Flatten, layers.Reshape, layers.Permute, layers.RepeatVector, layers.Rescaling),
    *(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D),
    *(layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D),
    *(layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D),
    *(layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D),
    *(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D),
    *(layers.Cropping1D, layers.Cropping2D, layers.Cropping3D),
    *(layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D),
    *(layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum),
    *(layers.Concatenate, layers.Dot),
)


def _example_wise(layer, x, run):
    del run
    like = tf.nest.flatten(x)[0]
    return _unfold(layer(tf.nest.map_structure(_fold, x)), like)


for _layer_type in _EXAMPLE_WISE:
    stacked.register(_layer_type, _example_wise)


# --- layers that only act while a network is fitted ----------------------------------------------


@stacked.register(layers.InputLayer)
@stacked.register(layers.Identity)
@stacked.register(layers.Dropout)
@stacked.register(layers.SpatialDropout1D)
@stacked.register(layers.SpatialDropout2D)
@stacked.register(layers.SpatialDropout3D)
@stacked.register(layers.AlphaDropout)
@stacked.register(layers.GaussianDropout)
@stacked.register(layers.GaussianNoise)
@stacked.register(layers.ActivityRegularization)
def _identity(layer, x, run):
    del layer, run
    return x


# --- layers with weights --------------------------------------------------------------------------


def _finish(layer, y, run):
    """Adds the bias and applies the activation of a dense or convolutional layer."""
    if layer.use_bias:
        y += run.aligned(layer.bias, y)
    return layer.activation(y)


def _multiply(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """`x [T, ..., C] @ kernel [T, C, F]`, or a shared `[C, F]`, as one matrix product."""
    t, *middle, c = _lengths(x)
    rows = tf.reshape(x, [t, -1, c] if kernel.shape.rank == 3 else [-1, c])
    return tf.reshape(rows @ kernel, [t, *middle, kernel.shape[-1]])


def _altered(layer) -> bool:
    """Whether low-rank adapters or quantisation stand in for the plain kernel."""
    return bool(getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None))


@stacked.register(layers.Dense)
def _dense(layer, x, run):
    if _altered(layer):
        return NotImplemented
    x = tf.cast(x, layer.compute_dtype)
    kernel = tf.cast(run.value(layer.kernel), x.dtype)
    return _finish(layer, _multiply(x, kernel), run)


@stacked.register(layers.Conv1D)
@stacked.register(layers.Conv2D)
@stacked.register(layers.Conv3D)
def _convolution(layer, x, run):
    """One kernel a task (convolution.py), or Keras' own convolution with a shared one."""
    if _altered(layer) or layer.data_format != "channels_last":
        return NotImplemented
    x = tf.cast(x, layer.compute_dtype)
    kernel = tf.cast(run.value(layer.kernel), x.dtype)
    if run.is_stacked(layer.kernel):
        geometry = Geometry(layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding)
        by_group = (tf.split(whole, layer.groups, -1) for whole in (_fold(x), kernel))
        y = [convolve(part, own, geometry) for part, own in zip(*by_group, strict=True)]
        y = tf.concat(y, -1)
    elif layer.padding == "causal":
        return NotImplemented
    else:
        y = keras.ops.conv(
            _fold(x),
            kernel,
            list(layer.strides),
            layer.padding,
            data_format=layer.data_format,
            dilation_rate=layer.dilation_rate,
        )
    return _finish(layer, _unfold(y, x), run)


@stacked.register(Context)
def _context(layer, x, run):
    beside = tf.broadcast_to(run.aligned(layer.vector, x), [*_lengths(x)[:-1], layer.size])
    return tf.concat([x, beside], -1)


@stacked.register(layers.BatchNormalization)
def _batch_normalization(layer, x, run):
    """Statistics of each task's own batch, or those given; never the layer's moving averages."""
    if layer.axis not in (-1, x.shape.rank - 2):
        return NotImplemented
    return _scale_and_shift(layer, run.standardize_batch(layer, x), run)


@stacked.register(layers.LayerNormalization)
def _layer_normalization(layer, x, run):
    if layer.rms_scaling:
        return NotImplemented
    rank = x.shape.rank - 1
    axes = [layer.axis] if isinstance(layer.axis, int) else layer.axis
    axes = sorted(1 + axis % rank for axis in axes)
    if axes != list(range(axes[0], x.shape.rank)):
        return NotImplemented
    return _scale_and_shift(layer, standardize(x, axes, layer.epsilon), run)


@stacked.register(layers.GroupNormalization)
def _group_normalization(layer, x, run):
    if layer.axis not in (-1, x.shape.rank - 2):
        return NotImplemented
    *head, c = _lengths(x)
    grouped = tf.reshape(x, [*head, layer.groups, c // layer.groups])
    axes = [*range(2, x.shape.rank - 1), x.shape.rank]
    y = tf.reshape(standardize(grouped, axes, layer.epsilon), [*head, c])
    return _scale_and_shift(layer, y, run)


def _scale_and_shift(layer, y, run):
    if layer.scale:
        y *= run.aligned(layer.gamma, y)
    return y + run.aligned(layer.beta, y) if layer.center else y
