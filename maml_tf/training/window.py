"""Means of what several meta-steps saw, under the names that TensorBoard and callbacks have."""

from __future__ import annotations

import numpy as np

from maml_tf.engine.outer_step import PARTS
from maml_tf.types import Metrics

_SERIES = {
    "support_loss": ("support_loss_before_step", 1),
    "returns": ("return_after_step", 0),
}
"""Of a field with one number per step, where it is another than `field`_after_step_0: its name, and
the number of the first."""

_NORMS = {"gradient_norms": "meta_gradient", "update_norms": "meta_update"}
"""Fields with a norm for each of `PARTS`, and the group of their names in TensorBoard."""

MAY_BE_NAN = frozenset({*_NORMS, "meta_step_size"})
"""Fields whose numbers need not be finite: NaN is of a part or a schedule that is not there, and an
optimizer that scales the loss passes over gradients that are not finite."""


class Window:
    """Collects `Metrics`, and gives the means of all since it was last asked."""

    def __init__(self, metric_name: str):
        """Begins empty; `metric_name` is the learner's."""
        self._metric_name = metric_name
        self._parts: list[Metrics] = []

    def add(self, metrics: Metrics, begin: int = 0, end: int | None = None) -> None:
        """Adds the meta-steps `begin` ... `end - 1` of a call's metrics."""
        self._parts.append(type(metrics)(*(field[begin:end] for field in metrics)))

    def take(self) -> dict[str, float]:
        """The means by name, if anything was added; begins anew."""
        parts, self._parts = self._parts, []
        if not parts:
            return {}
        fields = parts[0]._fields
        joined = {name: np.concatenate([getattr(p, name) for p in parts]) for name in fields}
        return means(self._metric_name, joined)


def means(metric_name: str, metrics: dict[str, np.ndarray]) -> dict[str, float]:
    """Names the means of some meta-steps.

    Args:
      metric_name: the learner's.
      metrics: fields of its `Metrics`, `[count]` or `[count, steps]`.

    Returns:
      A field of one number under its own name; `_SERIES` and `_NORMS` have those of several. Of
      `MAY_BE_NAN` the means of what is finite, and nothing where nothing is.
    """
    named: dict[str, float] = {}
    for field, values in metrics.items():
        if field == "query_metric":
            if metric_name != "loss":
                named[f"query_{metric_name}"] = float(np.mean(values))
        elif field in MAY_BE_NAN:
            named |= _finite_means(field, values)
        elif values.ndim == 1:
            named[field] = float(np.mean(values))
        else:
            name, first = _SERIES.get(field, (f"{field}_after_step", 0))
            for step, value in enumerate(np.mean(values, axis=0)):
                named[f"{name}_{first + step}"] = float(value)
    return named


def _finite_means(field: str, values: np.ndarray) -> dict[str, float]:
    names = [field]
    if field in _NORMS:
        names = [f"{_NORMS[field]}/norm{'' if p == PARTS[0] else f'_{p}'}" for p in PARTS]
    columns = dict(zip(names, values.reshape(len(values), -1).T, strict=True))
    finite = {name: column[np.isfinite(column)] for name, column in columns.items()}
    return {name: float(np.mean(left)) for name, left in finite.items() if len(left)}
