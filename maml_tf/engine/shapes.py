"""Sizes of tensors, whether they are known while a function is traced or only when it runs."""

from __future__ import annotations

import tensorflow as tf


def sizes(tensor: tf.Tensor) -> list[int | tf.Tensor]:
    """The size of each axis: a number where it is known, else a scalar tensor."""
    return [tf.shape(tensor)[i] if n is None else n for i, n in enumerate(tensor.shape)]
