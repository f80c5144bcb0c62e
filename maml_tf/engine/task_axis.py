"""The task axis of tensors: folded into the examples and back, with their masks.

Keras keeps the mask of a sequence as an attribute of its tensor. Here a tensor `[T, B, ...]` has a
mask `[T, B, S]`, and whoever makes another tensor of it hands the mask on.

Shape letters: T tasks, B examples per task, S time steps.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def get_mask(x: Any) -> tf.Tensor | None:
    """The mask that Keras has attached to a tensor, or None."""
    return getattr(x, "_keras_mask", None)


def with_mask(x: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    """`x` with a mask attached, unless that is None."""
    if mask is not None:
        x._keras_mask = mask
    return x


def lengths(x: tf.Tensor) -> list:
    """The shape of `x`, static wherever it is known."""
    return [tf.shape(x)[i] if n is None else n for i, n in enumerate(x.shape)]


def fold(x: tf.Tensor) -> tf.Tensor:
    """`[T, B, ...]` -> `[T * B, ...]`, and its mask likewise."""
    mask = get_mask(x)
    folded = tf.reshape(x, [-1, *lengths(x)[2:]])
    return with_mask(folded, None if mask is None else fold(mask))


def unfold(x: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """`[T * B, ...]` -> `[T, B, ...]`, with the T and B of `like`; its mask likewise."""
    mask = get_mask(x)
    unfolded = tf.reshape(x, [*lengths(like)[:2], *lengths(x)[1:]])
    return with_mask(unfolded, None if mask is None else unfold(mask, like))


def fold_all(structure: Any) -> Any:
    """`fold` of every tensor in a structure; what is no tensor stays."""
    return tf.nest.map_structure(lambda x: fold(x) if tf.is_tensor(x) else x, structure)


def unfold_all(structure: Any, like: tf.Tensor) -> Any:
    """`unfold` of every tensor in a structure."""
    return tf.nest.map_structure(lambda x: unfold(x, like) if tf.is_tensor(x) else x, structure)


def first_tensor(structure: Any) -> tf.Tensor:
    """The first tensor of a structure."""
    return next(leaf for leaf in tf.nest.flatten(structure) if tf.is_tensor(leaf))
