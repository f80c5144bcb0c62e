"""The parameters of distributions over actions: tuples of plain tensors.

This is what compiled functions, pieces of a meta-batch and curvature products take, and what
`policy(weights, observations)` returns; each makes TensorFlow Probability's distribution of itself
where that is needed.

    family                actions                      parameters
    Gaussian              [A] real                     means [T, L, A], log-stds [T, A]
    SquashedGaussian      [A] within (-1, 1)           the same, before tanh
    Categorical           one of K, from 0             logits [T, L, K]
    MultiCategorical      [A], each one of its K       logits, A of [T, L, K]
    Bernoulli             [A] of 0 and 1               logits [T, L, A]

Shape letters: T tasks, L steps of a task, A action numbers, K choices.
"""

from __future__ import annotations

import types
from typing import Any, NamedTuple, TypeAlias

import tensorflow as tf


def tfp_distributions() -> types.ModuleType:
    """Imports `distributions`, and so TensorFlow Probability, when that is first needed.

    Raises:
      ModuleNotFoundError: it needs the extra, which is not installed.
    """
    try:
        from maml_tf.rl import distributions
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"The distributions of policies need {error.name}; pip install maml-tf[rl].",
            name=error.name,
        ) from error
    return distributions


class Gaussian(NamedTuple):
    """Diagonal Gaussians over actions; the spread of a task is the same at each of its steps."""

    means: tf.Tensor  # [T, L, A]
    log_stds: tf.Tensor  # [T, A], or [A] for all tasks

    def distribution(self) -> Any:
        """TFP's."""
        return tfp_distributions().DiagonalGaussian(self.means, self.log_stds)

    def first(self, steps: int) -> Gaussian:
        """At the first `steps` of each task."""
        return self._replace(means=self.means[:, :steps])


class SquashedGaussian(NamedTuple):
    """Tanh of diagonal Gaussians: actions between -1 and 1."""

    means: tf.Tensor  # [T, L, A], before tanh
    log_stds: tf.Tensor  # [T, A], or [A] for all tasks

    def distribution(self) -> Any:
        """TFP's."""
        return tfp_distributions().squashed_gaussian(self.means, self.log_stds)

    def first(self, steps: int) -> SquashedGaussian:
        """At the first `steps` of each task."""
        return self._replace(means=self.means[:, :steps])


class Categorical(NamedTuple):
    """One of K choices."""

    logits: tf.Tensor  # [T, L, K]

    def distribution(self) -> Any:
        """TFP's."""
        return tfp_distributions().categorical(self.logits)

    def first(self, steps: int) -> Categorical:
        """At the first `steps` of each task."""
        return Categorical(self.logits[:, :steps])


class MultiCategorical(NamedTuple):
    """A choices at once, independent of each other."""

    logits: tuple[tf.Tensor, ...]  # A of [T, L, K]

    def distribution(self) -> Any:
        """TFP's."""
        return tfp_distributions().categoricals(self.logits)

    def first(self, steps: int) -> MultiCategorical:
        """At the first `steps` of each task."""
        return MultiCategorical(tuple(each[:, :steps] for each in self.logits))


class Bernoulli(NamedTuple):
    """A bits, independent of each other."""

    logits: tf.Tensor  # [T, L, A]

    def distribution(self) -> Any:
        """TFP's."""
        return tfp_distributions().bernoulli(self.logits)

    def first(self, steps: int) -> Bernoulli:
        """At the first `steps` of each task."""
        return Bernoulli(self.logits[:, :steps])


Parameters: TypeAlias = Gaussian | SquashedGaussian | Categorical | MultiCategorical | Bernoulli
"""Of the distributions of T x L actions."""
