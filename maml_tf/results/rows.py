"""Results as a plain table: a row for each gradient step of each evaluation."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from maml_tf.ranges import Span
from maml_tf.results import files
from maml_tf.results.records import Curve, Result

_FIELDS = (
    *("problem", "experiment", "method", "split", "seed"),
    *("ways", "outputs", "shots", "train_shots", "queries", "inputs", "batch_statistics"),
    *("step_size", "iteration", "environment_steps", "ensemble", "num_tasks", "metric"),
)


def rows(*paths: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Everything that was measured under some directories, for a data frame.

    `pandas.DataFrame(rows("logs", "models"))` has a row for each gradient step of each evaluation:
    what was evaluated, the step, the mean over tasks, half its 95 % interval and the standard
    deviation over tasks.

    Args:
      *paths: directories of runs or of releases.

    Raises:
      FileNotFoundError: there are no results under one of them.
      ValueError: a file is damaged.
    """
    found: list[Result] = [
        result for path in files.find(map(Path, paths)) for result in files.read(path)
    ]
    return [row for result in found if isinstance(result, Curve) for row in _of_curve(result)]


def to_csv(table: Iterable[dict[str, Any]]) -> str:
    """The rows as text, a line with the names first."""
    text = io.StringIO()
    table = list(table)
    writer = csv.DictWriter(text, list(table[0]) if table else ["run"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def _of_curve(curve: Curve) -> list[dict[str, Any]]:
    place = curve.path.parent
    run = place.parent if place.name == files.FOLDER else place
    fields = {name: getattr(curve, name) for name in _FIELDS}
    fields |= {name: str(value) for name, value in fields.items() if isinstance(value, Span)}
    shared = {"run": run.name, **fields}
    measured = zip(curve.steps, curve.mean, curve.ci95, curve.std, strict=True)
    return [
        {**shared, "step": step, "mean": float(mean), "ci95": float(ci95), "std": float(std)}
        for step, mean, ci95, std in measured
    ]
