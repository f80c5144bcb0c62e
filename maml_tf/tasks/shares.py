"""A replica's or a worker's share of the tasks of a meta-batch: neighbours, in order.

Shape letters: T tasks, R replicas.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def share_of(structure: Any, mine: Any, replicas: int) -> Any:
    """Share number `mine`, `[T / R, ...]`, of a structure of tensors or arrays `[T, ...]`."""

    def cut(t: Any) -> tf.Tensor:
        return tf.reshape(t, [replicas, t.shape[0] // replicas, *t.shape[1:]])[mine]

    return tf.nest.map_structure(cut, structure)
