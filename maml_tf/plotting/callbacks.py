"""Pictures of a training, drawn while it runs."""

from __future__ import annotations

import os

import keras
import tensorflow as tf

from maml_tf.plotting import curves
from maml_tf.plotting.curves import to_image
from maml_tf.types import Estimate


class AdaptationCurves(keras.callbacks.Callback):
    """Draws the adaptation curve of each validation for TensorBoard."""

    def __init__(self, logdir: str | os.PathLike[str] | None = None):
        """Nothing is written yet.

        Args:
          logdir: of an event file of its own. None: the event file of the training itself; none is
            written where that writes none.
        """
        super().__init__()
        self._logdir = logdir
        self._writer: tf.summary.SummaryWriter | None = None

    def on_validation(self, estimate: Estimate, metric: str, iteration: int) -> None:
        """Draws what a validation measured; `train` calls it.

        Args:
          estimate: the metric after 0, 1, ... S steps.
          metric: its name.
          iteration: meta-steps so far.
        """
        if self._logdir is not None:
            self._writer = self._writer or tf.summary.create_file_writer(os.fspath(self._logdir))
            with self._writer.as_default(step=iteration), tf.summary.record_if(True):
                self._draw(estimate, metric)
            self._writer.flush()
        elif tf.summary.should_record_summaries():
            self._draw(estimate, metric)

    def _draw(self, estimate: Estimate, metric: str) -> None:
        figure = curves.adaptation_curve({"validation": estimate}, metric)
        tf.summary.image("validation/adaptation_curve", to_image(figure)[None])
