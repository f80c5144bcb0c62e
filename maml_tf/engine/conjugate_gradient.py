"""Conjugate gradients (Hestenes & Stiefel 1952), for one linear system or one of each task.

Nothing here differentiates: a caller says what a product with its matrix is. Everything runs inside
one traced function.

Shape letters: T tasks, n numbers of a vector. A leading axis `[T, n]` is one system for each task.
"""

from __future__ import annotations

import tensorflow as tf

from maml_tf.engine.pieces import Product
from maml_tf.types import Weights


def conjugate_gradient(
    product: Product, target: tf.Tensor, iterations: int = 10, tolerance: float = 1e-10
) -> tuple[tf.Tensor, tf.Tensor]:
    """Solves A x = target for a positive definite A, beginning at x = 0.

    A system is done where its residual is short enough, or where a direction has no positive
    curvature, so that A is not positive definite; it stays as it is while others go on. Of a target
    that is not finite there is no finite solution.

    Args:
      product: `x [..., n] -> A x [..., n]`.
      target: `[n]`, or `[T, n]` for systems of their own.
      iterations: how many at most; n of them are exact, but for rounding.
      tolerance: stop when the residual's squared length is not above.

    Returns:
      x, and its product A x, each of the target's shape.
    """

    def body(i, x, residual, direction, squared):
        image = product(direction)
        curvature = _dot(direction, image)
        goes_on = (squared > tolerance) & (curvature > 0)
        alpha = tf.where(goes_on, squared / curvature, 0)
        x, residual = x + alpha * direction, residual - alpha * image
        following = tf.where(goes_on, _dot(residual, residual), 0)
        direction = residual + tf.where(goes_on, following / squared, 0) * direction
        return i + 1, x, residual, direction, following

    start = tf.where(tf.math.is_finite(target), tf.zeros_like(target), target)
    _, x, residual, *_ = tf.while_loop(
        lambda i, x, r, d, squared: (i < iterations) & tf.reduce_any(squared > tolerance),
        body,
        [tf.constant(0), start, target, target, _dot(target, target)],
    )
    return x, target - residual


def flatten(weights: Weights, *, stacked: bool = False) -> tf.Tensor:
    """All numbers of some tensors as one vector `[n]`; of stacked ones as one a task, `[T, n]`."""
    tasks = [-1] if stacked else []
    sizes = _sizes(weights, stacked)
    return tf.concat(
        [tf.reshape(w, [*tasks, size]) for w, size in zip(weights, sizes, strict=True)], -1
    )


def unflatten(vector: tf.Tensor, like: Weights, *, stacked: bool = False) -> Weights:
    """The inverse of `flatten`, in the shapes of `like`."""
    tasks = [-1] if stacked else []
    parts = tf.split(vector, _sizes(like, stacked), -1)
    return [
        tf.reshape(part, [*tasks, *w.shape[len(tasks) :]])
        for part, w in zip(parts, like, strict=True)
    ]


def _sizes(weights: Weights, stacked: bool) -> list[int]:
    return [w.shape[1 if stacked else 0 :].num_elements() for w in weights]


def _dot(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(a * b, -1, keepdims=True)
