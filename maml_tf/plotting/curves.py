"""Curves over gradient steps: results in, pictures out. Nothing here trains or evaluates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from maml_tf.plotting.style import (
    COLOURS,
    METHODS,
    SETTINGS,
    WIDTH,
    Line,
    legend_below,
)
from maml_tf.results.choice import pool
from maml_tf.results.records import Curve, Result
from maml_tf.types import Estimate

_LABELS = {"accuracy": "accuracy on query data (%)", "loss": "mean squared error on query data"}

# --- drawings ---


def adaptation_curve(curves: Mapping[str, Estimate], metric: str, title: str = "") -> Figure:
    """Draws a metric against the number of gradient steps, with its 95 % interval.

    Args:
      curves: label -> estimate after 0, 1, ... S steps.
      metric: "accuracy" (a share, drawn in per cent), "loss", or another metric's name.
      title: above the picture.

    Returns:
      A figure, not yet written anywhere.
    """
    figure = Figure(figsize=(5.2, 3.6), layout="constrained", dpi=120)
    axes = figure.add_subplot()
    scale, handles = 100.0 if metric == "accuracy" else 1.0, {}
    for index, (label, curve) in enumerate(curves.items()):
        line = Line(COLOURS[index % len(COLOURS)], "-", "o")
        handles[label] = _draw_curve(axes, curve, line, label, scale=scale)
    _finish_curves(axes, title)
    if len(curves) > 3:  # more would hide the curves
        legend_below(figure, handles)
    else:
        axes.legend(frameon=False)
    axes.set_ylabel(_LABELS.get(metric, metric.replace("_", " ")))
    axes.title.set_fontsize(10)
    return figure


@matplotlib.rc_context(SETTINGS)
def learning_curves(panels: Mapping[str, Mapping[str, Sequence[Curve]]]) -> Figure:
    """Draws learning curves at meta-test time, panels side by side with one scale.

    Args:
      panels: title -> method (a key of `style.METHODS`) -> its curves, one per seed.

    Returns:
      A figure, a page wide if there are three panels.
    """
    width = max(WIDTH / 3 * len(panels), 3.6)
    figure = Figure(figsize=(width, 2.6), layout="constrained", dpi=200)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    handles: dict[str, Line2D] = {}
    for axes, (title, methods) in zip(grid, panels.items(), strict=True):
        for method, curves in methods.items():
            label = _with_step_sizes(method, panels.values())
            handles[label] = _draw_curve(axes, pool(curves), METHODS[method], label)
        _finish_curves(axes, title)
    _scale_to_ends(grid, [pool(c) for methods in panels.values() for c in methods.values()])
    grid[0].set_ylabel("mean squared error")
    legend_below(figure, handles)
    return figure


@matplotlib.rc_context(SETTINGS)
def return_curves(panels: Mapping[str, Mapping[str, Sequence[Curve]]]) -> Figure:
    """Draws returns at meta-test time, panels in two rows, each with a scale of its own.

    The oracle knows the task, and its return before any gradient step is a horizontal line.

    Args:
      panels: title -> method (a key of `style.METHODS`) -> its curves, one per seed.

    Returns:
      A figure, with one legend below.
    """
    rows = 1 if len(panels) == 1 else 2
    columns = -(-len(panels) // rows)
    width, height = max(2.6 * columns, 4.6), 2.0 * rows + 0.6
    figure = Figure(figsize=(width, height), layout="constrained", dpi=200)
    grid = figure.subplots(rows, columns, squeeze=False)
    handles: dict[str, Line2D] = {}
    for axes, (title, methods) in zip(grid.flat, panels.items(), strict=False):
        for method, curves in methods.items():
            if METHODS[method].level:
                label, draw = curves[0].method_title, _draw_level
            else:
                label, draw = _with_step_sizes(method, panels.values()), _draw_curve
            handles[label] = draw(axes, pool(curves), METHODS[method], label)
        _finish_curves(axes, title)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes in grid[:-1].flat:
        axes.set_xlabel("")
    for axes in grid[:, 0]:
        axes.set_ylabel("return")
    legend_below(figure, handles)
    return figure


def _draw_level(axes: Axes, curve: Estimate, line: Line, label: str) -> Line2D:
    """Draws a metric before any step as a horizontal line, with its 95 % interval."""
    mean, ci95 = curve.mean[0], curve.ci95[0]
    drawn = axes.axhline(mean, linestyle=line.dashes, linewidth=1.2, color=line.colour, label=label)
    axes.axhspan(mean - ci95, mean + ci95, color=line.colour, alpha=0.12, linewidth=0)
    return drawn


def _draw_curve(
    axes: Axes, curve: Estimate, line: Line, label: str, *, scale: float = 1.0
) -> Line2D:
    steps = np.arange(len(curve.mean))
    mean, ci95 = scale * np.asarray(curve.mean), scale * np.asarray(curve.ci95)
    (drawn,) = axes.plot(
        steps,
        mean,
        line.dashes,
        marker=line.marker,
        markersize=3,
        linewidth=1.2,
        color=line.colour,
        label=label,
    )
    axes.fill_between(steps, mean - ci95, mean + ci95, color=line.colour, alpha=0.2, linewidth=0)
    return drawn


def _finish_curves(axes: Axes, title: str) -> None:
    axes.set_xlabel("gradient steps")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.set_title(title)


def _scale_to_ends(grid: Iterable[Axes], curves: Sequence[Estimate]) -> None:
    """Scales by the first and the last step; a task that diverges between them must not hide all.

    A panel with a point above the scale says so.
    """
    ends = [(np.asarray(c.mean) + np.asarray(c.ci95))[[0, -1]].max() for c in curves]
    finite = [end for end in ends if np.isfinite(end)]
    top = 1.1 * max(finite, default=1.0)
    for axes in grid:
        highest = max(np.nanmax(line.get_ydata(), initial=0.0) for line in axes.lines)
        axes.set_ylim(0, top)
        if highest > top:
            note = f"above the scale: up to {highest:.3g}"
            axes.annotate(note, (0.97, 0.94), xycoords="axes fraction", ha="right", va="top")


def _with_step_sizes(method: str, panels: Iterable[Mapping[str, Sequence[Curve]]]) -> str:
    """Names a method with its alpha; with one for each panel where they differ."""
    drawn = [panel[method][0] for panel in panels if method in panel]
    given = [curve.step_size_text for curve in drawn]
    different = list(dict.fromkeys(given))
    shown = given if len(different) > 1 else different
    return ", ".join([drawn[0].method_title, shown[0], *(t.split(" = ")[-1] for t in shown[1:])])


def draw_run(results: Iterable[Result]) -> dict[str, Figure]:
    """Draws the curves of one run: an adaptation curve per metric, with all its evaluations.

    Returns:
      File name, without its ending -> figure.
    """
    curves = [result for result in results if isinstance(result, Curve)]
    curves.sort(key=lambda curve: (curve.inputs, curve.shots, curve.label))
    drawn = {}
    for metric in sorted({curve.metric for curve in curves}):
        chosen = [curve for curve in curves if curve.metric == metric]
        title = f"{chosen[0].experiment}, {chosen[0].method_title}"
        estimates = {curve.label: curve.estimate for curve in chosen}
        drawn[f"adaptation_{metric}"] = adaptation_curve(estimates, metric, title)
    return drawn


def to_image(figure: Figure) -> np.ndarray:
    """Renders a figure to `[height, width, 3]` uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
