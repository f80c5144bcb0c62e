"""From settings to the things that they name: a network, a learner, task sources."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from maml_tf import losses, networks
from maml_tf.experiments.settings import PENALTIES, Config
from maml_tf.supervised.baselines import JointClassifier, MultitaskLearner
from maml_tf.supervised.learner import MetaLearner
from maml_tf.tasks import JointBatches, Sinusoid, miniimagenet_episodes, omniglot_episodes

if TYPE_CHECKING:
    from maml_tf.rl.meta_trpo import MetaTRPO

IMAGES_A_PIECE = {"convolutional": 16, "dense": 64}
"""On a CPU the meta-batch is cut into the most pieces that still hold this many images of a set: a
piece fits a core's cache, and is not dispatched for next to nothing (benchmarks/README.md)."""


def _reinforcement(config: Config):
    """The module for meta-RL, which needs an extra."""
    try:
        from maml_tf.experiments import policies as rl_experiment
    except ModuleNotFoundError as error:
        raise ValueError(
            f"--datasource={config.datasource} needs {error.name}; pip install maml-tf[rl]."
        ) from error
    return rl_experiment


def make_tasks(config: Config, split: str) -> Any:
    """Makes the source of the tasks of one split: "train", "val" or "test".

    Returns:
      A `TaskSource`; for meta-RL a sampler of trajectories.

    Raises:
      FileNotFoundError: the data set is not there; the message says how to get it.
      ValueError: the data set is damaged, or too small for the settings; the environment is
        unknown, has no tasks, or needs an extra.
    """
    if config.reinforcement:
        return _reinforcement(config).make_sampler(config, split)
    shots, queries = config.update_batch_size, config.query_shots
    if config.datasource == "sinusoid":
        training = split == "train"
        return Sinusoid(
            shots=shots,
            queries=queries,
            seed=config.seed,
            split=split,
            oracle=config.baseline == "oracle",
            half=config.inputs == "half" and not training,
            fixed=config.method in PENALTIES and training,
        )
    omniglot = config.datasource == "omniglot"
    episodes = (omniglot_episodes if omniglot else miniimagenet_episodes)(
        config.data_dir or None,
        split,
        ways=config.num_classes,
        shots=shots,
        queries=queries,
        seed=config.seed,
        download=config.download,
    )
    return JointBatches(episodes) if config.joint and split == "train" else episodes


def make_validation(config: Config, learner: MetaLearner | MetaTRPO) -> Any:
    """Makes what `train` takes as validation for these settings."""
    if config.reinforcement:
        return _reinforcement(config).make_validation(config, learner)
    return make_tasks(config, "val")


def make_network(config: Config, classes: int | None = None) -> keras.Model:
    """Makes the paper's network for these settings, initialised by their seed.

    Args:
      config: the settings.
      classes: how many it tells apart; those of a task by default.
    """
    classes = classes or config.num_classes
    norm = "none" if config.norm == "None" else config.norm
    common: dict[str, Any] = {
        "norm": norm,
        "context": config.method == "context",
        "head_stddev": None if config.head_stddev == -1 else config.head_stddev,
        "seed": config.seed,
    }
    if config.datasource == "sinusoid":
        inputs = 3 if config.baseline == "oracle" else 1
        return networks.dense_network(inputs, 1, (40, 40), **common)
    shape = (28, 28, 1) if config.datasource == "omniglot" else (84, 84, 3)
    if not config.conv:
        return networks.dense_network(shape, classes, (256, 128, 64, 64), **common)
    return networks.conv_network(
        shape,
        classes,
        filters=config.num_filters,
        max_pool=config.max_pool,
        **common,
    )


def make_learner(config: Config, classes: int | None = None) -> MetaLearner | MetaTRPO:
    """Makes the learner for these settings; pre-training is meta-training without inner steps.

    Args:
      config: the settings.
      classes: of a joint classifier that is to be trained (`Config.joint`). Without them, what is
        fine-tuned to tasks in its place: the same network with a fresh head.
    """
    if config.reinforcement:
        return _reinforcement(config).make_learner(config)
    network = make_network(config, classes)
    # Small steps are mostly dispatch, which XLA takes away; its matrix products are slower.
    jit = (
        not config.classification if config.jit_compile == "auto" else config.jit_compile == "True"
    )
    summed, mean = losses.summed_cross_entropy, losses.cross_entropy
    cross_entropy = summed if config.loss_reduction == "sum" else mean
    # The original divides the summed loss of the query set by K too.
    query_weight = config.query_shots / config.update_batch_size
    adapting = "context" if config.method == "context" else config.adapt
    common = {
        "step_size": config.update_lr,
        "meta_batch_size": config.meta_batch_size,
        "optimizer": keras.optimizers.Adam(config.meta_lr),
        "adapts": None if adapting == "all" else (lambda v: f"{adapting}/" in v.path),
        "clip": config.clip_value,
        "pieces": _task_chunks(config, jit),
        "jit_compile": jit,
    }
    if config.method in PENALTIES:
        return MultitaskLearner(
            network,
            losses.mean_squared_error,
            penalty=config.penalty,
            pull="mean" if config.method == "multitask_mean" else "zero",
            **common,
        )
    if classes or config.method == "nearest_neighbour":
        return JointClassifier(network, losses.cross_entropy, **common)
    return MetaLearner(
        network,
        cross_entropy if config.classification else losses.mean_squared_error,
        inner_steps=config.inner_steps,
        first_order=config.stop_grad,
        learn_step_size=config.learn_step_size,
        recompute=config.recompute,
        query_weight=query_weight if cross_entropy is summed and config.classification else 1.0,
        **common,
    )


def _task_chunks(config: Config, jit: bool) -> int:
    if config.task_chunks != -1:
        return config.task_chunks
    if jit or not on_cpu():
        return 1
    share = config.meta_batch_size // tf.distribute.get_strategy().num_replicas_in_sync
    images = config.num_classes * max(config.update_batch_size, config.query_shots)
    least = IMAGES_A_PIECE["convolutional" if config.conv else "dense"]
    fits = range(math.ceil(least / images), share + 1)
    return share // min((n for n in fits if share % n == 0), default=share)


def on_cpu() -> bool:
    """Whether this machine has no accelerator."""
    return all(device.device_type == "CPU" for device in tf.config.list_physical_devices())
