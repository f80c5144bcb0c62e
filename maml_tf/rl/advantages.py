"""Returns and advantages (Schulman et al. 2016, "Generalized advantage estimation").

Sums over time are products with a triangular matrix `[H, H]`: exact, and one operation.

Shape letters: T tasks, E episodes per task, H horizon.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from maml_tf.engine.shapes import sizes


def discounted_sums(values: tf.Tensor, factor: float) -> tf.Tensor:
    """Sum over k >= t of factor^(k - t) values_k, along the last axis of `[..., H]`."""
    return tf.linalg.matmul(values, tf.cast(_powers(sizes(values)[-1], factor), values.dtype))


def _powers(size: int | tf.Tensor, factor: float) -> np.ndarray | tf.Tensor:
    """factor^(k - t) at `[k, t]` for k >= t, else 0; a constant where the size is known."""
    if not isinstance(size, int):
        exponents = tf.range(size)[:, tf.newaxis] - tf.range(size)
        powers = tf.constant(factor, tf.float64) ** tf.cast(tf.maximum(exponents, 0), tf.float64)
        return tf.where(exponents >= 0, powers, tf.zeros_like(powers))
    exponents = np.arange(size)[:, None] - np.arange(size)
    return np.where(exponents >= 0, float(factor) ** np.maximum(exponents, 0), 0.0)


def generalized_advantages(
    rewards: tf.Tensor, values: tf.Tensor, mask: tf.Tensor, *, discount: float, gae_lambda: float
) -> tf.Tensor:
    """A_t = sum over k >= t of (discount lambda)^(k - t) delta_k.

    delta_t = r_t + discount V_(t+1) - V_t, with V = 0 behind an episode's last step, horizon or
    not, as in the original program.

    Args:
      rewards: `[T, E, H]`.
      values: `[T, E, H]`.
      mask: `[T, E, H]`, 1 where the step was taken.
      discount: discount factor for later rewards.
      gae_lambda: lambda; 1 gives the discounted return minus the value.

    Returns:
      `[T, E, H]`, 0 where the mask is.
    """
    rewards, values = rewards * mask, values * mask
    following = tf.concat([values[..., 1:], tf.zeros_like(values[..., :1])], -1)
    deltas = rewards + discount * following - values
    return mask * discounted_sums(deltas, discount * gae_lambda)


def standardize(advantages: tf.Tensor, mask: tf.Tensor, epsilon: float = 1e-8) -> tf.Tensor:
    """Mean 0 and deviation 1 over each task's own steps, `[T, E, H]`; 0 where the mask is."""
    count = tf.reduce_sum(mask, [1, 2], keepdims=True)
    mean = tf.reduce_sum(mask * advantages, [1, 2], keepdims=True) / count
    centred = mask * (advantages - mean)
    variance = tf.reduce_sum(tf.square(centred), [1, 2], keepdims=True) / count
    return centred / (tf.sqrt(variance) + epsilon)
