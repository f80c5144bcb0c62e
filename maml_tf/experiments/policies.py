"""From settings to the things of meta-RL that they name: a sampler, a policy, a learner.

It needs the extra `rl`, so `experiment` imports it only for settings that say so.
"""

from __future__ import annotations

import dataclasses
import logging

from maml_tf.experiments.settings import Config
from maml_tf.networks import part_of
from maml_tf.rl.evaluation import ReturnEvaluator
from maml_tf.rl.meta_trpo import MetaTRPO
from maml_tf.rl.policy import GaussianPolicy
from maml_tf.rl.sampler import Sampler

_LOG = logging.getLogger(__name__)

DRAW = 40
"""Held-out tasks met at a time, at most, whatever the training's meta-batch."""

ONE_TASK_AN_EPISODE = ("pretrained", "oracle")
"""Methods trained over all tasks: an episode's task is its own."""


def make_sampler(config: Config, split: str) -> Sampler:
    """Makes what samples the trajectories of one split: "train", "val" or "test".

    Held-out tasks are the same ones for every method.

    Raises:
      ValueError: the environment is unknown, has no tasks, or other spaces than vectors.
    """
    if split != "train":
        return _sampler(config, min(config.num_test_tasks, DRAW))
    resample = config.method in ONE_TASK_AN_EPISODE
    sampler = _sampler(config, config.meta_batch_size, resample=resample)
    steps = sampler.tasks * sampler.episodes * sampler.horizon
    _LOG.info(
        "An iteration: %d tasks x %d trajectories x %d steps, %d gradient steps: %s environment "
        "steps at most.",
        sampler.tasks,
        sampler.episodes,
        sampler.horizon,
        config.inner_steps,
        f"{steps * (config.inner_steps + 1):,}",
    )
    return sampler


def _sampler(config: Config, tasks: int, *, episodes: int = 0, resample: bool = False) -> Sampler:
    foreign = config.datasource == "gymnasium"
    try:
        return Sampler(
            config.environment if foreign else config.datasource,
            tasks=tasks,
            episodes=episodes or config.update_batch_size,
            horizon=None if config.horizon == -1 else config.horizon,
            seed=config.seed,
            threads=config.inter_op_threads if config.inter_op_threads > 0 else None,
            dynamics=config.dynamics,
            squared_reward=config.squared_reward,
            oracle=config.method == "oracle",
            resample=resample,
        )
    except ModuleNotFoundError as error:
        raise ValueError(f"{error}") from error


def make_policy(config: Config) -> GaussianPolicy:
    """Makes the paper's policy for these settings, initialised by their seed."""
    one = _sampler(config, 1, episodes=1)
    one.close()
    return GaussianPolicy(
        one.observation_size,
        one.action_size,
        context=config.method == "context",
        seed=config.seed,
    )


def make_learner(config: Config) -> MetaTRPO:
    """Makes the learner for these settings; pre-training is TRPO without inner steps."""
    policy = make_policy(config)
    return MetaTRPO(
        policy,
        meta_batch_size=config.meta_batch_size,
        step_size=config.update_lr,
        inner_steps=config.inner_steps,
        inner_loss=config.inner_loss,
        discount=config.discount,
        gae_lambda=config.gae_lambda,
        max_kl=config.max_kl,
        curvature=config.curvature,
        curvature_share=config.curvature_share,
        first_order=config.stop_grad,
        learn_step_size=config.learn_step_size,
        pieces=None if config.task_chunks == -1 else config.task_chunks,
        adapts=part_of(policy.model, "context" if config.method == "context" else config.adapt),
    )


def make_validation(config: Config, learner: MetaTRPO) -> ReturnEvaluator:
    """Measures the return until the step that decides which weights are best, and after one step.

    Each step costs as many trajectories as the ones before.
    """
    tasks = config.validation_tasks
    sampler = make_sampler(dataclasses.replace(config, num_test_tasks=tasks), "val")
    steps = min(config.test_steps, max(config.deciding_step, 1))
    return learner.evaluator(sampler, num_tasks=tasks, steps=steps)
