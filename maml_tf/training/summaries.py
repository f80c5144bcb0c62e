"""TensorBoard: every name of a metric, once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from maml_tf.plotting import curves as figures
from maml_tf.system.files import unwritable
from maml_tf.types import Estimate

FIGURES_SUFFIX = ".figures"
"""Ending of the event file that holds figures and tables; it is made anew with them."""

_NAMES = {
    "support_loss": ("support_loss_before_step", 1),
    "returns": ("return_after_step", 0),
}
"""Of a field with one number a step: its name, and the number of the first."""


class Summaries:
    """Writes one run's event file; `disabled=True` writes nothing."""

    def __init__(self, directory: str | Path, *, disabled: bool = False, suffix: str = ""):
        """Opens an event file in `directory`, whose name ends in `suffix`."""
        self._directory = directory
        self._writer: tf.summary.SummaryWriter | None = None
        if not disabled:
            options = {"filename_suffix": suffix} if suffix else {}
            self._writer = tf.summary.create_file_writer(str(directory), **options)

    @contextlib.contextmanager
    def _at(self, step: int) -> Iterator[None]:
        """Where summaries are written.

        Raises:
          OSError: they cannot be.
        """
        if self._writer is None:
            with tf.summary.record_if(False):
                yield
            return
        default = self._writer.as_default(step=step)
        try:
            with default:
                yield
        except tf.errors.OpError as error:
            # TensorFlow would keep a writer that cannot flush as everybody's default.
            with contextlib.suppress(tf.errors.OpError):
                self._writer.close()
            with contextlib.suppress(tf.errors.OpError, AttributeError):
                default.__exit__(None, None, None)
            self._writer = None
            raise unwritable(self._directory, error) from error

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        """Writes named numbers."""
        with self._at(iteration):
            for name, value in values.items():
                tf.summary.scalar(name, value)

    def validation(self, metric: str, estimate: Estimate, iteration: int) -> None:
        """Writes the metric after each gradient step, and the adaptation curve as a picture."""
        with self._at(iteration):
            for step, mean in enumerate(estimate.mean):
                tf.summary.scalar(f"validation/{metric}_after_step_{step}", mean)
            curve = figures.adaptation_curve({"validation": estimate}, metric)
            tf.summary.image("validation/adaptation_curve", figures.to_image(curve)[None])

    def figure(self, name: str, figure: Figure) -> None:
        """Writes a picture made from result files."""
        with self._at(0):
            tf.summary.image(f"figures/{name}", figures.to_image(figure)[None])

    def table(self, name: str, markdown: str) -> None:
        """Writes a table made from result files."""
        with self._at(0):
            tf.summary.text(f"tables/{name}", markdown)

    def text(self, name: str, text: str) -> None:
        """Writes text, such as the resolved flags, as a code block."""
        with self._at(0):
            tf.summary.text(name, "\n".join("    " + line for line in text.splitlines()))

    def flush(self) -> None:
        """Makes what was written visible to a reader."""
        with self._at(0):
            pass  # Its end flushes.

    def close(self) -> None:
        """Closes the event file."""
        with self._at(0):
            if self._writer is not None:
                self._writer.close()


def training_scalars(metric: str, metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Names the means of some iterations of a learner's `Metrics`.

    A field of one number is `train/<field>`; `_NAMES` has those of several.
    """
    named = {}
    for field, values in metrics.items():
        if field == "query_metric":
            if metric != "loss":
                named[f"train/query_{metric}"] = np.mean(values)
        elif values.ndim == 1:
            named[f"train/{field}"] = np.mean(values)
        else:
            name, first = _NAMES[field]
            for step, value in enumerate(np.mean(values, axis=0)):
                named[f"train/{name}_{first + step}"] = value
    return named
