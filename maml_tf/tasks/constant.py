"""The same tasks at every meta-step, for those who mean it."""

from __future__ import annotations

import tensorflow as tf

from maml_tf.types import Task


class ConstantTasks:
    """One meta-batch for every index: a `TaskSource`.

    Other sources that always give the same are refused, because most often they draw with NumPy
    where TensorFlow traces. A source of your own says that it means it by `constant_tasks = True`.
    """

    constant_tasks = True

    def __init__(self, task: Task):
        """Takes the meta-batch."""
        self.task = task

    def __call__(self, index: tf.Tensor | int, num_tasks: int) -> Task:
        """Returns the meta-batch, whose T has to be `num_tasks`."""
        return self.task
