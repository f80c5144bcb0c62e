"""Result files: what an evaluation leaves, read back, and chosen for a figure or a table.

A run keeps them in `<run>/results/*.json`; a release holds its own in one `result.json`. There are
two kinds: "curve", a metric after every gradient step, and "samples", a few regression tasks with
the predictions before and after adaptation.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Sequence
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
        given = dict(flag.removeprefix("--").partition("=")[::2] for flag in self.flags)
        trained = float(given.get("train_update_lr", -1))
        return trained in (-1, float(given.get("update_lr", trained)))


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
        parts = [self.split, f"{self.shots}-shot"]
        if self.inputs == "half":
            parts.append("half range")
        if self.batch_statistics != "transductive":
            parts.append(self.batch_statistics)
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
class Wanted:
    """Which results would do for one line of a figure, or one row of a table; None: any."""

    method: str
    datasource: str
    shots: int
    train_shots: int | None
    step: int = 0  # the last gradient step that is looked at
    ways: int | None = None
    conv: bool | None = None
    inputs: str = "all"
    samples: bool = False

    def fits(self, result: Result) -> bool:
        """Whether `result` is one: of the test split, by the paper's protocol."""
        same = ("method", "datasource", "shots", "train_shots", "inputs")
        if any(getattr(self, name) != getattr(result, name) for name in same):
            return False
        if result.split != "test" or self.step not in result.steps:
            return False
        if not isinstance(result, Curve):
            return self.samples
        return (
            not self.samples
            and result.batch_statistics == "transductive"
            and (self.ways is None or self.ways == result.ways)
            and (self.conv is None or self.conv == result.conv)
        )


def step_size_text(result: Result) -> str:
    """Names alpha, for a label."""
    return "α meta-learned" if result.step_size is None else f"α = {result.step_size:g}"


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


def choose(results: Iterable[Result], wanted: Wanted) -> list[Any]:
    """Picks the results that `wanted` is to be made of: the longest trained, one a seed.

    Those of the mean cross-entropy give way to those of the published sum.

    Returns:
      `Curve`s, or `Samples` if those are wanted, by ascending seed; none if none fits.

    Raises:
      ValueError: two files fit equally well.
    """
    fit = [result for result in results if wanted.fits(result)]
    fit = [r for r in fit if "--loss_reduction=mean" not in r.flags] or fit
    fit = [r for r in fit if r.iteration == max(f.iteration for f in fit)]
    fit = [r for r in fit if r.as_trained] or fit
    by_seed: dict[int, Result] = {}
    for result in fit:
        other = by_seed.setdefault(result.seed, result)
        if other is not result and not _equal(other, result):
            raise ValueError(
                f"{other.path} and {result.path} would fill the same place; "
                "name the runs to draw instead of their log directory, or move one away."
            )
    return [by_seed[seed] for seed in sorted(by_seed)]


def pool(curves: Sequence[Curve]) -> Estimate:
    """Takes the tasks of several seeds together, as one evaluation over all of them."""
    if len(curves) == 1:
        return curves[0].estimate
    length = min(len(curve.steps) for curve in curves)
    counts = np.array([curve.estimate.num_tasks for curve in curves], float)
    share = (counts / counts.sum())[:, None]
    means = np.stack([np.asarray(curve.estimate.mean)[:length] for curve in curves])
    stds = np.stack([np.asarray(curve.estimate.std)[:length] for curve in curves])
    mean = (share * means).sum(axis=0)
    std = np.sqrt((share * (stds**2 + (means - mean) ** 2)).sum(axis=0))
    return Estimate(mean, std, 1.96 * std / math.sqrt(counts.sum()), int(counts.sum()))


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
    raise ValueError(f"kind '{kind}' is none of curve, samples, {RELEASE}")


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


def _equal(one: Result, other: Result) -> bool:
    """Whether two files say the same, as a release and the run that it was made from do."""
    if isinstance(one, Curve) and isinstance(other, Curve):
        return np.array_equal(one.estimate.mean, other.estimate.mean)
    return False
