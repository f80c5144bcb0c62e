"""From settings to supervised tasks, networks and learners."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from maml_tf.experiments import machine
from maml_tf.experiments.records import Kind
from maml_tf.experiments.schedule_settings import SCHEDULE
from maml_tf.ranges import Span, largest

if TYPE_CHECKING:
    from maml_tf.engine.inner_optimizers import InnerOptimizer
    from maml_tf.experiments.settings import Settings, Training
    from maml_tf.types import Learner, TaskSource

OF_INNER_STEPS = (
    *("multi_step_loss", "second_order_after", "per_step_normalization", "running_statistics"),
    *("inner_optimizer", "inner_momentum", "inner_clip"),
)
"""Settings that say nothing where there are no inner steps, and that policies do not have."""

SHARED = frozenset(
    {"queries", "meta_step_size", "clip", "clip_norm", "norm", "head_stddev", "batch_statistics"}
    | {"step_size", "inner_steps", "learn_step_size", "adapt", "meta_batch_size", "seed", "shots"}
    | {"pretrain_iterations", "init", "average", "ensemble", *OF_INNER_STEPS}
    | {"imaml_lambda", "cg_steps"}
    | SCHEDULE
)
"""What every supervised problem looks at."""

IMAGES_PER_PIECE = {"convolutional": 16, "dense": 64}
"""On a CPU the meta-batch is cut into the most pieces that still hold this many images of a set: a
piece fits a core's cache, and is not dispatched for next to nothing (benchmarks/README.md)."""


def tasks(settings: Settings, split: str) -> TaskSource:
    """Makes the source of the tasks of one split."""
    from maml_tf.tasks import JointBatches

    assert settings.problem.tasks is not None
    source = settings.problem.tasks(settings, split)
    return JointBatches(source) if settings.joint and split == "train" else source  # type: ignore[arg-type]


def validation(settings: Settings, learner: Learner) -> TaskSource:
    """Makes what `train` takes as validation."""
    del learner
    return tasks(settings.replace(test_ways=None), "val")


def learner(settings: Settings, classes: int | None = None) -> Learner:
    """Makes the learner; pre-training is meta-training without inner steps.

    Args:
      settings: of the run.
      classes: of a joint classifier that is to be trained (`Settings.joint`). Without them, what is
        fine-tuned to tasks in its place: the same network with a fresh head.
    """
    import keras

    from maml_tf import losses, networks
    from maml_tf.experiments.schedules import learning_rate
    from maml_tf.supervised.baselines import JointClassifier
    from maml_tf.supervised.learner import MetaLearner

    training, problem, method = settings.training, settings.problem, settings.method
    assert problem.network is not None
    with machine.dtype_policy(settings.machine):
        model = problem.network(training, classes or training.ways)
    # Small steps are mostly dispatch, which XLA takes away; its matrix products are slower.
    regression, jit = problem.kind is Kind.REGRESSION, settings.machine.jit_compile
    jit = regression if jit is None else jit
    decay = training.average
    averages = {} if decay is None else {"use_ema": True, "ema_momentum": decay}
    shared: dict[str, Any] = {
        "step_size": training.step_size,
        "meta_batch_size": training.meta_batch_size,
        "optimizer": keras.optimizers.Adam(learning_rate(training), **averages),
        "adapts": networks.part_of(model, settings.adapts),
        "clip": training.clip,
        "clip_norm": training.clip_norm,
        "pieces": _pieces(settings, jit),
        "jit_compile": jit,
    }
    if method.learner is not None:
        return method.learner(model, settings, shared)
    if classes:
        return JointClassifier(model, losses.cross_entropy, **shared)
    return MetaLearner(model, **meta_learning(settings), **shared)


def meta_learning(settings: Settings) -> dict[str, Any]:
    """What a `MetaLearner` is given beside what all learners share: its loss and inner steps."""
    from maml_tf import losses

    training, method = settings.training, settings.method
    regression = settings.problem.kind is Kind.REGRESSION
    # The original divides the summed loss of the query set by K too. Where each task draws its own
    # K, it is divided by Q, so that all tasks count alike.
    summed = not regression and training.loss_reduction == "sum"
    shots = training.queries if isinstance(training.shots, Span) else training.shots
    cross_entropy = losses.summed_cross_entropy if summed else losses.cross_entropy
    return {
        "loss": losses.mean_squared_error if regression else cross_entropy,
        "inner_steps": settings.inner_steps,
        "first_order": method.first_order,
        "learn_step_size": training.learn_step_size or False,
        "multi_step_loss": training.multi_step_loss,
        "second_order_after": training.second_order_after,
        "per_step_normalization": training.per_step_normalization,
        "head_initialization": training.head_initialization,
        "running_statistics": training.running_statistics,
        "inner_optimizer": _inner_optimizer(training),
        "inner_clip": training.inner_clip,
        "recompute": settings.machine.recompute,
        "query_weight": training.queries / shots if summed else 1.0,
    }


def _inner_optimizer(training: Training) -> str | InnerOptimizer:
    if training.inner_optimizer != "momentum":
        return training.inner_optimizer
    from maml_tf.engine.inner_optimizers import Momentum

    return Momentum(training.inner_momentum)


def _pieces(settings: Settings, jit: bool) -> int:
    if settings.machine.pieces is not None:
        return settings.machine.pieces
    if jit or not machine.on_cpu():
        return 1
    import tensorflow as tf

    training = settings.training
    share = training.meta_batch_size // tf.distribute.get_strategy().num_replicas_in_sync
    images = training.ways * max(largest(training.shots), training.queries)
    least = IMAGES_PER_PIECE["convolutional" if training.conv else "dense"]
    fits = range(math.ceil(least / images), share + 1)
    return share // min((n for n in fits if share % n == 0), default=share)
