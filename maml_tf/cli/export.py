"""`maml-tf export`."""

from __future__ import annotations

import logging

from maml_tf.cli import runs
from maml_tf.export import export

_LOG = logging.getLogger(__name__)


def run(paths: list[str]) -> int:
    """Writes a trained run as a SavedModel."""
    directory, config = runs.locate(paths)
    runs.set_up_machine(config)
    learner, iteration = runs.restore(directory, config)
    target = config.to or str(directory / "export")
    export(learner, target)
    _LOG.info("Wrote the model of iteration %d to %s", iteration, target)
    return 0
