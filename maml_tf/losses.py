"""Losses and accuracy of each task of a stack.

Shape letters: T tasks, B examples, N ways. Every function maps outputs and targets to `[T]`. Each
also takes `sample_weight [T, B]`, a factor of each example's loss, and `mask [T, B]`, which says
which examples exist: others are not in a mean.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from maml_tf.objectives.base import INDICES, VALUES, average, described, weighted_average


@described(lower_is_better=True, labels=VALUES)
def mean_squared_error(
    outputs: tf.Tensor, y: tf.Tensor, sample_weight: Any = (), mask: Any = ()
) -> tf.Tensor:
    """Mean squared error (paper eq. 2, averaged over the set).

    Args:
      outputs: `[T, B, ...]` predictions.
      y: `[T, B, ...]` targets.
      sample_weight: `[T, B]`, or `()`.
      mask: `[T, B]`, or `()`.

    Returns:
      `[T]`, the mean over examples and components.

    Raises:
      ValueError: the shapes differ; `[T, B, 1]` against `[T, B]` would broadcast over pairs.
    """
    outputs, y = tf.convert_to_tensor(outputs), tf.convert_to_tensor(y)
    if outputs.shape.rank != y.shape.rank:
        raise ValueError(
            f"Outputs {outputs.shape} and targets {y.shape} differ in rank; give the targets the "
            "outputs' last axis, e.g. y[..., None]."
        )
    if not outputs.shape.is_compatible_with(y.shape):
        raise ValueError(
            f"Outputs {outputs.shape} and targets {y.shape} differ in shape, and would broadcast; "
            "give the model as many outputs as there are targets."
        )
    outputs = _wide(outputs)
    error = tf.math.squared_difference(outputs, tf.cast(y, outputs.dtype))
    return average(error, sample_weight, mask)


@described(lower_is_better=True, labels=INDICES, from_logits=True)
def cross_entropy(
    logits: tf.Tensor, labels: tf.Tensor, sample_weight: Any = (), mask: Any = ()
) -> tf.Tensor:
    """Mean cross-entropy over the set (paper eq. 3, averaged).

    Args:
      logits: `[T, B, N]`, or with more axes between.
      labels: `[T, B]` class indices.
      sample_weight: `[T, B]`, or `()`.
      mask: `[T, B]`, or `()`.

    Returns:
      `[T]`, nats per example.

    Raises:
      ValueError: the shapes do not fit, or the outputs are probabilities.
    """
    logits = tf.convert_to_tensor(logits)
    labels = _class_indices(logits, labels)
    if hasattr(logits, "_keras_logits"):
        raise ValueError(
            "The model's outputs are probabilities (its last activation is a softmax or a sigmoid)"
            ", and this cross-entropy takes logits; leave the activation out."
        )
    logits = _wide(logits)
    # log_softmax, not the fused operation: its second derivative stays on the fast path.
    target = tf.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    each = tf.reduce_sum(target * tf.nn.log_softmax(logits), -1)
    return -average(each, sample_weight, mask)


@described(lower_is_better=True, labels=INDICES, from_logits=True)
def summed_cross_entropy(
    logits: tf.Tensor, labels: tf.Tensor, sample_weight: Any = (), mask: Any = ()
) -> tf.Tensor:
    """Cross-entropy summed over a set of N * K examples and divided by K, as the original does.

    For a balanced set that is N times `cross_entropy`, so the same step size moves N times as far.
    Arguments and result are those of `cross_entropy`.
    """
    return logits.shape[-1] * cross_entropy(logits, labels, sample_weight, mask)


@described(lower_is_better=False, labels=INDICES)
def accuracy(
    logits: tf.Tensor, labels: tf.Tensor, sample_weight: Any = (), mask: Any = ()
) -> tf.Tensor:
    """Share of examples whose largest logit is their class's: `[T, B, N], [T, B] -> [T]`."""
    logits = tf.convert_to_tensor(logits)
    labels = _class_indices(logits, labels)
    hit = tf.cast(tf.argmax(logits, -1) == tf.cast(labels, tf.int64), _wide(logits).dtype)
    return weighted_average(hit, sample_weight, mask)


def _wide(outputs: tf.Tensor) -> tf.Tensor:
    """Of half precision: float32, in which Keras computes losses."""
    return tf.cast(outputs, tf.float32) if outputs.dtype.size == 2 else outputs


def _class_indices(logits: tf.Tensor, labels: Any) -> tf.Tensor:
    labels = tf.convert_to_tensor(labels)
    if labels.shape.rank == logits.shape.rank and labels.shape[-1] == 1:
        labels = tf.squeeze(labels, -1)
    if labels.dtype.is_floating:  # whole numbers: checked where the data come in
        labels = tf.cast(labels, tf.int32)
    if not labels.shape.is_compatible_with(logits.shape[:-1]):
        raise ValueError(
            f"Labels of shape {labels.shape} do not fit outputs of shape {logits.shape}; give class"
            f" indices of shape {logits.shape[:-1]} (of one-hot labels: tf.argmax(y, -1))."
        )
    return labels
