"""The paper's tables as Markdown: its numbers beside those of result files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from maml_tf.paper import numbers as paper
from maml_tf.paper.numbers import Piece, Row
from maml_tf.results.choice import choose, pool
from maml_tf.results.files import Curve, Result

MISSING = "—"

_RUN = ("iterations", "seeds", "tasks")


def table_1(results: Iterable[Result]) -> Piece:
    """Accuracy on Omniglot and MiniImagenet."""
    title = (
        "Table 1: accuracy (%) on classes held out of training, ± 95 % interval over tasks. Quoted "
        "are 3 gradient steps for Omniglot 5-way, 5 for Omniglot 20-way and 10 for MiniImagenet. "
        "The published 5-shot figures of Omniglot are those of the model trained 1-shot."
    )
    return _table("table_1", title, _CLASSIFICATION, paper.TABLE_1, results)


def table_2(results: Iterable[Result]) -> Piece:
    """Sinusoid regression beside its baselines."""
    title = (
        "Table 2: mean squared error of 5-shot sinusoid regression after 1, 5 and 10 gradient "
        "steps, ± 95 % interval over tasks. All models are trained with 10 shots."
    )
    return _table("table_2", title, _REGRESSION, paper.TABLE_2, results)


def table_3(results: Iterable[Result]) -> Piece:
    """Adapting a context vector alone, beside MAML."""
    title = (
        "Table 3: accuracy (%) on Omniglot 5-way after 3 gradient steps that move a context vector "
        "alone, or all weights (MAML); ± 95 % interval over tasks."
    )
    return _table("table_3", title, _CLASSIFICATION, paper.TABLE_3, results)


def table_4(results: Iterable[Result]) -> Piece:
    """Returns of 2D navigation, those of adapting a context vector alone among them."""
    title = f"Table 4: return of 2D navigation after 0 to 3 gradient steps. {_ABOUT_RETURNS}"
    return _table("table_4", title, _RETURN, paper.TABLE_4, results)


def table_5(results: Iterable[Result]) -> Piece:
    """Returns of the cheetah's direction, those of adapting a context vector alone among them."""
    title = (
        "Table 5: return of the half-cheetah that is to run forward or backward after 0 to 3 "
        f"gradient steps. {_ABOUT_RETURNS}"
    )
    return _table("table_5", title, _RETURN, paper.TABLE_5, results)


def returns(results: Iterable[Result]) -> Piece:
    """Returns of every method in every environment; the ant's goal if there are results of it."""
    title = f"Return in every environment after 0 to 3 gradient steps. {_ABOUT_RETURNS}"
    results = list(results)
    more = [row for row in paper.MORE_RETURNS if choose(results, row.wanted)]
    return _table("returns", title, _ALL_RETURNS, [*paper.RETURNS, *more], results)


ALL = (table_1, table_2, table_3, table_4, table_5, returns)

_ABOUT_RETURNS = (
    "Means over held-out tasks, ± 95 % interval over tasks; the first step takes alpha, the later "
    "ones alpha / 2, each learns from the trajectories of the present policy. The oracle sees the "
    "task and takes no step. The paper's numbers are those of the original program's result files, "
    "the context vector's those that it prints."
)


class _Layout(NamedTuple):
    """The columns of a table."""

    lead: tuple[str, ...]  # keys of `_LEADS`
    steps: tuple[int, ...] | None = None  # quoted by every row; None: each row has one of its own
    last: tuple[str, ...] = _RUN  # keys of `_LASTS`

    @property
    def headings(self) -> list[str]:
        numbers = ("paper", "measured")
        by_step = [
            f"{which}, {step} step{'s' * (step != 1)}"
            for step in self.steps or ()
            for which in numbers
        ]
        return [*self.lead, *(by_step or numbers), *self.last]


_CLASSIFICATION = _Layout(("data", "method", "shots", "trained with", "steps"))
_REGRESSION = _Layout(("method",), (1, 5, 10))
_RETURN = _Layout(("method",), paper.RETURN_STEPS, ("trajectories", *_RUN))
_ALL_RETURNS = _RETURN._replace(lead=("environment", "method"))

_LEADS: dict[str, Callable[[Row], str]] = {
    "data": lambda row: row.data,
    "environment": lambda row: row.data,
    "method": lambda row: paper.METHODS[row.wanted.method],
    "shots": lambda row: f"{row.wanted.shots}-shot",
    "trained with": lambda row: (
        f"{row.wanted.train_shots}-shot" if row.wanted.train_shots else "all classes"
    ),
    "steps": lambda row: str(row.steps[0] or MISSING),
}
_LASTS: dict[str, Callable[[Sequence[Curve]], str]] = {
    "trajectories": lambda curves: str(curves[0].shots),
    "iterations": lambda curves: str(curves[0].iteration),
    "seeds": lambda curves: ", ".join(str(curve.seed) for curve in curves),
    "tasks": lambda curves: str(sum(curve.estimate.num_tasks for curve in curves)),
}


def _table(
    name: str, title: str, layout: _Layout, rows: Sequence[Row], results: Iterable[Result]
) -> Piece:
    results = list(results)
    chosen = [choose(results, row.wanted) for row in rows]
    headings = layout.headings
    lines = [headings, ["---"] * len(headings)]
    lines += [_cells(layout, row, curves) for row, curves in zip(rows, chosen, strict=True)]
    text = "\n".join([title, "", *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"
    missing = [row.wanted for row, curves in zip(rows, chosen, strict=True) if not curves]
    return Piece(name, text if any(chosen) else None, missing)


def _cells(layout: _Layout, row: Row, curves: Sequence[Curve]) -> list[str]:
    cells = [_LEADS[heading](row) for heading in layout.lead]
    published = dict(zip(row.steps, row.published, strict=True))
    for step in layout.steps or row.steps:
        measured = _measured(curves, step) if curves and step in published else MISSING
        cells += [published.get(step) or MISSING, measured]
    return cells + [_LASTS[heading](curves) if curves else MISSING for heading in layout.last]


def _measured(curves: Sequence[Curve], step: int) -> str:
    scale, digits = {"accuracy": (100.0, 2), "return": (1.0, 1)}.get(curves[0].metric, (1.0, 2))
    estimate, index = pool(curves), curves[0].steps.index(step)
    mean, ci95 = (scale * values[index] for values in (estimate.mean, estimate.ci95))
    return f"{mean:.{digits}f} ± {ci95:.{digits}f}".replace("-", "−")
