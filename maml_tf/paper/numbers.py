"""What the paper reports: the numbers of its tables, and what its figures show.

Numbers are written as they are printed there. The baselines of MiniImagenet are those of Ravi &
Larochelle 2017, which the paper cites. Returns are means over 40 tasks, taken from the result files
that come with the original program; those of the context vector are printed in the paper.

A new table is one entry of `TABLES`: `tables.py` makes it, `maml-tf reproduce list` says what it
needs, and `maml-tf figures` what it lacks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from maml_tf.paper.protocol import ENVIRONMENTS, SINUSOID_SHOTS, Cell, cell, of_method

RETURN_STEPS = (0, 1, 2, 3)
LOCOMOTION = tuple(ENVIRONMENTS)[1:5]


class Row(NamedTuple):
    """One row of a table."""

    data: str
    cell: Cell
    steps: tuple[int, ...]  # gradient steps that are quoted
    published: tuple[str, ...]  # the paper's number after each of them; "" where it has none


class Layout(NamedTuple):
    """The columns of a table."""

    lead: tuple[str, ...]  # what stands before the numbers: keys of `tables.LEADS`
    steps: tuple[int, ...] | None = None  # quoted by every row; None: each row has one of its own
    last: tuple[str, ...] = ("iterations", "seeds", "tasks")  # keys of `tables.LASTS`


@dataclass(frozen=True)
class Table:
    """A table of the paper."""

    title: str
    layout: Layout
    rows: tuple[Row, ...]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """What its rows are made of."""
        return tuple(row.cell for row in self.rows)


# --- sinusoid: Figures 2, 3, 6 and 7, Table 2 ---


def sinusoid(method: str, shots: int, *, inputs: str = "all", optional: bool = False) -> Cell:
    """The cell of one method on sine waves."""
    name = of_method(method, "sinusoid_10shot")
    return cell(name, shots, inputs=inputs, optional=optional)


def _sinusoid_row(method: str, *published: str) -> Row:
    return Row("sinusoid", sinusoid(method, 5), (1, 5, 10), published)


def _learning_curves(
    shots: tuple[int, ...], needed: tuple[str, ...], optional: tuple[str, ...] = ()
) -> tuple[Cell, ...]:
    """All methods with all K, K by K."""
    return tuple(
        sinusoid(method, k, optional=method in optional)
        for k in shots
        for method in (*needed, *optional)
    )


def _two_methods(shots: tuple[int, ...], inputs: str = "all") -> tuple[Cell, ...]:
    return tuple(sinusoid(m, k, inputs=inputs) for k in shots for m in ("maml", "pretrained"))


# --- classification: Tables 1 and 3 ---


def _omniglot(name: str, data: str, one_shot: str, five_shot: str) -> Iterator[Row]:
    """1-shot; 5-shot from the 1-shot model, as published; and trained 5-shot."""
    trained = name.replace("1shot", "5shot") + "_trained"
    made = ((cell(name, 1), one_shot), (cell(name, 5), five_shot), (cell(trained, 5), ""))
    for filled, published in made:
        yield Row(data, filled, (filled.evaluation.steps,), (published,))


def _miniimagenet(method: str, *published: str) -> Iterator[Row]:
    """1-shot and 5-shot."""
    for shots, number in zip((1, 5), published, strict=True):
        filled = cell(of_method(method, f"miniimagenet_5way_{shots}shot"), shots)
        yield Row("MiniImagenet 5-way", filled, (filled.evaluation.steps,), (number,))


_OMNIGLOT_5WAY = tuple(
    _omniglot("omniglot_5way_1shot", "Omniglot 5-way", "98.7 ± 0.4", "99.9 ± 0.1")
)

# --- reinforcement learning: Figures 4 and 5, Tables 4 and 5 ---

_RETURNS = """
navigation_2d      maml        −40.4±4.0   −11.7±2.2   −3.3±0.6    −3.2±0.6
navigation_2d      pretrained  −40.8       −19.7       −11.7       −8.5
navigation_2d      random      −82.7       −58.0       −53.8       −46.8
navigation_2d      oracle      −2.3
navigation_2d      context     −42.42      −13.90      −5.17       −3.18
cheetah_velocity   maml        −129.5±17   −78.6±10    −66.6±9     −60.8±9
cheetah_velocity   pretrained  −158.0      −135.4      −128.5      −133.6
cheetah_velocity   random      −254.8      −254.3      −246.8      −230.8
cheetah_velocity   oracle      −54.5
cheetah_direction  maml        −50.7±6     293.2±17    313.5±16    315.7±14
cheetah_direction  pretrained  −43.0       −24.8       −12.9       19.6
cheetah_direction  random      −35.7       21.8        62.3        86.2
cheetah_direction  oracle      442.7
cheetah_direction  context     −40.49      −44.08      −38.27      −42.50
ant_velocity       maml        30.6±30     96.7±21     100.1±21    101.4±21
ant_velocity       pretrained  −1.8        6.1         8.5         9.5
ant_velocity       random      −78.6       −62.8       −48.6       −35.6
ant_velocity       oracle      107.9
ant_direction      maml        8.7±14      499.2±32    500.7±32    499.1±33
ant_direction      pretrained  3.2         1.3         6.5         6.9
ant_direction      random      3.1         9.3         16.0        26.1
ant_direction      oracle      524.8
"""  # after 0, 1, 2 and 3 gradient steps

_METHODS = ("maml", "pretrained", "random", "oracle")


def returns(method: str, environment: str, *, optional: bool = False) -> Cell:
    """The cell of one method's returns in an environment."""
    if method == "fomaml":  # which the paper does not have, but one may train
        maml = cell(environment, optional=True)
        own = dataclasses.replace(maml.experiment, method=method)
        return dataclasses.replace(maml, experiment=own)
    return cell(of_method(method, environment), optional=optional)


def _returns_row(environment: str, method: str, *published: str) -> Row:
    steps = (0,) if method == "oracle" else RETURN_STEPS
    numbers = tuple(text.replace("±", " ± ") for text in published) or ("",) * len(steps)
    filled = returns(method, environment, optional=not published)
    return Row(ENVIRONMENTS[environment], filled, steps, numbers)


def _panel(environment: str, *, optional: bool = False) -> tuple[Cell, ...]:
    needed = tuple(returns(method, environment, optional=optional) for method in _METHODS)
    return (*needed, returns("fomaml", environment))


_RETURN_ROWS = tuple(_returns_row(*line.split()) for line in _RETURNS.strip().splitlines())
_MORE_ROWS = tuple(_returns_row("ant_goal", method) for method in _METHODS)


def _of(environment: str) -> tuple[Row, ...]:
    return tuple(row for row in _RETURN_ROWS if row.cell.experiment.problem == environment)


# --- all figures and tables ---

_CLASSIFICATION = Layout(("data", "method", "shots", "trained with", "steps"))
_RETURN = Layout(
    ("method",), RETURN_STEPS, ("trajectories", "iterations", "environment steps", "seeds", "tasks")
)
_ABOUT_RETURNS = (
    "Means over held-out tasks, ± 95 % interval over tasks; the first step takes alpha, the later "
    "ones alpha / 2, each learns from the trajectories of the present policy. The oracle sees the "
    "task and takes no step. The paper's numbers are those of the original program's result files, "
    "the context vector's those that it prints."
)

TABLES = {
    "table_1": Table(
        "Table 1: accuracy (%) on classes held out of training, ± 95 % interval over tasks. Quoted "
        "are 3 gradient steps for Omniglot 5-way, 5 for Omniglot 20-way and 10 for MiniImagenet. "
        "The published 5-shot figures of Omniglot are those of the model trained 1-shot.",
        _CLASSIFICATION,
        (
            *_OMNIGLOT_5WAY,
            *_omniglot("omniglot_20way_1shot", "Omniglot 20-way", "95.8 ± 0.3", "98.9 ± 0.2"),
            *_omniglot(
                "omniglot_5way_1shot_dense",
                "Omniglot 5-way, no convolution",
                "89.7 ± 1.1",
                "97.5 ± 0.6",
            ),
            *_miniimagenet("maml", "48.70 ± 1.84", "63.11 ± 0.92"),
            *_miniimagenet("fomaml", "48.07 ± 1.75", "63.15 ± 0.91"),
            *_miniimagenet("pretrained", "28.86 ± 0.54", "49.79 ± 0.79"),
            *_miniimagenet("nearest_neighbour", "41.08 ± 0.70", "51.04 ± 0.65"),
        ),
    ),
    "table_2": Table(
        "Table 2: mean squared error of 5-shot sinusoid regression after 1, 5 and 10 gradient "
        "steps, ± 95 % interval over tasks. All models are trained with 10 shots.",
        Layout(("method",), (1, 5, 10)),
        (
            _sinusoid_row("maml", "0.67", "0.38", "0.35"),
            _sinusoid_row("pretrained", "2.41", "2.23", "2.19"),
            _sinusoid_row("multitask", "4.19", "3.85", "3.69"),
            _sinusoid_row("multitask_l2", "7.18", "5.69", "5.60"),
            _sinusoid_row("multitask_mean", "2.91", "2.72", "2.71"),
        ),
    ),
    "table_3": Table(
        "Table 3: accuracy (%) on Omniglot 5-way after 3 gradient steps that move a context vector "
        "alone, or all weights (MAML); ± 95 % interval over tasks.",
        _CLASSIFICATION,
        (
            *_omniglot("omniglot_5way_1shot_context", "Omniglot 5-way", "94.9 ± 0.9", "97.7 ± 0.3"),
            *_OMNIGLOT_5WAY,
        ),
    ),
    "table_4": Table(
        f"Table 4: return of 2D navigation after 0 to 3 gradient steps. {_ABOUT_RETURNS}",
        _RETURN,
        _of("navigation_2d"),
    ),
    "table_5": Table(
        "Table 5: return of the half-cheetah that is to run forward or backward after 0 to 3 "
        f"gradient steps. {_ABOUT_RETURNS}",
        _RETURN,
        _of("cheetah_direction"),
    ),
    "returns": Table(
        f"Return in every environment after 0 to 3 gradient steps. {_ABOUT_RETURNS}",
        _RETURN._replace(lead=("environment", "method")),
        (*_RETURN_ROWS, *_MORE_ROWS),
    ),
}
"""Every table by its file's name, those of what the paper measured and printed nowhere included."""

_CURVES = ("maml", "pretrained", "oracle")
FIGURES = {
    "figure_2": _two_methods((5, 10)),
    "figure_3": _learning_curves((5, 10), _CURVES),
    "figure_4": _panel("navigation_2d"),
    "figure_4_paths": tuple(returns(m, "navigation_2d") for m in ("maml", "pretrained")),
    "figure_5": (
        *(cell for environment in LOCOMOTION for cell in _panel(environment)),
        *_panel("ant_goal", optional=True),
    ),
    "figure_6": _learning_curves(SINUSOID_SHOTS, _CURVES, ("fomaml", "random")),
    "figure_7": _two_methods(SINUSOID_SHOTS),
    "figure_7_half": _two_methods(SINUSOID_SHOTS, "half"),
}
"""What each figure shows, by its file's name."""


def fills(name: str) -> list[str]:
    """The figures and tables that an experiment's evaluations fill, as their files are called."""
    pieces = {**FIGURES, **{table: content.cells for table, content in TABLES.items()}}
    return [
        piece for piece, cells in pieces.items() if any(c.experiment.name == name for c in cells)
    ]
