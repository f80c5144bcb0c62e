"""The linear feature baseline (Duan et al. 2016, appendix), of many tasks in one batched solve.

    features(s, t) = [o, o^2, t, t^2, t^3, 1]     o = s clipped to +-10, t = step / 100
    coefficients = argmin_c sum over steps (features . c - return)^2 + ridge |c|^2

Shape letters: T tasks, E episodes per task, H horizon, O observation numbers, F = 2 O + 4 features.
"""

from __future__ import annotations

import tensorflow as tf

from maml_tf.engine.shapes import sizes

CLIP = 10.0
STEPS_PER_UNIT = 100.0
LARGEST = 512
"""Observations of more numbers, such as images, are left out, and the time alone remains: the
equations would hold the square of twice as many."""
RIDGE = 1e-5
TRIES = 5
"""The ridge grows tenfold for a task whose equations cannot be solved, this many times in all."""


def features(observations: tf.Tensor) -> tf.Tensor:
    """`[T, E, H, O]` -> `[T, E, H, F]`."""
    o = tf.clip_by_value(observations, -CLIP, CLIP)
    *lead, horizon, size = sizes(observations)
    t = tf.cast(tf.range(horizon), o.dtype)[:, tf.newaxis] / STEPS_PER_UNIT
    of_time = tf.concat([t, t**2, t**3, tf.ones_like(t)], 1)
    of_time = tf.broadcast_to(of_time, [*lead, horizon, 4])
    return of_time if size > LARGEST else tf.concat([o, o**2, of_time], -1)


def fit(inputs: tf.Tensor, returns: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Least squares for each task alone, in float64.

    Args:
      inputs: features `[T, E, H, F]`.
      returns: `[T, E, H]`.
      mask: `[T, E, H]`, 1 where a step counts.

    Returns:
      Coefficients `[T, F]` float64; zeros for a task that no ridge makes solvable.
    """
    tasks, size = inputs.shape[0], inputs.shape[-1]
    x = tf.reshape(tf.cast(inputs * mask[..., tf.newaxis], tf.float64), [tasks, -1, size])
    y = tf.reshape(tf.cast(returns * mask, tf.float64), [tasks, -1, 1])
    gram, moment = tf.matmul(x, x, transpose_a=True), tf.matmul(x, y, transpose_a=True)
    eye = tf.eye(size, dtype=tf.float64)

    def solve(ridge):
        # The factor of a matrix that has none is not a number, and raises nothing.
        factor = tf.linalg.cholesky(gram + ridge[:, tf.newaxis, tf.newaxis] * eye)
        return tf.linalg.cholesky_solve(factor, moment)[..., 0]

    def failed(solution):
        return tf.logical_not(tf.reduce_all(tf.math.is_finite(solution), 1))

    def again(tried, ridge, solution):
        ridge = tf.where(failed(solution), 10.0 * ridge, ridge)
        return tried + 1, ridge, solve(ridge)

    ridge = tf.fill([tasks], tf.constant(RIDGE, tf.float64))
    *_, solution = tf.while_loop(
        lambda tried, _, solution: (tried < TRIES) & tf.reduce_any(failed(solution)),
        again,
        [tf.constant(1), ridge, solve(ridge)],
    )
    return tf.where(failed(solution)[:, tf.newaxis], tf.zeros_like(solution), solution)


def predict(inputs: tf.Tensor, coefficients: tf.Tensor) -> tf.Tensor:
    """Values `[T, E, H]` of features `[T, E, H, F]` under coefficients `[T, F]`."""
    return tf.einsum("tehf,tf->teh", inputs, tf.cast(coefficients, inputs.dtype))
