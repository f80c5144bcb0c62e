"""Meta-learning a policy, whatever the outer step: weights, roll-outs, inner steps, metrics, state.

    theta'(theta) = theta - alpha d/dtheta mean(-log pi_theta(a|s) A)        on theta's trajectories

A meta-optimizer is a subclass of `MetaPolicy` with an `improve`, which moves theta by the
trajectories of theta and of theta'; `MetaTRPO` is the paper's.

Shape letters: T tasks, E episodes per task, H horizon, L = E * H steps of a task, S inner steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from maml_tf import arguments
from maml_tf.engine import pieces
from maml_tf.engine.inner_loop import (
    InnerLoop,
    learned_step_sizes,
    what_is_learned,
    which_adapt,
)
from maml_tf.engine.replicas import Replicas
from maml_tf.engine.workers import Workers
from maml_tf.rl.evaluation import ReturnEvaluator
from maml_tf.rl.export import servable
from maml_tf.rl.objectives import INNER_LOSSES, PolicyBatch
from maml_tf.rl.parameters import Parameters, tfp_distributions
from maml_tf.rl.policy import Policy
from maml_tf.rl.portable import portable
from maml_tf.rl.rollouts import (
    AdaptiveSampling,
    Clock,
    Rollouts,
    TrajectorySource,
    check_number,
    check_shared,
    check_source,
)
from maml_tf.rl.standardization import moments_of
from maml_tf.saving.weights import Saved
from maml_tf.types import Metrics, Servable, Weights


class PolicyMetrics(NamedTuple):
    """What any meta-steps of a policy saw, with a leading axis `[count]`."""

    returns: np.ndarray  # [S + 1]: undiscounted, before and after each inner step; mean over tasks
    diverged: np.ndarray  # episodes that ended because their simulation did
    environment_steps: np.ndarray  # taken until then, since the training began
    sampling_seconds: np.ndarray
    inner_seconds: np.ndarray  # baselines, advantages and inner steps
    meta_step_seconds: np.ndarray  # the outer step

    def progress(self, metric: str) -> str:
        """A few words for the progress bar."""
        return show_returns(self.returns, metric)


def show_returns(returns: np.ndarray, metric: str) -> str:
    """Mean returns `[count, S + 1]` before the first and after the last inner step, as words."""
    ends = dict.fromkeys((0, returns.shape[1] - 1))
    return f"{metric} {' -> '.join(f'{returns[:, end].mean():.4g}' for end in ends)}"


class MetaPolicy(Saved):
    """Meta-learns a policy's weights so that a few policy-gradient steps on a new task do well.

    A `Learner` for `maml_tf.train`, whose tasks are a `Sampler`. A subclass writes `improve`. It
    sets `optimizer` if it has one of Keras, and `metrics` if it has more to report than
    `PolicyMetrics`.
    """

    metric_name = "return"
    lower_is_better = False
    remedy = "Lower the inner step size."
    optimizer: keras.optimizers.Optimizer | None = None
    metrics: type = PolicyMetrics
    """Of what `meta_steps` returns: a NamedTuple of `PolicyMetrics`' fields and of what `improve`
    returns."""

    def __init__(
        self,
        policy: Policy,
        *,
        meta_batch_size: int,
        step_size: float = 0.1,
        inner_steps: int = 1,
        inner_loss: str = "log_likelihood",
        discount: float = 0.99,
        gae_lambda: float = 1.0,
        first_order: bool = False,
        learn_step_size: bool | str = False,
        sampling_correction: float = 0.0,
        adapts: Callable[[keras.Variable], bool] | None = None,
        pieces: int | None = None,
    ):
        """Sets the learner up; nothing is computed yet.

        Args:
          policy: its weights are updated in place.
          meta_batch_size: T of the sampler.
          step_size: alpha of the inner step.
          inner_steps: S. 0 is training over all tasks at once: the paper's pre-training.
          inner_loss: "log_likelihood", the paper's, or "likelihood_ratio": the same inner step,
            and a less biased meta-gradient; see `objectives.likelihood_ratio`.
          discount: discount factor for later rewards.
          gae_lambda: lambda of generalised advantage estimation; 1 is the discounted return minus
            the baseline.
          first_order: hold inner gradients constant.
          learn_step_size: meta-learn alpha, as `MetaLearner` does.
          sampling_correction: factor of E-MAML's second term in what the meta-step descends; see
            `objectives.sampling_correction`. 0: none, as in the paper.
          adapts: which weights the inner step moves; all by default.
          pieces: work on the tasks in this many pieces in the meta-step, as many at a time as
            TensorFlow may run operations; `pieces.default_number` of them by default.

        Raises:
          ValueError: an argument is out of range, the tasks do not divide into these pieces, or
            no weight adapts.
        """
        _check(type(self).__name__, policy, meta_batch_size, step_size, inner_steps, inner_loss)
        correction = {"sampling_correction": sampling_correction}
        for name, number in {"discount": discount, "gae_lambda": gae_lambda, **correction}.items():
            arguments.number(name, number)
        arguments.boolean("first_order", first_order)
        self.learn_step_size = what_is_learned(learn_step_size)
        _check_pieces(meta_batch_size, pieces)
        self.policy = policy
        self.meta_batch_size = meta_batch_size
        self.inner_steps = inner_steps
        self.discount, self.gae_lambda = discount, gae_lambda
        self.sampling_correction = sampling_correction
        self.counters = {"environment_steps": _counter("environment_steps")}
        self.pieces = pieces
        sizes = step_size, self.learn_step_size, inner_steps
        self.inner = _inner_loop(policy, adapts, sizes, first_order)
        self.inner_loss = INNER_LOSSES[inner_loss](policy)
        self.strategy, self.workers = tf.distribute.get_strategy(), Workers()
        self.replicas = _replicas(self.strategy, self.workers, meta_batch_size)
        how: Any = {"discount": discount, "gae_lambda": gae_lambda, "workers": self.workers}
        self._sampling = AdaptiveSampling(policy, self.inner, self.inner_loss, **how)

    @property
    def model(self) -> keras.Model:
        """All of the policy's weights, for Keras' files."""
        return self.policy.stored

    @property
    def head(self) -> str:
        """What its actions are: another head's run cannot go on."""
        return repr(self.policy.head)

    @property
    def step_size(self) -> float:
        """Alpha, where it is not learned."""
        return self.inner.step_size

    @property
    def step_sizes(self) -> Sequence[keras.Variable]:
        """Learned alphas, one per weight that adapts; none where alpha is not learned."""
        return self.inner.step_sizes

    @property
    def adapts(self) -> Sequence[bool]:
        """Of each weight of the policy, whether the inner step moves it."""
        return self.inner.adapts

    @property
    def first_order(self) -> bool:
        """Whether inner gradients are held constant."""
        return self.inner.first_order

    @property
    def variables(self) -> list[keras.Variable]:
        """What the meta-step moves: theta, and alpha where it is learned."""
        return self.inner.parameters

    @property
    def state(self) -> list[keras.Variable]:
        """All that a checkpoint must hold, the optimizer's own apart."""
        return [*self.variables, *self.policy.statistics]

    # --- the inner loop ---

    def initial_weights(self) -> Weights:
        """Reads the meta-learned weights, theta."""
        return self.inner.initial_weights()

    def roll_out_and_adapt(
        self,
        sampler: TrajectorySource,
        index: int,
        step_sizes: Sequence[float | None],
        split: str = "train",
    ) -> Rollouts:
        """Samples with theta, adapts, samples again, and so on.

        Args:
          sampler: where tasks and trajectories come from.
          index: number of the meta-batch.
          step_sizes: alpha of each inner step; None for the learner's own.
          split: "train", "val" or "test".

        Returns:
          `Rollouts`: one more stage than there are step sizes.
        """
        return self._sampling(sampler, index, step_sizes, split)

    def adapted_policies(
        self, parameters: Weights, batches: Sequence[PolicyBatch]
    ) -> list[Parameters]:
        """Each stage's policies on their own trajectories, differentiable functions of theta.

        theta' is computed anew from theta, on the stored trajectories.

        Args:
          parameters: a value for each of `self.variables`.
          batches: S of the inner steps, then that of the adapted policies.

        Returns:
          S + 1 of them, the last by theta'.
        """
        *before, last = batches
        adaptation = self.inner.differentiable(
            self.inner_loss, parameters, before, last.mask.shape[0]
        )
        return [
            self.policy(weights, batch.observations)
            for weights, batch in zip(adaptation.weights, batches, strict=True)
        ]

    def adapted_policy(self, parameters: Weights, batches: Sequence[PolicyBatch]) -> Parameters:
        """The last of `adapted_policies`: those after all inner steps."""
        return self.adapted_policies(parameters, batches)[-1]

    def number_of_pieces(self, batches: Sequence[PolicyBatch]) -> int:
        """Into how many pieces a replica is to cut its own tasks of a meta-batch, or of a part."""
        tasks, steps = batches[-1].mask.shape[0] // self.replicas.here, batches[-1].mask.shape[1]
        return math.gcd(self.pieces, tasks) if self.pieces else pieces.default_number(tasks, steps)

    # --- the outer loop ---

    def improve(self, rollouts: Rollouts) -> Mapping[str, np.ndarray]:
        """Moves `self.variables` once.

        Args:
          rollouts: S + 1 stages, the last of them by the adapted policies.

        Returns:
          What was seen, by the names of those fields of `metrics` that `PolicyMetrics` lacks.

        Raises:
          NotImplementedError: it is a meta-optimizer's own.
        """
        raise NotImplementedError

    def meta_step(self, sampler: TrajectorySource, index: int) -> Metrics:
        """Samples, adapts, and improves once; returns `metrics` without the leading axis."""
        rollouts = self.roll_out_and_adapt(sampler, index, [None] * self.inner_steps)
        check_number(len(rollouts.returns), self.meta_batch_size)
        steps = self.counters["environment_steps"]
        steps.assign(np.asarray(steps) + rollouts.environment_steps)
        clock = Clock()
        seen = self.improve(rollouts)
        clock.stop("meta_step")
        _settle(self, rollouts)
        return self.metrics(
            **rollouts.seen(),
            environment_steps=np.asarray(steps),
            meta_step_seconds=np.asarray(clock.seconds["meta_step"]),
            **seen,
        )

    def meta_steps(self, tasks: TrajectorySource, start: int, count: int) -> Metrics:
        """Runs meta-steps `start` ... `start + count - 1`.

        Args:
          tasks: where trajectories come from.
          start: index of the first meta-batch.
          count: how many.

        Returns:
          `metrics` with a leading axis `[count]`.

        Raises:
          ValueError: `count` is below 1, or `tasks` is no sampler of `meta_batch_size` tasks.
        """
        start = arguments.count("start", start, 0)
        count = arguments.count("count", count, 1)
        self.check_tasks(tasks)
        steps = [self.meta_step(tasks, index) for index in range(start, start + count)]
        return self.metrics(*(np.stack(values) for values in zip(*steps, strict=True)))

    def check_tasks(self, tasks: TrajectorySource) -> None:
        """Refuses what is no sampler of this learner's tasks; draws nothing.

        Raises:
          ValueError: it draws no trajectories, or of another number of tasks.
        """
        check_source(tasks)
        check_number(getattr(tasks, "tasks", self.meta_batch_size), self.meta_batch_size)
        check_shared(tasks, self.workers)

    # --- held-out tasks, and other programs ---

    def evaluator(self, tasks: TrajectorySource, **options: Any) -> ReturnEvaluator:
        """What measures the return on held-out tasks; the options are `ReturnEvaluator`'s."""
        arguments.options("The evaluation of a policy", ReturnEvaluator, options, 2)
        return ReturnEvaluator(self, tasks, **options)

    def servable(self, **options: Any) -> Servable:
        """The policy as a program for one task, for `maml_tf.export`.

        The options are those of `rl.export.servable`: `steps` and `step_size`, defaults of `adapt`.
        """
        return servable(self, **options)

    def portable(self, **options: Any) -> Servable:
        """What `export(..., format="litert")` converts; see `rl.portable` for its options."""
        return portable(self, **options)


def _settle(learner: MetaPolicy, rollouts: Rollouts) -> None:
    """Ends a meta-step: with new statistics of observations, and all workers at the same state."""
    standardizer, workers = learner.policy.standardizer, learner.workers
    if standardizer is not None:
        standardizer.update(workers.gather(moments_of(rollouts.observed())))
    workers.take_from_chief(learner.state)  # Processors of other makes round otherwise.


def _inner_loop(
    policy: Policy,
    adapts: Callable[[keras.Variable], bool] | None,
    sizes: tuple[float, str | None, int],
    first_order: bool,
) -> InnerLoop:
    step_size, learned_per, inner_steps = sizes
    moving = which_adapt(policy.variables, adapts)
    learned = learned_step_sizes(
        *(policy.variables, moving, step_size),
        per=learned_per,
        steps=inner_steps,
        # The names that checkpoints and descriptions of runs have known them by.
        names=[f"step_size_{index}" for index in range(len(moving))],
    )
    each = learned_per == "layer_and_step"
    return InnerLoop(policy.variables, moving, step_size, learned, first_order, per_step=each)


def _counter(name: str) -> keras.Variable:
    return keras.Variable(np.zeros((), np.int64), dtype="int64", trainable=False, name=name)


def _check(
    name: str,
    policy: Policy,
    meta_batch_size: int,
    step_size: float,
    inner_steps: int,
    inner_loss: str,
) -> None:
    if not isinstance(policy, Policy):
        raise ValueError(
            f"The policy given is {arguments.shown(policy)}; make a GaussianPolicy("
            "observation_size, action_size), or maml_tf.rl.policy_for(sampler)."
        )
    tfp_distributions()  # is installed
    whole = arguments.whole("meta_batch_size", meta_batch_size)
    if whole < 1 or arguments.whole("inner_steps", inner_steps) < 0:
        raise ValueError(
            f"{name} needs meta_batch_size >= 1 and inner_steps >= 0, not {meta_batch_size} and "
            f"{inner_steps}."
        )
    if not arguments.number("step_size", step_size) > 0:
        raise ValueError(f"{name} needs step_size > 0, not {step_size}.")
    if inner_loss not in INNER_LOSSES:
        raise ValueError(
            f"inner_loss must be one of {', '.join(INNER_LOSSES)}; not '{inner_loss}'."
        )


def _replicas(strategy: Any, workers: Workers, meta_batch_size: int) -> Replicas:
    replicas = Replicas(strategy, workers.count)
    if replicas.here > 1 and meta_batch_size % replicas.count:
        below = meta_batch_size // replicas.count * replicas.count
        raise ValueError(
            f"{meta_batch_size} tasks do not divide among {replicas.count} replicas; take "
            f"meta_batch_size={below or replicas.count}."
        )
    return replicas


def _check_pieces(meta_batch_size: int, pieces: int | None) -> None:
    if pieces is not None and (arguments.whole("pieces", pieces) < 1 or meta_batch_size % pieces):
        raise ValueError(
            f"{meta_batch_size} tasks do not divide into pieces={pieces} pieces; choose a divisor, "
            "or None."
        )
