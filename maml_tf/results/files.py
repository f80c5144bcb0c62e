"""Result files, found and read back.

A run keeps them in `<run>/results/*.json`; a release holds its own in one `result.json`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path

from maml_tf.experiments.identity import is_overlooked
from maml_tf.results import earlier, schema
from maml_tf.results.names import file_name
from maml_tf.results.records import KINDS, VERSION, Curve, Result
from maml_tf.results.schema import Json
from maml_tf.system.files import write_atomically

FOLDER = "results"
"""Where a run keeps its result files."""

RELEASE = "release"
"""Kind of the file that holds all results of a release."""

RELEASE_FILE = "result.json"

_OF_THIS_MACHINE = ("--logdir=", "--data_dir=", "--init=", "--to=")
_OWN = re.compile(r"(?:[\w+-]|\.\d)+\.json")
_LOG = logging.getLogger(__name__)


# --- finding ---


def find(paths: Iterable[str | Path]) -> list[Path]:
    """Finds the result files under some directories; runs that were set aside do not count.

    What file managers and synchronisation leave beside them is ignored, and one warning says so.

    Raises:
      FileNotFoundError: there is none under one of them.
      ValueError: two files of a run have the same settings, and neither its own name.
    """
    found: dict[Path, Path] = {}
    ignored: dict[Path, None] = {}
    for path in map(Path, paths):
        own, leftovers = require(path)
        for file in own:
            found.setdefault(Path(os.path.realpath(file)), file)
        ignored |= dict.fromkeys(leftovers)
    if ignored:
        more = f" and {len(ignored) - 1} more such files" if len(ignored) > 1 else ""
        _LOG.warning("Ignored %s%s: no result file has such a name.", next(iter(ignored)), more)
    return _without_rivals(found.values())


def require(path: str | Path) -> tuple[list[Path], list[Path]]:
    """Lists the result files under a directory, and what only looks like some.

    Raises:
      FileNotFoundError: there is none.
    """
    own, leftovers = _below(Path(path))
    if not own:
        raise FileNotFoundError(
            f"No result files under {path}; run `maml-tf evaluate --split=test` first."
        )
    return own, leftovers


def is_own(path: Path) -> bool:
    """Whether a file has a name that an evaluation or a release would give it."""
    return bool(_OWN.fullmatch(path.name))


def _below(path: Path) -> tuple[list[Path], list[Path]]:
    """Result files below a directory, and what only looks like some."""
    there = [p for p in path.rglob("*.[jJ]*") if not _is_aside(p.relative_to(path))]
    named = sorted(p for p in there if ".json" in p.name.lower())
    releases = {p.parent for p in named if p.name == RELEASE_FILE}
    own = [p for p in named if p.name == RELEASE_FILE or _is_of_a_run(p) and is_own(p)]
    left = [p for p in named if _is_of_a_run(p) or p.parent in releases and "result" in p.name]
    return own, [p for p in left if p not in own]


def _is_of_a_run(path: Path) -> bool:
    return path.parent.name == FOLDER


def _is_aside(path: Path) -> bool:
    """Whether it belongs to a run that was set aside, or to a hidden folder."""
    return any(map(is_overlooked, path.parts[:-1]))


# --- reading and writing ---


def read(path: Path) -> list[Result]:
    """Reads one result file; a release's holds several results.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not one, or of another version; names what is wrong in it.
    """
    try:
        content = schema.load(path)
        _check_version(content)
        parts = [content]
        if content["kind"] == RELEASE:
            schema.value("iteration", content["iteration"], int)
            parts = schema.objects("results", content["results"])
        return [dataclasses.replace(_parse(part), path=path) for part in parts]
    except (KeyError, ValueError) as error:
        fault = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{path} is not a result file of this version ({fault}); "
            "make it again with `maml-tf evaluate`."
        ) from error


def write(result: Result, run: Path) -> Path:
    """Writes a result into a run's directory, in place of one of the same settings.

    Returns:
      The file.

    Raises:
      OSError: it cannot be written.
    """
    path = run / FOLDER / file_name(result)
    write_atomically(path, json.dumps(result.to_json(), indent=1, allow_nan=False) + "\n")
    return path


def _parse(content: dict[str, Json]) -> Result:
    _check_version(content)
    kind = schema.value("kind", content["kind"], str)
    if kind not in KINDS:
        raise ValueError(f"kind {kind[:40]!r} is none of {', '.join((*KINDS, RELEASE))}")
    return KINDS[kind].from_json(earlier.completed(content))


def _check_version(content: dict[str, Json]) -> None:
    version = schema.value("version", content["version"], int)
    if version != VERSION:
        raise ValueError(f"version {schema.shown(version)}, not {VERSION}")


# --- files of the same settings ---


def _without_rivals(paths: Iterable[Path]) -> list[Path]:
    """Leaves out what synchronisation made of another machine's result of the same settings.

    An evaluation's settings name its file; a second file of a run with the same is not the run's.
    """
    rivals: dict[tuple[object, ...], list[Path]] = {}
    for path in paths:
        rivals.setdefault(_setting(path), []).append(path)
    kept = []
    for (_, name, *_), group in rivals.items():
        own = next((path for path in group if path.name == name), group[0])
        kept.append(own)
        for other in group:
            if other == own:
                continue
            if own.name != name and schema.load(own) != schema.load(other):
                raise ValueError(
                    f"{own} and {other} have the same settings, and neither has their name, "
                    f"{name}; remove the one that is not the run's."
                )
            _LOG.warning("Ignored %s: %s has the same settings.", other, own.name)
    return kept


def _setting(path: Path) -> tuple[object, ...]:
    """What no two files of a run share: folder, name by what was asked for, and what else was."""
    alone = (path.parent, path.name, path)
    if path.name == RELEASE_FILE:
        return alone
    try:
        (result,) = read(path)
    except (OSError, ValueError):  # Who reads it says what is wrong with it.
        return alone
    named = ("problem", "method", "train_shots", "ways", "conv")
    asked = [getattr(result, name, None) for name in named]
    return path.parent, file_name(result), *asked


# --- releases ---


def release(paths: Iterable[Path], iteration: int) -> dict[str, Json]:
    """Puts the curves of one iteration's weights together, without this machine's directories.

    Those of ensembles are left out.

    Raises:
      FileNotFoundError: none of the files holds one.
      ValueError: a file is not a result file of this version, or two have the same settings and
        neither its own name.
    """
    own = _without_rivals(sorted(filter(is_own, paths)))
    found = [result for path in own for result in read(path)]
    curves = [r for r in found if isinstance(r, Curve) and not r.ensemble]
    chosen = [r for r in curves if r.iteration == iteration]
    if not chosen:
        raise FileNotFoundError(
            f"No result of iteration {iteration}, whose weights these are; run "
            "`maml-tf evaluate --split=test` first, or choose an evaluated one by --test_iteration."
        )
    travelling = [
        dataclasses.replace(result, flags=tuple(filter(_travels, result.flags))).to_json()
        for result in chosen
    ]
    return {"version": VERSION, "kind": RELEASE, "iteration": iteration, "results": [*travelling]}


def _travels(flag: str) -> bool:
    """Whether a flag is one, and means something on another machine."""
    return flag.startswith("--") and not flag.startswith(_OF_THIS_MACHINE)
