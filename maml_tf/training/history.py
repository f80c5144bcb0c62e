"""What a training saw, as NumPy arrays.

Shape letters: M meta-steps of a call of `train`, V validations among them, S gradient steps.
"""

from __future__ import annotations

import numpy as np

from maml_tf.types import Estimate, Metrics


class History:
    """Collects metrics and validations, and gives them as one dictionary."""

    def __init__(self) -> None:
        """Begins empty."""
        self._numbers: list[np.ndarray] = []
        self._metrics: list[Metrics] = []
        self._validated: list[tuple[int, Estimate]] = []

    def add(self, first: int, metrics: Metrics) -> None:
        """Adds the `Metrics` of meta-steps `first`, `first + 1`, ..., counted from 1."""
        self._numbers.append(first + np.arange(len(next(iter(metrics)))))
        self._metrics.append(metrics)

    def add_validation(self, iteration: int, estimate: Estimate) -> None:
        """Adds what a validation measured after `iteration` meta-steps."""
        self._validated.append((iteration, estimate))

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it.

        Returns:
          `iteration [M]`; `[M, ...]` of each field of the learner's metrics; and
          `validation_iteration [V]`, with `validation` and `validation_ci95`, `[V, S + 1]`.
        """
        fields = self._metrics[0]._fields if self._metrics else ()
        iterations, estimates = [i for i, _ in self._validated], [e for _, e in self._validated]
        return {
            "iteration": np.concatenate([np.zeros(0, np.int64), *self._numbers]).astype(np.int64),
            **{f: np.concatenate([getattr(m, f) for m in self._metrics]) for f in fields},
            "validation_iteration": np.asarray(iterations, np.int64),
            "validation": np.array([e.mean for e in estimates]),
            "validation_ci95": np.array([e.ci95 for e in estimates]),
        }
