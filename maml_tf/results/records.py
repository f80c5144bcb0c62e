"""What an evaluation leaves: curves, samples and paths."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from maml_tf import ranges
from maml_tf.experiments import problems
from maml_tf.experiments.methods import METHODS
from maml_tf.results.schema import Json, Matrix, Stored, Vector, not_stored, shown, stored
from maml_tf.types import Estimate

VERSION = 1
"""Of the files' form; others are refused."""

_NOT_NEGATIVE = ranges.Range(0, 1e30)
_NOT_OF_A_PLANE = "a task's paths are not points of a plane, episodes for every step"
_NOT_ALIKE = "a task's predictions do not fit its steps and grid"


def method_title(method: str) -> str:
    """A method's name in figures and tables."""
    return METHODS[method].title


def problem_title(problem: str) -> str:
    """A problem's name in figures and tables."""
    return problems.known()[problem].title


@dataclass(frozen=True, kw_only=True)
class Result(Stored):
    """What every result says, whatever was measured.

    Fields with a default are those that files of earlier versions do not have.
    """

    kind: ClassVar[str] = ""

    path: Path = not_stored(Path())
    """The file that it was read from."""

    problem: str = stored(key="datasource")
    experiment: str  # data and task, such as "sinusoid_10shot"
    method: str = stored(choices=tuple(METHODS))
    split: str = stored(choices=("train", "val", "test"))
    seed: int = stored(within=ranges.SEED)
    shots: int = stored(within=ranges.COUNT)  # K of the evaluation; trajectories of a policy
    train_shots: int | ranges.Span | None = stored(within=ranges.COUNT)
    """Of the training; a range, of which each task drew its own; None: all classes at once."""
    inputs: str = stored(choices=("all", "half"))  # half: support points of half the input range
    step_size: float | None = stored(within=ranges.POSITIVE)  # in force; None: learned, or no step
    asked_step_size: float | None = stored(within=ranges.POSITIVE, default=None)  # before tuning
    train_step_size: float | None = stored(within=ranges.POSITIVE, default=None)
    loss_reduction: str = stored(choices=("sum", "mean"), default="sum")  # of the training
    head_stddev: float | None = stored(within=_NOT_NEGATIVE, default=None)  # None: original's
    dynamics: str = stored(choices=("paper", "gymnasium"), default="paper")  # of robots
    horizon: int | None = stored(within=ranges.COUNT, default=None)  # None: the environment's own
    iteration: int = stored(within=ranges.ITERATIONS)  # of the weights
    best_weights: bool = stored(default=False)  # whether those that validated best were asked for
    asked_iteration: int | None = stored(within=ranges.ITERATIONS, default=None)
    steps: tuple[int, ...] = stored(within=ranges.STEPS)  # gradient steps it was measured after
    flags: tuple[str, ...]  # of the evaluation, for the reader

    def __post_init__(self):
        """Refuses what no evaluation leaves."""
        if "$" in self.experiment:  # It is a figure's title, where $ begins a formula.
            raise ValueError(f"experiment is {shown(self.experiment)}, which holds a $")
        if not re.fullmatch(r"\w+", self.problem):
            raise ValueError(f"datasource is {shown(self.problem)}, not one word")
        if not self.steps or list(self.steps) != sorted(set(self.steps)):
            raise ValueError("steps do not ascend")

    def to_json(self) -> dict[str, Json]:
        """Returns what a file is to hold, by key."""
        return {"version": VERSION, "kind": self.kind, **super().to_json()}

    @property
    def as_trained(self) -> bool:
        """Whether nobody asked for another alpha than the training's; it may be tuned."""
        return self.train_step_size in (None, self.asked_step_size)

    @property
    def method_title(self) -> str:
        """The method's name in figures and tables."""
        return method_title(self.method)

    @property
    def step_size_text(self) -> str:
        """Names alpha, for a label."""
        return "α meta-learned" if self.step_size is None else f"α = {self.step_size:g}"


@dataclass(frozen=True)
class Tuning(Stored):
    """How alpha was chosen."""

    step_sizes: Vector  # all that were tried, [n]
    scores: Vector  # the metric after the last step with each, [n]


@dataclass(frozen=True, kw_only=True)
class Curve(Result):
    """A metric after 0, 1, ... S gradient steps."""

    kind: ClassVar[str] = "curve"

    metric: str
    num_tasks: int = stored(within=ranges.COUNT)
    ways: int | None = stored(within=ranges.COUNT)
    outputs: int | None = stored(within=ranges.COUNT, default=None)
    """Of the head; None: as many as ways. Those beyond the ways adapt, and are not predicted."""
    queries: int | None = stored(within=ranges.COUNT, default=None)  # of a class
    conv: bool
    batch_statistics: str = stored(choices=("transductive", "inductive", "running"))
    ensemble: int | None = stored(within=ranges.MEMBERS, default=None)
    """Checkpoints whose predictions were averaged, of which `iteration` is the best; None: one."""
    tuning: Tuning | None = stored(default=None)
    mean: Vector  # [S + 1]
    ci95: Vector  # [S + 1], half the width of the interval
    std: Vector  # [S + 1], over tasks
    seconds: float | None = stored(within=_NOT_NEGATIVE, default=None)  # tuning included
    environment_steps: int | None = stored(within=ranges.ITERATIONS, default=None)
    """Of the training, in all; None: not counted."""

    def __post_init__(self):
        """Refuses what no evaluation leaves."""
        super().__post_init__()
        if not re.fullmatch(r"\w+", self.metric):  # It names files.
            raise ValueError(f"metric is {shown(self.metric)}, not one word")
        if not len(self.steps) == len(self.mean) == len(self.std) == len(self.ci95):
            raise ValueError("mean, std, ci95 and steps differ in length")

    @property
    def estimate(self) -> Estimate:
        """What was measured after each step, `[S + 1]`."""
        return Estimate(self.mean, self.std, self.ci95, self.num_tasks)

    @property
    def fewer_ways(self) -> bool:
        """Whether its tasks have fewer classes than the head has outputs."""
        return self.outputs not in (None, self.ways)

    @property
    def tuned(self) -> bool:
        """Whether alpha was chosen on validation tasks."""
        return self.tuning is not None

    @property
    def amount(self) -> str:
        """Names K, or how many episodes a step learns from."""
        return f"{self.shots} trajectories" if self.metric == "return" else f"{self.shots}-shot"

    @property
    def label(self) -> str:
        """What tells it from the other results of its run."""
        parts = [self.split, self.amount]
        parts += [f"{self.ways}-way"] if self.fewer_ways else []
        if self.inputs == "half":
            parts.append("half range")
        if self.batch_statistics != "transductive":
            parts.append(self.batch_statistics)
        if self.ensemble:
            parts.append(f"ensemble of {self.ensemble}")
        elif self.asked_iteration is not None:
            parts.append(f"iteration {self.iteration}")
        elif self.best_weights:
            parts.append("best weights")
        if self.seed:
            parts.append(f"seed {self.seed}")
        return ", ".join([*parts, self.step_size_text] if self.step_size else parts)


@dataclass(frozen=True)
class SampleTask(Stored):
    """One sine wave, and what the network made of it."""

    amplitude: float
    phase: float  # radians
    support_x: Vector  # [K]
    support_y: Vector  # [K]
    x: Vector  # [G], a grid
    y: Vector  # [G], the true curve
    predictions: Matrix  # [len(steps), G]

    def __post_init__(self):
        """Refuses lengths that do not fit."""
        fits = self.predictions.shape[1:] == self.y.shape == self.x.shape
        if not fits or self.support_x.shape != self.support_y.shape:
            raise ValueError(_NOT_ALIKE)


@dataclass(frozen=True, kw_only=True)
class Samples(Result):
    """Regression tasks to look at."""

    kind: ClassVar[str] = "samples"

    tasks: tuple[SampleTask, ...]

    def __post_init__(self):
        """Refuses what no evaluation leaves."""
        super().__post_init__()
        if any(len(task.predictions) != len(self.steps) for task in self.tasks):
            raise ValueError(_NOT_ALIKE)


@dataclass(frozen=True)
class PathTask(Stored):
    """One goal on the plane, and the paths that were taken, from the origin."""

    goal: Vector  # [2]
    paths: tuple[tuple[Matrix, ...], ...]  # after each step, of each episode: [points, 2]

    def __post_init__(self):
        """Refuses what is not on a plane."""
        points = [path for episodes in self.paths for path in episodes]
        if any(p.ndim != 2 or p.shape[1] != 2 for p in [self.goal[None], *points]):
            raise ValueError(_NOT_OF_A_PLANE)


@dataclass(frozen=True, kw_only=True)
class Paths(Result):
    """Tasks of 2D navigation to look at."""

    kind: ClassVar[str] = "paths"

    tasks: tuple[PathTask, ...]

    def __post_init__(self):
        """Refuses what no evaluation leaves."""
        super().__post_init__()
        if any(len(task.paths) != len(self.steps) for task in self.tasks):
            raise ValueError(_NOT_OF_A_PLANE)


KINDS: dict[str, type[Result]] = {kind.kind: kind for kind in (Curve, Samples, Paths)}
"""The kinds of results, by the name that files have for them."""
