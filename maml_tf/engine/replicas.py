"""Sums and means over replicas, each in one exchange: what an exchange costs is mostly waiting."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import keras
import tensorflow as tf

from maml_tf.engine.patching import Replacement

Argument = TypeVar("Argument")
Result = TypeVar("Result")
"""A structure of tensors."""

_HOOK = "_all_reduce_sum_gradients"
"""Where optimizers of Keras sum over replicas what they are given."""

_REPLACED = "_maml_tf_sums_no_more"
"""Where an optimizer keeps what takes that sum away, one for all of its replicas' threads."""


def sum_over_replicas(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Sums each tensor over all replicas; in a replica's context."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return list(tensors)
    sums = [context.all_reduce(tf.distribute.ReduceOp.SUM, v) for v in _packed(tensors)]
    return _unpacked(sums, tensors)


def mean_over_replicas(
    strategy: tf.distribute.Strategy, function: Callable[[Argument], Result]
) -> Callable[[Argument], Result]:
    """The mean over all replicas of a function of an argument that they share.

    It may be called in a loop of a graph, where no replica's context may exchange anything.
    """
    if strategy.num_replicas_in_sync == 1:
        return function

    def mean(argument: Argument) -> Result:
        structure: list[Any] = []

        def own(argument: Argument) -> list[tf.Tensor]:
            result = function(argument)
            structure[:] = [result]
            return _packed(tf.nest.flatten(result))

        each = strategy.run(own, args=(argument,))
        means = [strategy.reduce(tf.distribute.ReduceOp.MEAN, e, axis=None) for e in each]
        like = tf.nest.flatten(structure[0])
        return tf.nest.pack_sequence_as(structure[0], _unpacked(means, like))

    return mean


def apply_sum(
    optimizer: keras.optimizers.Optimizer,
    gradients: Sequence[tf.Tensor],
    variables: Sequence[keras.Variable],
) -> None:
    """Lets an optimizer move variables by a gradient that has been summed over replicas already.

    In a replica's context, where an optimizer of Keras would sum once more; over one replica, too,
    by a derivative of its own that TensorFlow keeps for ever (see `custom_gradients`).
    """
    replicas = tf.distribute.get_replica_context().num_replicas_in_sync
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # of one that scales the loss
    sums_no_more: Any = contextlib.nullcontext()
    if hasattr(inner, _HOOK):
        hook = Replacement((inner, _HOOK, lambda pairs: pairs))
        sums_no_more = vars(inner).setdefault(_REPLACED, hook).inside()
    elif replicas > 1:
        gradients = [g / replicas for g in gradients]
    with sums_no_more:
        optimizer.apply(list(gradients), list(variables))


def _packed(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """One vector for each type among the tensors, in the order in which types appear."""
    kinds = dict.fromkeys(t.dtype for t in tensors)
    return [
        tf.concat([tf.reshape(t, [-1]) for t in tensors if t.dtype == kind], 0) for kind in kinds
    ]


def _unpacked(vectors: Sequence[tf.Tensor], like: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The inverse of `_packed`."""
    rest = {}
    for vector in vectors:
        own = [t for t in like if t.dtype == vector.dtype]
        parts = tf.split(vector, [t.shape.num_elements() for t in own])
        rest[vector.dtype] = [tf.reshape(part, t.shape) for part, t in zip(parts, own, strict=True)]
    return [rest[t.dtype].pop(0) for t in like]
