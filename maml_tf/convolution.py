"""Convolution with one kernel a task, in the two ways that are fast.

A stack of tasks: `patches(x) @ kernel`, one large batched matrix product (patches.py). That is
what an accelerator wants, and the only way for tasks side by side: a native convolution knows one
kernel. One task alone, as when each core works on its own: TensorFlow's native convolution, which
makes no patches; its kernel gradient is the faster as a product with patches.

A convolution Y = C(X, K), its transposes A (to X) and B (to K) are the three faces of one
trilinear form <Y', C(X, K)> = <A(Y', K), X> = <B(X, Y'), K>, so each is the derivative of the
others at every order, and no further operation is ever needed:

  C(X, K):  X' = A(U, K),  K' = B(X, U)      for U the cotangent of Y
  A(Y, K):  Y' = C(U, K),  K' = B(U, Y)      for U the cotangent of X
  B(X, Y):  X' = A(Y, U),  Y' = C(X, U)      for U the cotangent of K

To remove the native way, drop its branch in `convolve`: everything else stays right.

Shape letters: T tasks, B examples a task, C channels in, F features out.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow as tf

from maml_tf import patches


class Geometry(NamedTuple):
    """How a kernel moves, one number a spatial axis; `padding` as in Keras."""

    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: str


def convolve(x: tf.Tensor, kernel: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """Convolves each task's examples with its own kernel.

    Args:
      x: `[T * B, *spatial, C]`, task by task; spatial lengths static.
      kernel: `[T, *kernel_size, C, F]`.
      geometry: of the convolution.

    Returns:
      `[T * B, *out, F]`.

    Raises:
      ValueError: a spatial length is not static.
    """
    if kernel.shape[0] == 1 and _is_native(geometry):
        return _one_task(x, tf.reshape(kernel, kernel.shape[1:]), geometry)
    taps = patches.extract(x, *geometry)
    tasks = tf.shape(kernel)[0] if kernel.shape[0] is None else kernel.shape[0]
    rows = tf.reshape(taps, [tasks, -1, taps.shape[-1]])
    y = rows @ tf.reshape(kernel, [tasks, taps.shape[-1], kernel.shape[-1]])
    return tf.reshape(y, [-1, *taps.shape[1:-1], kernel.shape[-1]])


def _is_native(geometry: Geometry) -> bool:
    images = len(geometry.kernel_size) == 2 and geometry.padding in ("same", "valid")
    # TensorFlow has no gradient of a dilated convolution on a CPU.
    return images and all(d == 1 for d in geometry.dilation)


def _one_task(x: tf.Tensor, kernel: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """`x [B, H, W, C]`, `kernel [h, w, C, F]` -> `[B, H', W', F]`."""
    how = {"strides": [1, *geometry.strides, 1], "padding": geometry.padding.upper()}
    x_shape = tf.shape(x)

    @tf.custom_gradient
    def forward(x, kernel):  # C
        y = tf.nn.conv2d(x, kernel, **how)
        return y, lambda u: (to_input(u, kernel), to_kernel(x, u))

    @tf.custom_gradient
    def to_input(y, kernel):  # A
        x = tf.raw_ops.Conv2DBackpropInput(
            input_sizes=x_shape, filter=kernel, out_backprop=y, **how
        )
        return x, lambda u: (forward(u, kernel), to_kernel(u, y))

    @tf.custom_gradient
    def to_kernel(x, y):  # B
        taps = patches.extract(x, *geometry)
        rows = math.prod(geometry.kernel_size) * kernel.shape[-2]
        product = tf.matmul(
            tf.reshape(taps, [-1, rows]), tf.reshape(y, [-1, kernel.shape[-1]]), transpose_a=True
        )
        return tf.reshape(product, kernel.shape), lambda u: (to_input(y, u), forward(x, u))

    return forward(x, kernel)
