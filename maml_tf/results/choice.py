"""Which results a line of a figure or a row of a table is made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maml_tf.results.files import Curve, Paths, Result, Samples
from maml_tf.types import Estimate


@dataclass(frozen=True)
class Wanted:
    """Which results would do for one line of a figure, or one row of a table; None: any."""

    method: str
    datasource: str
    shots: int | None = None  # None: that of the most episodes, for policies
    train_shots: int | None = None
    step: int = 0  # the last gradient step that is looked at
    ways: int | None = None
    conv: bool | None = None
    inputs: str = "all"
    kind: type[Result] = Curve

    def fits(self, result: Result) -> bool:
        """Whether `result` is one: of the test split, by the paper's protocol."""
        if any(getattr(self, n) != getattr(result, n) for n in ("method", "datasource", "inputs")):
            return False
        if result.split != "test" or self.step not in result.steps:
            return False
        if not isinstance(result, self.kind):
            return False
        given = ["shots", "train_shots", *(("ways", "conv") if isinstance(result, Curve) else ())]
        wanted = {name: getattr(self, name) for name in given}
        if any(v is not None and v != getattr(result, name) for name, v in wanted.items()):
            return False
        if isinstance(result, Curve) and result.ways and self.train_shots != result.train_shots:
            return False  # of classification, None is a training on all classes at once
        return not isinstance(result, Curve) or result.batch_statistics == "transductive"


def choose(results: Iterable[Result], wanted: Wanted) -> list[Any]:
    """Picks the results that `wanted` is to be made of: the longest trained, one a seed.

    Those of the mean cross-entropy or another initial head give way to those of the published.

    Returns:
      Results of the wanted kind, by ascending seed; none if none fits.

    Raises:
      ValueError: two files fit equally well.
    """
    fit = [result for result in results if wanted.fits(result)]
    fit = [r for r in fit if r.as_published] or fit
    fit = [r for r in fit if r.iteration == max(f.iteration for f in fit)]
    fit = [r for r in fit if r.shots == max(f.shots for f in fit)]
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
