"""`maml-tf list`: the flagfiles, recipes and releases that come with the package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from maml_tf.cli import runs
from maml_tf.experiments.records import SettingValue
from maml_tf.paper.protocol import EXPERIMENTS
from maml_tf.results import files, wording
from maml_tf.results.records import Curve
from maml_tf.system import bundled


def run(given: Mapping[str, SettingValue], words: list[str]) -> int:
    """Prints the tables.

    Raises:
      ValueError: it was given something to do.
    """
    if given or words:
        raise ValueError("list shows what comes with the package; it takes no words and no flags.")
    titles = {f"{e.flagfile}": e.title for e in EXPERIMENTS.values() if not e.other_flagfile}
    flagfiles = [
        (f"flags/{file.name}", titles.get(file.name, "")) for file in bundled.entries("flags")
    ]
    print("Settings, each for --flagfile=NAME:\n" + table(flagfiles))
    recipes = [(path.stem, _purpose(path)) for path in bundled.entries("recipes")]
    print("\nRecipes, each for --recipe=NAME behind a --flagfile:\n" + table(recipes))
    released = [
        (f"models/{place.name}", line)
        for place in bundled.entries("models")
        if (place / runs.RESULT_FILE).is_file()
        for line in summaries(place)
    ]
    print("\nReleased weights, each for --init=NAME or maml_tf.load(NAME):\n" + table(released))
    return 0


def _purpose(recipe: Path) -> str:
    """The first sentence of a recipe's comment."""
    comments = (line for line in recipe.read_text("utf-8").splitlines() if line.startswith("#"))
    return " ".join(line.lstrip("# ") for line in comments).partition(" (")[0]


def summaries(release: Path) -> Iterator[str]:
    """What was measured with a release on test tasks, a line each."""
    for result in files.read(release / runs.RESULT_FILE):
        if isinstance(result, Curve) and result.split == "test":
            yield f"{result.experiment}, {result.label}: {wording.sentence(result)}"


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Text in columns."""
    if not rows:
        return "  (none)"
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(f"  {line.rstrip()}" for line in lines)
