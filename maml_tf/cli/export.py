"""`maml-tf export`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from maml_tf.cli import runs
from maml_tf.config import Config
from maml_tf.export import export

_LOG = logging.getLogger(__name__)


def run(given: dict[str, Any], words: list[str]) -> int:
    """Writes a trained run as a SavedModel."""
    directory, config = runs.locate(given, words)
    runs.set_up_machine(config)
    learner, iteration = runs.restore(directory, config)
    target = config.to or str(directory / "export")
    _exporter(config)(learner, target)
    _LOG.info("Wrote the model of iteration %d to %s", iteration, target)
    return 0


def _exporter(config: Config) -> Callable[[Any, str], None]:
    if not config.reinforcement:
        return export
    from maml_tf.rl.export import export as export_policy  # needs an extra

    return export_policy
