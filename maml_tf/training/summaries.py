"""TensorBoard: every name of a metric, once."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import tensorflow as tf

from maml_tf.system.files import unwritable
from maml_tf.types import Estimate

_OF_A_STEP = re.compile(r"(?P<part>.*/)?(?P<what>.+)_(?P<when>(?:before|after)_step_\d+)")


def legible(name: str) -> str:
    """A metric's name for TensorBoard, which cuts long ones at their end: first the inner step.

    `train/support_loss_before_step_1` becomes `train/before_step_1_support_loss`.
    """
    of_a_step = _OF_A_STEP.fullmatch(name)
    if not of_a_step:
        return name
    return f"{of_a_step['part'] or ''}{of_a_step['when']}_{of_a_step['what']}"


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
    def at(self, step: int) -> Iterator[None]:
        """Makes this event file TensorFlow's default writer, at `step`.

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
        with self.at(iteration):
            for name, value in values.items():
                tf.summary.scalar(legible(name), value)

    def validation(self, metric: str, estimate: Estimate, iteration: int) -> None:
        """Writes the metric after each gradient step."""
        curve = enumerate(estimate.mean)
        named = {f"validation/{metric}_after_step_{step}": float(mean) for step, mean in curve}
        self.scalars(named, iteration)

    def text(self, name: str, text: str) -> None:
        """Writes text, such as the resolved flags, as a code block."""
        with self.at(0):
            tf.summary.text(name, "\n".join("    " + line for line in text.splitlines()))

    def flush(self) -> None:
        """Makes what was written visible to a reader."""
        with self.at(0):
            pass  # Its end flushes.

    def close(self) -> None:
        """Closes the event file."""
        with self.at(0):
            if self._writer is not None:
                self._writer.close()
