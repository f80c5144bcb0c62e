"""A Keras model that adapts to tasks: its loss, its inner loop, and what it predicts.

Shape letters: T tasks, B examples, Q query examples, S gradient steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from maml_tf import arguments
from maml_tf.engine.adaptation import Adaptation, StepSizes
from maml_tf.engine.functional import functional
from maml_tf.engine.inner_loop import (
    InnerLoop,
    learned_step_sizes,
    what_is_learned,
    which_adapt,
)
from maml_tf.engine.inner_optimizers import InnerOptimizer, inner_optimizer_of
from maml_tf.engine.run import Statistics
from maml_tf.engine.running_statistics import RunningStatistics
from maml_tf.engine.running_statistics import running_statistics as made_running
from maml_tf.engine.step_weights import ids_of, normalizations
from maml_tf.engine.strategies import refuse_parameter_servers
from maml_tf.networks import NORMALIZATIONS
from maml_tf.objectives.base import Objective
from maml_tf.objectives.resolve import LossLike, loss_of, metric_of
from maml_tf.saving.weights import Released, Saved
from maml_tf.supervised import checks, prototypes
from maml_tf.supervised.learner_settings import Settings
from maml_tf.supervised.prediction import Predicting
from maml_tf.types import Batch, Structure, Weights

_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "inner_steps": lambda name, value: arguments.count(name, value, 0),
    "meta_batch_size": lambda name, value: arguments.count(name, value, 1),
    "pieces": lambda name, value: arguments.count(name, value, 1),
    "inner_optimizer": lambda name, value: inner_optimizer_of(value),
    "inner_clip": lambda name, value: None if value is None else arguments.positive(name, value),
}
"""Of the settings that are neither of the objectives, nor a step size, nor True or False."""

_FIXED = frozenset(
    {"model", "adapts", "loss_weights", "learn_step_size", "per_step_normalization"}
    | {"head_initialization", "running_statistics"}
)
"""What only another learner can have otherwise."""


class AdaptiveModel(Settings, Saved, Predicting):
    """What evaluation, prediction and export need of a learner: nothing here is meta-trained.

    Its arguments are those of `MetaLearner`.
    """

    settings = frozenset(
        {"loss", "metric", "step_size", "inner_steps", "first_order", "recompute"}
        | {"meta_batch_size", "pieces", "inner_optimizer", "inner_clip"}
    )
    fixed = _FIXED
    loss: Objective
    metric: Objective
    metric_name: str
    step_size: float
    inner_steps: int
    first_order: bool
    recompute: bool
    meta_batch_size: int
    pieces: int
    inner_optimizer: InnerOptimizer
    inner_clip: float | None

    def __init__(
        self,
        model: keras.Model,
        loss: LossLike,
        *,
        metric: LossLike | None,
        loss_weights: Any,
        lower_is_better: bool | None,
        adapts: Callable[[keras.Variable], bool] | None,
        step_size: float,
        learn_step_size: bool | str,
        positive_step_size: bool,
        per_step_normalization: bool,
        head_initialization: str,
        running_statistics: bool,
        **settings: Any,
    ):
        """Sets the model up; nothing is computed yet."""
        refuse_parameter_servers(tf.distribute.get_strategy())
        self.strategy = tf.distribute.get_strategy()
        self.model = model
        self.loss_weights, self._direction = loss_weights, lower_is_better
        if lower_is_better is not None:
            arguments.boolean("lower_is_better", lower_is_better)
        for name, value in dict(loss=loss, metric=metric, step_size=step_size, **settings).items():
            setattr(self, name, value)
        self.apply = functional(model)
        theta = model.trainable_variables
        self.adapts = which_adapt(theta, adapts, default=_but_normalizations(model))
        self.learn_step_size = what_is_learned(learn_step_size)
        self.step_sizes = learned_step_sizes(
            *(theta, self.adapts, self.step_size),
            per=self.learn_step_size,
            steps=self.inner_steps,
            positive=arguments.boolean("positive_step_size", positive_step_size),
        )
        self.per_step_normalization = per_step_normalization
        own = model, theta, self.adapts, self.inner_steps
        self._rows = normalizations(per_step_normalization, *own)
        self.head_initialization = head_initialization
        self._head = prototypes.head_of(self, head_initialization)
        self.running: RunningStatistics | None = None
        self.running_statistics = arguments.boolean("running_statistics", running_statistics)
        if running_statistics:
            self.running = made_running(self.apply, self.initial_weights(), self.inner_steps)

    def _checked(self, name: str, value: Any) -> Any:
        if name == "loss":
            return self._as_loss(value)
        if name == "metric":
            return self._as_metric(value)
        if name == "step_size":
            if self._is_set_up and self.step_sizes:
                raise ValueError("Step sizes are learned; assign to those in `step_sizes`.")
            return arguments.positive(name, value)
        return _CHECKS.get(name, arguments.boolean)(name, value)

    def _as_loss(self, loss: LossLike) -> Objective:
        made = loss_of(self.model, loss, self.loss_weights)
        if self._is_set_up and self.metric_name == "loss":
            vars(self)["metric"] = made
        return made

    def _as_metric(self, metric: LossLike | None) -> Objective:
        made = metric_of(self.model, metric, self.loss, lower_is_better=self._direction)
        self.metric_name = "loss" if made is None else made.name
        return self.loss if made is None else made

    @property
    def lower_is_better(self) -> bool | None:
        """Whether the metric is an error; None where nobody said so."""
        return True if self.metric_name == "loss" else self.metric.lower_is_better

    @property
    def state(self) -> list[keras.Variable]:
        """All that a checkpoint must hold, the optimizer's own apart; in a fixed order."""
        return Released(self).state

    # --- the loss of each task ---

    def task_loss(self, weights: Weights, batch: Batch) -> tf.Tensor:
        """`LossFn` of this model and loss: `[T]`, regularisers and `add_loss` included."""
        losses, penalty, *_ = self.judge(weights, batch)
        return losses if penalty is None else losses + penalty

    def judge(
        self, weights: Weights, batch: Batch, noise: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor | None, Structure, Statistics]:
        """Loss `[T]`, what the model itself adds to it `[T]` or None, outputs, batch statistics.

        Args:
          weights: shared, or stacked `[T, *shape]`.
          batch: `x [T, B, ...]`, `y [T, B]`.
          noise: the seed of dropout and noise in this pass; off by default.
        """
        result = self.apply.run(weights, batch.x, mask=batch.mask, noise=noise)
        losses = self.loss(result.outputs, *batch[1:])
        penalty = None if result.penalty is None else tf.cast(result.penalty, losses.dtype)
        return losses, penalty, result.outputs, result.statistics

    def measure(self, outputs: Structure, batch: Batch) -> tf.Tensor:
        """The metric of each task, `[T]`; without sample weights, unless it is the loss."""
        weights = batch.sample_weight if self.metric_name == "loss" else ()
        return self.metric(outputs, batch.y, weights, batch.mask)

    # --- the inner loop ---

    @property
    def inner(self) -> InnerLoop:
        """Theta, what adapts, by which step sizes, and what steps and tasks have their own of."""
        return InnerLoop(
            *(self.model.trainable_variables, self.adapts, self.step_size, self.step_sizes),
            *(self.first_order, self.recompute),
            per_step=self.learn_step_size == "layer_and_step",
            rows=self._rows,
            optimizer=self.inner_optimizer,
            clip=self.inner_clip,
            head=self._head,
        )

    def initial_weights(self) -> Weights:
        """Reads the meta-learned weights, theta."""
        return self.inner.initial_weights()

    def alphas(self, step_size: float | tf.Tensor | None = None) -> StepSizes:
        """Returns the inner step size in force: the given one, the meta-learned, or the fixed."""
        return self.inner.alphas(step_size)

    def adapt_weights(
        self, support: Batch, steps: int, *, step_size: float | tf.Tensor | None = None
    ) -> Adaptation:
        """Adapts theta to every task of `support`; not to be differentiated through.

        Args:
          support: `x [T, B, ...]`, `y [T, B]`.
          steps: S, any number.
          step_size: alpha; the learner's own by default.

        Returns:
          The weights `[T, *shape]` after 0, 1, ... S steps.

        Raises:
          ValueError: `support` is no `Batch`, or `steps` no whole number.
        """
        num_tasks, inner = checks.num_tasks(support), self.inner
        batches = [support] * arguments.count("steps", steps, 0)
        begin = inner.stacked(num_tasks, support=support)
        return inner.steps(self.task_loss, begin, batches, step_size=step_size)


def _but_normalizations(model: keras.Model) -> Callable[[keras.Variable], bool]:
    """By default all variables adapt but those of normalisation layers, as in the original."""
    fixed = ids_of(model, NORMALIZATIONS)
    return lambda variable: id(variable) not in fixed
