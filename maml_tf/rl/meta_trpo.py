"""Meta-reinforcement-learning by TRPO (paper Algorithm 3, section 5.3).

    minimise the mean over tasks of -mean(pi_theta'(a|s) / pi_old(a|s) A)    on those of theta'
    subject to mean KL(old || pi_theta') <= delta

theta' is the result of the inner steps from theta, see `meta_policy`, and is computed anew at every
evaluation, on the stored trajectories.

Shape letters: S inner steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from maml_tf import arguments
from maml_tf.engine import pieces
from maml_tf.rl import trust_region
from maml_tf.rl.meta_policy import MetaPolicy, show_returns
from maml_tf.rl.objectives import PolicyBatch, after_adaptation, mean_kl
from maml_tf.rl.policy import Policy
from maml_tf.rl.rollouts import Rollouts
from maml_tf.rl.trust_region import TrustRegionStep
from maml_tf.types import Weights


class TrpoMetrics(NamedTuple):
    """What meta-steps saw, with a leading axis `[count]`; see `PolicyMetrics`."""

    returns: np.ndarray  # [S + 1]
    surrogate_before: np.ndarray
    surrogate_after: np.ndarray
    kl: np.ndarray  # mean KL(old || new) of the adapted policies
    backtracks: np.ndarray  # of the line search; -1 where it found nothing and theta stayed
    diverged: np.ndarray
    environment_steps: np.ndarray
    sampling_seconds: np.ndarray
    inner_seconds: np.ndarray
    meta_step_seconds: np.ndarray

    def progress(self, metric: str) -> str:
        """A few words for the progress bar."""
        return f"{show_returns(self.returns, metric)}, KL {self.kl.mean():.2g}"


class MetaTRPO(MetaPolicy):
    """Meta-learns a policy by a trust-region step on the surrogate after adaptation."""

    remedy = "Lower the inner step size, or max_kl."
    metrics = TrpoMetrics

    def __init__(
        self,
        policy: Policy,
        *,
        max_kl: float = 0.01,
        damping: float = 1e-5,
        curvature: str = "fisher",
        curvature_share: float = 1.0,
        **options: Any,
    ):
        """Sets the learner up; nothing is computed yet.

        Args:
          policy: its weights are updated in place.
          max_kl: delta, the largest mean KL of a meta-step.
          damping: added to the diagonal of the KL's Hessian.
          curvature: how products with that Hessian are computed; see `trust_region.curvature`.
          curvature_share: share of the episodes that those products are computed on: less exact,
            and less time.
          **options: those of `MetaPolicy`: `meta_batch_size`, `step_size`, `inner_steps` and
            others.

        Raises:
          ValueError: an argument is out of range, the tasks do not divide into the pieces, or no
            weight adapts.
        """
        super().__init__(policy, **options)
        arguments.number("damping", damping)
        _check(max_kl, curvature_share, curvature)
        self.max_kl, self.damping = max_kl, damping
        self.curvature, self.curvature_share = curvature, curvature_share
        self._improve = tf.function(self._trust_region_step, autograph=False)

    def meta_objective(
        self, parameters: Weights, batches: Sequence[PolicyBatch]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean surrogate and mean KL over tasks, each `[]`; see `adapted_policy`."""
        last, policies = batches[-1], self.adapted_policies(parameters, batches)
        apart = tf.reduce_mean(mean_kl(last.old, policies[-1], last))
        return after_adaptation(policies, batches, self.sampling_correction), apart

    def kl_curvature(
        self, parameters: Weights, batches: Sequence[PolicyBatch], product: str | None = None
    ) -> pieces.Product:
        """Products with the Hessian of the mean KL by theta; see `trust_region.curvature`."""

        def divergence(old, new):
            return tf.reduce_mean(mean_kl(old, new, batches[-1]))

        def outputs(values):
            return self.adapted_policy(values, batches)

        return trust_region.curvature(outputs, divergence, parameters, product or self.curvature)

    def improve(self, rollouts: Rollouts) -> dict[str, np.ndarray]:
        """Moves theta by one trust-region step; see `MetaPolicy.improve`."""
        step = self._improve(rollouts.batches, rollouts.share(self.curvature_share))
        for variable, value in zip(self.variables, step.weights, strict=True):
            variable.assign(value)
        return {
            "surrogate_before": step.loss_before.numpy(),
            "surrogate_after": step.loss_after.numpy(),
            "kl": step.divergence.numpy(),
            "backtracks": step.backtracks.numpy(),
        }

    def _trust_region_step(self, batches, curvature_batches) -> TrustRegionStep:
        parameters = self.inner.values()

        def slope(values, piece):
            return trust_region.slope(lambda at: self.meta_objective(at, piece), values)

        mean, number = self.replicas.mean, self.number_of_pieces(batches)
        own, fewer = (self.replicas.cut(each, number) for each in (batches, curvature_batches))
        evaluate = mean(pieces.mean(self.meta_objective))
        product = pieces.MeanProduct(self.kl_curvature, parameters)
        kept, times = self.replicas.each(product.prepare, fewer), mean(product)
        return trust_region.trust_region_step(
            lambda values: evaluate(values, own),
            mean(pieces.mean(slope))(parameters, own),
            lambda vector: times(vector, kept),
            parameters,
            max_divergence=self.max_kl,
            damping=self.damping,
        )


def _check(max_kl: float, curvature_share: float, curvature: str) -> None:
    for name, number in {"max_kl": max_kl, "curvature_share": curvature_share}.items():
        arguments.number(name, number)
    if not (max_kl > 0 and 0 < curvature_share <= 1):
        raise ValueError(
            f"MetaTRPO needs max_kl > 0 and 0 < curvature_share <= 1, not {max_kl} and "
            f"{curvature_share}."
        )
    if curvature not in trust_region.CURVATURES:
        raise ValueError(
            f"curvature must be one of {', '.join(trust_region.CURVATURES)}; not '{curvature}'."
        )
