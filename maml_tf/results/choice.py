"""Which results a line of a figure or a row of a table is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from maml_tf.results.records import Curve, Paths, Result, Samples
from maml_tf.types import Estimate

R = TypeVar("R", bound=Result)


@dataclass(frozen=True)
class Wanted(Generic[R]):
    """Which results would do for one line of a figure, or one row of a table; None: any."""

    kind: type[R]
    method: str
    problem: str
    shots: int | None = None  # None: that of the most episodes, for policies
    train_shots: int | None = None
    step: int = 0  # the last gradient step that is looked at
    ways: int | None = None
    conv: bool | None = None
    inputs: str = "all"
    batch_statistics: str = "transductive"

    def fits(self, result: Result) -> bool:
        """Whether `result` is one: of the test split, by the paper's protocol.

        None is of an ensemble, or of fewer classes than the head has outputs.
        """
        if any(getattr(self, n) != getattr(result, n) for n in ("method", "problem", "inputs")):
            return False
        if result.split != "test" or self.step not in result.steps:
            return False
        if result.dynamics != "paper" or result.horizon is not None:
            return False
        if not isinstance(result, self.kind):
            return False
        given = ["shots", "train_shots", *(("ways", "conv") if isinstance(result, Curve) else ())]
        wanted = {name: getattr(self, name) for name in given}
        if any(v is not None and v != getattr(result, name) for name, v in wanted.items()):
            return False
        if not isinstance(result, Curve):
            return True
        if result.ensemble or result.fewer_ways:
            return False
        if result.ways and self.train_shots != result.train_shots:
            return False  # of classification, None is a training on all classes at once
        return result.batch_statistics == self.batch_statistics


def choose(
    results: Iterable[Result],
    wanted: Wanted[R],
    as_published: Callable[[Result], bool] = lambda result: True,
) -> list[R]:
    """Picks the results that `wanted` is to be made of: the longest trained, one per seed.

    Args:
      results: all there are.
      wanted: what is looked for.
      as_published: whether a result's training is the paper's; others give way to those.

    Returns:
      Results of the wanted kind, by ascending seed; none if none fits.

    Raises:
      ValueError: two files fit equally well.
    """
    fit = [r for r in results if isinstance(r, wanted.kind) and wanted.fits(r)]
    fit = [r for r in fit if as_published(r)] or fit
    fit = [r for r in fit if r.iteration == max(f.iteration for f in fit)]
    fit = [r for r in fit if r.shots == max(f.shots for f in fit)]
    fit = [r for r in fit if r.as_trained] or fit
    by_seed: dict[int, R] = {}
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


def _equal(one: Result, other: Result) -> bool:
    """Whether two files say the same, as a release and the run that it was made from do."""
    if isinstance(one, Curve) and isinstance(other, Curve):
        return np.array_equal(one.estimate.mean, other.estimate.mean, equal_nan=True)
    if isinstance(one, Samples) and isinstance(other, Samples):
        return _same(
            [task.predictions for task in one.tasks], [task.predictions for task in other.tasks]
        )
    if isinstance(one, Paths) and isinstance(other, Paths):
        return _same(_walked(one), _walked(other))
    return False


def _walked(paths: Paths) -> list[np.ndarray]:
    return [path for task in paths.tasks for episodes in task.paths for path in episodes]


def _same(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> bool:
    if len(one) != len(other):
        return False
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True))
