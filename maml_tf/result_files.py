"""Result files: what an evaluation leaves, read back.

A run keeps them in `<run>/results/*.json`; a release holds its own in one `result.json`. There are
three kinds: "curve", a metric after every gradient step; "samples", a few regression tasks with the
predictions before and after adaptation; and "paths", where a point went on a plane.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from maml_tf.types import Estimate

VERSION = 1
RELEASE = "release"
"""Kind of the file that holds all results of a release."""

_OF_THIS_MACHINE = ("--logdir=", "--data_dir=", "--init=", "--to=")
_SET_ASIDE = re.compile(r"\.old\d+$")


@dataclass(frozen=True, kw_only=True)
class Result:
    """What every result file says."""

    path: Path
    datasource: str
    experiment: str  # data and task, e.g. "sinusoid_10shot"
    method: str  # a key of `paper.METHODS`
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

    Raises:
      FileNotFoundError: there is none under one of them.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        below = sorted([*path.rglob("results/*.json"), *path.rglob("result.json")])
        below = [p for p in below if not any(map(_SET_ASIDE.search, p.relative_to(path).parts))]
        if not below:
            raise FileNotFoundError(
                f"No result files under {path}; run `maml-tf evaluate --test_set` first."
            )
        for file in below:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def read(path: Path) -> list[Result]:
    """Reads one result file; a release's holds several results.

    Raises:
      ValueError: it is not one, or of another version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            raise ValueError(f"version {content['version']}, not {VERSION}")
        parts = content["results"] if content["kind"] == RELEASE else [content]
        return [_parse(path, part) for part in parts]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        fault = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{path} is not a result file of this version ({fault}); "
            "make it again with `maml-tf evaluate`."
        ) from error


def release(paths: Iterable[Path], iteration: int) -> dict[str, Any]:
    """Puts the curves of one iteration's weights together, without this machine's directories.

    Raises:
      FileNotFoundError: none of the files holds one.
      ValueError: a file is not a result file of this version.
    """
    paths = sorted(paths)
    read_back = [result for path in paths for result in read(path)]
    chosen = {r.path for r in read_back if isinstance(r, Curve) and r.iteration == iteration}
    if not chosen:
        raise FileNotFoundError(
            f"No result of iteration {iteration}, whose weights these are; run "
            "`maml-tf evaluate --test_set` first, or choose an evaluated one by --test_iter."
        )
    results = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path in chosen]
    for result in results:
        result["flags"] = [f for f in result["flags"] if not f.startswith(_OF_THIS_MACHINE)]
    return {"version": VERSION, "kind": RELEASE, "iteration": iteration, "results": results}


_R = TypeVar("_R", bound=Result)


def _parse(path: Path, content: dict[str, Any]) -> Result:
    if content["version"] != VERSION:
        raise ValueError(f"version {content['version']}, not {VERSION}")
    kind = content["kind"]
    if kind == "curve":
        mean, std, ci95 = (np.asarray(content[key], float) for key in ("mean", "std", "ci95"))
        if not mean.shape == std.shape == ci95.shape == (len(content["steps"]),):
            raise ValueError("mean, std, ci95 and steps differ in length")
        estimate = Estimate(mean, std, ci95, int(content["num_tasks"]))
        return _fill(Curve, path, content, estimate=estimate)
    if kind == "samples":
        tasks = tuple(_sample_task(task, len(content["steps"])) for task in content["tasks"])
        return _fill(Samples, path, content, tasks=tasks)
    if kind == "paths":
        walks = tuple(_path_task(task, len(content["steps"])) for task in content["tasks"])
        return _fill(Paths, path, content, tasks=walks)
    raise ValueError(f"kind '{kind}' is none of curve, samples, paths, {RELEASE}")


def _fill(kind: type[_R], path: Path, content: dict[str, Any], **parsed: Any) -> _R:
    values = {
        field.name: content[field.name]
        for field in dataclasses.fields(kind)
        if field.name not in ("path", *parsed)
    }
    values["steps"], values["flags"] = tuple(values["steps"]), tuple(values["flags"])
    return kind(path=path, **values, **parsed)


def _sample_task(task: dict[str, Any], num_steps: int) -> SampleTask:
    arrays = ("support_x", "support_y", "x", "y", "predictions")
    sample = SampleTask(
        float(task["amplitude"]),
        float(task["phase"]),
        *(np.asarray(task[name], float) for name in arrays),
    )
    if sample.predictions.shape != (num_steps, len(sample.x)) or sample.y.shape != sample.x.shape:
        raise ValueError("a task's predictions do not fit its steps and grid")
    return sample


def _path_task(task: dict[str, Any], num_steps: int) -> PathTask:
    goal = np.asarray(task["goal"], float)
    paths = tuple(tuple(np.asarray(p, float) for p in episodes) for episodes in task["paths"])
    every = [path for episodes in paths for path in episodes]
    if len(paths) != num_steps or any(p.ndim != 2 or p.shape[1] != 2 for p in [goal[None], *every]):
        raise ValueError("a task's paths are not points of a plane, episodes for every step")
    return PathTask(goal, paths)
