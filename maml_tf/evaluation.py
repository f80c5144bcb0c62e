"""A metric after every gradient step, over held-out tasks (paper section 5: 600 tasks, 95 %).

Shape letters: T tasks of one draw, S gradient steps.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from maml_tf.meta_learner import MetaLearner
from maml_tf.types import Estimate, Task, TaskSource

DRAW = 24
"""Tasks drawn at a time. Fixed, so that which tasks are met depends on nothing but the seed."""

BATCH_STATISTICS = ("transductive", "inductive")


class Evaluator:
    """Adapts to held-out tasks, and measures the query set after 0, 1, ... S steps.

    Compiled once; calling it again measures the learner's present weights on the same tasks.
    """

    def __init__(
        self,
        learner: MetaLearner,
        tasks: TaskSource,
        *,
        num_tasks: int = 600,
        steps: int = 10,
        step_size: float | None = None,
        batch_statistics: str = "transductive",
    ):
        """Sets the evaluation up.

        Args:
          learner: whose weights are adapted; they stay as they are.
          tasks: held-out tasks; its meta-batches 0, 1, ... are met.
          num_tasks: how many tasks.
          steps: gradient steps, S.
          step_size: alpha; the learner's own by default.
          batch_statistics: "transductive": batch normalisation sees the whole query set (the
            paper's figures). "inductive": it uses the statistics of the support set, so that each
            query example is predicted alone.

        Raises:
          ValueError: an argument is out of range.
        """
        if num_tasks < 1 or steps < 0:
            raise ValueError(
                f"Evaluation needs num_tasks >= 1 and steps >= 0, not {num_tasks} and {steps}."
            )
        if batch_statistics not in BATCH_STATISTICS:
            raise ValueError(
                f"batch_statistics must be transductive or inductive, not '{batch_statistics}'."
            )
        self.learner, self.tasks = learner, tasks
        self.num_tasks, self.steps, self.step_size = num_tasks, steps, step_size
        self.inductive = batch_statistics == "inductive"
        # Not inlined: each piece of the tasks runs the one optimised copy of this function.
        self._curves = tf.function(
            self._adaptation_curves,
            autograph=False,
            experimental_attributes={"_noinline": True},
        )
        self._draw = tf.function(self._draw_and_measure, autograph=False)

    def __call__(self, *, progress: bool = False) -> Estimate:
        """Returns mean, standard deviation and 95 % interval after each step, `[S + 1]`."""
        draws = range(math.ceil(self.num_tasks / DRAW))
        curves = [
            self._draw(tf.constant(index, tf.int64)).numpy()
            for index in tqdm(draws, desc="evaluate", unit="draw", disable=not progress)
        ]
        return estimate(np.concatenate(curves)[: self.num_tasks])

    def _draw_and_measure(self, index) -> tf.Tensor:
        task = self.tasks(index, DRAW)
        share = self.learner.meta_batch_size // self.learner.task_chunks
        size = max(n for n in range(1, DRAW + 1) if DRAW % n == 0 and n <= max(share, 1))
        return tf.concat(
            [
                self._curves(tf.nest.map_structure(lambda t, i=i: t[i : i + size], task))
                for i in range(0, DRAW, size)
            ],
            axis=0,
        )

    def _adaptation_curves(self, task: Task) -> tf.Tensor:
        """The metric of each task after each step, `[T, S + 1]`."""
        learner = self.learner

        def measure(weights):
            seen = learner.apply.statistics(weights, task.support.x) if self.inductive else None
            outputs = learner.apply(weights, task.query.x, statistics=seen)
            return tf.cast(learner.metric(outputs, task.query.y), tf.float32)

        curves = learner.adapt_and_observe(
            task.support, self.steps, measure, step_size=self.step_size
        )
        return tf.transpose(curves)


def evaluate(learner: MetaLearner, tasks: TaskSource, *, progress: bool = False, **options):
    """Measures a learner on held-out tasks once; the options are `Evaluator`'s.

    Returns:
      `Estimate` of the learner's metric after 0, 1, ... steps.
    """
    return Evaluator(learner, tasks, **options)(progress=progress)


def estimate(curves: np.ndarray) -> Estimate:
    """Summarises `[num_tasks, S + 1]` values: the interval is 1.96 std / sqrt(num_tasks)."""
    curves = np.asarray(curves, np.float64)
    std = curves.std(axis=0)
    return Estimate(curves.mean(axis=0), std, 1.96 * std / math.sqrt(len(curves)), len(curves))
