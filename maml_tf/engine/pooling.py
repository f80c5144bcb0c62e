"""Max-pooling, right in its second derivative.

TensorFlow's own derivatives of `tf.nn.max_pool` are wrong in three cases, without a word:

* XLA looks for the largest of numbers cut to 16 bits, and where two of a window agree that far it
  may take the wrong one. Slices and `tf.maximum` are exact there, and faster; without XLA slower.
* Where outputs are as many as inputs, as with a stride of 1 and padding "same", the kernel writes
  its result into its own input's memory and gives zeros. With the padding done before, it does not.
* Over three axes, where TensorFlow does not use oneDNN (its default without AVX-512), inputs of a
  window that nearly agree each get its whole gradient. Slices are right there, too.

So `exact_pooling` puts a function in its place that knows both, while a model is traced. Of equal
numbers in a window the first, row by row, gets the whole gradient, in each form.

Shape letters: N examples, C channels.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from maml_tf.engine.patching import Replacement

_SPATIAL_AXES = {"max_pool": None, "max_pool1d": 1, "max_pool2d": 2, "max_pool3d": 3}


def under_xla() -> bool:
    """Whether XLA will compile what is being traced: for `jit_compile=True`, or wherever it can."""
    if tf.config.optimizer.get_jit() or "xla_auto_jit" in os.environ.get("TF_XLA_FLAGS", ""):
        return True
    graph = tf.compat.v1.get_default_graph() if not tf.executing_eagerly() else None
    return graph is not None and control_flow_util.GraphOrParentsInXlaContext(graph)


def exact_pooling() -> contextlib.AbstractContextManager[None]:
    """While code of others is traced: `tf.nn.max_pool`, and so Keras', is right to any order."""
    return _exact_pooling().inside()


@functools.cache
def _exact_pooling() -> Replacement:
    native = {name: getattr(tf.nn, name) for name in _SPATIAL_AXES}
    return Replacement(
        *((tf.nn, name, _exact(native[name], axes)) for name, axes in _SPATIAL_AXES.items())
    )


def _exact(native: Callable, spatial: int | None) -> Callable:
    """What stands in for `native`, one of TensorFlow's, of images with `spatial` axes."""

    def max_pool(input, ksize, strides, padding, data_format=None, name=None):
        x = tf.convert_to_tensor(input)
        first = 2 if (data_format or "").startswith("NC") else 1
        axes = range(first, first + (x.shape.rank - 2 if spatial is None else spatial))
        windows = _windows(x, axes, ksize, strides, padding)
        if windows is not None and (under_xla() or len(windows) == 3):
            return _largest_of_slices(x, windows)
        if windows is not None and all(w.keeps_length and w.size == 1 for w in windows):
            return tf.identity(x, name)
        # Nor does TensorFlow differentiate explicit padding twice.
        if windows is not None and (_keep_length(windows) or not isinstance(padding, str)):
            x, padding = _padded(x, windows), "VALID"
        options = {} if data_format is None else {"data_format": data_format}
        return native(x, ksize, strides, padding, name=name, **options)

    return max_pool


class _Window(NamedTuple):
    """How one axis is pooled."""

    axis: int
    size: int
    stride: int
    around: tuple[int, int]  # what is padded before and behind
    keeps_length: bool  # whether outputs are as many as inputs


def _windows(x: tf.Tensor, axes: range, ksize, strides, padding: Any) -> list[_Window] | None:
    """One an axis; None where that cannot be known, or where TensorFlow will refuse it."""
    sizes, steps = _along(axes, ksize), _along(axes, strides)
    if sizes is None or steps is None or not x.dtype.is_floating:
        return None
    windows = []
    for axis, size, stride in zip(axes, sizes, steps, strict=True):
        length = x.shape[axis]
        around = _around(
            length, size, stride, padding if isinstance(padding, str) else padding[axis]
        )
        if around is None or (length is not None and length + sum(around) < size):
            return None
        if length is None:
            keeps = stride == 1 and sum(around) == size - 1
        else:
            keeps = (length + sum(around) - size) // stride + 1 == length
        windows.append(_Window(axis, size, stride, around, keeps))
    return windows


def _around(length: int | None, size: int, stride: int, padding: Any) -> tuple[int, int] | None:
    """What "SAME", "VALID" or a pair mean on one axis; None if that depends on its length."""
    if not isinstance(padding, str):
        return tuple(padding)
    if padding.upper() == "VALID":
        return 0, 0
    if length is None and stride > 1:
        return None
    outputs = -(-length // stride) if length is not None else 1
    missing = max((outputs - 1) * stride + size - (length or 1), 0)
    return missing // 2, missing - missing // 2


def _along(axes: range, given: int | Sequence[int]) -> list[int] | None:
    """A number for each axis, of all that TensorFlow takes; None if examples are pooled, too."""
    numbers = [int(n) for n in tf.nest.flatten(given)]
    if len(numbers) in (1, len(axes)):
        return numbers * (len(axes) // len(numbers))
    if len(numbers) != len(axes) + 2 or math.prod(numbers) != math.prod(numbers[i] for i in axes):
        return None
    return [numbers[i] for i in axes]


def _keep_length(windows: Sequence[_Window]) -> bool:
    return all(window.keeps_length for window in windows)


def _padded(x: tf.Tensor, windows: Sequence[_Window]) -> tf.Tensor:
    """With numbers around that are never the largest of a window."""
    around = {w.axis: w.around for w in windows}
    if not any(any(pair) for pair in around.values()):
        return x
    pairs = [around.get(axis, (0, 0)) for axis in range(x.shape.rank)]
    # Not by `constant_values`, which `tf.vectorized_map` takes for 0.
    inside = tf.pad(tf.ones_like(x[:1], tf.bool), pairs)
    return tf.where(inside, tf.pad(x, pairs), tf.constant(x.dtype.min, x.dtype))


def _largest_of_slices(x: tf.Tensor, windows: Sequence[_Window]) -> tf.Tensor:
    """One axis after the other; the last first, so that of equal numbers the first row counts."""
    x = _padded(x, windows)
    for window in reversed(windows):
        before = [slice(None)] * window.axis
        # A slice begins at one place of the first window, and ends at the same place of the last.
        first, *others = [
            x[(*before, slice(place, place + 1 - window.size or None, window.stride))]
            for place in range(window.size)
        ]
        x = functools.reduce(tf.maximum, others, first)
    return x
