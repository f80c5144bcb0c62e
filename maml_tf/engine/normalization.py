"""Standardisation, with its first and second derivative written out.

Memory traffic is what a normalisation costs, and automatic differentiation of
`(x - mean) * rsqrt(variance + eps)`, twice, passes over tensors of the size of x more often than
the closed forms below. To remove them, return `_plain(x, axes, epsilon)[0]` from `standardize`.

Let M(.) be the mean over `axes`, s = rsqrt(M((x - M(x))^2) + eps), y = s (x - M(x)).

  dy    y is standardised along y + s (I - M - y M(y .)) dx; that operator is its own transpose.
  g     of y gives   h = s (g - M(g) - y M(g y))                                    (first order)
  c     of h gives   g~ = s (c - M(c) - y M(c y)),
                     x~ = -s^2 (a c + b g - (a M(c) + b M(g)) + y (M(c g) - M(c) M(g) - 3 a b))
        with a = M(g y), b = M(c y)                                                (second order)
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from maml_tf.engine.custom_gradients import custom_gradient


def standardize(x: tf.Tensor, axes: Sequence[int], epsilon: float) -> tf.Tensor:
    """Returns `x` with mean 0 and variance about 1 over `axes`: `(x - mean) / sqrt(var + epsilon)`.

    Differentiable to any order; the first two are the closed forms of this file.
    """

    @custom_gradient
    def forward(x):
        def gradient(upstream):
            return backward(upstream, x)

        return _plain(x, axes, epsilon)[0], gradient

    @custom_gradient
    def backward(g, x):
        y, scale = _plain(x, axes, epsilon)

        def gradient(c):
            return _second(c, g, y, scale, axes)

        return scale * (g - _mean(g, axes) - y * _mean(g * y, axes)), gradient

    return forward(x)


def moments(x: tf.Tensor, axes: Sequence[int]) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and variance of `x` over `axes`, which stay as axes of length 1."""
    mean = _mean(x, axes)
    return mean, _mean(tf.square(x - mean), axes)


def _mean(x: tf.Tensor, axes: Sequence[int]) -> tf.Tensor:
    return tf.reduce_mean(x, axes, keepdims=True)


def _plain(x: tf.Tensor, axes: Sequence[int], epsilon: float) -> tuple[tf.Tensor, tf.Tensor]:
    """`y` and `s`. Called again wherever they are needed: a compiled graph keeps one copy."""
    mean, variance = moments(x, axes)
    scale = tf.math.rsqrt(variance + epsilon)
    return (x - mean) * scale, scale


def _second(c, g, y, scale, axes) -> tuple[tf.Tensor, tf.Tensor]:
    mean_c, mean_g = _mean(c, axes), _mean(g, axes)
    a, b = _mean(g * y, axes), _mean(c * y, axes)
    of_g = scale * (c - mean_c - y * b)
    of_y = _mean(c * g, axes) - mean_c * mean_g - 3 * a * b
    minus = -tf.square(scale)
    of_x = (minus * a) * c + (minus * b) * g + (minus * of_y) * y
    return of_g, of_x - minus * (a * mean_c + b * mean_g)


def masked_moments(
    x: tf.Tensor, axes: Sequence[int], mask: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """`moments` of the entries where `mask`, which broadcasts against `x`, is true."""
    weight = tf.cast(mask, x.dtype) + tf.zeros_like(x)
    count = tf.reduce_sum(weight, axes, keepdims=True)
    mean = tf.math.divide_no_nan(tf.reduce_sum(weight * x, axes, keepdims=True), count)
    square = weight * tf.square(x - mean)
    return mean, tf.math.divide_no_nan(tf.reduce_sum(square, axes, keepdims=True), count)
