"""First derivatives written in operations that every runtime of TensorFlow has.

TensorFlow's own derivatives have kernels of their own (`ReluGrad`, `Conv2DBackpropFilter`), which
small runtimes such as LiteRT lack. While a graph is traced inside `portable_gradients()`, those in
`_RULES` are written out instead: with products, comparisons and gathers of fixed tables. Results
are the same up to rounding. It is for graphs that nobody differentiates again.

Shape letters: M examples, C channels in, F features out, P taps of a window, N numbers.
"""

from __future__ import annotations

import contextlib
import functools
import math
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import ops

from maml_tf.engine import patches
from maml_tf.engine.patching import Replacement

_RULES: dict[str, Callable] = {}
"""By the type of the operation: `(op, *gradients of its outputs) -> gradients of its inputs`, or
`NotImplemented` for a variation that TensorFlow's own serves. `op` holds those of its inputs and
outputs alone that TensorFlow's derivative reads."""

_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


def portable_gradients() -> contextlib.AbstractContextManager[None]:
    """While a graph is traced, in which first derivatives shall have no kernels of their own."""
    return _portable().inside()


def traced(function: Callable, *specs: Any) -> Any:
    """A function's graph for arguments of these specifications, which are static shapes."""
    compiled = tf.function(function, autograph=False, input_signature=specs)
    return compiled.get_concrete_function()


@functools.cache
def _portable() -> Replacement:
    usual = ops._gradient_registry

    def lookup(name):
        own, rule = usual.lookup(name), _RULES.get(name)
        return own if rule is None else functools.partial(_by_rule, rule, own)

    ours = types.SimpleNamespace(lookup=lookup, register=usual.register, list=usual.list)
    names = ("_gradient_registry", "gradient_registry")  # of tapes, and of compiled functions
    return Replacement(*((ops, name, ours) for name in names))


def _by_rule(rule: Callable, own: Callable, op: Any, *gradients: tf.Tensor) -> Any:
    made = rule(op, *gradients)
    return own(op, *gradients) if made is NotImplemented else made


def _rule(*types: str) -> Callable[[Callable], Callable]:
    def register(function: Callable) -> Callable:
        _RULES.update(dict.fromkeys(types, function))
        return function

    return register


# --- numbers, one by one --------------------------------------------------------------------------


def _where(condition: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
    return gradient * tf.cast(condition, gradient.dtype)


@_rule("Relu")
def _relu(op, gradient):
    return _where(op.outputs[0] > 0, gradient)


@_rule("Relu6")
def _relu6(op, gradient):
    y = op.outputs[0]
    return _where(tf.logical_and(y > 0, y < 6), gradient)


@_rule("LeakyRelu")
def _leaky_relu(op, gradient):
    return tf.where(op.inputs[0] > 0, gradient, op.get_attr("alpha") * gradient)


@_rule("Elu")
def _elu(op, gradient):
    return gradient * tf.minimum(op.outputs[0] + 1, 1)


@_rule("Selu")
def _selu(op, gradient):
    y = op.outputs[0]
    return gradient * tf.where(y < 0, y + _SELU_SCALE * _SELU_ALPHA, _SELU_SCALE * tf.ones_like(y))


@_rule("Softsign")
def _softsign(op, gradient):
    return gradient / tf.square(1 + tf.abs(op.inputs[0]))


@_rule("Sigmoid")
def _sigmoid(op, gradient):
    y = op.outputs[0]
    return gradient * y * (1 - y)


@_rule("Tanh")
def _tanh(op, gradient):
    return gradient * (1 - tf.square(op.outputs[0]))


@_rule("Sqrt")
def _sqrt(op, gradient):
    return 0.5 * gradient / op.outputs[0]


@_rule("Rsqrt")
def _rsqrt(op, gradient):
    y = op.outputs[0]
    return -0.5 * gradient * y * tf.square(y)


@_rule("Reciprocal", "Inv")
def _reciprocal(op, gradient):
    return -gradient * tf.square(op.outputs[0])


# --- shapes ---------------------------------------------------------------------------------------


@_rule("BiasAdd")
def _bias_add(op, gradient):
    if tf.compat.as_str(op.get_attr("data_format")) != "NHWC":
        return NotImplemented
    return gradient, tf.reduce_sum(gradient, list(range(gradient.shape.rank - 1)))


@_rule("StridedSlice")
def _strided_slice(op, gradient):
    """A gather from the slice, by a table of which of its numbers each of the input's became."""
    x, *where = op.inputs
    where = [tf.get_static_value(given) for given in where]
    masks = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")
    if not x.shape.is_fully_defined() or any(given is None for given in where):
        return NotImplemented
    size = x.shape.num_elements()
    with tf.init_scope():
        options = {name: op.get_attr(name) for name in masks}
        taken = tf.raw_ops.StridedSlice(
            input=tf.reshape(tf.range(size), x.shape),
            **dict(zip(("begin", "end", "strides"), where, strict=True)),
            **options,
        ).numpy()
    table = np.full(size, taken.size, np.int32)  # one past the end: a zero
    table[taken.reshape(-1)] = np.arange(taken.size)
    numbers = tf.concat([tf.reshape(gradient, [-1]), tf.zeros([1], gradient.dtype)], 0)
    return tf.reshape(tf.gather(numbers, table), x.shape), None, None, None


# --- windows of images ----------------------------------------------------------------------------


class _Windows:
    """The windows that a convolution or a pooling sees of images `[M, height, width, C]`."""

    def __init__(self, op: Any, images: tf.Tensor, size: Sequence[int], dilation=(1, 1)):
        self.spatial, self.channels = images.shape[1:-1], images.shape[-1]
        padding = tf.compat.as_str(op.get_attr("padding")).lower()
        self.geometry = tuple(size), tuple(op.get_attr("strides")[1:3]), tuple(dilation), padding
        self.taps = math.prod(size)

    @staticmethod
    def known(op: Any, images: tf.Tensor) -> bool:
        """Whether there are rules for this variation."""
        return (
            tf.compat.as_str(op.get_attr("data_format")) == "NHWC"
            and tf.compat.as_str(op.get_attr("padding")) != "EXPLICIT"
            and images.shape[1:].is_fully_defined()
            and images.dtype.is_floating
        )

    def extract(self, images: tf.Tensor) -> tf.Tensor:
        """`[M, height, width, C] -> [M, *out, P, C]`."""
        taken = patches.extract(images, *self.geometry)
        return tf.reshape(taken, [-1, *taken.shape[1:-1], self.taps, images.shape[-1]])

    def scatter(self, taps: tf.Tensor) -> tf.Tensor:
        """The adjoint of `extract`."""
        flat = tf.reshape(taps, [-1, *taps.shape[1:-2], self.taps * self.channels])
        return patches.scatter(flat, self.spatial, *self.geometry)

    def inside(self) -> np.ndarray:
        """Which taps of each output fall on the image: `[1, *out, P, 1]`, 1 or 0."""
        with tf.init_scope():
            return self.extract(tf.ones([1, *self.spatial, 1])).numpy()


@_rule("Conv2D")
def _convolution(op, gradient):
    """Products of patches `[M out, P C]`, of the kernel `[P C, F]`, and of the gradient."""
    images, kernel = op.inputs
    if not _Windows.known(op, images) or images.shape[-1] != kernel.shape[2]:
        return NotImplemented
    windows = _Windows(op, images, kernel.shape[:2], op.get_attr("dilations")[1:3])
    rows = tf.reshape(windows.extract(images), [-1, windows.taps * windows.channels])
    features = kernel.shape[-1]
    wanted = tf.reshape(gradient, [-1, features])
    of_kernel = tf.matmul(rows, wanted, transpose_a=True)
    matrix = tf.reshape(kernel, [-1, features])
    of_rows = tf.matmul(wanted, matrix, transpose_b=True)
    shape = [-1, *gradient.shape[1:-1], windows.taps, windows.channels]
    return windows.scatter(tf.reshape(of_rows, shape)), tf.reshape(of_kernel, kernel.shape)


@_rule("DepthwiseConv2dNative")
def _depthwise(op, gradient):
    images, kernel = op.inputs
    if not _Windows.known(op, images):
        return NotImplemented
    windows = _Windows(op, images, kernel.shape[:2], op.get_attr("dilations")[1:3])
    many = kernel.shape[-1]
    rows = windows.extract(images)[..., None]  # [M, *out, P, C, 1]
    wanted = tf.reshape(gradient, [-1, *gradient.shape[1:-1], 1, windows.channels, many])
    of_kernel = tf.reduce_sum(rows * wanted, [0, 1, 2])
    of_rows = tf.reduce_sum(
        wanted * tf.reshape(kernel, [windows.taps, windows.channels, many]), axis=-1
    )
    return windows.scatter(of_rows), tf.reshape(of_kernel, kernel.shape)


@_rule("MaxPool")
def _max_pool(op, gradient):
    """To the first of the largest numbers of a window, row by row, as TensorFlow does."""
    images = op.inputs[0]
    if not _Windows.known(op, images):
        return NotImplemented
    windows = _Windows(op, images, op.get_attr("ksize")[1:3])
    seen = windows.extract(images) + np.where(windows.inside(), 0, images.dtype.min)
    largest = tf.one_hot(tf.argmax(seen, 3, tf.int32), windows.taps, axis=3, dtype=images.dtype)
    return windows.scatter(largest * tf.expand_dims(gradient, 3))


@_rule("AvgPool")
def _average_pool(op, gradient):
    images = op.inputs[0]
    if not _Windows.known(op, images):
        return NotImplemented
    windows = _Windows(op, images, op.get_attr("ksize")[1:3])
    share = windows.inside() / windows.inside().sum(3, keepdims=True)
    return windows.scatter(tf.expand_dims(gradient, 3) * tf.constant(share, gradient.dtype))
