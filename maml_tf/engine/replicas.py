"""Sums and means over replicas, each in one exchange: what an exchange costs is mostly waiting."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import keras
import tensorflow as tf

from maml_tf.engine.patching import Replacement
from maml_tf.engine.pieces import cut, stacked

Argument = TypeVar("Argument")
Own = TypeVar("Own")
"""A structure of tensors."""
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


class Replicas:
    """The replicas of a strategy; those of this process share its tasks.

    What is its own of each replica, such as its tasks, is TensorFlow's `PerReplica` where this
    process has several, and goes through these methods alone.
    """

    def __init__(self, strategy: tf.distribute.Strategy, processes: int = 1):
        """Computes nothing yet.

        Args:
          strategy: of the learner.
          processes: how many of them have as many of its replicas each.
        """
        self._strategy = strategy
        self.count = strategy.num_replicas_in_sync
        self.here = self.count // processes

    def share(self, tasks: Own) -> Own:
        """Each replica's own of tensors `[T, ...]`: T / `here` of the tasks, in order."""
        if self.here == 1:
            return tasks

        def own() -> Own:
            index = tf.distribute.get_replica_context().replica_id_in_sync_group % self.here
            shares = stacked(tasks, self.here)
            return tf.nest.map_structure(lambda tensor: tensor[index], shares)

        return self._strategy.run(own)

    def cut(self, tasks: Own, number: int) -> Sequence[Own]:
        """Each replica's own of tensors `[T, ...]`, in a `number` of pieces."""
        return self.each(lambda own: cut(own, number), self.share(tasks))

    def each(self, function: Callable[[Own], Result], own: Own) -> Result:
        """What a function makes of each replica's own."""
        return function(own) if self.here == 1 else self._strategy.run(function, args=(own,))

    def mean(
        self, function: Callable[[Argument, Own], Result]
    ) -> Callable[[Argument, Own], Result]:
        """The mean over all replicas of a function of what they share and of each one's own.

        It may be called in a loop of a graph, where no replica's context may exchange anything.
        """
        if self.count == 1:
            return function

        def mean(argument: Argument, own: Own) -> Result:
            structure: list[Any] = []

            def of_one(argument: Argument, own: Own) -> list[tf.Tensor]:
                result = function(argument, own)
                structure[:] = [result]
                return _packed(tf.nest.flatten(result))

            each = self._strategy.run(of_one, args=(argument, own))
            operation = tf.distribute.ReduceOp.MEAN
            means = [self._strategy.reduce(operation, e, axis=None) for e in each]
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
