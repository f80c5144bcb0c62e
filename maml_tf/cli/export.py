"""`maml-tf export`."""

from __future__ import annotations

import logging
from typing import Any

from maml_tf.cli import runs
from maml_tf.experiments.settings import Config
from maml_tf.saving.export import export

_LOG = logging.getLogger(__name__)


def run(given: dict[str, Any], words: list[str]) -> int:
    """Writes a trained run as a SavedModel."""
    directory, config = runs.locate(given, words)
    if config.method == "nearest_neighbour":
        raise ValueError(
            "--method=nearest_neighbour adapts no weights, so there is nothing to export; use "
            "--method=pretrained."
        )
    runs.set_up_machine(config)
    learner, iteration = runs.restore(directory, config)
    target = config.to or str(directory / "export")
    _export(learner, config, target)
    _LOG.info("Wrote the model of iteration %d to %s", iteration, target)
    return 0


def _export(learner: Any, config: Config, target: str) -> None:
    # A fresh head knows nothing before it has adapted.
    options = {"steps": config.test_steps} if config.joint else {}
    export(learner, target, **options)
