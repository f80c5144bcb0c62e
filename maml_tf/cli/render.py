"""`maml-tf render`: a policy at work on one held-out task, before and after adaptation."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from maml_tf.cli import evaluate, runs
from maml_tf.experiments.build import make_tasks
from maml_tf.results import build as results

_LOG = logging.getLogger(__name__)


def run(given: dict[str, Any], words: list[str]) -> int:
    """Writes a GIF of what an evaluation with the same flags meets."""
    directory, config = runs.locate(given, words)
    if not config.reinforcement:
        raise ValueError(f"render shows policies; {config.datasource} has none. Use figures.")
    target = Path(config.to or directory / "figures" / f"task_{config.task}.gif")
    runs.set_up_machine(config)
    learner, iteration = runs.restore(directory, config)
    from maml_tf.rl.evaluation import schedule  # needs an extra
    from maml_tf.rl.rendering import render

    split, trained = results.split(config), config.trained()
    alpha = results.step_size(config, evaluate.tune(learner, config))
    episodes = render(
        learner,
        make_tasks(config, split),
        target,
        step_sizes=schedule(learner, config.test_steps, alpha),
        task=config.task,
        split=split,
        fps=config.fps,
        title=f"{trained.experiment}, {trained.method}",
    )
    before, after = (episode.reward for episode in episodes)
    _LOG.info("Task %d, iteration %d: return %.1f -> %.1f", config.task, iteration, before, after)
    _LOG.info("Wrote %s", target)
    return 0
