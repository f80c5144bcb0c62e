"""`maml-tf export`."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from maml_tf.cli import runs, start
from maml_tf.experiments.records import SettingValue

_LOG = logging.getLogger(__name__)


def run(given: Mapping[str, SettingValue], words: list[str]) -> int:
    """Writes a trained run as a SavedModel."""
    directory, settings = runs.locate(given, words)
    if not settings.method.adapts_at_test:
        raise ValueError(
            f"--method={settings.method.name} adapts no weights, so there is nothing to export; "
            f"use --method={settings.method.evaluates}."
        )
    start.on(settings.machine)
    from maml_tf.saving.export import export

    learner, iteration = runs.restore(directory, settings)
    target = settings.run.to or str(directory / "export")
    # A fresh head knows nothing before it has adapted.
    export(learner, target, **({"steps": settings.evaluation.steps} if settings.joint else {}))
    _LOG.info("Wrote the model of iteration %d to %s", iteration, target)
    return 0
