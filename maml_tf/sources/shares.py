"""What one replica draws of a meta-batch.

Shape letters: T tasks.
"""

from __future__ import annotations

import tensorflow as tf

from maml_tf.tasks.shares import share_of
from maml_tf.types import Task, TaskSource


def draw_share(source: TaskSource, index: tf.Tensor, num_tasks: int, replicas: int) -> Task:
    """This replica's share of the T tasks of a meta-batch.

    Args:
      source: one that has `share` draws no more than is asked for; of others all T are drawn.
      index: of the meta-batch.
      num_tasks: T.
      replicas: among how many it is shared.
    """
    if replicas == 1:
        return source(index, num_tasks)
    mine = tf.distribute.get_replica_context().replica_id_in_sync_group
    if hasattr(source, "share"):
        return source.share(index, num_tasks, mine, replicas)
    return share_of(source(index, num_tasks), mine, replicas)
