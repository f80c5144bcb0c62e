"""From an evaluation's settings and what was measured to its results.

The one module of this wing that knows the settings of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from maml_tf import estimates
from maml_tf.experiments.identity import flag_lines
from maml_tf.experiments.records import Kind
from maml_tf.experiments.settings import Settings, query_shots
from maml_tf.ranges import Span
from maml_tf.results.records import Curve, Paths, PathTask, Samples, SampleTask, Tuning
from maml_tf.types import Estimate

SAMPLE_STEPS = (0, 1, 10)
"""Gradient steps after which samples are looked at."""


def step_size(settings: Settings, tuning: estimates.Tuning | None) -> float | None:
    """Alpha in force; None: the meta-learned ones, or there is no gradient step."""
    if tuning:
        return tuning.step_size
    none = settings.training.learn_step_size or not settings.method.adapts_at_test
    return None if none else settings.evaluation.step_size


def curve(
    settings: Settings,
    estimate: Estimate,
    *,
    metric: str,
    iteration: int,
    seconds: float,
    tuning: estimates.Tuning | None = None,
    environment_steps: int | None = None,
) -> Curve:
    """Describes an evaluation.

    Args:
      settings: of the evaluation.
      estimate: what was measured after each step, `[S + 1]`.
      metric: its name.
      iteration: of the weights.
      seconds: wall time, tuning included.
      tuning: how alpha was chosen, if it was.
      environment_steps: of the training of a policy, if they were counted.
    """
    training, kind, shots = settings.training, settings.problem.kind, settings.evaluation.shots
    chosen = Tuning(np.array(tuning.step_sizes), np.array(tuning.scores)) if tuning else None
    return Curve(
        **_common(settings, iteration, tuning),
        steps=tuple(range(len(estimate.mean))),
        metric=metric,
        num_tasks=estimate.num_tasks,
        ways=settings.evaluation.ways if kind is Kind.CLASSIFICATION else None,
        outputs=training.ways if kind is Kind.CLASSIFICATION else None,
        queries=None if kind is Kind.POLICY else query_shots(settings, shots),
        conv=kind is Kind.CLASSIFICATION and training.conv,
        batch_statistics=settings.evaluation.batch_statistics,
        ensemble=settings.evaluation.ensemble,
        tuning=chosen,
        mean=np.asarray(estimate.mean),
        ci95=np.asarray(estimate.ci95),
        std=np.asarray(estimate.std),
        seconds=round(seconds, 3),
        environment_steps=environment_steps,
    )


def samples(
    settings: Settings,
    tasks: Sequence[SampleTask],
    *,
    iteration: int,
    tuning: estimates.Tuning | None = None,
) -> Samples:
    """Describes what the model predicts for a few sinusoids after each of `SAMPLE_STEPS`.

    Args:
      settings: of the evaluation.
      tasks: the sinusoids.
      iteration: of the weights.
      tuning: how alpha was chosen, if it was.
    """
    return Samples(**_common(settings, iteration, tuning), steps=SAMPLE_STEPS, tasks=tuple(tasks))


def paths(
    settings: Settings,
    tasks: Sequence[PathTask],
    *,
    iteration: int,
    tuning: estimates.Tuning | None = None,
) -> Paths:
    """Describes where 2D navigation went.

    Args:
      settings: of the evaluation.
      tasks: the goals and the paths.
      iteration: of the weights.
      tuning: how alpha was chosen, if it was.
    """
    steps = tuple(range(settings.evaluation.steps + 1))
    return Paths(**_common(settings, iteration, tuning), steps=steps, tasks=tuple(tasks))


class _Common(TypedDict):
    """The fields of every result but its steps."""

    problem: str
    experiment: str
    method: str
    split: str
    seed: int
    shots: int
    train_shots: int | Span | None
    inputs: str
    step_size: float | None
    asked_step_size: float
    train_step_size: float
    loss_reduction: str
    head_stddev: float | None
    dynamics: str
    horizon: int | None
    iteration: int
    best_weights: bool
    asked_iteration: int | None
    flags: tuple[str, ...]


def _common(settings: Settings, iteration: int, tuning: estimates.Tuning | None) -> _Common:
    training, evaluation = settings.training, settings.evaluation
    return {
        "problem": settings.problem.name,
        "experiment": settings.experiment,
        "method": settings.method.name,
        "split": evaluation.split,
        "seed": training.seed,
        "shots": evaluation.shots,
        # A classifier of all classes was trained on no task's support set.
        "train_shots": None if settings.joint else training.shots,
        "inputs": evaluation.inputs,
        "step_size": step_size(settings, tuning),
        "asked_step_size": evaluation.step_size,
        "train_step_size": training.step_size,
        "loss_reduction": training.loss_reduction,
        "head_stddev": training.head_stddev,
        "dynamics": training.dynamics,
        "horizon": training.horizon,
        "iteration": iteration,
        "best_weights": evaluation.best,
        "asked_iteration": evaluation.iteration,
        "flags": flag_lines(settings),
    }
