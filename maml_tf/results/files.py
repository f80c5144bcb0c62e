"""Result files: what an evaluation leaves, read back.

A run keeps them in `<run>/results/*.json`; a release holds its own in one `result.json`. There are
three kinds: "curve", a metric after every gradient step; "samples", a few regression tasks with the
predictions before and after adaptation; and "paths", where a point went on a plane.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from maml_tf.experiments.identity import from_flags, is_overlooked
from maml_tf.results import names as result_names
from maml_tf.results import schema as result_schema
from maml_tf.types import Estimate

VERSION = 1
RELEASE = "release"
"""Kind of the file that holds all results of a release."""

_OF_THIS_MACHINE = ("--logdir=", "--data_dir=", "--init=", "--to=")
_OWN = re.compile(r"(?:[\w+-]|\.\d)+\.json")
_ASKED = {n: n for n in ("datasource", "method", "seed", "inputs", "batch_statistics")}
_ASKED |= {"update_batch_size": "shots"}
"""Flags that name a result, and its fields that say the same."""

_NO_PATHS = "a task's paths are not points of a plane, episodes for every step"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What every result file says."""

    path: Path
    datasource: str
    experiment: str  # data and task, e.g. "sinusoid_10shot"
    method: str  # one of `config.METHODS`
    split: str
    seed: int
    shots: int  # K of the evaluation
    train_shots: int | None  # K of the training; None: on all classes at once
    inputs: str  # "all", or "half": support points from one half of the input range
    step_size: float | None  # alpha in force; None: meta-learned, or no gradient step
    steps: tuple[int, ...]  # gradient steps that it was measured after
    iteration: int
    flags: tuple[str, ...]

    @property
    def as_trained(self) -> bool:
        """Whether nobody asked for another alpha than the training's; it may be tuned."""
        given = self.settings
        trained = float(given.get("train_update_lr", -1))
        return trained in (-1, float(given.get("update_lr", trained)))

    @property
    def as_published(self) -> bool:
        """Whether it was trained with the paper's loss and from its initial head."""
        given = self.settings
        head = float(given.get("head_stddev", -1))
        return given.get("loss_reduction", "sum") == "sum" and head == -1

    @property
    def settings(self) -> dict[str, str]:
        """The evaluation's flags, by name."""
        return dict(flag.removeprefix("--").partition("=")[::2] for flag in self.flags)


@dataclass(frozen=True, kw_only=True)
class Curve(Result):
    """A metric after 0, 1, ... S gradient steps."""

    metric: str
    ways: int | None
    conv: bool
    batch_statistics: str
    estimate: Estimate

    @property
    def label(self) -> str:
        """What tells it from the other results of its run."""
        parts = [self.split, amount(self.metric, self.shots)]
        if self.inputs == "half":
            parts.append("half range")
        if self.batch_statistics != "transductive":
            parts.append(self.batch_statistics)
        if self.settings.get("test_iter", "-1") != "-1":
            parts.append(f"iteration {self.iteration}")
        elif self.settings.get("use_best") == "True":
            parts.append("best weights")
        if self.seed:
            parts.append(f"seed {self.seed}")
        return ", ".join([*parts, step_size_text(self)] if self.step_size else parts)


@dataclass(frozen=True)
class SampleTask:
    """One sine wave, and what the network made of it."""

    amplitude: float
    phase: float  # radians
    support_x: np.ndarray  # [K]
    support_y: np.ndarray  # [K]
    x: np.ndarray  # [G], a grid
    y: np.ndarray  # [G], the true curve
    predictions: np.ndarray  # [len(steps), G]


@dataclass(frozen=True, kw_only=True)
class Samples(Result):
    """Tasks to look at."""

    tasks: tuple[SampleTask, ...]


@dataclass(frozen=True)
class PathTask:
    """One goal on the plane, and the ways that were taken, from the origin."""

    goal: np.ndarray  # [2]
    paths: tuple[tuple[np.ndarray, ...], ...]  # a step: an episode: [points, 2]


@dataclass(frozen=True, kw_only=True)
class Paths(Result):
    """Tasks of 2D navigation to look at."""

    tasks: tuple[PathTask, ...]


def step_size_text(result: Result) -> str:
    """Names alpha, for a label."""
    return "α meta-learned" if result.step_size is None else f"α = {result.step_size:g}"


def amount(metric: str, shots: int) -> str:
    """Names K, or how many episodes a step learns from."""
    return f"{shots} trajectories" if metric == "return" else f"{shots}-shot"


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
        own, leftovers = _below(path)
        if not own:
            raise FileNotFoundError(
                f"No result files under {path}; run `maml-tf evaluate --test_set` first."
            )
        for file in own:
            found.setdefault(Path(os.path.realpath(file)), file)
        ignored |= dict.fromkeys(leftovers)
    if ignored:
        more = f" and {len(ignored) - 1} more such files" if len(ignored) > 1 else ""
        _LOG.warning("Ignored %s%s: no result file has such a name.", next(iter(ignored)), more)
    return _without_rivals(found.values())


def is_own(path: Path) -> bool:
    """Whether a file has a name that an evaluation or a release would give it."""
    return bool(_OWN.fullmatch(path.name))


def _below(path: Path) -> tuple[list[Path], list[Path]]:
    """Result files below a directory, and what only looks like some."""
    there = [p for p in path.rglob("*.[jJ]*") if not _is_aside(p.relative_to(path))]
    named = sorted(p for p in there if ".json" in p.name.lower())
    releases = {p.parent for p in named if p.name == "result.json"}
    own = [p for p in named if p.name == "result.json" or _is_of_a_run(p) and is_own(p)]
    left = [p for p in named if _is_of_a_run(p) or p.parent in releases and "result" in p.name]
    return own, [p for p in left if p not in own]


def _is_of_a_run(path: Path) -> bool:
    return path.parent.name == "results"


def _is_aside(path: Path) -> bool:
    """Whether it belongs to a run that was set aside, or to a hidden folder."""
    return any(map(is_overlooked, path.parts[:-1]))


def read(path: Path) -> list[Result]:
    """Reads one result file; a release's holds several results.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not one, or of another version; names what is wrong in it.
    """
    return [result for _, result in _read(path)]


def _read(path: Path) -> list[tuple[dict[str, Any], Result]]:
    """What a file says, each with what it means."""
    try:
        content = result_schema.load(path)
        _check_version(content)
        parts = [content]
        if content["kind"] == RELEASE:
            result_schema.value("iteration", content["iteration"], int)
            parts = result_schema.objects("results", content["results"])
        return [(part, _parse(path, part)) for part in parts]
    except (KeyError, ValueError) as error:
        fault = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{path} is not a result file of this version ({fault}); "
            "make it again with `maml-tf evaluate`."
        ) from error


def _without_rivals(paths: Iterable[Path]) -> list[Path]:
    """Leaves out what synchronisation made of another machine's result of the same settings.

    An evaluation's settings name its file; a second file of a run with the same is not the run's.
    """
    rivals: dict[tuple[Any, ...], list[Path]] = {}
    for path in paths:
        rivals.setdefault(_setting(path), []).append(path)
    kept = []
    for (_, name, *_), group in rivals.items():
        own = next((path for path in group if path.name == name), group[0])
        kept.append(own)
        for other in group:
            if other == own:
                continue
            if own.name != name and result_schema.load(own) != result_schema.load(other):
                raise ValueError(
                    f"{own} and {other} have the same settings, and neither has their name"
                    f"{', ' if name else ''}{name}; remove the one that is not the run's."
                )
            _LOG.warning("Ignored %s: %s has the same settings.", other, own.name)
    return kept


def _setting(path: Path) -> tuple[Any, ...]:
    """What no two files of a run share: folder, name by what was asked for, and the rest of that.

    The name is empty if the flags are those of another version.
    """
    alone = (path.parent, path.name, path)
    if path.name == "result.json":
        return alone
    try:
        (result,) = read(path)
    except (OSError, ValueError):  # Who reads it says what is wrong with it.
        return alone
    asked = [getattr(result, name, None) for name in ("method", "train_shots", "ways", "conv")]
    try:
        name = _implied_name(result)
    except ValueError:
        name = ""
        asked += [getattr(result, n, None) for n in _ASKED.values()]
        asked += [flag for flag in result.flags if _travels(flag)]
    return path.parent, name, type(result), *asked


def _implied_name(result: Result) -> str:
    """The name that an evaluation would give a file of what this says."""
    said = [f"--{flag}={getattr(result, n)}" for flag, n in _ASKED.items() if hasattr(result, n)]
    said += [f"--test_set={result.split == 'test'}"]
    config = from_flags("\n".join([*result.flags, *said]))
    if isinstance(result, Curve):
        return result_names.curve_name(config)
    samples = isinstance(result, Samples)
    return (result_names.samples_name if samples else result_names.paths_name)(config)


def release(paths: Iterable[Path], iteration: int) -> dict[str, Any]:
    """Puts the curves of one iteration's weights together, without this machine's directories.

    Raises:
      FileNotFoundError: none of the files holds one.
      ValueError: a file is not a result file of this version, or two have the same settings and
        neither its own name.
    """
    own = _without_rivals(sorted(filter(is_own, paths)))
    said = [pair for path in own for pair in _read(path)]
    chosen = {r.path for _, r in said if isinstance(r, Curve) and r.iteration == iteration}
    if not chosen:
        raise FileNotFoundError(
            f"No result of iteration {iteration}, whose weights these are; run "
            "`maml-tf evaluate --test_set` first, or choose an evaluated one by --test_iter."
        )
    results = [
        {
            **result_schema.writable(content),
            "flags": [flag for flag in result.flags if _travels(flag)],
        }
        for content, result in said
        if result.path in chosen
    ]
    return {"version": VERSION, "kind": RELEASE, "iteration": iteration, "results": results}


def _travels(flag: str) -> bool:
    """Whether a flag is one, and means something on another machine."""
    return flag.startswith("--") and not flag.startswith(_OF_THIS_MACHINE)


_R = TypeVar("_R", bound=Result)


def _check_version(content: dict[str, Any]) -> None:
    version = result_schema.value("version", content["version"], int)
    if version != VERSION:
        raise ValueError(f"version {result_schema.shown(version)}, not {VERSION}")


def _parse(path: Path, content: dict[str, Any]) -> Result:
    _check_version(content)
    kind = result_schema.value("kind", content["kind"], str)
    if kind == "curve":
        curve = _fill(Curve, path, content, estimate=_estimate(content))
        if len(curve.steps) != len(curve.estimate.mean):
            raise ValueError("mean, std, ci95 and steps differ in length")
        return curve
    if kind == "samples":
        tasks = result_schema.objects("tasks", content["tasks"])
        samples = _fill(Samples, path, content, tasks=tuple(map(_sample_task, tasks)))
        if any(len(task.predictions) != len(samples.steps) for task in samples.tasks):
            raise ValueError("a task's predictions do not fit its steps and grid")
        return samples
    if kind == "paths":
        tasks = result_schema.objects("tasks", content["tasks"])
        walks = _fill(Paths, path, content, tasks=tuple(map(_path_task, tasks)))
        if any(len(task.paths) != len(walks.steps) for task in walks.tasks):
            raise ValueError(_NO_PATHS)
        return walks
    raise ValueError(f"kind {kind[:40]!r} is none of curve, samples, paths, {RELEASE}")


def _fill(kind: type[_R], path: Path, content: dict[str, Any], **parsed: Any) -> _R:
    values = result_schema.values(kind, content, without=("path", *parsed))
    if not values["steps"] or list(values["steps"]) != sorted(set(values["steps"])):
        raise ValueError("steps do not ascend")
    return kind(path=path, **values, **parsed)


def _estimate(content: dict[str, Any]) -> Estimate:
    mean, std, ci95 = (
        result_schema.numbers(key, content[key], 1) for key in ("mean", "std", "ci95")
    )
    if not mean.shape == std.shape == ci95.shape:
        raise ValueError("mean, std, ci95 and steps differ in length")
    num_tasks = result_schema.value("num_tasks", content["num_tasks"], int)
    return Estimate(mean, std, ci95, num_tasks)


def _sample_task(task: dict[str, Any]) -> SampleTask:
    axes = {"support_x": 1, "support_y": 1, "x": 1, "y": 1, "predictions": 2}
    sample = SampleTask(
        float(result_schema.numbers("amplitude", task["amplitude"], 0)),
        float(result_schema.numbers("phase", task["phase"], 0)),
        **{name: result_schema.numbers(name, task[name], axes[name]) for name in axes},
    )
    fits = sample.predictions.shape[1:] == sample.y.shape == sample.x.shape
    if not fits or sample.support_x.shape != sample.support_y.shape:
        raise ValueError("a task's predictions do not fit its steps and grid")
    return sample


def _path_task(task: dict[str, Any]) -> PathTask:
    goal, every = result_schema.numbers("goal", task["goal"], 1), task["paths"]
    if not (isinstance(every, list) and all(isinstance(episodes, list) for episodes in every)):
        raise ValueError(_NO_PATHS)
    paths = tuple(
        tuple(result_schema.numbers("paths", path, 2) for path in episodes) for episodes in every
    )
    points = [path for episodes in paths for path in episodes]
    if any(p.ndim != 2 or p.shape[1] != 2 for p in [goal[None], *points]):
        raise ValueError(_NO_PATHS)
    return PathTask(goal, paths)
