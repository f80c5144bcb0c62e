"""`maml-tf render`: a policy at work on one held-out task, before and after adaptation."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from maml_tf.cli import evaluate, runs, start
from maml_tf.experiments.records import Kind, SettingValue

_LOG = logging.getLogger(__name__)


def run(given: Mapping[str, SettingValue], words: list[str]) -> int:
    """Writes a GIF or an MP4 of what an evaluation with the same flags meets."""
    runs.refuse_ensemble(given, "render")
    directory, settings = runs.locate(given, words)
    evaluation = settings.evaluation
    if settings.problem.kind is not Kind.POLICY:
        raise ValueError(f"render shows policies; {settings.problem.name} has none. Use figures.")
    target = Path(settings.run.to or directory / "figures" / f"task_{evaluation.task}.gif")
    start.on(settings.machine)
    learner, iteration = runs.restore(directory, settings)
    from maml_tf.experiments.build import make_tasks
    from maml_tf.results.build import step_size
    from maml_tf.rl.evaluation import schedule  # needs an extra
    from maml_tf.rl.rendering import render

    alpha = step_size(settings, evaluate.tune(learner, settings))
    episodes = render(
        learner,
        make_tasks(settings, evaluation.split),
        target,
        step_sizes=schedule(learner, evaluation.steps, alpha),
        task=evaluation.task,
        split=evaluation.split,
        fps=evaluation.fps,
        title=f"{settings.experiment}, {settings.method.name}",
    )
    before, after = (episode.reward for episode in episodes)
    _LOG.info(
        "Task %d, iteration %d: return %.1f -> %.1f", evaluation.task, iteration, before, after
    )
    _LOG.info("Wrote %s", target)
    return 0
