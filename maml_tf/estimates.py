"""Measuring any learner on held-out tasks, and choosing its inner step size by what was measured.

Shape letters: S gradient steps.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from maml_tf import arguments
from maml_tf.system.progress import Bar
from maml_tf.types import Estimate, Learner

_LOG = logging.getLogger(__name__)

STEP_SIZES = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""What `tune_step_size` tries."""

_ABILITIES = ("evaluator", "metric_name")

TasksT = TypeVar("TasksT")


class Tuning(NamedTuple):
    """How an inner step size was chosen."""

    step_size: float  # the best
    step_sizes: tuple[float, ...]  # all that were tried
    scores: tuple[float, ...]  # the metric after the last step with each


def evaluate(
    learner: Learner[TasksT], tasks: TasksT, *, progress: bool = False, **options: Any
) -> Estimate:
    """Measures a learner on held-out tasks once.

    Args:
      learner: whose weights are adapted; they stay as they are.
      tasks: held-out tasks, as the learner takes them.
      progress: show a progress bar.
      **options: those of `learner.evaluator`: `num_tasks`, `steps`, `step_size` and others.

    Returns:
      `Estimate` of the learner's metric after 0, 1, ... steps.

    Raises:
      ValueError: `learner` is no learner, an option is out of range, or there are too few tasks.
    """
    arguments.learner(learner, _ABILITIES)
    return learner.evaluator(tasks, **options)(progress=progress)


def tune_step_size(
    learner: Learner[TasksT],
    tasks: TasksT,
    *,
    step_sizes: Iterable[float] = STEP_SIZES,
    progress: bool = False,
    **options: Any,
) -> Tuning:
    """Chooses alpha: the best mean of the metric after the last step, on validation tasks.

    Args:
      learner: whose weights are fine-tuned; they stay as they are.
      tasks: validation tasks, all met with every step size.
      step_sizes: the candidates.
      progress: show a progress bar.
      **options: those of `learner.evaluator`, but `step_size`.

    Returns:
      `Tuning`. A step size that diverges loses to any that does not; of equals the smallest wins.

    Raises:
      ValueError: there are no candidates, or all diverge, or nobody knows whether the metric is
        better lower.
    """
    arguments.learner(learner, _ABILITIES)
    lower_is_better = direction(learner)
    tried = candidates(step_sizes)
    evaluator = learner.evaluator(tasks, step_size=tried[0], **options)

    def measure(step_size: float) -> Estimate:
        evaluator.step_size = step_size
        return evaluator()

    return choose_step_size(measure, tried, lower_is_better=lower_is_better, progress=progress)


def choose_step_size(
    measure: Callable[[float], Estimate],
    step_sizes: Iterable[float] = STEP_SIZES,
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
    tried = candidates(step_sizes)
    scores = [
        float(measure(step_size).mean[-1])
        for step_size in Bar(
            tried, desc="tune", unit="step size", until_first="compiling", disable=not progress
        )
    ]
    sign = 1.0 if lower_is_better else -1.0
    ranked = sorted((sign * m, a) for m, a in zip(scores, tried, strict=True) if m == m)
    if not ranked or math.isinf(ranked[0][0]):
        raise ValueError(
            f"No step size of {', '.join(f'{a:g}' for a in tried)} gives a finite metric; "
            "give smaller ones."
        )
    best = ranked[0][1]
    if best in (min(tried), max(tried)) and len(tried) > 1:
        _LOG.warning("The best step size, %g, is the first or last of those tried.", best)
    return Tuning(best, tried, tuple(scores))


def candidates(step_sizes: Iterable[float]) -> tuple[float, ...]:
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


def direction(learner: Learner[Any]) -> bool:
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


def summarize(curves: np.ndarray) -> Estimate:
    """Summarises `[num_tasks, S + 1]` values: the interval is 1.96 std / sqrt(num_tasks)."""
    curves = np.asarray(curves, np.float64)
    with np.errstate(invalid="ignore"):  # of a curve that left the finite numbers
        std = curves.std(axis=0)
    return Estimate(curves.mean(axis=0), std, 1.96 * std / math.sqrt(len(curves)), len(curves))
