"""The paper's tables as Markdown: its numbers beside those of result files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from maml_tf import paper
from maml_tf.paper import Piece, Row
from maml_tf.result_files import Curve, Result, choose, pool

MISSING = "—"

_RUN = ("iterations", "seeds", "tasks")
_CLASSIFICATION = ("data", "method", "shots", "trained with", "steps", "paper", "measured", *_RUN)
_REGRESSION = (
    "method",
    *(
        f"{which}, {step} step{'s' * (step > 1)}"
        for step in (1, 5, 10)
        for which in ("paper", "measured")
    ),
    *_RUN,
)


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


ALL = (table_1, table_2, table_3)


def _table(
    name: str, title: str, headings: Sequence[str], rows: Sequence[Row], results: Iterable[Result]
) -> Piece:
    results = list(results)
    chosen = [choose(results, row.wanted) for row in rows]
    lines = [headings, ["---"] * len(headings)]
    lines += [_cells(row, curves) for row, curves in zip(rows, chosen, strict=True)]
    text = "\n".join([title, "", *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"
    missing = [row.wanted for row, curves in zip(rows, chosen, strict=True) if not curves]
    return Piece(name, text if any(chosen) else None, missing)


def _cells(row: Row, curves: Sequence[Curve]) -> list[str]:
    wanted = row.wanted
    cells = [paper.METHODS[wanted.method]]
    if len(row.steps) == 1:
        trained = f"{wanted.train_shots}-shot" if wanted.train_shots else "all classes"
        shots = (f"{wanted.shots}-shot", trained)
        cells = [row.data, *cells, *shots, str(row.steps[0] or MISSING)]
    for step, published in zip(row.steps, row.published, strict=True):
        cells += [published or MISSING, _measured(curves, step)]
    if not curves:
        return cells + [MISSING] * len(_RUN)
    seeds = ", ".join(str(curve.seed) for curve in curves)
    tasks = sum(curve.estimate.num_tasks for curve in curves)
    return [*cells, str(curves[0].iteration), seeds, str(tasks)]


def _measured(curves: Sequence[Curve], step: int) -> str:
    if not curves:
        return MISSING
    scale = 100.0 if curves[0].metric == "accuracy" else 1.0
    estimate, index = pool(curves), curves[0].steps.index(step)
    return f"{scale * estimate.mean[index]:.2f} ± {scale * estimate.ci95[index]:.2f}"
