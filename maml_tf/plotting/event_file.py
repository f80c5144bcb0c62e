"""Figures and tables in an event file of TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from maml_tf.training.summaries import Summaries

FIGURES_SUFFIX = ".figures"
"""Ending of the event file that holds figures and tables; it is made anew with them."""


def write_event_file(directory: Path, named: Mapping[str, Path | str]) -> None:
    """Writes pictures and tables, made from result files, as one event file.

    Args:
      directory: where to.
      named: pictures, as paths of PNG files, and tables, as Markdown, by their names.

    Raises:
      OSError: it cannot be written, or a picture cannot be read.
    """
    summaries = Summaries(directory, suffix=FIGURES_SUFFIX)
    for name, content in named.items():
        if isinstance(content, str):
            summaries.table(f"tables/{name}", content)
        else:
            with Image.open(content) as picture:
                summaries.image(f"figures/{name}", np.asarray(picture.convert("RGB")))
    summaries.close()
