"""Proximal meta-policy search (Rothfuss et al. 2019, "ProMP", equations 8 and 9).

    minimise the mean over tasks of
        -mean(min(r A, clip(r, 1 - epsilon, 1 + epsilon) A))      on the trajectories of theta'
        + sum over inner steps s of eta_s mean KL(old_s || pi_s)  on those of step s

r = pi_theta'(a|s) / pi_old(a|s), and theta' is computed anew from theta at every update. The inner
loss is `likelihood_ratio`, whose second derivative is the paper's low-variance curvature. eta_s
doubles where the KL was above 1.5 times its target, and halves where it was below 2 / 3 of it.

Shape letters: S inner steps.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from maml_tf import arguments
from maml_tf.rl.meta_vpg import MetaVPG
from maml_tf.rl.objectives import PolicyBatch, after_adaptation, clipped_surrogate, mean_kl
from maml_tf.rl.policy import Policy
from maml_tf.rl.rollouts import Rollouts
from maml_tf.types import Weights

_WIDTH = 1.5
"""How far, as a factor, the KL may be from its target before its coefficient changes."""
_LEAST_COEFFICIENT = 1e-8
"""Halved on, it would be 0 in single precision, which no doubling brings back."""


class MetaProMP(MetaVPG):
    """Meta-learns a policy by several clipped updates per meta-batch of trajectories."""

    def __init__(
        self,
        policy: Policy,
        *,
        epochs: int = 5,
        clip_ratio: float = 0.3,
        inner_kl: float = 0.01,
        kl_coefficient: float = 5e-4,
        inner_loss: str = "likelihood_ratio",
        **options: Any,
    ):
        """Sets the learner up; nothing is computed yet.

        Args:
          policy: its weights are updated in place.
          epochs: how often a meta-batch of trajectories is gone through.
          clip_ratio: epsilon: how far the ratio of the adapted policies counts.
          inner_kl: what the mean KL of each inner step's policy is held near, in nats.
          kl_coefficient: eta at the beginning.
          inner_loss: as `MetaPolicy`'s, which ProMP does not take by default.
          **options: those of `MetaVPG` and `MetaPolicy`.

        Raises:
          ValueError: an argument is out of range, the tasks do not divide into the minibatches, or
            no weight adapts.
        """
        super().__init__(policy, epochs=epochs, inner_loss=inner_loss, **options)
        self.clip_ratio = arguments.positive("clip_ratio", clip_ratio)
        self.inner_kl = arguments.positive("inner_kl", inner_kl)
        start = np.full(self.inner_steps, arguments.number("kl_coefficient", kl_coefficient))
        self.kl_coefficients = keras.Variable(
            start, dtype=keras.config.floatx(), trainable=False, name="kl_coefficients"
        )

    @property
    def state(self) -> list[keras.Variable]:
        """All that a checkpoint must hold, the optimizer's own apart."""
        return [*super().state, self.kl_coefficients]

    def objective(self, parameters: Weights, batches: Sequence[PolicyBatch]) -> tf.Tensor:
        """See `MetaVPG.objective`."""
        policies = self.adapted_policies(parameters, batches)
        clipped = functools.partial(clipped_surrogate, clip=self.clip_ratio)
        loss = after_adaptation(policies, batches, self.sampling_correction, clipped)
        etas = tf.unstack(tf.convert_to_tensor(self.kl_coefficients.value))
        for eta, new, batch in zip(etas, policies[:-1], batches[:-1], strict=True):
            loss += eta * tf.reduce_mean(mean_kl(batch.old, new, batch))
        return loss

    def improve(self, rollouts: Rollouts) -> dict[str, np.ndarray]:
        """Moves theta, and then eta; see `MetaPolicy.improve`."""
        seen = super().improve(rollouts)
        apart, etas = seen["kl"][:-1], np.asarray(self.kl_coefficients)
        factors = np.where(apart > _WIDTH * self.inner_kl, 2.0, 1.0)
        factors = np.where(apart < self.inner_kl / _WIDTH, 0.5, factors)
        self.kl_coefficients.assign(np.maximum(etas * factors, _LEAST_COEFFICIENT))
        return seen
