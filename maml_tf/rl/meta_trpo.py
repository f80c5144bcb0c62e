"""Meta-reinforcement-learning by TRPO (paper Algorithm 3, section 5.3).

    theta'(theta) = theta - alpha d/dtheta mean(-log pi_theta(a|s) A)        on theta's trajectories
    minimise the mean over tasks of -mean(pi_theta'(a|s) / pi_old(a|s) A)    on those of theta'
    subject to mean KL(old || pi_theta') <= delta

theta' is computed anew from theta at every evaluation, on the stored trajectories.

Shape letters: T tasks, E episodes a task, H horizon, S inner steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from maml_tf import arguments
from maml_tf.engine.adaptation import adapt, fast, stack
from maml_tf.rl import pieces, trust_region
from maml_tf.rl.objectives import INNER_LOSSES, PolicyBatch, mean_kl, policy_batch, surrogate
from maml_tf.rl.policy import Gaussian, GaussianPolicy
from maml_tf.rl.rollouts import Clock, Rollouts, Sampler
from maml_tf.rl.trust_region import TrustRegionStep
from maml_tf.saving import weights as learner_files
from maml_tf.types import Trajectories, Weights


class TrpoMetrics(NamedTuple):
    """What meta-steps saw, with a leading axis `[count]`."""

    returns: np.ndarray  # [S + 1]: undiscounted, before and after each inner step; mean over tasks
    surrogate_before: np.ndarray
    surrogate_after: np.ndarray
    kl: np.ndarray  # mean KL(old || new) of the adapted policies
    backtracks: np.ndarray  # of the line search; -1 where it found nothing and theta stayed
    diverged: np.ndarray  # episodes that ended because their simulation did
    sampling_seconds: np.ndarray
    inner_seconds: np.ndarray  # baselines, advantages and inner steps
    meta_step_seconds: np.ndarray  # the trust-region step

    def progress(self, metric: str) -> str:
        """A few words for the progress bar."""
        ends = dict.fromkeys((0, self.returns.shape[1] - 1))
        means = " -> ".join(f"{self.returns[:, end].mean():.4g}" for end in ends)
        return f"{metric} {means}, KL {self.kl.mean():.2g}"


class MetaTRPO:
    """Meta-learns a policy's weights so that a few policy-gradient steps on a new task do well.

    A learner for `training.train`, whose tasks are a `Sampler`. It has no optimizer.
    """

    metric_name = "return"
    lower_is_better = False
    remedy = "Lower the inner step size, or max_kl."
    optimizer = None

    def __init__(
        self,
        policy: GaussianPolicy,
        *,
        meta_batch_size: int,
        step_size: float = 0.1,
        inner_steps: int = 1,
        inner_loss: str = "log_likelihood",
        discount: float = 0.99,
        gae_lambda: float = 1.0,
        max_kl: float = 0.01,
        damping: float = 1e-5,
        curvature: str = "fisher",
        curvature_share: float = 1.0,
        first_order: bool = False,
        learn_step_size: bool = False,
        adapts: Callable[[keras.Variable], bool] | None = None,
        task_chunks: int | None = None,
    ):
        """Sets the learner up; nothing is computed yet.

        Args:
          policy: its weights are updated in place.
          meta_batch_size: T of the sampler.
          step_size: alpha of the inner step.
          inner_steps: S. 0 is TRPO over all tasks: the paper's pre-training.
          inner_loss: "log_likelihood", the paper's, or "likelihood_ratio": the same inner step,
            and a less biased meta-gradient; see `objectives.likelihood_ratio`.
          discount: of later rewards.
          gae_lambda: of generalised advantages; 1 is the discounted return minus the baseline.
          max_kl: delta, the largest mean KL of a meta-step.
          damping: added to the diagonal of the KL's Hessian.
          curvature: how products with that Hessian are computed; see `trust_region.curvature`.
          curvature_share: of the episodes, for those products alone: less exact, and less time.
          first_order: hold inner gradients constant.
          learn_step_size: meta-learn alpha, one number for each that adapts (Meta-SGD).
          adapts: which weights the inner step moves; all by default.
          task_chunks: work on the tasks in this many pieces in the meta-step, as many at a time as
            TensorFlow may run operations; `pieces.default_number` of them by default.

        Raises:
          ValueError: an argument is out of range, the tasks do not divide into these pieces, or
            no weight adapts.
        """
        if not isinstance(policy, GaussianPolicy):
            raise ValueError(
                f"The policy given is {arguments.shown(policy)}; make a GaussianPolicy("
                "observation_size, action_size)."
            )
        others = {"discount": discount, "gae_lambda": gae_lambda, "damping": damping}
        for name, number in others.items():
            arguments.number(name, number)
        arguments.boolean("first_order", first_order)
        arguments.boolean("learn_step_size", learn_step_size)
        _check(
            meta_batch_size, step_size, inner_steps, inner_loss, max_kl, curvature_share, curvature
        )
        _check_pieces(meta_batch_size, task_chunks)
        self.policy = policy
        self.meta_batch_size = meta_batch_size
        self.step_size, self.inner_steps = step_size, inner_steps
        self.discount, self.gae_lambda = discount, gae_lambda
        self.max_kl, self.damping = max_kl, damping
        self.curvature, self.curvature_share = curvature, curvature_share
        self.first_order = first_order
        self.task_chunks = task_chunks
        if adapts is not None:
            arguments.predicate("adapts", adapts, "lambda v: 'head' in v.path")
        self.adapts = [adapts is None or bool(adapts(v)) for v in policy.variables]
        if not any(self.adapts):
            paths = ", ".join(v.path for v in policy.variables)
            raise ValueError(f"No weight adapts; let `adapts` choose at least one of {paths}.")
        self.step_sizes = self._make_step_sizes() if learn_step_size else []
        self.inner_loss = INNER_LOSSES[inner_loss](policy)
        self._batch = tf.function(self._weigh, autograph=False)
        self._adapt = tf.function(self._inner_step, autograph=False)
        self._improve = tf.function(self._trust_region_step, autograph=False)

    @property
    def model(self) -> keras.Model:
        """All of the policy's weights, for Keras' files."""
        return self.policy.stored

    @property
    def variables(self) -> list[keras.Variable]:
        """What the meta-step moves: theta, and alpha where it is learned."""
        return [*self.policy.variables, *self.step_sizes]

    @property
    def state(self) -> list[keras.Variable]:
        """All that a checkpoint must hold."""
        return self.variables

    def save(self, path: str | Path) -> None:
        """Writes the policy's weights and learned step sizes; see `MetaLearner.save`."""
        learner_files.save(self, path)

    def load(self, path: str | Path) -> None:
        """Puts what `save` wrote into this learner; see `MetaLearner.load`."""
        learner_files.load(self, path)

    # --- the inner loop ---

    def initial_weights(self) -> Weights:
        """Reads the meta-learned weights, theta."""
        return [tf.convert_to_tensor(v.value) for v in self.policy.variables]

    def alphas(self, step_size: float | None = None) -> list[tf.Tensor]:
        """The inner step size of each weight: the given one, the meta-learned, or the fixed."""
        if step_size is None and self.step_sizes:
            learned = [tf.convert_to_tensor(v.value) for v in self.step_sizes]
            return self._with_zeros(learned)
        alpha = self.step_size if step_size is None else step_size
        return [tf.constant(alpha, v.dtype) for v in self.policy.variables]

    def roll_out_and_adapt(
        self,
        sampler: Sampler,
        index: int,
        step_sizes: Sequence[float | None],
        split: str = "train",
    ) -> Rollouts:
        """Samples with theta, adapts, samples again, and so on.

        Args:
          sampler: of tasks and trajectories.
          index: of the meta-batch.
          step_sizes: alpha of each inner step; None for the learner's own.
          split: "train", "val" or "test".

        Returns:
          `Rollouts`: one more stage than there are step sizes.
        """
        tasks = sampler.sample_tasks(index, split)
        weights = self.initial_weights()
        batches: list[PolicyBatch] = []
        returns = []
        clock = Clock()
        for stage in range(len(step_sizes) + 1):
            actor = self.policy.actor(weights, len(tasks))
            trajectories = sampler.sample(actor, tasks, index, stage, split)
            clock.stop("sampling")
            batch, mean_returns = self._batch(trajectories)
            if stage < len(step_sizes):
                stacked = weights if batches else stack(weights, len(tasks), self.adapts)
                weights = self._adapt(stacked, batch, self.alphas(step_sizes[stage]))
            batches.append(batch)
            returns.append(mean_returns.numpy())
            clock.stop("inner")
        seconds = clock.seconds["sampling"], clock.seconds["inner"]
        return Rollouts(batches, np.stack(returns, 1), trajectories.rewards.shape[2], *seconds)

    def _weigh(self, trajectories: Trajectories):
        return policy_batch(trajectories, discount=self.discount, gae_lambda=self.gae_lambda)

    def _inner_step(self, weights: Weights, batch: PolicyBatch, alphas) -> Weights:
        adaptation = adapt(self.inner_loss, weights, [batch], step_size=alphas, adapts=self.adapts)
        return adaptation.weights[-1]

    # --- the outer loop ---

    def adapted_policy(self, parameters: Weights, batches: Sequence[PolicyBatch]) -> Gaussian:
        """The adapted policies on their own trajectories, a differentiable function of theta.

        Args:
          parameters: a value for each of `self.variables`.
          batches: S of the inner steps, then that of the adapted policies.
        """
        *before, last = batches
        weights, alphas = self._split(parameters)
        num_tasks = last.mask.shape[0]
        adaptation = adapt(
            self.inner_loss,
            fast(weights, num_tasks, self.adapts),
            before,
            step_size=alphas,
            adapts=self.adapts,
            first_order=self.first_order,
        )
        return self.policy(adaptation.weights[-1], last.observations)

    def meta_objective(
        self, parameters: Weights, batches: Sequence[PolicyBatch]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean surrogate and mean KL over tasks, each `[]`; see `adapted_policy`."""
        last = batches[-1]
        new = self.adapted_policy(parameters, batches)
        return (
            tf.reduce_mean(surrogate(new, last)),
            tf.reduce_mean(mean_kl(last.old, new, last)),
        )

    def kl_curvature(
        self, parameters: Weights, batches: Sequence[PolicyBatch], method: str | None = None
    ) -> trust_region.Product:
        """Products with the Hessian of the mean KL by theta; see `trust_region.curvature`."""

        def divergence(old, new):
            return tf.reduce_mean(mean_kl(old, new, batches[-1]))

        def outputs(values):
            return self.adapted_policy(values, batches)

        return trust_region.curvature(outputs, divergence, parameters, method or self.curvature)

    def _trust_region_step(self, batches, curvature_batches) -> TrustRegionStep:
        parameters = [tf.convert_to_tensor(v.value) for v in self.variables]
        number = self.task_chunks or pieces.default_number(*batches[-1].mask.shape)
        cut = pieces.cut(batches, number)

        def slope(values, piece):
            return trust_region.slope(lambda at: self.meta_objective(at, piece), values)

        return trust_region.trust_region_step(
            pieces.mean(self.meta_objective, cut),
            pieces.mean(slope, cut)(parameters),
            pieces.mean_product(
                self.kl_curvature, parameters, pieces.cut(curvature_batches, number)
            ),
            parameters,
            max_divergence=self.max_kl,
            damping=self.damping,
        )

    def meta_step(self, sampler: Sampler, index: int) -> TrpoMetrics:
        """Meta-batch `index`: samples, adapts, and moves theta once.

        Returns:
          `TrpoMetrics` without the leading axis.
        """
        diverged = -getattr(sampler, "diverged", 0)
        rollouts = self.roll_out_and_adapt(sampler, index, [None] * self.inner_steps)
        diverged += getattr(sampler, "diverged", 0)
        clock = Clock()
        share = rollouts.share(self.curvature_share)
        step = self._improve(rollouts.batches, share)
        for variable, value in zip(self.variables, step.weights, strict=True):
            variable.assign(value)
        clock.stop("meta_step")
        return TrpoMetrics(
            rollouts.returns.mean(0),
            step.loss_before.numpy(),
            step.loss_after.numpy(),
            step.divergence.numpy(),
            step.backtracks.numpy(),
            np.asarray(diverged),
            np.asarray(rollouts.sampling_seconds),
            np.asarray(rollouts.inner_seconds),
            np.asarray(clock.seconds["meta_step"]),
        )

    def check_tasks(self, tasks: Sampler) -> None:
        """Refuses what is no sampler of trajectories; draws nothing."""
        check_sampler(tasks)

    def meta_steps(self, tasks: Sampler, start: int, count: int) -> TrpoMetrics:
        """Runs meta-steps `start` ... `start + count - 1`.

        Args:
          tasks: where trajectories come from.
          start: index of the first meta-batch.
          count: how many.

        Returns:
          `TrpoMetrics` with a leading axis `[count]`.

        Raises:
          ValueError: `count` is below 1, or `tasks` is no sampler.
        """
        start = arguments.count("start", start, 0)
        count = arguments.count("count", count, 1)
        check_sampler(tasks)
        steps = [self.meta_step(tasks, index) for index in range(start, start + count)]
        return TrpoMetrics(*(np.stack(values) for values in zip(*steps, strict=True)))

    def _split(self, parameters: Weights) -> tuple[Weights, list[tf.Tensor]]:
        size = len(self.policy.variables)
        learned = parameters[size:]
        return parameters[:size], self._with_zeros(learned) if learned else self.alphas()

    def _with_zeros(self, learned: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """A step size for every weight: of those that adapt, and 0."""
        rest = iter(learned)
        return [
            next(rest) if own else tf.zeros([], v.dtype)
            for v, own in zip(self.policy.variables, self.adapts, strict=True)
        ]

    def _make_step_sizes(self) -> list[keras.Variable]:
        return [
            keras.Variable(np.full(v.shape, self.step_size), dtype=v.dtype, name=f"step_size_{i}")
            for i, (v, own) in enumerate(zip(self.policy.variables, self.adapts, strict=True))
            if own
        ]


def check_sampler(sampler: Any) -> None:
    """Refuses what draws no trajectories.

    Raises:
      ValueError: it is something else than a sampler.
    """
    methods = ("sample_tasks", "sample")
    if isinstance(sampler, type) or not all(hasattr(sampler, name) for name in methods):
        raise ValueError(
            f"The tasks given are {arguments.shown(sampler)}; give a sampler of trajectories, such "
            "as maml_tf.rl.sampler.Sampler(environment, tasks=..., episodes=...)."
        )


def _check(
    meta_batch_size, step_size, inner_steps, inner_loss, max_kl, curvature_share, curvature
) -> None:
    whole = arguments.whole("meta_batch_size", meta_batch_size)
    if whole < 1 or arguments.whole("inner_steps", inner_steps) < 0:
        raise ValueError(
            "MetaTRPO needs meta_batch_size >= 1 and inner_steps >= 0, not "
            f"{meta_batch_size} and {inner_steps}."
        )
    numbers = {"step_size": step_size, "max_kl": max_kl, "curvature_share": curvature_share}
    for name, number in numbers.items():
        arguments.number(name, number)
    if not (step_size > 0 and max_kl > 0 and 0 < curvature_share <= 1):
        raise ValueError(
            "MetaTRPO needs step_size > 0, max_kl > 0 and 0 < curvature_share <= 1, not "
            f"{step_size}, {max_kl} and {curvature_share}."
        )
    if inner_loss not in INNER_LOSSES:
        raise ValueError(
            f"inner_loss must be one of {', '.join(INNER_LOSSES)}; not '{inner_loss}'."
        )
    if curvature not in trust_region.CURVATURES:
        raise ValueError(
            f"curvature must be one of {', '.join(trust_region.CURVATURES)}; not '{curvature}'."
        )


def _check_pieces(meta_batch_size: int, task_chunks: int | None) -> None:
    if task_chunks is not None and (
        arguments.whole("task_chunks", task_chunks) < 1 or meta_batch_size % task_chunks
    ):
        raise ValueError(
            f"{meta_batch_size} tasks do not divide into task_chunks={task_chunks} pieces; choose "
            "a divisor, or None."
        )
