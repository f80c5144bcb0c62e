"""The distributions of actions: TensorFlow Probability's.

TensorFlow Probability takes a second or two to import, so that this module is imported where the
first distribution is made (`parameters`), and not before.

The Gaussian alone has a density and a KL of its own. Its spread is one for all steps of a task, and
TFP broadcasts it along them, in every derivative; here it is the factor of a matrix product
(docs/performance.md has the times). `tests/rl/test_distributions.py` holds both equal, in value and
in the first and second derivative.

Shape letters: T tasks, L steps of a task, A action numbers, K choices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

LARGEST = 1.0 - 2.0**-24
"""The largest number below 1 in float32: a tanh that rounded to 1 is taken for this."""


def plain_gaussian(means: tf.Tensor, log_stds: tf.Tensor) -> tfd.Distribution:
    """The definition: batch `[T, L]`, events `[A]`; see `DiagonalGaussian`."""
    return tfd.Independent(tfd.Normal(means, tf.exp(log_stds)[..., tf.newaxis, :]), 1)


class DiagonalGaussian(tfd.Independent):
    """`plain_gaussian`, whose density and KL are matrix products."""

    def __init__(self, means: tf.Tensor, log_stds: tf.Tensor, name: str = "DiagonalGaussian"):
        """Takes means `[T, L, A]` and log-stds `[T, A]`, or `[A]` for all tasks."""
        self.means, self.log_stds = means, log_stds
        normal = tfd.Normal(means, tf.exp(log_stds)[..., tf.newaxis, :])
        super().__init__(normal, 1, name=name)

    def __getitem__(self, slices) -> tfd.Distribution:
        """A part of the batch; TFP's own would slice the log-stds, which have no axis of steps."""
        return plain_gaussian(self.means, self.log_stds)[slices]

    def copy(self, **changes) -> tfd.Distribution:
        """The same, or with changes of the definition's parameters."""
        if changes:
            return plain_gaussian(self.means, self.log_stds).copy(**changes)
        return DiagonalGaussian(self.means, self.log_stds, self.name)

    def _log_prob(self, actions: tf.Tensor) -> tf.Tensor:
        with _no_scope():
            apart = _scaled_squares(actions - self.means, self.log_stds)
            constant = actions.shape[-1] * math.log(2 * math.pi)
            return -0.5 * (apart + constant) - _sum(self.log_stds)


@tfd.RegisterKL(DiagonalGaussian, DiagonalGaussian)
def _kl(old: DiagonalGaussian, new: DiagonalGaussian, name: str | None = None) -> tf.Tensor:
    """KL(old || new) `[T, L]`."""
    del name
    with _no_scope():
        apart = _scaled_squares(old.means - new.means, new.log_stds)
        wider = old.log_stds - new.log_stds
        return 0.5 * (apart + _sum(tf.math.expm1(2 * wider))) - _sum(wider)


def _no_scope() -> tf.name_scope:
    """Outside TFP's name scopes.

    TensorFlow's graph optimiser orders sums by the operations' names, and so the names decide the
    last bits: these are the ones that runs were made with before densities were TFP's.
    """
    return tf.name_scope("")


def _scaled_squares(differences: tf.Tensor, log_stds: tf.Tensor) -> tf.Tensor:
    """Squares in units of the variances, summed: `[T, L]`."""
    precisions = tf.exp(-2 * log_stds)[..., tf.newaxis]
    return tf.matmul(tf.square(differences), precisions)[..., 0]


def _sum(of_actions: tf.Tensor) -> tf.Tensor:
    """`[T, A]` or `[A]` -> `[T, 1]` or `[1]`."""
    return tf.reduce_sum(of_actions, -1, keepdims=True)


class _Tanh(tfb.Tanh):
    """Tanh, whose inverse is finite for what rounded to 1 or -1."""

    def _inverse(self, actions: tf.Tensor) -> tf.Tensor:
        return tf.atanh(tf.clip_by_value(actions, -LARGEST, LARGEST))


def squashed_gaussian(means: tf.Tensor, log_stds: tf.Tensor) -> tfd.Distribution:
    """Tanh of a Gaussian: actions `[A]` between -1 and 1. It has no entropy in closed form."""
    return tfd.TransformedDistribution(DiagonalGaussian(means, log_stds), _Tanh())


def categorical(logits: tf.Tensor) -> tfd.Distribution:
    """One of K choices, a number from 0; logits `[T, L, K]`."""
    return tfd.Categorical(logits=logits)


def categoricals(logits: Sequence[tf.Tensor]) -> tfd.Distribution:
    """A choices, each of its own K; logits `A x [T, L, K]`, events `[A]`.

    Blockwise: a joint distribution whose events are one vector, as Gymnasium's are.
    """
    return tfd.Blockwise([tfd.Categorical(logits=each) for each in logits])


def bernoulli(logits: tf.Tensor) -> tfd.Distribution:
    """A bits; logits `[T, L, A]`, events `[A]`."""
    return tfd.Independent(tfd.Bernoulli(logits=logits), 1)
