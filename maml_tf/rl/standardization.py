"""Observations in units of their own spread, by statistics that run along with the training.

Shape letters: O observation numbers, n observations.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from maml_tf.engine.run import stacked

CLIP = 10.0
"""Deviations from the mean, at most."""

_EPSILON = 1e-8


@keras.saving.register_keras_serializable("maml_tf")
class Standardize(layers.Layer):
    """Less the mean of the observations so far, over their deviation, within +-`CLIP`.

    The first layer of a policy's network. Its statistics are weights that no gradient moves: a
    learner updates them after each meta-step by all of its trajectories, so that policy and update
    see the same; checkpoints, releases and exports hold them. Before the first update it passes
    observations on, but for the clipping.
    """

    def build(self, input_shape):
        """Makes the statistics."""
        shape, fixed = input_shape[1:], {"trainable": False}
        self.mean = self.add_weight(name="mean", shape=shape, initializer="zeros", **fixed)
        self.variance = self.add_weight(name="variance", shape=shape, initializer="ones", **fixed)
        self.count = self.add_weight(
            name="count", shape=(), initializer="zeros", dtype="float64", **fixed
        )

    def call(self, x):
        """Standardizes `[..., O]`."""
        x = ops.cast(x, self.compute_dtype)
        mean, variance = (ops.cast(v, x.dtype) for v in (self.mean, self.variance))
        return ops.clip((x - mean) * ops.rsqrt(variance + _EPSILON), -CLIP, CLIP)

    def compute_output_shape(self, input_shape):
        """The same."""
        return input_shape

    def numbers(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and what differences from it are multiplied by, for NumPy."""
        variance = np.asarray(self.variance.value)
        return np.asarray(self.mean.value), 1.0 / np.sqrt(variance + variance.dtype.type(_EPSILON))

    def update(self, observations: np.ndarray) -> None:
        """Adds n observations `[n, ...]` (Chan, Golub & LeVeque 1983, parallel variance)."""
        new = observations.reshape(-1, *self.mean.shape)
        if not len(new):
            return
        before, added = float(self.count.value), float(len(new))
        share = added / (before + added)
        mean, variance = (np.asarray(v.value, np.float64) for v in (self.mean, self.variance))
        apart = np.mean(new, 0, dtype=np.float64) - mean
        spread = np.var(new, 0, dtype=np.float64) + (1 - share) * np.square(apart)
        self.mean.assign(mean + share * apart)
        self.variance.assign((1 - share) * variance + share * spread)
        self.count.assign(before + added)


@stacked.register(Standardize)
def _standardize(layer: Standardize, x: tf.Tensor, run: Any) -> tf.Tensor:
    """One for all tasks."""
    del run
    return layer.call(x)
