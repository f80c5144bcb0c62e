"""Figures and tables in an event file of TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from maml_tf.plotting.curves import to_image
from maml_tf.training.summaries import Summaries

FIGURES_SUFFIX = ".figures"
"""Ending of the event file that holds figures and tables; it is made anew with them."""


def write_event_file(directory: Path, named: Mapping[str, Figure | str]) -> None:
    """Writes pictures and tables in Markdown, made from result files, as one event file.

    Args:
      directory: where to.
      named: by their names.

    Raises:
      OSError: it cannot be written.
    """
    summaries = Summaries(directory, suffix=FIGURES_SUFFIX)
    for name, content in named.items():
        if isinstance(content, str):
            summaries.table(f"tables/{name}", content)
        else:
            summaries.image(f"figures/{name}", to_image(content))
    summaries.close()
