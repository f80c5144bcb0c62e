"""A figure or a table of the paper, made or not."""

from __future__ import annotations

from typing import NamedTuple

from matplotlib.figure import Figure

from maml_tf.paper.protocol import Cell


class Piece(NamedTuple):
    """A figure or a table of the paper, as far as the result files allow."""

    name: str  # such as "figure_2"
    content: Figure | str | None  # a table is Markdown; None: no file allows anything of it
    missing: list[Cell]

    def explanation(self) -> str:
        """Says what it lacks, and how to make it."""
        absent: dict[str, list[str]] = {}
        for cell in self.missing:
            shots = absent.setdefault(cell.experiment.name, [])
            shots += [] if cell.experiment.is_policy else [f"{cell.shots}-shot"]
        lacks = "; ".join(
            name + (f" ({', '.join(dict.fromkeys(shots))})" if shots else "")
            for name, shots in absent.items()
        )
        state = "made without" if self.content else "not made, for lack of"
        return f"{self.name} {state} results that `maml-tf reproduce NAME` makes, NAME: {lacks}."
