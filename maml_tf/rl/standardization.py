"""Observations in units of their own spread, by statistics that run along with the training.

Shape letters: O observation numbers, n observations.
"""

from __future__ import annotations

import math
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
        variance = np.asarray(self.variance)
        return np.asarray(self.mean), 1.0 / np.sqrt(variance + variance.dtype.type(_EPSILON))

    def update(self, moments: np.ndarray) -> None:
        """Adds observations by their moments (Chan, Golub & LeVeque 1983, parallel variance).

        Args:
          moments: `[n, 1 + 2 * O]`, each row as `moments_of` gives it.
        """
        shape = self.mean.shape
        for row in moments:
            added, before = float(row[0]), float(np.asarray(self.count))
            if not added:
                continue
            new_mean, new_variance = (half.reshape(shape) for half in np.split(row[1:], 2))
            share = added / (before + added)
            mean, variance = (np.asarray(v, np.float64) for v in (self.mean, self.variance))
            apart = new_mean - mean
            spread = new_variance + (1 - share) * np.square(apart)
            self.mean.assign(mean + share * apart)
            self.variance.assign((1 - share) * variance + share * spread)
            self.count.assign(before + added)


def moments_of(observations: np.ndarray) -> np.ndarray:
    """Number, means and variances of observations `[n, O]`, float64 `[1 + 2 * O]`."""
    if not len(observations):
        return np.zeros(1 + 2 * math.prod(observations.shape[1:]))
    new = observations.reshape(len(observations), -1)
    mean, variance = np.mean(new, 0, dtype=np.float64), np.var(new, 0, dtype=np.float64)
    return np.concatenate([[float(len(new))], mean, variance])


@stacked.register(Standardize)
def _standardize(layer: Standardize, x: tf.Tensor, run: Any) -> tf.Tensor:
    """One for all tasks."""
    del run
    return layer.call(x)
