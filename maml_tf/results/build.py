"""What an evaluation leaves in `<run>/results/`: dictionaries ready for JSON.

Three kinds: a "curve" is a metric after every gradient step; "samples" are a few sinusoids with
what the model predicted for them, and "paths" a few tasks of 2D navigation with where the policy
went, each for a picture.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from maml_tf.estimates import Tuning
from maml_tf.experiments.identity import to_flags
from maml_tf.experiments.settings import Config
from maml_tf.results.files import VERSION
from maml_tf.results.names import curve_name as curve_name
from maml_tf.results.names import original_name as original_name
from maml_tf.results.names import paths_name as paths_name
from maml_tf.results.names import samples_name as samples_name
from maml_tf.results.names import split as split
from maml_tf.results.schema import writable
from maml_tf.supervised.evaluation import predictions_while_adapting
from maml_tf.supervised.learner import MetaLearner
from maml_tf.tasks.sinusoid import INPUT_RANGE, Sinusoid
from maml_tf.types import Estimate

SAMPLES = 4
"""Sinusoids of a samples file: the first of their split."""

SAMPLE_STEPS = (0, 1, 10)
GRID_POINTS = 100


def step_size(config: Config, tuning: Tuning | None) -> float | None:
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
    tuning: Tuning | None = None,
) -> dict[str, Any]:
    """Describes an evaluation.

    Args:
      config: the settings of the evaluation.
      estimate: what was measured.
      metric: its name.
      iteration: of the weights.
      seconds: wall time, tuning included.
      tuning: how alpha was chosen, if it was.

    Returns:
      The file's contents.
    """
    content = {
        **_common("curve", config, iteration, tuning),
        "metric": metric,
        "num_tasks": estimate.num_tasks,
        "ways": config.num_classes if config.classification else None,
        "queries": None if config.reinforcement else config.query_shots,
        "conv": config.classification and config.conv,
        "batch_statistics": config.batch_statistics,
        "tuning": tuning and {"step_sizes": tuning.step_sizes, "scores": tuning.scores},
        "steps": list(range(len(estimate.mean))),
        "mean": list(estimate.mean),
        "ci95": list(estimate.ci95),
        "std": list(estimate.std),
        "seconds": round(seconds, 3),
        "flags": to_flags(config).splitlines(),
    }
    return writable(content)


def samples(
    config: Config,
    learner: MetaLearner,
    tasks: Sinusoid,
    *,
    iteration: int,
    tuning: Tuning | None = None,
) -> dict[str, Any]:
    """Adapts to a few sinusoids and describes what the model then predicts.

    Args:
      config: the settings of the evaluation.
      learner: the model under evaluation.
      tasks: where the sinusoids come from.
      iteration: of the weights.
      tuning: how alpha was chosen, if it was.

    Returns:
      The file's contents.
    """
    curves, support = tasks.parameters(0, SAMPLES), tasks(0, SAMPLES).support
    x = np.linspace(*INPUT_RANGE, GRID_POINTS, dtype=np.float32)
    grid = tasks.examples(curves, tf.tile(x[None, :, None], [SAMPLES, 1, 1]))
    predicted = predictions_while_adapting(
        learner,
        support,
        grid.x,
        max(SAMPLE_STEPS),
        step_size=step_size(config, tuning),
        batch_statistics=config.batch_statistics,
    )
    content = {
        **_common("samples", config, iteration, tuning),
        "steps": list(SAMPLE_STEPS),
        "tasks": [
            {
                "amplitude": float(curves.amplitude[t]),
                "phase": float(curves.phase[t]),
                "support_x": support.x[t, :, 0].numpy().tolist(),
                "support_y": support.y[t, :, 0].numpy().tolist(),
                "x": x.tolist(),
                "y": grid.y[t, :, 0].numpy().tolist(),
                "predictions": [predicted[step, t, :, 0].tolist() for step in SAMPLE_STEPS],
            }
            for t in range(SAMPLES)
        ],
        "flags": to_flags(config).splitlines(),
    }
    return writable(content)


def paths(
    config: Config, tasks: list[dict[str, Any]], *, iteration: int, tuning: Tuning | None = None
) -> dict[str, Any]:
    """Describes where 2D navigation went.

    Args:
      config: the settings of the evaluation.
      tasks: what `rl.evaluation.paths` returns.
      iteration: of the weights.
      tuning: how alpha was chosen, if it was.

    Returns:
      The file's contents.
    """
    content = {
        **_common("paths", config, iteration, tuning),
        "steps": list(range(config.test_steps + 1)),
        "tasks": tasks,
        "flags": to_flags(config).splitlines(),
    }
    return writable(content)


def _common(kind: str, config: Config, iteration: int, tuning: Tuning | None) -> dict[str, Any]:
    trained = config.trained()
    return {
        "version": VERSION,
        "kind": kind,
        "datasource": config.datasource,
        "experiment": trained.experiment,
        "method": config.method,
        "split": split(config),
        "seed": config.seed,
        "shots": config.update_batch_size,
        # A classifier of all classes was trained on no task's support set.
        "train_shots": None if config.joint else trained.update_batch_size,
        "inputs": config.inputs,
        "step_size": step_size(config, tuning),
        "iteration": iteration,
    }
