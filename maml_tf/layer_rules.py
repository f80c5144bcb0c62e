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

from maml_tf import patches
from maml_tf.fast_weights import multiply
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


def _altered(layer) -> bool:
    """Whether low-rank adapters or quantisation stand in for the plain kernel."""
    return bool(getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None))


@stacked.register(layers.Dense)
def _dense(layer, x, run):
    if _altered(layer):
        return NotImplemented
    x = tf.cast(x, layer.compute_dtype)
    return _finish(layer, multiply(x, run.matrix(layer.kernel)), run)


@stacked.register(layers.Conv1D)
@stacked.register(layers.Conv2D)
@stacked.register(layers.Conv3D)
def _convolution(layer, x, run):
    """Natively with one kernel; by patches where each of several tasks has its own."""
    if _altered(layer) or layer.data_format != "channels_last":
        return NotImplemented
    x = tf.cast(x, layer.compute_dtype)
    if run.is_stacked(layer.kernel) and not (x.shape[0] == 1 and _has_native_derivatives(layer)):
        return _finish(layer, _convolve_patches(layer, x, run), run)
    if layer.padding == "causal":
        return NotImplemented
    kernel = tf.reshape(run.value(layer.kernel), layer.kernel.shape)
    y = keras.ops.conv(
        _fold(x),
        tf.cast(kernel, x.dtype),
        list(layer.strides),
        layer.padding,
        data_format=layer.data_format,
        dilation_rate=layer.dilation_rate,
    )
    return _finish(layer, _unfold(y, x), run)


def _has_native_derivatives(layer) -> bool:
    """Whether TensorFlow differentiates its convolution to any order, on a CPU too."""
    images = isinstance(layer, layers.Conv2D)
    return images and layer.groups == 1 and all(d == 1 for d in layer.dilation_rate)


def _convolve_patches(layer, x: tf.Tensor, run) -> tf.Tensor:
    geometry = (layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding)
    if layer.groups == 1:
        taps = _unfold(patches.extract(_fold(x), *geometry), x)
        return multiply(taps, run.matrix(layer.kernel))
    pieces = (tf.split(whole, layer.groups, -1) for whole in (x, run.value(layer.kernel)))
    groups = [
        multiply(_unfold(patches.extract(_fold(part), *geometry), x), kernel)
        for part, kernel in zip(*pieces, strict=True)
    ]
    return tf.concat(groups, -1)


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
