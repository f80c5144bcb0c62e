"""Result files to pictures: of each run, and of the paper's figures and tables."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from maml_tf.paper import figures as paper_figures
from maml_tf.paper import tables
from maml_tf.paper.numbers import FIGURES, TABLES
from maml_tf.plotting.curves import draw_run
from maml_tf.plotting.event_file import FIGURES_SUFFIX, write_event_file
from maml_tf.plotting.style import save
from maml_tf.results import files as result_files
from maml_tf.results.records import Result
from maml_tf.system.files import staging, sweep, write_atomically

_LOG = logging.getLogger(__name__)

Content = Figure | str
"""A picture, or a table as Markdown."""


def draw(places: Iterable[str | Path], target: Path) -> None:
    """Draws what is in the result files below some directories.

    Every file is read, and every picture made, before the first one is written.

    Args:
      places: directories with runs or releases.
      target: where the paper's figures and tables go; a run's own go into its `figures/`.

    Raises:
      FileNotFoundError: there is no result file in one of the places.
      ValueError: a file is not a result file, or two would fill the same place.
    """
    read = [result for path in result_files.find(places) for result in result_files.read(path)]
    drawn = {directory: draw_run(own) for directory, own in _by_run(read)}
    pieces = [paper_figures.make(name, read) for name in FIGURES]
    pieces += [tables.make(name, read) for name in TABLES]
    contents: dict[Path, dict[str, Content]] = {
        target: {p.name: p.content for p in pieces if p.content}
    }
    for directory, own in drawn.items():
        contents.setdefault(directory, {}).update(own)
    for directory, named in contents.items():
        _write(directory, named)
        _LOG.info("Wrote %s: %s", directory, ", ".join(named) or "nothing")
    present = {result.problem for result in read}
    for piece in pieces:
        if any(cell.experiment.problem in present for cell in piece.missing):
            _LOG.info(piece.explanation())


def _by_run(read: Iterable[Result]) -> Iterable[tuple[Path, list[Result]]]:
    """Runs with results, each with the place of its figures; a release has no own figures."""
    own = [result for result in read if result.path.parent.name == result_files.FOLDER]
    for directory, group in itertools.groupby(own, lambda result: result.path.parent.parent):
        yield directory / "figures", list(group)


def _write(directory: Path, named: Mapping[str, Content]) -> None:
    """Writes pictures and tables as files, and all of them to one event file of TensorBoard."""
    sweep(directory)
    shown: dict[str, Path | str] = {}
    for name, content in named.items():
        if isinstance(content, str):
            write_atomically(directory / f"{name}.md", content)
            shown[name] = content
        else:
            shown[name], _ = save(content, directory / name)
    with staging(directory / "events") as place:
        if named:
            write_event_file(place, shown)
        for old in directory.glob(f"events.out.tfevents.*{FIGURES_SUFFIX}"):
            old.unlink()
        for new in place.iterdir():
            os.replace(new, directory / new.name)
