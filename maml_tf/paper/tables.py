"""The paper's tables as Markdown: its numbers beside those of result files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from maml_tf.paper.numbers import TABLES, Layout, Row, Table
from maml_tf.paper.pieces import Piece
from maml_tf.results.choice import pool
from maml_tf.results.records import Curve, Result

MISSING = "—"

LEADS: dict[str, Callable[[Row], str]] = {
    "data": lambda row: row.data,
    "environment": lambda row: row.data,
    "method": lambda row: row.cell.method_title,
    "shots": lambda row: f"{row.cell.shots}-shot",
    "trained with": lambda row: (
        "all classes" if row.cell.experiment.is_joint else f"{row.cell.experiment.shots}-shot"
    ),
    "steps": lambda row: str(row.steps[0] or MISSING),
}
"""What stands before a row's numbers, by its heading."""

LASTS: dict[str, Callable[[Sequence[Curve]], str]] = {
    "trajectories": lambda curves: str(curves[0].shots),
    "iterations": lambda curves: str(curves[0].iteration),
    "environment steps": lambda curves: _steps(curves[0].environment_steps),
    "seeds": lambda curves: ", ".join(str(curve.seed) for curve in curves),
    "tasks": lambda curves: str(sum(curve.num_tasks for curve in curves)),
}
"""What stands behind a row's numbers, by its heading."""


def _steps(counted: int | None) -> str:
    """Environment steps, in millions where there are many."""
    if counted is None:
        return MISSING
    return f"{counted / 1e6:.1f} M" if counted >= 1e5 else str(counted)


def make(name: str, results: Iterable[Result]) -> Piece:
    """Makes one of `numbers.TABLES`, as far as the results allow."""
    table, results = TABLES[name], list(results)
    chosen = [(row, row.cell.choose(results, Curve)) for row in table.rows]
    chosen = [(row, curves) for row, curves in chosen if curves or not row.cell.is_optional]
    missing = [row.cell for row, curves in chosen if not curves]
    made = any(curves for _, curves in chosen)
    return Piece(name, _markdown(table, chosen) if made else None, missing)


def _markdown(table: Table, chosen: Sequence[tuple[Row, Sequence[Curve]]]) -> str:
    headings = _headings(table.layout)
    lines = [headings, ["---"] * len(headings)]
    lines += [_cells(table.layout, row, curves) for row, curves in chosen]
    return "\n".join([table.title, "", *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"


def _headings(layout: Layout) -> list[str]:
    numbers = ("paper", "measured")
    by_step = [
        f"{which}, {step} step{'s' * (step != 1)}"
        for step in layout.steps or ()
        for which in numbers
    ]
    return [*layout.lead, *(by_step or numbers), *layout.last]


def _cells(layout: Layout, row: Row, curves: Sequence[Curve]) -> list[str]:
    cells = [LEADS[heading](row) for heading in layout.lead]
    published = dict(zip(row.steps, row.published, strict=True))
    for step in layout.steps or row.steps:
        measured = _measured(curves, step) if curves and step in published else MISSING
        cells += [published.get(step) or MISSING, measured]
    return cells + [LASTS[heading](curves) if curves else MISSING for heading in layout.last]


def _measured(curves: Sequence[Curve], step: int) -> str:
    scale, digits = {"accuracy": (100.0, 2), "return": (1.0, 1)}.get(curves[0].metric, (1.0, 2))
    estimate, index = pool(curves), curves[0].steps.index(step)
    mean, ci95 = (scale * values[index] for values in (estimate.mean, estimate.ci95))
    return f"{mean:.{digits}f} ± {ci95:.{digits}f}".replace("-", "−")
