"""What an evaluation leaves in `<run>/results/`: dictionaries ready for JSON, and their names.

Three kinds: a "curve" is a metric after every gradient step; "samples" are a few sinusoids with
what the model predicted for them, and "paths" a few tasks of 2D navigation with where the policy
went, each for a picture.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from maml_tf.config import Config
from maml_tf.evaluation import Tuning, predictions_while_adapting
from maml_tf.identity import to_flags
from maml_tf.meta_learner import MetaLearner
from maml_tf.result_files import VERSION
from maml_tf.result_schema import writable
from maml_tf.tasks.sinusoid import INPUT_RANGE, Sinusoid
from maml_tf.types import Estimate

SAMPLES = 4
"""Sinusoids of a samples file: the first of their split."""

SAMPLE_STEPS = (0, 1, 10)
GRID_POINTS = 100


def curve_name(config: Config) -> str:
    """A curve's file name; it does not depend on what was measured, so a repetition replaces it."""
    unit = "trajectories" if config.reinforcement else "shot"
    name = f"{split(config)}_{config.update_batch_size}{unit}_{_adaptation_name(config)}"
    name += _inputs_name(config)
    name += "_inductive" if config.batch_statistics == "inductive" else ""
    return name + _weights_and_tasks_name(config) + ".json"


def samples_name(config: Config) -> str:
    """A samples file's name."""
    own = _inputs_name(config) + _weights_and_tasks_name(config)
    return f"samples_{config.update_batch_size}shot{own}.json"


def paths_name(config: Config) -> str:
    """The name of a file of paths on the plane."""
    own = _weights_and_tasks_name(config)
    return f"paths_{config.update_batch_size}trajectories{own}.json"


def original_name(config: Config) -> str:
    """The name that the original program gave its CSV file."""
    return f"test_ubs{config.update_batch_size}_{_adaptation_name(config)}.csv"


def split(config: Config) -> str:
    """The split that is evaluated."""
    return "test" if config.test_set else "val"


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


def _adaptation_name(config: Config) -> str:
    if config.method == "nearest_neighbour":
        return config.method
    return "stepsizetuned" if config.tunes_step_size else f"stepsize{config.update_lr:g}"


def _inputs_name(config: Config) -> str:
    return "_half" if config.inputs == "half" else ""


def _weights_and_tasks_name(config: Config) -> str:
    """Tells what was asked for beside the last weights, and other tasks than seed 0's."""
    name = "_best" if config.use_best else ""
    name = f"_iteration{config.test_iter}" if config.test_iter != -1 else name
    return name + (f"_seed{config.seed}" if config.seed else "")
