"""From an evaluation's settings and what was measured to its results.

The one module of this wing that knows the settings of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from maml_tf import estimates
from maml_tf.experiments.identity import to_flags
from maml_tf.experiments.settings import Config
from maml_tf.results.records import Curve, Paths, PathTask, Samples, SampleTask, Tuning
from maml_tf.types import Estimate

SAMPLE_STEPS = (0, 1, 10)
"""Gradient steps after which samples are looked at."""


def split(config: Config) -> str:
    """The split that is evaluated."""
    return "test" if config.test_set else "val"


def step_size(config: Config, tuning: estimates.Tuning | None) -> float | None:
    """Alpha in force; None: the meta-learned ones, or there is no gradient step."""
    if tuning:
        return tuning.step_size
    none = config.learn_step_size or config.method == "nearest_neighbour"
    return None if none else config.update_lr


def curve(
    config: Config,
    estimate: Estimate,
    *,
    metric: str,
    iteration: int,
    seconds: float,
    tuning: estimates.Tuning | None = None,
) -> Curve:
    """Describes an evaluation.

    Args:
      config: the settings of the evaluation.
      estimate: what was measured after each step, `[S + 1]`.
      metric: its name.
      iteration: of the weights.
      seconds: wall time, tuning included.
      tuning: how alpha was chosen, if it was.
    """
    chosen = Tuning(np.array(tuning.step_sizes), np.array(tuning.scores)) if tuning else None
    return Curve(
        **_common(config, iteration, tuning),
        steps=tuple(range(len(estimate.mean))),
        metric=metric,
        num_tasks=estimate.num_tasks,
        ways=config.num_classes if config.classification else None,
        queries=None if config.reinforcement else config.query_shots,
        conv=config.classification and config.conv,
        batch_statistics=config.batch_statistics,
        tuning=chosen,
        mean=np.asarray(estimate.mean),
        ci95=np.asarray(estimate.ci95),
        std=np.asarray(estimate.std),
        seconds=round(seconds, 3),
    )


def samples(
    config: Config,
    tasks: Sequence[SampleTask],
    *,
    iteration: int,
    tuning: estimates.Tuning | None = None,
) -> Samples:
    """Describes what the model predicts for a few sinusoids after each of `SAMPLE_STEPS`.

    Args:
      config: the settings of the evaluation.
      tasks: the sinusoids.
      iteration: of the weights.
      tuning: how alpha was chosen, if it was.
    """
    return Samples(**_common(config, iteration, tuning), steps=SAMPLE_STEPS, tasks=tuple(tasks))


def paths(
    config: Config,
    tasks: Sequence[PathTask],
    *,
    iteration: int,
    tuning: estimates.Tuning | None = None,
) -> Paths:
    """Describes where 2D navigation went.

    Args:
      config: the settings of the evaluation.
      tasks: the goals and the paths.
      iteration: of the weights.
      tuning: how alpha was chosen, if it was.
    """
    steps = tuple(range(config.test_steps + 1))
    return Paths(**_common(config, iteration, tuning), steps=steps, tasks=tuple(tasks))


class _Common(TypedDict):
    """The fields of every result but its steps."""

    problem: str
    experiment: str
    method: str
    split: str
    seed: int
    shots: int
    train_shots: int | None
    inputs: str
    step_size: float | None
    asked_step_size: float
    train_step_size: float
    loss_reduction: str
    head_stddev: float | None
    iteration: int
    best_weights: bool
    asked_iteration: int | None
    flags: tuple[str, ...]


def _common(config: Config, iteration: int, tuning: estimates.Tuning | None) -> _Common:
    trained = config.trained()
    return {
        "problem": config.datasource,
        "experiment": trained.experiment,
        "method": config.method,
        "split": split(config),
        "seed": config.seed,
        "shots": config.update_batch_size,
        # A classifier of all classes was trained on no task's support set.
        "train_shots": None if config.joint else trained.update_batch_size,
        "inputs": config.inputs,
        "step_size": step_size(config, tuning),
        "asked_step_size": config.update_lr,
        "train_step_size": trained.update_lr,
        "loss_reduction": config.loss_reduction,
        "head_stddev": None if config.head_stddev == -1 else config.head_stddev,
        "iteration": iteration,
        "best_weights": config.use_best,
        "asked_iteration": None if config.test_iter == -1 else config.test_iter,
        "flags": tuple(to_flags(config).splitlines()),
    }
