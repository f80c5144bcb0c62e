"""Measured numbers in words, as a paper would have them; accuracy in per cent."""

from __future__ import annotations

from maml_tf.results.records import Curve


def number(curve: Curve, place: int) -> str:
    """The mean and half its 95 % interval at a place of the curve: "98.63 ± 0.46 %"."""
    scale, unit = (100, " %") if curve.metric == "accuracy" else (1, "")
    mean, ci95 = (scale * float(values[place]) for values in (curve.mean, curve.ci95))
    digits = 2 if unit else 1 if abs(mean) >= 100 else 2 if abs(mean) >= 10 else 3
    return f"{mean:.{digits}f} ± {ci95:.{digits}f}{unit}"


def sentence(curve: Curve) -> str:
    """What was measured after the last step: "98.63 ± 0.46 % accuracy after 3 steps, 600 tasks"."""
    steps = f"{curve.steps[-1]} step{'s' * (curve.steps[-1] != 1)}"
    return f"{number(curve, -1)} {curve.metric} after {steps}, {curve.num_tasks} tasks"
