"""`maml-tf export`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from maml_tf.cli import runs, start
from maml_tf.experiments.records import Kind, SettingValue
from maml_tf.experiments.settings import Settings, query_shots

_LOG = logging.getLogger(__name__)
_FOLDERS = {"saved_model": "export", "litert": "litert", "stablehlo": "stablehlo"}


def run(given: Mapping[str, SettingValue], words: list[str]) -> int:
    """Writes a trained run as a SavedModel, for LiteRT, or for JAX."""
    runs.refuse_ensemble(given, "export")
    if given.get("distribute") == "multiworker":
        raise ValueError("An export is made by one process; drop --distribute=multiworker.")
    directory, settings = runs.locate(given, words)
    if not settings.method.adapts_at_test:
        raise ValueError(
            f"--method={settings.method.name} adapts no weights, so there is nothing to export; "
            f"use --method={settings.method.evaluates}."
        )
    chosen = settings.run.format or "saved_model"
    # A fresh head knows nothing before it has adapted.
    options: dict[str, Any] = {"steps": settings.evaluation.steps} if settings.joint else {}
    if chosen != "saved_model":
        options |= _sizes(settings) | _fixed(given)
    if settings.evaluation.batch_statistics == "running":
        options["running"] = True
    start.on(settings.machine)
    from maml_tf.saving.export import export

    learner, iteration = runs.restore(directory, settings)
    target = settings.run.to or str(directory / _FOLDERS[chosen])
    export(learner, target, format=chosen, **options)
    _LOG.info("Wrote the model of iteration %d to %s", iteration, target)
    return 0


def _sizes(settings: Settings) -> dict[str, Any]:
    """What is fixed where sizes are: how many examples there are, whose statistics count."""
    support, query = settings.run.support_examples, settings.run.query_examples
    if settings.problem.kind is Kind.POLICY:
        horizon = None if support is None else settings.training.horizon
        return {
            "support_examples": support,
            "query_examples": 1 if query is None else query,
            "horizon": horizon,
        }
    ways = settings.evaluation.ways if settings.problem.kind is Kind.CLASSIFICATION else 1
    shots = settings.evaluation.shots
    return {
        "support_examples": ways * shots if support is None else support,
        "query_examples": ways * query_shots(settings, shots) if query is None else query,
        "transductive": settings.evaluation.batch_statistics == "transductive",
    }


def _fixed(given: Mapping[str, SettingValue]) -> dict[str, Any]:
    """Steps and step size, where this very command line says them: a run's flags always do."""
    names = {"test_steps": "steps", "test_step_size": "step_size"}
    return {name: given[flag] for flag, name in names.items() if given.get(flag) is not None}
