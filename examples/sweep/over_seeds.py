"""What several seeds of one setting come to: the mean, and how well it is known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from maml_tf.cli import listing
from maml_tf.results.records import Curve

STEPS = (1, 5, 10)
"""Gradient steps after which results are shown; rows have all."""


class OverSeeds(NamedTuple):
    """One number of several seeds."""

    seeds: int
    not_finite: int  # of them; then there is no mean
    mean: float
    ci95: float  # half the interval of the mean; NaN for one seed


def over_seeds(values: Sequence[float]) -> OverSeeds:
    """Mean and 95 % interval: mean ± t s / sqrt(n), s the deviation of n seeds' values.

    t is the 97.5 % point of Student's distribution with n - 1 degrees of freedom, 2.78 for five
    seeds: with so few, s is known badly itself, and 1.96 would make intervals too short.

    Args:
      values: of each seed, a mean over tasks; NaN if not finite.
    """
    n, bad = len(values), int(np.sum(~np.isfinite(values)))
    if bad:
        return OverSeeds(n, bad, math.nan, math.nan)
    spread = student(n - 1) * np.std(values, ddof=1) / math.sqrt(n) if n > 1 else math.nan
    return OverSeeds(n, 0, float(np.mean(values)), float(spread))


def student(freedom: int) -> float:
    """The t that |T| exceeds with probability 5 %, of Student's distribution.

    Its distribution function by the finite series of Abramowitz & Stegun, 26.7.3 and 26.7.4.

    Args:
      freedom: degrees of freedom, 1 or more.
    """
    odd = freedom % 2

    def within(t: float) -> float:  # P(|T| < t)
        angle = math.atan(t / math.sqrt(freedom))
        term, total = math.cos(angle) ** odd, 0.0
        for k in range(2 + odd, freedom + 1, 2):
            total += term
            term *= math.cos(angle) ** 2 * (k - 1) / k
        total *= math.sin(angle)
        return 2 / math.pi * (angle + total) if odd else total

    low, high = 0.0, 20.0  # 12.7 with one degree of freedom, and less with more
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < 0.95 else (low, middle)
    return low


def rows(measured: Iterable[tuple[dict[str, str], Curve]]) -> list[dict[str, Any]]:
    """A row for each setting and gradient step.

    Args:
      measured: a setting, without its seed, and what one seed came to; a pair for each evaluation.
    """
    groups: dict[tuple, list[Curve]] = {}
    for setting, curve in measured:
        groups.setdefault(tuple(setting.items()), []).append(curve)
    return [
        {**dict(key), "metric": curves[0].metric, "step": step}
        | over_seeds([float(curve.mean[step]) for curve in curves])._asdict()
        for key, curves in groups.items()
        for step in curves[0].steps
    ]


def shown_steps(steps: Iterable[int]) -> list[int]:
    """Those of `STEPS` that were measured; the last, if none was."""
    return [step for step in steps if step in STEPS] or list(steps)[-1:]


def scale(metric: str) -> float:
    """What a metric is multiplied by to be shown: accuracies are in per cent."""
    return 100.0 if metric == "accuracy" else 1.0


def table(found: list[dict[str, Any]]) -> str:
    """Text: a line for each setting, a column for each of the steps that are shown."""
    if not found:
        return "  (no results)"
    names = list(found[0])[: list(found[0]).index("metric")]
    steps = shown_steps(dict.fromkeys(row["step"] for row in found))
    lines: dict[tuple, list[str]] = {}
    for row in found:
        key = (*(str(row[name]) or "-" for name in names), str(row["seeds"]))
        lines.setdefault(key, []).extend([_cell(row)] if row["step"] in steps else [])
    unit = " (%)" if found[0]["metric"] == "accuracy" else ""
    after = [f"{found[0]['metric']}{unit} after {steps[0]}", *map(str, steps[1:])]
    return listing.table([(*names, "seeds", *after), *((*k, *cells) for k, cells in lines.items())])


def _cell(row: dict[str, Any]) -> str:
    if row["not_finite"]:
        return f"not finite: {row['not_finite']} of {row['seeds']}"
    mean, ci95 = (scale(row["metric"]) * row[name] for name in ("mean", "ci95"))
    return f"{mean:.3g}" if math.isnan(ci95) else f"{mean:.3g} ± {ci95:.2g}"
