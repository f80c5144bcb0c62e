"""Losses and accuracy of each task of a stack.

Shape letters: T tasks, B examples, N ways. Every function maps outputs and targets to `[T]`.
"""

from __future__ import annotations

import tensorflow as tf


def mean_squared_error(outputs: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Mean squared error (paper eq. 2, averaged over the set).

    Args:
      outputs: `[T, B, ...]` predictions.
      y: `[T, B, ...]` targets.

    Returns:
      `[T]`, the mean over examples and components.

    Raises:
      ValueError: the ranks differ; `[T, B, 1]` against `[T, B]` would broadcast over pairs.
    """
    y = tf.convert_to_tensor(y)
    if outputs.shape.rank != y.shape.rank:
        raise ValueError(
            f"Outputs {outputs.shape} and targets {y.shape} differ in rank; give the targets the "
            "outputs' last axis, e.g. y[..., None]."
        )
    error = tf.math.squared_difference(outputs, tf.cast(y, outputs.dtype))
    return tf.reduce_mean(error, range(1, error.shape.rank))


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Mean cross-entropy over the set (paper eq. 3, averaged).

    Args:
      logits: `[T, B, N]`.
      labels: `[T, B]` class indices.

    Returns:
      `[T]`, nats an example.
    """
    # log_softmax, not the fused operation: its second derivative stays on the fast path.
    target = tf.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return -tf.reduce_mean(tf.reduce_sum(target * tf.nn.log_softmax(logits), -1), -1)


def summed_cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Cross-entropy summed over a set of N * K examples and divided by K, as the original does.

    For a balanced set that is N times `cross_entropy`, so the same step size moves N times as far.
    Arguments and result are those of `cross_entropy`.
    """
    return logits.shape[-1] * cross_entropy(logits, labels)


def accuracy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Share of examples whose largest logit is their class's: `[T, B, N], [T, B] -> [T]`."""
    predicted = tf.argmax(logits, -1)
    return tf.reduce_mean(tf.cast(predicted == tf.cast(labels, tf.int64), logits.dtype), -1)
