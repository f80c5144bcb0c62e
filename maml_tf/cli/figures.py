"""`maml-tf figures`: result files to the figures and tables of the paper."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from maml_tf.cli import runs
from maml_tf.experiments.records import SettingValue
from maml_tf.experiments.settings import make
from maml_tf.results import files as result_files


def run(given: Mapping[str, SettingValue], words: list[str]) -> int:
    """Draws each run's curves, and all of the paper's figures and tables that the files allow."""
    places = words or [str(runs.locate(given, [])[0])]
    target = Path(make(given).run.to or Path(places[0]) / "figures")
    for place in places:
        result_files.require(place)
    from maml_tf.cli.drawing import draw

    draw(places, target)
    return 0
