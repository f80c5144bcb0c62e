"""Where a meta-RL learner's trajectories come from, and what sampling and adapting in turns gave.

Shape letters: T tasks, E episodes per task.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from maml_tf import arguments
from maml_tf.engine.inner_loop import InnerLoop
from maml_tf.engine.workers import Workers
from maml_tf.rl.actor import Act
from maml_tf.rl.objectives import PolicyBatch, policy_batch
from maml_tf.rl.policy import Policy
from maml_tf.types import LossFn, Trajectories, Weights


class TrajectorySource(Protocol):
    """Where trajectories come from, in the place of a `TaskSource`; `Sampler` is one."""

    tasks: int
    """T."""

    def sample_tasks(self, index: int, split: str = "train") -> np.ndarray:
        """Draws T tasks `[T, ...]`, a function of (seed, split, index)."""
        ...

    def sample(
        self, act: Act, tasks: np.ndarray, index: int, stage: int = 0, split: str = "train"
    ) -> Trajectories:
        """Runs E episodes of each task, a function of (seed, split, index, stage) and `act`."""
        ...


class Rollouts(NamedTuple):
    """What sampling and adapting in turns gave."""

    batches: list[PolicyBatch]  # one per stage; of several workers, of this one's tasks
    returns: np.ndarray  # [T, stages], undiscounted; like the two numbers below, of all workers
    horizon: int  # H
    environment_steps: int  # taken in all stages
    diverged: int  # episodes that ended because their simulation did
    sampling_seconds: float
    inner_seconds: float

    def seen(self) -> dict[str, np.ndarray]:
        """What of it is a metric, under its name."""
        return {
            "returns": self.returns.mean(0),
            "diverged": np.asarray(self.diverged),
            "sampling_seconds": np.asarray(self.sampling_seconds),
            "inner_seconds": np.asarray(self.inner_seconds),
        }

    def observed(self) -> np.ndarray:
        """The observations of the steps that were taken, of all stages: `[n, O]`."""
        return np.concatenate([b.observations.numpy()[b.mask.numpy() > 0] for b in self.batches])

    def share(self, share: float) -> list[PolicyBatch]:
        """The first episodes of every task, `share` of them and at least one."""
        if share == 1:
            return self.batches
        episodes = self.batches[0].mask.shape[1] // self.horizon
        steps = max(round(share * episodes), 1) * self.horizon
        return [batch.first(steps) for batch in self.batches]


class AdaptiveSampling:
    """Samples with theta, adapts, samples again, and so on: on-policy at every inner step."""

    def __init__(
        self,
        policy: Policy,
        inner: InnerLoop,
        inner_loss: LossFn,
        *,
        discount: float,
        gae_lambda: float,
        workers: Workers,
    ):
        """Makes the two compiled functions.

        Args:
          policy: what acts.
          inner: the inner steps, from the policy's weights.
          inner_loss: `(weights, PolicyBatch) -> [T]`.
          discount: see `objectives.policy_batch`.
          gae_lambda: see `objectives.policy_batch`.
          workers: that share the tasks.
        """
        self._policy, self._inner, self._workers = policy, inner, workers

        def weigh(trajectories: Trajectories) -> tuple[PolicyBatch, tf.Tensor]:
            return policy_batch(
                trajectories,
                discount=discount,
                gae_lambda=gae_lambda,
                parameters=policy.head.parameters,
            )

        def step(weights: Weights, batch: PolicyBatch, alphas: list[tf.Tensor]) -> Weights:
            return inner.steps(inner_loss, weights, [batch], step_size=alphas).weights[-1]

        self.weigh = tf.function(weigh, autograph=False)
        self.step = tf.function(step, autograph=False)

    def __call__(
        self,
        sampler: TrajectorySource,
        index: int,
        step_sizes: Sequence[float | None],
        split: str = "train",
    ) -> Rollouts:
        """See `MetaPolicy.roll_out_and_adapt`."""
        tasks = sampler.sample_tasks(index, split)
        weights = self._inner.initial_weights()
        batches: list[PolicyBatch] = []
        returns, steps, diverged = [], 0, -getattr(sampler, "diverged", 0)
        own = len(tasks[getattr(sampler, "own", slice(None))])
        clock = Clock()
        for stage in range(len(step_sizes) + 1):
            actor = self._policy.actor(weights, own)
            trajectories = sampler.sample(actor, tasks, index, stage, split)
            steps += int(np.sum(trajectories.mask, dtype=np.float64))
            clock.stop("sampling")
            batch, mean_returns = self.weigh(trajectories)
            if stage < len(step_sizes):
                stacked = weights if batches else self._inner.stacked(own, weights)
                alphas = self._inner.alphas_by_weight(step_sizes[stage], stage)
                weights = self.step(stacked, batch, alphas)
            batches.append(batch)
            returns.append(mean_returns.numpy())
            clock.stop("inner")
        seconds = clock.seconds["sampling"], clock.seconds["inner"]
        horizon = trajectories.rewards.shape[2]
        diverged += getattr(sampler, "diverged", 0)
        steps += diverged  # The step that an episode is cut off at was taken, too.
        steps, diverged = map(int, self._workers.gather([steps, diverged]).sum(0))
        every = self._workers.concatenate(np.stack(returns, 1))
        return Rollouts(batches, every, horizon, steps, diverged, *seconds)


class Clock:
    """Adds up seconds by name."""

    def __init__(self):
        """Starts now."""
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def stop(self, name: str) -> None:
        """Counts the time since the last stop for `name`."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now


def check_source(sampler: TrajectorySource) -> None:
    """Refuses what draws no trajectories.

    Raises:
      ValueError: it is something else than a sampler.
    """
    methods = ("sample_tasks", "sample")
    if isinstance(sampler, type) or not all(hasattr(sampler, name) for name in methods):
        raise ValueError(
            f"The tasks given are {arguments.shown(sampler)}; give a sampler of trajectories, such "
            "as maml_tf.rl.Sampler(environment, tasks=..., episodes=...)."
        )


def check_shared(sampler: TrajectorySource, workers: Workers) -> None:
    """Refuses a sampler that does not leave the other workers' tasks to them.

    Raises:
      ValueError: it was made outside of the strategy's scope, is of another kind, or its tasks do
        not divide.
    """
    if not workers.together:
        return
    if getattr(sampler, "own", None) != workers.share(sampler.tasks):
        raise ValueError(
            f"The sampler does not share its tasks among the {workers.count} workers; make a "
            "maml_tf.rl.Sampler inside the strategy's scope."
        )
    if sampler.tasks % workers.count:
        below = sampler.tasks // workers.count * workers.count
        raise ValueError(
            f"{sampler.tasks} tasks do not divide among {workers.count} workers; take "
            f"meta_batch_size={below or workers.count}."
        )


def check_number(tasks: int, meta_batch_size: int) -> None:
    """Refuses a sampler of another number of tasks than the learner's.

    Raises:
      ValueError: names both numbers.
    """
    if tasks != meta_batch_size:
        raise ValueError(
            f"The sampler draws {tasks} tasks (tasks={tasks}), and the learner was made with "
            f"meta_batch_size={meta_batch_size}; give both the same number."
        )
