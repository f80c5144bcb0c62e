"""Result files in, pictures and tables out. Nothing here trains or evaluates.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from maml_tf.types import Estimate

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

_LABELS = {"accuracy": "accuracy on query data (%)", "loss": "mean squared error on query data"}


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
    scale = 100.0 if metric == "accuracy" else 1.0
    for index, (label, curve) in enumerate(curves.items()):
        steps, colour = np.arange(len(curve.mean)), COLOURS[index % len(COLOURS)]
        mean, ci95 = scale * np.asarray(curve.mean), scale * np.asarray(curve.ci95)
        axes.plot(steps, mean, marker="o", markersize=3, color=colour, label=label)
        axes.fill_between(steps, mean - ci95, mean + ci95, color=colour, alpha=0.2, linewidth=0)
    axes.set_xlabel("gradient steps")
    axes.set_ylabel(_LABELS.get(metric, metric.replace("_", " ")))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    axes.set_title(title, fontsize=10)
    return figure


def to_image(figure: Figure) -> np.ndarray:
    """Renders a figure to `[height, width, 3]` uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save(figure: Figure, path: Path) -> list[Path]:
    """Writes `path` as PNG and as PDF; returns both paths."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = [path.with_suffix(".png"), path.with_suffix(".pdf")]
    for target in written:
        figure.savefig(target)
    return written


def read_result(path: Path) -> dict:
    """Reads one result file.

    Raises:
      ValueError: it is not one, or of another version.
    """
    try:
        result = json.loads(path.read_text())
        mean, std, ci95 = (np.asarray(result[key], float) for key in ("mean", "std", "ci95"))
        result["estimate"] = Estimate(mean, std, ci95, int(result["num_tasks"]))
        result["label"] = f"{result['split']}, {result['shots']}-shot, {result['batch_statistics']}"
        _ = result["metric"], result["experiment"]
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not a result file of this version ({type(error).__name__}: {error}); "
            "make it again with `maml-tf evaluate`."
        ) from error
    return result


def draw_run(directory: Path) -> list[Path]:
    """Draws every result of a run: one adaptation curve a metric, with all its result files.

    Args:
      directory: a run's directory, with `results/*.json`.

    Returns:
      The files written, in `<directory>/figures/`.

    Raises:
      FileNotFoundError: there are no results.
      ValueError: a result file cannot be read.
    """
    paths = sorted((directory / "results").glob("*.json"))
    paths = [path for path in paths if not path.name.startswith("samples_")]
    if not paths:
        raise FileNotFoundError(
            f"No result files in {directory / 'results'}; run `maml-tf evaluate` first."
        )
    results = [read_result(path) for path in paths]
    written = []
    for metric in sorted({r["metric"] for r in results}):
        chosen = [r for r in results if r["metric"] == metric]
        curves = {r["label"]: r["estimate"] for r in chosen}
        figure = adaptation_curve(curves, metric, title=chosen[0]["experiment"])
        written += save(figure, directory / "figures" / f"adaptation_{metric}")
    return written
