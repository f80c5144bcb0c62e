"""What a model predicts for a few sinusoids while it adapts to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from maml_tf.results.build import SAMPLE_STEPS
from maml_tf.results.records import PathTask, SampleTask
from maml_tf.supervised.evaluation import predictions_while_adapting
from maml_tf.supervised.learner import MetaLearner
from maml_tf.tasks.sinusoid import INPUT_RANGE, Sinusoid

SAMPLES = 4
"""Sinusoids that are kept: the first of their split."""

GRID_POINTS = 100


def sample_tasks(
    learner: MetaLearner,
    tasks: Sinusoid,
    *,
    step_size: float | None = None,
    batch_statistics: str = "transductive",
) -> list[SampleTask]:
    """Adapts to the first `SAMPLES` sinusoids and predicts a grid after each of `SAMPLE_STEPS`.

    Args:
      learner: the model under evaluation; its weights stay as they are.
      tasks: where the sinusoids come from.
      step_size: alpha; the learner's own by default.
      batch_statistics: see `MetricEvaluator`.
    """
    curves, support = tasks.parameters(0, SAMPLES), tasks(0, SAMPLES).support
    x = np.linspace(*INPUT_RANGE, GRID_POINTS, dtype=np.float32)
    grid = tasks.examples(curves, tf.tile(x[None, :, None], [SAMPLES, 1, 1]))
    predicted = predictions_while_adapting(
        learner,
        support,
        grid.x,
        max(SAMPLE_STEPS),
        step_size=step_size,
        batch_statistics=batch_statistics,
    )
    return [
        SampleTask(
            amplitude=float(curves.amplitude[t]),
            phase=float(curves.phase[t]),
            support_x=support.x[t, :, 0].numpy(),
            support_y=support.y[t, :, 0].numpy(),
            x=x,
            y=grid.y[t, :, 0].numpy(),
            predictions=predicted[list(SAMPLE_STEPS), t, :, 0],
        )
        for t in range(SAMPLES)
    ]


def path_tasks(
    learner: Any, sampler: Any, steps: int, *, step_size: float | None, split: str
) -> list[PathTask]:
    """Where a policy goes on the plane after each gradient step; see `rl.recording.paths`."""
    from maml_tf.rl import recording  # needs an extra

    walked = recording.paths(learner, sampler, steps, step_size=step_size, split=split)
    return [PathTask.from_json(task) for task in walked]
