"""`maml-tf runs`: the runs below some directories, side by side; their results as CSV."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from maml_tf.cli import listing, runs, start
from maml_tf.experiments.identity import identity, is_overlooked
from maml_tf.experiments.records import SettingValue
from maml_tf.results import files, wording
from maml_tf.results.records import Curve
from maml_tf.results.rows import rows, to_csv
from maml_tf.system.files import write_atomically

_LOG = logging.getLogger(__name__)


class _Row(NamedTuple):
    place: Path
    identity: dict[str, SettingValue]
    iteration: str
    best: str
    measured: str
    size: str


def run(given: Mapping[str, SettingValue], words: list[str]) -> int:
    """Prints a table; with --to=FILE.csv also writes every result that there is.

    Raises:
      FileNotFoundError: there are no runs.
      ValueError: a flag is given that is not its own.
    """
    others = set(given) - {"to", "logdir"}
    if others:
        raise ValueError(f"runs takes directories and --to=FILE.csv; drop --{sorted(others)[0]}.")
    paths = [Path(word) for word in words or [str(given.get("logdir", "logs"))]]
    target = given.get("to")
    if target and not str(target).endswith(".csv"):
        raise ValueError(f"--to={target} must end in .csv; results are written as such.")
    places = _find(paths)
    start.tensorflow()
    found = [row for place in places if (row := _row(place))]
    print(_table(found), flush=True)
    if target:
        table = rows(*paths)
        write_atomically(Path(str(target)), to_csv(table))
        _LOG.info("Wrote %d rows to %s", len(table), target)
    return 0


def _find(paths: list[Path]) -> list[Path]:
    """Every run at or below the paths, in order of their names."""
    found = []
    for path in paths:
        own = sorted(file.parent for file in path.rglob(runs.FLAGS_FILE) if file.is_file())
        own = [p for p in own if not any(map(is_overlooked, p.relative_to(path).parts))]
        own = [place for place in own if not runs.is_release(place)]
        if not own:
            raise FileNotFoundError(f"No runs in {path}: no {runs.FLAGS_FILE} there or below.")
        found += own
    return list(dict.fromkeys(found))


def _row(place: Path) -> _Row | None:
    """What is known of a run; nothing but a warning of one whose flags are damaged."""
    from maml_tf.training.checkpoints import best_score, saved_iterations

    try:
        settings = runs.read_flags(place)
    except ValueError as error:
        _LOG.warning("Left out: %s", error)
        return None
    saved = saved_iterations(place / "checkpoints")
    best = best_score(place / "checkpoints")
    size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    return _Row(
        place,
        identity(settings),
        f"{saved[-1] if saved else 0} of {settings.run.iterations}",
        "" if best is None else f"{best:.4g}",
        _measured(place),
        f"{size / 1e6:.1f} MB",
    )


def _measured(place: Path) -> str:
    """The newest test result, else the newest of validation tasks; no ensemble's."""
    curves = []
    for path in (place / files.FOLDER).glob("*.json"):
        with contextlib.suppress(OSError, ValueError):
            curves += [r for r in files.read(path) if isinstance(r, Curve) and not r.ensemble]
    curves.sort(key=lambda curve: (curve.split == "test", curve.iteration))
    return f"{wording.sentence(curves[-1])}, {_which(curves[-1])}" if curves else ""


def _which(curve: Curve) -> str:
    """The split of a result, and its K and N where they are not the training's."""
    parts = [curve.split]
    parts += [curve.amount] if curve.shots != curve.train_shots else []
    return ", ".join([*parts, f"{curve.ways}-way"] if curve.fewer_ways else parts)


def _table(found: list[_Row]) -> str:
    """The runs, and of their settings those in which they differ."""
    names = dict.fromkeys(name for row in found for name in row.identity)
    differ = [n for n in names if len({repr(row.identity.get(n, "")) for row in found}) > 1]
    heading = ("run", *differ, "iteration", "validation", "result", "size")
    lines = [
        (
            str(row.place),
            *(str(row.identity.get(name, "")) for name in differ),
            *(row.iteration, row.best, row.measured, row.size),
        )
        for row in found
    ]
    return listing.table([heading, *lines])
