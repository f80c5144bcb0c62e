"""Pictures of single tasks before and after adaptation: sine waves, and paths on a plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MultipleLocator

from maml_tf.plotting.style import SETTINGS, WIDTH, Line, legend_below
from maml_tf.results.records import Samples, SampleTask

_TRUTH = Line("#000000")
_AFTER = (  # fewest steps first
    Line("#E69F00", ":"),
    Line("#56B4E9", "--"),
    Line("#0072B2", "-."),
)
_USED = Line("#D55E00", "", "^")
_GOAL = Line("#D55E00", "", "*")
_START = Line("#000000", "", "o")
_ORDER = ("start", "goal", "pre-update", "after adaptation")


class SampleCell(NamedTuple):
    """One panel of `sample_grid`."""

    title: str
    samples: Samples
    task: int  # which of them


class PathCell(NamedTuple):
    """One panel of `path_grid`."""

    title: str
    goal: np.ndarray  # [2]
    paths: Sequence[np.ndarray]  # of each episode: [points, 2]
    adapted: bool


@matplotlib.rc_context(SETTINGS)
def sample_grid(rows: Sequence[Sequence[SampleCell | None]]) -> Figure:
    """Draws regression tasks before and after adaptation, one panel per task.

    Args:
      rows: the panels; None leaves one empty. All have the same gradient steps.

    Returns:
      A figure, a page wide, with one legend below.
    """
    figure = Figure(figsize=(WIDTH, 1.7 * len(rows) + 0.45), layout="constrained", dpi=200)
    grid = figure.subplots(len(rows), len(rows[0]), sharex=True, sharey=True, squeeze=False)
    drawn = []
    for axes, cell in zip(grid.flat, (cell for row in rows for cell in row), strict=True):
        axes.set_title(cell.title if cell else "")
        if cell:
            _draw_sample(axes, cell.samples.tasks[cell.task], cell.samples.steps)
            drawn.append(axes)
        else:
            axes.set_axis_off()
    for axes in grid[-1]:
        axes.set_xlabel("x (rad)")
    for axes in grid[:, 0]:
        axes.set_ylabel("y")
    handles, labels = drawn[0].get_legend_handles_labels()
    legend_below(figure, dict(zip(labels, handles, strict=True)))
    return figure


@matplotlib.rc_context(SETTINGS)
def path_grid(rows: Sequence[Sequence[PathCell | None]]) -> Figure:
    """Draws where a point went on the plane, a panel for a task before or after adaptation.

    All panels have one scale: of the goals and of the adapted paths. Others may leave it.

    Args:
      rows: the panels, a row per task; None leaves one empty. Titles stand above the first row.

    Returns:
      A figure with one legend below.
    """
    height = (WIDTH - 0.4) / len(rows[0]) * len(rows) + 0.55
    figure = Figure(figsize=(WIDTH, height), layout="constrained", dpi=200)
    grid = figure.subplots(len(rows), len(rows[0]), sharex=True, sharey=True, squeeze=False)
    cells = [cell for row in rows for cell in row]
    handles: dict[str, Line2D] = {}
    limit = 1.08 * max(0.5, *(_reach(cell) for cell in cells if cell))
    for axes, cell in zip(grid.flat, cells, strict=True):
        if not cell:
            axes.set_axis_off()
            continue
        handles |= _draw_paths(axes, cell)
        axes.set(aspect="equal", xlim=(-limit, limit), ylim=(-limit, limit))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MultipleLocator(0.5))
        axes.grid(alpha=0.3)
    for axes, cell in zip(grid[0], rows[0], strict=True):
        axes.set_title(cell.title if cell else "")
    for axes in grid[-1]:
        axes.set_xlabel("x")
    for axes in grid[:, 0]:
        axes.set_ylabel("y")
    legend_below(figure, dict(sorted(handles.items(), key=lambda entry: _ORDER.index(entry[0]))))
    return figure


def _reach(cell: PathCell) -> float:
    """How far from the origin, along an axis, a panel must show."""
    shown = [cell.goal[None], *(cell.paths if cell.adapted else ())]
    return max(float(np.abs(points).max(initial=0.0)) for points in shown)


def _draw_paths(axes: Axes, cell: PathCell) -> dict[str, Line2D]:
    """Returns what the legend shows."""
    line = _AFTER[-1] if cell.adapted else _AFTER[0]
    drawn = {}
    for path in cell.paths:
        label = "after adaptation" if cell.adapted else "pre-update"
        (drawn[label],) = axes.plot(*path.T, "-", color=line.colour, linewidth=0.6, alpha=0.6)
    for place, label, mark, size in (
        (np.zeros(2), "start", _START, 4.0),
        (cell.goal, "goal", _GOAL, 11.0),
    ):
        (drawn[label],) = axes.plot(
            *place[:, None],
            mark.marker,
            color=mark.colour,
            markersize=size,
            markeredgecolor="white",
            markeredgewidth=0.5,
            zorder=3,
        )
    return drawn


def _draw_sample(axes: Axes, task: SampleTask, steps: Sequence[int]) -> None:
    axes.plot(task.x, task.y, color=_TRUTH.colour, linewidth=1.0, label="ground truth")
    for step, predicted, line in zip(steps, task.predictions, _AFTER, strict=False):
        label = "pre-update" if step == 0 else f"{step} gradient step{'s' * (step > 1)}"
        axes.plot(task.x, predicted, line.dashes, color=line.colour, linewidth=1.2, label=label)
    axes.plot(
        task.support_x,
        task.support_y,
        _USED.marker,
        markersize=5.5,
        markeredgecolor="white",
        markeredgewidth=0.4,
        color=_USED.colour,
        label="used for grad",
    )
