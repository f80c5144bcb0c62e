"""How figures look: colours, sizes, names of methods, and the files they become.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; markers and dashes
differ too, for readers without colours.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from maml_tf.system.files import replacing_file

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

WIDTH = 7.0
"""Inches: a page of two columns."""

SETTINGS: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 7.5,
    "legend.fontsize": 8,
    "pdf.fonttype": 42,
}
"""Matplotlib's settings for every figure, of types that its version knows."""


class Line(NamedTuple):
    """How a line looks."""

    colour: str
    dashes: str = "-"
    marker: str = ""
    level: bool = False  # a horizontal line: the metric before any gradient step


METHODS = {
    "maml": Line("#0072B2", "-", "o"),
    "fomaml": Line("#56B4E9", "--", "s"),
    "pretrained": Line("#D55E00", "-", "^"),
    "random": Line("#CC79A7", "--", "v"),
    "oracle": Line("#000000", ":", "D", level=True),
}
"""How each method of a learning curve is drawn, in the order of the legend."""


def legend_below(figure: Figure, handles: Mapping[str, Artist]) -> None:
    """Adds one legend for all panels, in as many columns as the figure is wide enough for."""
    canvas = FigureCanvasAgg(figure)
    for columns in range(len(handles), 0, -1):
        legend = figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=columns,
            frameon=False,
        )
        if (
            columns == 1
            or legend.get_window_extent(canvas.get_renderer()).width <= figure.bbox.width
        ):
            return
        legend.remove()


@matplotlib.rc_context(SETTINGS)
def save(figure: Figure, path: Path) -> list[Path]:
    """Writes `path` as PNG and as PDF, the same bytes for the same figure; returns both paths.

    Raises:
      OSError: nothing can be written there.
    """
    written = [path.with_suffix(".png"), path.with_suffix(".pdf")]
    with replacing_file(written[0]) as place:
        figure.savefig(place)
    figure.set_layout_engine("none")  # It stays as it is laid out, which takes as long as drawing.
    with replacing_file(written[1]) as place:
        figure.savefig(place, metadata={"CreationDate": None})
    return written
