"""Meta-reinforcement-learning by vanilla policy gradients, and what all optimizers of Keras share.

    minimise the mean over tasks of -mean(pi_theta'(a|s) / pi_old(a|s) A)    on those of theta'

theta' is the result of the inner steps from theta, see `meta_policy`, and is computed anew from
theta at every update, on the stored trajectories.

Shape letters: T tasks, S inner steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from maml_tf import arguments
from maml_tf.engine import pieces
from maml_tf.engine.outer_step import PARTS, Norms, clipped_by_norm, scheduled_step_size
from maml_tf.engine.replicas import apply_sum
from maml_tf.rl.meta_policy import MetaPolicy, show_returns
from maml_tf.rl.objectives import PolicyBatch, after_adaptation, mean_kl, surrogate
from maml_tf.rl.policy import Policy
from maml_tf.rl.rollouts import Rollouts
from maml_tf.types import Weights


class GradientMetrics(NamedTuple):
    """What meta-steps saw, with a leading axis `[count]`; see `PolicyMetrics`."""

    returns: np.ndarray  # [S + 1]
    surrogate_before: np.ndarray
    surrogate_after: np.ndarray
    kl: np.ndarray  # [S + 1]: mean KL(old || new) of each stage's policies
    gradient_norms: np.ndarray  # [4]: of the first update, before it is clipped; see `Norms`
    update_norms: np.ndarray  # [4]: of what the weights moved by, in all updates together
    meta_step_size: np.ndarray  # of the first update, by a schedule; NaN where there is none
    diverged: np.ndarray
    environment_steps: np.ndarray
    sampling_seconds: np.ndarray
    inner_seconds: np.ndarray
    meta_step_seconds: np.ndarray

    def progress(self, metric: str) -> str:
        """A few words for the progress bar."""
        return f"{show_returns(self.returns, metric)}, KL {self.kl[:, -1].mean():.2g}"


class Look(NamedTuple):
    """What the policies of theta are like on the stored trajectories."""

    surrogate: tf.Tensor  # []
    kl: tf.Tensor  # [S + 1]


class MetaVPG(MetaPolicy):
    """Meta-learns a policy by an optimizer of Keras on the surrogate after adaptation.

    A subclass may descend another `objective`, and take several updates per meta-batch.
    """

    remedy = "Lower the inner step size, or the meta step size."
    metrics = GradientMetrics

    def __init__(
        self,
        policy: Policy,
        *,
        optimizer: keras.optimizers.Optimizer | None = None,
        epochs: int = 1,
        minibatches: int = 1,
        clip_norm: float | None = None,
        **options: Any,
    ):
        """Sets the learner up; nothing is computed yet.

        Args:
          policy: its weights are updated in place.
          optimizer: of the meta-step; Adam with 0.001 by default. A schedule of its learning rate
            counts updates, `epochs` x `minibatches` of them per meta-batch.
          epochs: how often a meta-batch of trajectories is gone through.
          minibatches: into how many parts of equally many tasks, with an update for each.
          clip_norm: shorten the gradient of each update to this norm, over all that is
            meta-learned, if it is longer.
          **options: those of `MetaPolicy`: `meta_batch_size`, `step_size`, `inner_steps` and
            others.

        Raises:
          ValueError: an argument is out of range, the tasks do not divide into the minibatches, or
            no weight adapts.
        """
        super().__init__(policy, **options)
        self.epochs = arguments.count("epochs", epochs, 1)
        self.minibatches = arguments.count("minibatches", minibatches, 1)
        self.clip_norm = None if clip_norm is None else arguments.positive("clip_norm", clip_norm)
        if self.meta_batch_size // self.replicas.here % minibatches:
            each = f" on each of {self.replicas.here} replicas" if self.replicas.here > 1 else ""
            raise ValueError(
                f"{self.meta_batch_size} tasks do not divide into minibatches={minibatches}{each}; "
                "choose a divisor."
            )
        if minibatches > 1 and self.workers.together:
            raise ValueError(
                f"minibatches={minibatches} are of some tasks each, and {self.workers.count} "
                "workers have all of theirs at hand; take minibatches=1."
            )
        self.optimizer = self._optimizer = optimizer or keras.optimizers.Adam(1e-3)
        if self._optimizer.use_ema:
            raise ValueError(
                "Nothing takes averages of a policy's weights; make the optimizer without use_ema."
            )
        self._optimizer.build(self.variables)
        self._norms = Norms.of(policy.model, self.inner)
        self._improve = tf.function(self._updates, autograph=False)

    def objective(self, parameters: Weights, batches: Sequence[PolicyBatch]) -> tf.Tensor:
        """What is minimised, `[]`, a differentiable function of theta."""
        policies = self.adapted_policies(parameters, batches)
        return after_adaptation(policies, batches, self.sampling_correction)

    def look(self, parameters: Weights, batches: Sequence[PolicyBatch]) -> Look:
        """The surrogate, and how far each stage's policies are from those that sampled."""
        policies = self.adapted_policies(parameters, batches)
        apart = [
            tf.reduce_mean(mean_kl(batch.old, new, batch))
            for new, batch in zip(policies, batches, strict=True)
        ]
        return Look(tf.reduce_mean(surrogate(policies[-1], batches[-1])), tf.stack(apart))

    def improve(self, rollouts: Rollouts) -> dict[str, np.ndarray]:
        """Moves theta by `epochs` x `minibatches` updates; see `MetaPolicy.improve`."""
        step_size = scheduled_step_size(self._optimizer).numpy()
        before, after, gradient_norms, update_norms = self._improve(rollouts.batches)
        return {
            "surrogate_before": before.surrogate.numpy(),
            "surrogate_after": after.surrogate.numpy(),
            "kl": after.kl.numpy(),
            "gradient_norms": gradient_norms.numpy(),
            "update_norms": update_norms.numpy(),
            "meta_step_size": step_size,
        }

    def _updates(self, batches: Sequence[PolicyBatch]) -> tuple[Look, Look, tf.Tensor, tf.Tensor]:
        """Looks before and after all updates; norms of the first's gradient, and of the way."""
        own = self.replicas.cut(batches, self.number_of_pieces(batches))
        look = self.replicas.mean(pieces.mean(self.look))
        start = self.inner.values()
        before = look(start, own)
        slopes = [self.slope(part) for part in pieces.cut(batches, self.minibatches)]

        def go_through(epoch, norms):
            for index, slope in enumerate(slopes):
                gradients = slope(self.inner.values())
                if index == 0:
                    norms = tf.where(epoch == 0, self._norms(gradients), norms)
                if self.clip_norm is not None:
                    gradients = clipped_by_norm(gradients, self.clip_norm)
                self.strategy.run(self._move, args=(gradients,))
            return epoch + 1, norms

        _, norms = tf.while_loop(
            lambda epoch, _: epoch < self.epochs,
            go_through,
            [tf.constant(0), tf.zeros([len(PARTS)])],
        )
        end = self.inner.values()
        moved = [b - a for a, b in zip(start, end, strict=True)]
        return before, look(end, own), norms, self._norms(moved)

    def slope(self, batches: Sequence[PolicyBatch]):
        """The objective's gradient, one tensor per parameter, as a function of the parameters."""

        def slope(values, piece):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(values)
                loss = self.objective(values, piece)
            return tape.gradient(loss, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)

        own = self.replicas.cut(batches, self.number_of_pieces(batches))
        mean = self.replicas.mean(pieces.mean(slope))
        return lambda values: mean(values, own)

    def _move(self, gradients: Weights) -> None:
        apply_sum(self._optimizer, gradients, self.variables)
