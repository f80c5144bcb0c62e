"""From settings to samplers, policies and their learners; needs the extra `rl` when it is used."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from maml_tf.experiments import meta_optimizers
from maml_tf.experiments.meta_optimizers import META_OPTIMIZERS
from maml_tf.ranges import largest

if TYPE_CHECKING:
    from maml_tf.experiments.settings import Settings
    from maml_tf.rl.policy import Policy
    from maml_tf.rl.sampler import Sampler
    from maml_tf.types import Evaluator, Learner

_LOG = logging.getLogger(__name__)

SHARED = frozenset(
    {"horizon", "discount", "gae_lambda", "inner_loss", "sampling_correction", "meta_optimizer"}
    | {"init_std", "head_stddev", "standardize"}
    | {"step_size", "inner_steps", "learn_step_size", "adapt", "meta_batch_size", "seed", "shots"}
    | {"pretrain_iterations", "init", "squash"}
    | meta_optimizers.READS
)
"""What every environment's problem looks at."""

DRAW = 40
"""Held-out tasks met at a time, at most, whatever the training's meta-batch."""


def tasks(settings: Settings, split: str) -> Sampler:
    """Makes what samples the trajectories of one split.

    Held-out tasks are the same ones for every method.

    Raises:
      ValueError: the environment is unknown, has no tasks, or spaces that no policy is for.
    """
    training = settings.training
    if split != "train":
        return _sampler(
            settings, min(settings.evaluation.tasks, DRAW), episodes=settings.evaluation.shots
        )
    resample = settings.method.all_tasks
    sampler = _sampler(
        settings, training.meta_batch_size, episodes=largest(training.shots), resample=resample
    )
    steps = sampler.tasks * sampler.episodes * sampler.horizon
    _LOG.info(
        "An iteration: %d tasks x %d trajectories x %d steps, %d gradient steps: %s environment "
        "steps at most.",
        sampler.tasks,
        sampler.episodes,
        sampler.horizon,
        settings.inner_steps,
        f"{steps * (settings.inner_steps + 1):,}",
    )
    return sampler


def _sampler(settings: Settings, tasks: int, *, episodes: int, resample: bool = False) -> Sampler:
    from maml_tf.rl.sampler import Sampler

    training, threads = settings.training, settings.machine.inter_op_threads
    try:
        return Sampler(
            training.environment or settings.problem.name,
            tasks=tasks,
            episodes=episodes,
            horizon=training.horizon,
            seed=training.seed,
            threads=threads or None,
            dynamics=training.dynamics,
            squared_reward=training.squared_reward,
            oracle=settings.method.sees_task,
            resample=resample,
            asynchronous=settings.machine.asynchronous,
        )
    except ModuleNotFoundError as error:
        raise ValueError(f"{error}") from error


def policy(settings: Settings) -> Policy:
    """Makes the paper's policy for the environment's spaces, initialised by the settings' seed."""
    from maml_tf.engine.workers import outside_scope
    from maml_tf.rl.policy import policy_for

    # Of one task, which several workers could not share.
    one = outside_scope(lambda: _sampler(settings.replace(asynchronous=False), 1, episodes=1))
    one.close()
    return policy_for(
        one,
        squash=settings.training.squash,
        context=settings.adapts == "context",
        seed=settings.training.seed,
        head_stddev=settings.training.head_stddev,
        init_std=settings.training.init_std,
        standardize=settings.training.standardize,
    )


def learner(settings: Settings, classes: int | None = None) -> Learner[Any]:
    """Makes the learner; pre-training is the same without inner steps."""
    from maml_tf import networks

    del classes
    training, acts = settings.training, policy(settings)
    shared: dict[str, Any] = {
        "meta_batch_size": training.meta_batch_size,
        "step_size": training.step_size,
        "inner_steps": settings.inner_steps,
        "inner_loss": training.inner_loss,
        "sampling_correction": training.sampling_correction,
        "discount": training.discount,
        "gae_lambda": training.gae_lambda,
        "first_order": settings.method.first_order,
        "learn_step_size": training.learn_step_size or False,
        "pieces": settings.machine.pieces,
        "adapts": networks.part_of(acts.model, settings.adapts),
    }
    if settings.method.learner is not None:
        return settings.method.learner(acts, settings, shared)
    return META_OPTIMIZERS[training.meta_optimizer].make(acts, training, shared)


def validation(settings: Settings, learner: Learner[Any]) -> Evaluator:
    """Measures the return until the step that decides which weights are best, and after one step.

    Each step costs as many trajectories as the ones before.
    """
    run = settings.run
    sampler = tasks(settings.replace(test_tasks=run.validation_tasks), "val")
    steps = min(settings.evaluation.steps, max(run.best_after, 1))
    return learner.evaluator(sampler, num_tasks=run.validation_tasks, steps=steps)
