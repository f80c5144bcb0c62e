"""A metric after every gradient step, over held-out tasks (paper section 5: 600 tasks, 95 %).

Shape letters: T tasks of one draw, S gradient steps.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from maml_tf import arguments
from maml_tf.engine.strategies import refuse_several_workers
from maml_tf.objectives.labels import check_task
from maml_tf.sources.resolve import InGraph, held_out
from maml_tf.supervised.learner import MetaLearner
from maml_tf.system.progress import Bar
from maml_tf.types import Batch, Estimate, Task

_LOG = logging.getLogger(__name__)

DRAW = 24
"""Tasks drawn at a time. Fixed, so that which tasks are met depends on nothing but the seed."""

BATCH_STATISTICS = ("transductive", "inductive")

STEP_SIZES = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""What `tune_step_size` tries."""


class Evaluator:
    """Adapts to held-out tasks, and measures the query set after 0, 1, ... S steps.

    Compiled once; calling it again measures the learner's present weights on the same tasks. It
    runs on one device, whatever strategy the learner trains by.
    """

    def __init__(
        self,
        learner: MetaLearner,
        tasks: Any,
        *,
        num_tasks: int = 600,
        steps: int = 10,
        step_size: float | tf.Variable | None = None,
        batch_statistics: str = "transductive",
    ):
        """Sets the evaluation up.

        Args:
          learner: whose weights are adapted; they stay as they are.
          tasks: held-out tasks, a source as for `MetaLearner.meta_steps`; its meta-batches 0, 1,
            ... are met. One that runs in Python is asked for all tasks here, and they are kept.
          num_tasks: how many tasks.
          steps: gradient steps, S.
          step_size: alpha; the learner's own by default. A variable may change between calls.
          batch_statistics: "transductive": batch normalisation sees the whole query set (the
            paper's figures). "inductive": it uses the statistics of the support set, so that each
            query example is predicted alone.

        Raises:
          ValueError: an argument is out of range, `tasks` has not so many tasks, or the strategy
            has several workers.
        """
        check_learner(learner)
        refuse_several_workers(learner.strategy)
        num_tasks, steps = arguments.whole("num_tasks", num_tasks), arguments.whole("steps", steps)
        if num_tasks < 1 or steps < 0:
            raise ValueError(
                f"Evaluation needs num_tasks >= 1 and steps >= 0, not {num_tasks} and {steps}."
            )
        if step_size is not None and not isinstance(step_size, tf.Variable):
            step_size = arguments.positive("step_size", step_size)
        if batch_statistics not in BATCH_STATISTICS:
            raise ValueError(
                f"batch_statistics must be transductive or inductive, not '{batch_statistics}'."
            )
        self.learner, self.tasks = learner, tasks
        self.num_tasks, self.steps, self.step_size = num_tasks, steps, step_size
        self.inductive = batch_statistics == "inductive"
        met = held_out(tasks, num_tasks, DRAW)
        self._source = met if isinstance(met, InGraph) else None
        self._pieces: Sequence[Any] = [] if isinstance(met, InGraph) else met
        self._is_checked = False
        self._compile()

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
            self._is_checked = True
        if self._revision != self.learner.revision:  # a setting of the learner was changed
            self._compile()
        curves = [
            self._draw(piece).numpy()[:count]
            for piece, count in Bar(pieces, desc="evaluate", unit="draw", disable=not progress)
        ]
        return estimate(np.concatenate(curves)[: self.num_tasks])

    def _draw_and_measure(self, index) -> tf.Tensor:
        assert self._source is not None
        return self._measure(self._source(index, DRAW))

    def _measure(self, task: Task) -> tf.Tensor:
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
            outputs = learner.predict(
                weights, task.support, task.query.x, inductive=self.inductive, mask=task.query.mask
            )
            return tf.cast(learner.measure(outputs, task.query), tf.float32)

        curves = learner.adapt_and_observe(
            task.support, self.steps, measure, step_size=self.step_size
        )
        return tf.transpose(curves)


def evaluate(learner: MetaLearner, tasks: Any, *, progress: bool = False, **options):
    """Measures a learner on held-out tasks once; the options are `Evaluator`'s.

    Returns:
      `Estimate` of the learner's metric after 0, 1, ... steps.
    """
    return Evaluator(learner, tasks, **options)(progress=progress)


class Tuning(NamedTuple):
    """How an inner step size was chosen."""

    step_size: float  # the best
    step_sizes: tuple[float, ...]  # all that were tried
    scores: tuple[float, ...]  # the metric after the last step with each


def tune_step_size(
    learner: MetaLearner,
    tasks: Any,
    *,
    step_sizes: Sequence[float] = STEP_SIZES,
    progress: bool = False,
    **options,
) -> Tuning:
    """Chooses alpha: the best mean of the metric after the last step, on validation tasks.

    Args:
      learner: whose weights are fine-tuned.
      tasks: validation tasks, all met with every step size.
      step_sizes: the candidates.
      progress: show a progress bar.
      **options: those of `Evaluator`, but `step_size`.

    Returns:
      `Tuning`. A step size that diverges loses to any that does not; of equals the smallest wins.

    Raises:
      ValueError: there are no candidates, or all diverge, or nobody knows whether the metric is
        better lower.
    """
    check_learner(learner)
    lower_is_better = direction(learner)
    step_sizes = candidates(step_sizes)
    alpha = tf.Variable(0.0, trainable=False)
    evaluator = Evaluator(learner, tasks, step_size=alpha, **options)

    def measure(step_size: float) -> Estimate:
        alpha.assign(step_size)
        return evaluator()

    return choose_step_size(measure, step_sizes, lower_is_better=lower_is_better, progress=progress)


def choose_step_size(
    measure: Callable[[float], Estimate],
    step_sizes: Sequence[float] = STEP_SIZES,
    *,
    lower_is_better: bool = False,
    progress: bool = False,
) -> Tuning:
    """Chooses the step size whose estimate is best after the last step.

    Args:
      measure: `step size -> Estimate`.
      step_sizes: the candidates.
      lower_is_better: of the metric.
      progress: show a progress bar.

    Returns:
      `Tuning`; see `tune_step_size`.

    Raises:
      ValueError: there are no candidates, or all diverge.
    """
    step_sizes = candidates(step_sizes)
    scores = [
        float(measure(step_size).mean[-1])
        for step_size in Bar(step_sizes, desc="tune", unit="step size", disable=not progress)
    ]
    sign = 1.0 if lower_is_better else -1.0
    ranked = sorted((sign * m, a) for m, a in zip(scores, step_sizes, strict=True) if m == m)
    if not ranked or math.isinf(ranked[0][0]):
        raise ValueError(
            f"No step size of {', '.join(f'{a:g}' for a in step_sizes)} gives a finite metric; "
            "give smaller ones."
        )
    best = ranked[0][1]
    if best in (min(step_sizes), max(step_sizes)) and len(step_sizes) > 1:
        _LOG.warning("The best step size, %g, is the first or last of those tried.", best)
    return Tuning(best, tuple(step_sizes), tuple(scores))


def candidates(step_sizes: Any) -> tuple[float, ...]:
    """Step sizes to choose from.

    Raises:
      ValueError: one is not positive, or there are none.
    """
    try:
        if isinstance(step_sizes, (str, bytes)):
            raise TypeError
        made = tuple(arguments.positive("each of step_sizes", alpha) for alpha in step_sizes)
    except TypeError as error:
        raise ValueError(
            f"step_sizes must be several numbers, such as (0.01, 0.1), not "
            f"{arguments.shown(step_sizes)}."
        ) from error
    if not made:
        raise ValueError(
            "There are no step_sizes, and none gives a finite metric; give smaller ones than 1, "
            "such as (0.01, 0.1)."
        )
    return made


def check_learner(learner: Any) -> None:
    """Refuses what is no `MetaLearner`."""
    if not isinstance(learner, MetaLearner):
        raise ValueError(
            f"The learner given is {arguments.shown(learner)}; make one of a model: "
            "MetaLearner(model, loss)."
        )


def direction(learner: Any) -> bool:
    """Whether a learner's metric is better lower.

    Raises:
      ValueError: it is a function of the user's, and nobody said so.
    """
    # A learner of one's own may lack it: then a loss is better lower, and anything else higher.
    lower = getattr(learner, "lower_is_better", learner.metric_name == "loss")
    if lower is None:
        raise ValueError(
            f"Is the metric '{learner.metric_name}' better lower, as an error is, or higher? Give "
            "the learner lower_is_better=True or False."
        )
    return lower


def predictions_while_adapting(
    learner: MetaLearner,
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
      batch_statistics: see `Evaluator`.

    Returns:
      `[S + 1, T, Q, ...]`, after 0, 1, ... S steps.
    """
    inductive = batch_statistics == "inductive"

    def observe(weights):
        return tf.cast(learner.predict(weights, support, x, inductive=inductive), tf.float32)

    return learner.adapt_and_observe(support, steps, observe, step_size=step_size).numpy()


def estimate(curves: np.ndarray) -> Estimate:
    """Summarises `[num_tasks, S + 1]` values: the interval is 1.96 std / sqrt(num_tasks)."""
    curves = np.asarray(curves, np.float64)
    with np.errstate(invalid="ignore"):  # of a curve that left the finite numbers
        std = curves.std(axis=0)
    return Estimate(curves.mean(axis=0), std, 1.96 * std / math.sqrt(len(curves)), len(curves))
