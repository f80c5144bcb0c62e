"""A metric after every gradient step, over held-out tasks (paper section 5: 600 tasks, 95 %).

Shape letters: T tasks of one draw, S gradient steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf

from maml_tf import arguments
from maml_tf.engine.pieces import each, stacked
from maml_tf.engine.workers import Workers
from maml_tf.estimates import summarize
from maml_tf.objectives.labels import check_task, check_ways
from maml_tf.sources.resolve import InGraph, Piece, held_out
from maml_tf.sources.supplies import Tasks
from maml_tf.supervised import checks
from maml_tf.supervised.adaptive_model import AdaptiveModel
from maml_tf.supervised.prediction import BATCH_STATISTICS
from maml_tf.system.progress import Bar
from maml_tf.types import Batch, Estimate, Task

DRAW = 24
"""Tasks drawn at a time. Fixed, so that which tasks are met depends on nothing but the seed."""


class MetricEvaluator:
    """Adapts to held-out tasks, and measures the query set after 0, 1, ... S steps.

    Compiled once; calling it again measures the learner's present weights on the same tasks. Each
    of several workers measures its own share of the draws, on one device, and all return the same:
    all have to call it.
    """

    def __init__(
        self,
        learner: AdaptiveModel,
        tasks: Tasks,
        *,
        num_tasks: int = 600,
        steps: int = 10,
        step_size: float | None = None,
        batch_statistics: str = "transductive",
        ways: int | None = None,
        workers: int = 1,
    ):
        """Sets the evaluation up.

        Args:
          learner: whose weights are adapted; they stay as they are.
          tasks: held-out tasks, a source as for `MetaLearner.meta_steps`; its meta-batches 0, 1,
            ... are met. One that runs in Python is asked for all tasks here, and they are kept.
          num_tasks: how many tasks.
          steps: gradient steps, S.
          step_size: alpha; the learner's own by default. It may be assigned between calls.
          batch_statistics: "transductive": batch normalisation sees the whole query set (the
            paper's figures). "inductive": it uses the statistics of the support set, so that each
            query example is predicted alone. "running": those of the meta-training after as many
            steps (`MetaLearner(running_statistics=True)`); it too predicts each alone.
          ways: classes of the tasks, N', where the model has more outputs. The inner loop is over
            all outputs, as in training; those beyond the first N' are left out of the prediction,
            so that it is of a class that the task has. By default all count.
          workers: draws of tasks that this process measures at a time, each in a thread of its own
            and with memory of its own. It pays for small networks, whose operations leave cores
            idle; what is measured stays the same.

        Raises:
          ValueError: an argument is out of range, or `tasks` has not so many tasks.
        """
        arguments.learner(learner, ("adapt_and_predict", "measure"))
        num_tasks, steps = arguments.whole("num_tasks", num_tasks), arguments.whole("steps", steps)
        if num_tasks < 1 or steps < 0:
            raise ValueError(
                f"Evaluation needs num_tasks >= 1 and steps >= 0, not {num_tasks} and {steps}."
            )
        checks.check_batch_statistics(learner, batch_statistics, BATCH_STATISTICS)
        self.learner, self.tasks = learner, tasks
        self.num_tasks, self.steps = num_tasks, steps
        self._threads = arguments.count("workers", workers, 1)
        self._all = Workers(learner.strategy)
        self._alpha: tf.Variable | None = None
        self.step_size = step_size
        self.batch_statistics = batch_statistics
        self.ways = None if ways is None else arguments.count("ways", ways, 1)
        met = held_out(tasks, num_tasks, DRAW)
        self._source = met if isinstance(met, InGraph) else None
        self._pieces: Sequence[Piece | tuple[tf.Tensor, int]] = (
            [] if isinstance(met, InGraph) else met
        )
        self._is_checked = False
        self._compile()

    @property
    def step_size(self) -> float | None:
        """Alpha; None: the learner's own. Another number, assigned, does not compile again.

        Raises:
          ValueError: it is assigned what is no positive number.
        """
        return self._step_size

    @step_size.setter
    def step_size(self, value: float | None) -> None:
        self._step_size = None if value is None else arguments.positive("step_size", value)
        if (value is None) != (self._alpha is None):
            self._alpha = None if value is None else tf.Variable(value, False, dtype=tf.float64)
            self._revision = -1  # What was compiled takes the other kind of alpha.
        elif self._alpha is not None:
            self._alpha.assign(self._step_size)

    def _compile(self) -> None:
        self._revision = self.learner.revision
        # Not inlined: each piece of the tasks runs the one optimised copy of this function.
        self._curves = tf.function(
            self._adaptation_curves,
            autograph=False,
            experimental_attributes={"_noinline": True},
        )
        self._draw = tf.function(
            self._draw_and_measure if self._source else self._measure, autograph=False
        )

    def __call__(self, *, progress: bool = False) -> Estimate:
        """Returns mean, standard deviation and 95 % interval after each step, `[S + 1]`."""
        self.learner.apply.refuse_changes()
        pieces = self._pieces
        if self._source:
            draws = range(math.ceil(self.num_tasks / DRAW))
            pieces = [(tf.constant(index, tf.int64), DRAW) for index in draws]
        if not self._is_checked:
            drawn = self._source(pieces[0][0], DRAW) if self._source else pieces[0][0]
            check_task(self.learner.model, self.learner.loss, self.learner.metric, drawn)
            if self.ways is not None:
                check_ways(self.learner.model, self.ways, drawn)
            self._is_checked = True
        if self._revision != self.learner.revision:  # a setting was changed
            self._compile()
        own = pieces[self._all.share(len(pieces))]
        curves = list(
            Bar(
                self._measured(own),
                total=len(own),
                desc="evaluate",
                unit="draw",
                until_first="compiling",
                disable=not progress,
            )
        )
        measured = np.concatenate([np.zeros([0, self.steps + 1], np.float32), *curves])
        return summarize(self._all.concatenate(measured)[: self.num_tasks])

    def _measured(self, pieces: Sequence[Piece | tuple[tf.Tensor, int]]) -> Iterator[np.ndarray]:
        """The curves of each draw, in order."""

        def measure(piece: Piece | tuple[tf.Tensor, int]) -> np.ndarray:
            drawn, count = piece
            return self._draw(drawn).numpy()[:count]

        if self._threads == 1:
            yield from map(measure, pieces)
            return
        pool = ThreadPoolExecutor(self._threads)
        try:
            yield from pool.map(measure, pieces)
        finally:
            pool.shutdown(cancel_futures=True)  # An interrupt waits for no more than one draw.

    def _draw_and_measure(self, index) -> tf.Tensor:
        assert self._source is not None
        return self._measure(self._source(index, DRAW))

    def _measure(self, task: Task) -> tf.Tensor:
        share = self.learner.meta_batch_size // self.learner.pieces
        size = max(n for n in range(1, DRAW + 1) if DRAW % n == 0 and n <= max(share, 1))
        number = DRAW // size
        return tf.concat(each(self._curves, stacked(task, number), number), axis=0)

    def _adaptation_curves(self, task: Task) -> tf.Tensor:
        """The metric of each task after each step, `[T, S + 1]`."""
        return tf.transpose(self._observed(task, lambda y: self._metric(y, task.query)))

    def _observed(self, task: Task, observe: Callable[[Any], tf.Tensor]) -> tf.Tensor:
        """`[S + 1, T, ...]` of what is predicted for the query sets after each step."""
        return self.learner.adapt_and_predict(
            task.support,
            self.steps,
            task.query.x,
            observe,
            mask=task.query.mask,
            step_size=self._alpha,
            batch_statistics=self.batch_statistics,
        )

    def _metric(self, outputs: Any, query: Batch) -> tf.Tensor:
        """The metric of each task, `[T]`, of the outputs that count."""
        counting = outputs if self.ways is None else outputs[..., : self.ways]
        return tf.cast(self.learner.measure(counting, query), tf.float32)


def predictions_while_adapting(
    learner: AdaptiveModel,
    support: Batch,
    x: tf.Tensor,
    steps: int,
    *,
    step_size: float | None = None,
    batch_statistics: str = "transductive",
) -> np.ndarray:
    """What the learner predicts for `x` while it adapts to the tasks of `support`.

    Args:
      learner: whose weights are adapted; they stay as they are.
      support: `x [T, B, ...]`, `y [T, B, ...]`.
      x: `[T, Q, ...]`.
      steps: S.
      step_size: alpha; the learner's own by default.
      batch_statistics: see `MetricEvaluator`.

    Returns:
      `[S + 1, T, Q, ...]`, after 0, 1, ... S steps.
    """
    how: dict[str, Any] = {"step_size": step_size, "batch_statistics": batch_statistics}
    return learner.adapt_and_predict(
        support, steps, x, lambda y: tf.cast(y, tf.float32), **how
    ).numpy()
