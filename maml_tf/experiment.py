"""From settings to the things that they name: a network, a learner, task sources."""

from __future__ import annotations

import keras
import tensorflow as tf

from maml_tf import losses, networks
from maml_tf.config import Config
from maml_tf.meta_learner import MetaLearner
from maml_tf.tasks import Sinusoid, miniimagenet_episodes, omniglot_episodes
from maml_tf.types import TaskSource

MOST_CHUNKS = 32
"""Pieces of a meta-batch on a CPU: measured in benchmarks/README.md."""


def make_tasks(config: Config, split: str) -> TaskSource:
    """Makes the source of the tasks of one split: "train", "val" or "test".

    Raises:
      FileNotFoundError: the data set is not there; the message says how to get it.
      ValueError: the data set is damaged, or too small for the settings.
    """
    shots, queries = config.update_batch_size, config.query_shots
    if config.datasource == "sinusoid":
        oracle = config.baseline == "oracle"
        return Sinusoid(shots=shots, queries=queries, seed=config.seed, split=split, oracle=oracle)
    omniglot = config.datasource == "omniglot"
    return (omniglot_episodes if omniglot else miniimagenet_episodes)(
        config.data_dir or None,
        split,
        ways=config.num_classes,
        shots=shots,
        queries=queries,
        seed=config.seed,
        download=config.download,
    )


def make_network(config: Config) -> keras.Model:
    """Makes the paper's network for these settings, initialised by their seed."""
    norm = "none" if config.norm == "None" else config.norm
    if config.datasource == "sinusoid":
        inputs = 3 if config.baseline == "oracle" else 1
        return networks.dense_network(inputs, 1, (40, 40), norm=norm, seed=config.seed)
    shape = (28, 28, 1) if config.datasource == "omniglot" else (84, 84, 3)
    if not config.conv:
        return networks.dense_network(
            shape, config.num_classes, (256, 128, 64, 64), norm=norm, seed=config.seed
        )
    return networks.conv_network(
        shape,
        config.num_classes,
        filters=config.num_filters,
        max_pool=config.max_pool,
        norm=norm,
        seed=config.seed,
    )


def make_learner(config: Config) -> MetaLearner:
    """Makes the learner for these settings; pre-training is meta-training without inner steps."""
    convolutional = config.classification and config.conv
    jit = not convolutional if config.jit_compile == "auto" else config.jit_compile == "True"
    summed, mean = losses.summed_cross_entropy, losses.cross_entropy
    cross_entropy = summed if config.loss_reduction == "sum" else mean
    # The original divides the summed loss of the query set by K too.
    query_weight = config.query_shots / config.update_batch_size
    head_only = config.adapt == "head"
    return MetaLearner(
        make_network(config),
        cross_entropy if config.classification else losses.mean_squared_error,
        step_size=config.update_lr,
        inner_steps=0 if config.method == "pretrained" else config.num_updates,
        meta_batch_size=config.meta_batch_size,
        optimizer=keras.optimizers.Adam(config.meta_lr),
        first_order=config.stop_grad,
        learn_step_size=config.learn_step_size,
        adapts=(lambda variable: "head/" in variable.path) if head_only else None,
        recompute=config.recompute,
        clip=config.clip_value,
        query_weight=query_weight if cross_entropy is summed and config.classification else 1.0,
        task_chunks=_task_chunks(config, jit),
        jit_compile=jit,
    )


def _task_chunks(config: Config, jit: bool) -> int:
    if config.task_chunks != -1:
        return config.task_chunks
    if jit or not on_cpu():
        return 1
    share = config.meta_batch_size // tf.distribute.get_strategy().num_replicas_in_sync
    return max(n for n in range(1, MOST_CHUNKS + 1) if share % n == 0)


def on_cpu() -> bool:
    """Whether this machine has no accelerator."""
    return all(device.device_type == "CPU" for device in tf.config.list_physical_devices())
