"""Mini-batches of ordinary classification, over all classes of a data set at once.

Shape letters: T mini-batches, B examples of each, C classes.
"""

from __future__ import annotations

import tensorflow as tf

from maml_tf import arguments, seeds
from maml_tf.tasks.episodes import Episodes
from maml_tf.types import Batch, Task


class JointBatches:
    """Examples of any class, labelled by their own class: a `TaskSource`.

    What MAML's classification is compared with (Ravi & Larochelle 2017, section 5.1) learns from
    them. A mini-batch is as large as an episode's query set, so that batch normalisation sees as
    many examples while training as it does when a task's query set is classified.
    """

    def __init__(self, episodes: Episodes):
        """Takes the examples, and the size N * Q of a mini-batch, from episodes.

        Raises:
          ValueError: something else is given.
        """
        if not isinstance(episodes, Episodes):
            raise ValueError(
                f"JointBatches take Episodes, not {arguments.shown(episodes)}; make those first."
            )
        self.batch_size = episodes.query_size
        self._episodes = episodes
        labels = episodes.labels()
        self.num_classes = int(labels[-1]) + 1
        self._labels = tf.constant(labels)

    def __call__(self, index: tf.Tensor | int, num_tasks: int) -> Task:
        """Draws meta-batch `index`.

        Args:
          index: meta-batch number, int64 scalar.
          num_tasks: T, a Python integer.

        Returns:
          Task with query x [T, B, ...], served as the episodes serve it, and y [T, B] int32 in
          0 ... C-1, drawn independently. Nothing adapts, so the support set is the query set.
        """
        num_tasks = arguments.count("num_tasks", num_tasks, 1)
        own = self._episodes
        rows = self._labels.shape[0]
        stream = seeds.stream(own.seed, own.split, "joint examples", index)
        drawn = seeds.uniform(stream, (num_tasks, self.batch_size), high=float(rows))
        # In float32 the largest numbers below a bound may round up to it.
        drawn = tf.minimum(tf.cast(drawn, tf.int64), rows - 1)
        batch = Batch(own.served(drawn), tf.gather(self._labels, drawn))
        return Task(batch, batch)
