"""`maml-tf export`."""

from __future__ import annotations

import logging
from typing import Any

from maml_tf.cli import runs
from maml_tf.export import export

_LOG = logging.getLogger(__name__)


def run(given: dict[str, Any], words: list[str]) -> int:
    """Writes a trained run as a SavedModel."""
    directory, config = runs.locate(given, words)
    runs.set_up_machine(config)
    learner, iteration = runs.restore(directory, config)
    target = config.to or str(directory / "export")
    export(learner, target)
    _LOG.info("Wrote the model of iteration %d to %s", iteration, target)
    return 0
