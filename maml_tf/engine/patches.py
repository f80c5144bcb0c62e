"""Image patches as a gather, with a hand-written adjoint.

A convolution with one kernel per task is `patches(x) @ kernel`, one large batched matrix product
instead of T small convolutions. Taking patches is linear, `p = G x`, and so is its adjoint
`x = G^T p`; each is the other's derivative at every order. Both are written as a gather from an
index table known when the graph is traced: automatic differentiation would turn G^T into nine
padded copies (strided slices) or a sparse product (`tf.image.extract_patches`), either of which
costs more than the matrix product itself (benchmarks/README.md).

Shape letters: M images (tasks times examples), C channels, P taps of a kernel (3 * 3 = 9).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from maml_tf.engine.custom_gradients import custom_gradient


class _Tables(NamedTuple):
    """Index tables of one geometry; an index one past the end points at a row of zeros."""

    out_shape: tuple[int, ...]
    forward: np.ndarray  # [prod(out) * P]: the input position that each tap of each output reads
    adjoint: np.ndarray  # [prod(in) * R]: the taps that read each input position, at most R of them


def output_length(length: int, kernel: int, stride: int, dilation: int, padding: str) -> int:
    """Returns the length of a convolution's output along one axis (Keras' rules)."""
    if padding == "valid":
        return (length - dilation * (kernel - 1) - 1) // stride + 1
    return math.ceil(length / stride)


def _taps(length: int, kernel: int, stride: int, dilation: int, padding: str) -> np.ndarray:
    """Input index of each tap along one axis, `[out, kernel]`; -1 where it falls on padding."""
    out = output_length(length, kernel, stride, dilation, padding)
    reach = dilation * (kernel - 1)
    before = {
        "valid": 0,
        "same": max((out - 1) * stride + reach + 1 - length, 0) // 2,
        "causal": reach,
    }[padding]
    index = stride * np.arange(out)[:, None] + dilation * np.arange(kernel)[None, :] - before
    return np.where((index >= 0) & (index < length), index, -1)


@functools.lru_cache(maxsize=256)
def _tables(
    in_shape: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilation: tuple[int, ...],
    padding: str,
) -> _Tables:
    rank, positions = len(in_shape), math.prod(in_shape)
    index = np.zeros([1] * (2 * rank), np.int64)
    outside = np.zeros([1] * (2 * rank), bool)
    for axis, geometry in enumerate(zip(in_shape, kernel, strides, dilation, strict=True)):
        taps = _taps(*geometry, padding)
        shape = [1] * (2 * rank)
        shape[axis], shape[rank + axis] = taps.shape
        taps = taps.reshape(shape)
        index = index * in_shape[axis] + taps
        outside = outside | (taps < 0)
    forward = np.where(outside, positions, index)
    out_shape = forward.shape[:rank]
    forward = forward.reshape(-1)
    readers = np.flatnonzero(forward < positions)
    readers = readers[np.argsort(forward[readers], kind="stable")]
    counts = np.bincount(forward[readers], minlength=positions)
    rank_of_reader = np.arange(len(readers)) - np.repeat(np.cumsum(counts) - counts, counts)
    adjoint = np.full((positions, max(int(counts.max()), 1)), len(forward), np.int32)
    adjoint[forward[readers], rank_of_reader] = readers
    return _Tables(out_shape, forward.astype(np.int32), adjoint.reshape(-1))


def _gather_rows(x: tf.Tensor, index: np.ndarray) -> tf.Tensor:
    """`x [M, rows, C]` -> `[M, len(index), C]`; index `rows` reads zeros."""
    if index.max() == x.shape[1]:
        x = tf.pad(x, [[0, 0], [0, 1], [0, 0]])
    return tf.gather(x, index, axis=1)


def extract(
    x: tf.Tensor,
    kernel_size: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
    padding: str,
) -> tf.Tensor:
    """Takes the patches that a convolution's kernel sees.

    Args:
      x: `[M, *spatial, C]`, any number of spatial axes, their lengths static.
      kernel_size: taps along each spatial axis.
      strides: step of the output along each spatial axis.
      dilation: distance of two taps along each spatial axis.
      padding: "same", "valid" or "causal" (one axis only), as in Keras.

    Returns:
      `[M, *out, P * C]`, taps before channels, as a kernel `[*kernel_size, C, F]` reshaped to
      `[P * C, F]` wants them.

    Raises:
      ValueError: a spatial length is not static.
    """
    spatial, channels = tuple(x.shape[1:-1]), x.shape[-1]
    if None in spatial or channels is None:
        raise ValueError(
            f"Convolution needs static image sizes, not {x.shape}; fix the Input's size."
        )
    taken, _ = _pair(spatial, channels, kernel_size, strides, dilation, padding)
    return taken(x)


def scatter(
    taps: tf.Tensor,
    spatial: Sequence[int],
    kernel_size: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
    padding: str,
) -> tf.Tensor:
    """The adjoint of `extract`: adds each tap to the place that it was taken from.

    Args:
      taps: `[M, *out, P * C]`, what `extract` makes of images `[M, *spatial, C]`.
      spatial: lengths of the images.
      kernel_size: taps along each spatial axis.
      strides: step of the output along each spatial axis.
      dilation: distance of two taps along each spatial axis.
      padding: "same", "valid" or "causal", as for `extract`.

    Returns:
      `[M, *spatial, C]`.
    """
    channels = taps.shape[-1] // math.prod(kernel_size)
    _, given_back = _pair(tuple(spatial), channels, kernel_size, strides, dilation, padding)
    return given_back(taps)


def _pair(spatial, channels: int, kernel_size, strides, dilation, padding):
    """`extract` and `scatter` of one geometry, each the other's derivative at every order."""
    tables = _tables(spatial, tuple(kernel_size), tuple(strides), tuple(dilation), padding)
    readers = len(tables.adjoint) // math.prod(spatial)

    @custom_gradient
    def take(rows):
        return _gather_rows(rows, tables.forward), give_back

    @custom_gradient
    def give_back(taps):
        gathered = _gather_rows(taps, tables.adjoint)
        gathered = tf.reshape(gathered, [-1, math.prod(spatial), readers, channels])
        return tf.reduce_sum(gathered, axis=2), take

    def taken(x):
        taps = take(tf.reshape(x, [-1, math.prod(spatial), channels]))
        return tf.reshape(taps, [-1, *tables.out_shape, math.prod(kernel_size) * channels])

    def given_back(taps):
        rows = give_back(tf.reshape(taps, [-1, len(tables.forward), channels]))
        return tf.reshape(rows, [-1, *spatial, channels])

    return taken, given_back
