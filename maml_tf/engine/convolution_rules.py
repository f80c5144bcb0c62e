"""How convolutions run on a stack of tasks (see layer_rules.py).

A convolution with one kernel is TensorFlow's own. With a kernel of each task's own it is a product
with patches; a depthwise one takes tasks for channels, and stays TensorFlow's own.

Shape letters: T tasks, B examples per task, C channels in, F features out, G groups, P taps.
"""

from __future__ import annotations

import math

import keras
import tensorflow as tf
from keras import layers

from maml_tf.engine import patches
from maml_tf.engine.fast_weights import multiply
from maml_tf.engine.layer_rules import altered, finish
from maml_tf.engine.run import Run, stacked
from maml_tf.engine.task_axis import fold, lengths, unfold


@stacked.register(layers.Conv1D)
@stacked.register(layers.Conv2D)
@stacked.register(layers.Conv3D)
def _convolution(layer, x, run):
    """Natively with one kernel; by patches where each of several tasks has its own."""
    if altered(layer) or layer.data_format != "channels_last":
        return NotImplemented
    x = tf.cast(x, layer.compute_dtype)
    if layer.groups > 1:
        return finish(layer, _grouped(layer, x, run), run)
    if run.is_stacked(layer.kernel) and not (x.shape[0] == 1 and _has_native_derivatives(layer)):
        taps = unfold(patches.extract(fold(x), *_geometry(layer)), x)
        return finish(layer, multiply(taps, run.matrix(layer.kernel)), run)
    kernel = tf.reshape(run.value(layer.kernel), layer.kernel.shape)
    folded, padding = fold(x), layer.padding
    if padding == "causal":
        before = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
        folded, padding = tf.pad(folded, [[0, 0], [before, 0], [0, 0]]), "valid"
    y = keras.ops.conv(
        folded,
        tf.cast(kernel, x.dtype),
        list(layer.strides),
        padding,
        data_format=layer.data_format,
        dilation_rate=layer.dilation_rate,
    )
    return finish(layer, unfold(y, x), run)


def _geometry(layer) -> tuple:
    return layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding


def _has_native_derivatives(layer) -> bool:
    """Whether TensorFlow differentiates its convolution to any order, on a CPU too."""
    images = isinstance(layer, layers.Conv2D)
    return images and all(d == 1 for d in layer.dilation_rate)


def _grouped(layer, x: tf.Tensor, run: Run) -> tf.Tensor:
    """Each group of channels by its own part of the kernel `[P, C / G, F]`."""
    kernel, channels = tf.cast(run.value(layer.kernel), x.dtype), x.shape[-1]
    if layer.groups == channels and _depthwise_is_native(layer, x):
        # [taps, 1, C * M] is a depthwise kernel [taps, C, M].
        head = kernel.shape[:-2]
        return depthwise(
            layer, x, tf.reshape(kernel, [*head, channels, -1]), run.is_stacked(layer.kernel)
        )
    groups, taps = layer.groups, math.prod(layer.kernel_size)
    patch = unfold(patches.extract(fold(x), *_geometry(layer)), x)
    tasks, examples, *spatial, _ = lengths(patch)
    patch = tf.reshape(patch, [tasks, -1, taps, groups, channels // groups])
    patch = tf.transpose(patch, [0, 3, 1, 2, 4])  # [T, G, M, P, C / G]
    patch = tf.reshape(patch, [tasks, groups, -1, taps * channels // groups])
    own = [-1] if run.is_stacked(layer.kernel) else [1]
    kernel = tf.reshape(kernel, [*own, taps * channels // groups, groups, layer.filters // groups])
    y = patch @ tf.transpose(kernel, [0, 2, 1, 3])  # [T, G, M, F / G]
    return tf.reshape(tf.transpose(y, [0, 2, 1, 3]), [tasks, examples, *spatial, layer.filters])


# --- depthwise ------------------------------------------------------------------------------------


@stacked.register(layers.DepthwiseConv1D)
@stacked.register(layers.DepthwiseConv2D)
def _depthwise_convolution(layer, x, run):
    if altered(layer) or layer.data_format != "channels_last":
        return NotImplemented
    x = tf.cast(x, layer.compute_dtype)
    return finish(layer, _depthwise_product(layer, layer.kernel, x, run), run)


@stacked.register(layers.SeparableConv1D)
@stacked.register(layers.SeparableConv2D)
def _separable_convolution(layer, x, run):
    if altered(layer) or layer.data_format != "channels_last":
        return NotImplemented
    x = tf.cast(x, layer.compute_dtype)
    y = _depthwise_product(layer, layer.depthwise_kernel, x, run)
    return finish(layer, multiply(y, run.matrix(layer.pointwise_kernel)), run)


def _depthwise_product(layer, variable, x: tf.Tensor, run: Run) -> tf.Tensor:
    kernel = tf.cast(run.value(variable), x.dtype)
    if _depthwise_is_native(layer, x):
        return depthwise(layer, x, kernel, run.is_stacked(variable))
    taps, channels = math.prod(layer.kernel_size), x.shape[-1]
    patch = unfold(patches.extract(fold(x), *_geometry(layer)), x)
    tasks, examples, *spatial, _ = lengths(patch)
    patch = tf.reshape(patch, [tasks, -1, taps, channels, 1])
    own = -1 if run.is_stacked(variable) else 1
    y = tf.reduce_sum(patch * tf.reshape(kernel, [own, 1, taps, channels, kernel.shape[-1]]), 2)
    return tf.reshape(y, [tasks, examples, *spatial, channels * kernel.shape[-1]])


def _depthwise_is_native(layer, x: tf.Tensor) -> bool:
    """Whether to call `tf.nn.depthwise_conv2d`: it knows one stride, and no dilation.

    On an image of fewer numbers than the kernel its filter gradient is slow: 1 x 1 x 960 under
    3 x 3 took 24 times as long as by patches, and 3 x 3 x 288 a third (benchmarks/README.md).
    """
    small = None not in x.shape[2:-1] and math.prod(x.shape[2:-1]) < math.prod(layer.kernel_size)
    return (
        not small
        and layer.padding in ("same", "valid")
        and len(set(layer.strides)) == 1
        and all(d == 1 for d in layer.dilation_rate)
        and len(layer.strides) <= 2
    )


def depthwise(layer, x: tf.Tensor, kernel: tf.Tensor, stacked_kernel: bool) -> tf.Tensor:
    """A depthwise convolution of `x [T, B, *spatial, C]` by TensorFlow's own.

    Args:
      layer: its strides and padding.
      x: in one or two spatial dimensions.
      kernel: `[*taps, C, M]`, or one for each task.
      stacked_kernel: whether it is one for each task; tasks then become channels.

    Returns:
      `[T, B, *spatial, C * M]`.
    """
    line = len(layer.strides) == 1
    if line:
        x = x[..., None, :]
        kernel = tf.expand_dims(kernel, 2 if stacked_kernel else 1)
    options = {"strides": [1, *[layer.strides[0]] * 2, 1], "padding": layer.padding.upper()}
    if not stacked_kernel:
        y = unfold(tf.nn.depthwise_conv2d(fold(x), kernel, **options), x)
        return y[..., 0, :] if line else y
    tasks, examples, height, width, channels = lengths(x)
    many = tf.reshape(tf.transpose(x, [1, 2, 3, 0, 4]), [examples, height, width, tasks * channels])
    kernels = tf.transpose(kernel, [1, 2, 0, 3, 4])
    kernels = tf.reshape(kernels, [*kernel.shape[1:3], tasks * channels, kernel.shape[-1]])
    y = tf.nn.depthwise_conv2d(many, kernels, **options)
    features = channels * kernel.shape[-1]
    y = tf.reshape(y, [examples, *lengths(y)[1:3], tasks, features])
    y = tf.transpose(y, [3, 0, 1, 2, 4])
    return y[..., 0, :] if line else y


# --- transposed -----------------------------------------------------------------------------------


@stacked.register(layers.Conv1DTranspose)
@stacked.register(layers.Conv2DTranspose)
@stacked.register(layers.Conv3DTranspose)
def _transposed_convolution(layer, x, run):
    """The adjoint of taking patches, after the product with a kernel `[taps, F, C]`."""
    if altered(layer) or layer.data_format != "channels_last" or None in x.shape[2:]:
        return NotImplemented
    if any(d != 1 for d in layer.dilation_rate):  # which Keras itself refuses on a CPU
        return NotImplemented
    x = tf.cast(x, layer.compute_dtype)
    channels = x.shape[-1]
    spatial = layer.compute_output_shape((1, *x.shape[2:]))[1:-1]
    geometry = (layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding)
    lengths_back = [
        patches.output_length(n, kernel, stride, 1, layer.padding)
        for n, kernel, stride in zip(spatial, layer.kernel_size, layer.strides, strict=True)
    ]
    if lengths_back != list(x.shape[2:-1]):
        return NotImplemented
    kernel = tf.cast(run.value(layer.kernel), x.dtype)
    rank = kernel.shape.rank
    kernel = tf.reshape(kernel, [*lengths(kernel)[: rank - len(layer.kernel.shape)], -1, channels])
    y = patches.scatter(fold(multiply(x, tf.linalg.matrix_transpose(kernel))), spatial, *geometry)
    return finish(layer, unfold(y, x), run)
