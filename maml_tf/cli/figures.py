"""`maml-tf figures`: result files to the figures and tables of the paper."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from maml_tf.cli import runs
from maml_tf.experiments.settings import Config
from maml_tf.paper import figures as paper_figures
from maml_tf.paper import numbers as paper
from maml_tf.paper import tables
from maml_tf.paper.numbers import Piece
from maml_tf.plotting import curves as figures
from maml_tf.plotting.event_file import FIGURES_SUFFIX, write_event_file
from maml_tf.results import files as result_files
from maml_tf.results.files import Result
from maml_tf.system.files import staging, sweep, write_atomically

_LOG = logging.getLogger(__name__)


def run(given: dict[str, Any], words: list[str]) -> int:
    """Draws each run's curves, and all of the paper's figures and tables that the files allow.

    Every file is read, and every picture made, before the first one is written.
    """
    places = words or [str(runs.locate(given, [])[0])]
    read = [result for path in result_files.find(places) for result in result_files.read(path)]
    drawn = {directory: figures.draw_run(own) for directory, own in _by_run(read)}
    pieces = [make(read) for make in (*paper_figures.ALL, *tables.ALL)]
    target = Path(Config(**given).to or Path(places[0]) / "figures")
    contents: dict[Path, dict[str, Any]] = {
        target: {p.name: p.content for p in pieces if p.content}
    }
    for directory, own in drawn.items():
        contents.setdefault(directory, {}).update(own)
    for directory, named in contents.items():
        _write(directory, named)
        _LOG.info("Wrote %s: %s", directory, ", ".join(named) or "nothing")
    present = {result.datasource for result in read}
    for piece in pieces:
        if any(wanted.datasource in present for wanted in piece.missing):
            _LOG.info(_explain(piece))
    return 0


def _by_run(read: Iterable[Result]) -> Iterable[tuple[Path, list[Result]]]:
    """Runs with results, each with the place of its figures; a release has no own figures."""
    own = [result for result in read if result.path.parent.name == "results"]
    for directory, group in itertools.groupby(own, lambda result: result.path.parent.parent):
        yield directory / "figures", list(group)


def _write(directory: Path, named: dict[str, Any]) -> None:
    """Writes pictures and tables as files, and all of them to one event file of TensorBoard."""
    sweep(directory)
    for name, content in named.items():
        if isinstance(content, str):
            write_atomically(directory / f"{name}.md", content)
        else:
            figures.save(content, directory / name)
    with staging(directory / "events") as place:
        if named:
            write_event_file(place, named)
        for old in directory.glob(f"events.out.tfevents.*{FIGURES_SUFFIX}"):
            old.unlink()
        for new in place.iterdir():
            os.replace(new, directory / new.name)


def _explain(piece: Piece) -> str:
    """Says what a figure or a table lacks, and how to make it."""
    absent: dict[str, list[str]] = {}
    for wanted in piece.missing:
        shots = absent.setdefault(paper.experiment(wanted), [])
        shots += [] if wanted.shots is None else [f"{wanted.shots}-shot"]
    lacks = "; ".join(
        name + (f" ({', '.join(shots)})" if shots else "") for name, shots in absent.items()
    )
    state = "made without" if piece.content else "not made, for lack of"
    return f"{piece.name} {state} results that ./run_experiments.sh NAME makes, NAME: {lacks}."
