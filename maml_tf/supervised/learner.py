"""The meta-learner: the meta-step over a model that adapts (paper Algorithm 1 and 2).

Shape letters: T tasks of a meta-batch, S inner steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from maml_tf import arguments
from maml_tf.engine.curvature_check import warn_of_curvature
from maml_tf.engine.inner_optimizers import InnerOptimizer
from maml_tf.engine.outer_step import Norms, clipped_by_norm, scheduled_step_size
from maml_tf.engine.replicas import apply_sum, sum_over_replicas
from maml_tf.objectives.labels import check_task
from maml_tf.objectives.optimizers import (
    OptimizerLike,
    built_for,
    clipped,
    has_averages,
    loss_scale,
    optimizer_of,
)
from maml_tf.objectives.resolve import LossLike
from maml_tf.sources.shares import draw_share
from maml_tf.sources.supplies import Tasks, supply_of
from maml_tf.supervised import checks
from maml_tf.supervised import export as exporting
from maml_tf.supervised import summary as learner_summary
from maml_tf.supervised.adaptive_model import AdaptiveModel
from maml_tf.supervised.evaluation import MetricEvaluator
from maml_tf.supervised.meta_gradient import MetaGradient, MetaMetrics
from maml_tf.supervised.meta_steps import MetaSteps, StepMetrics
from maml_tf.supervised.portable import portable, programs
from maml_tf.types import Programs, Servable, Task, TaskSource, Weights


class MetaLearner(AdaptiveModel):
    """Meta-learns a Keras model's weights so that a few gradient steps on a new task do well.

    The meta-objective is the mean over tasks of the query loss after adaptation (paper eq. 2-3),
    minimised by any Keras optimizer. Create the model, the optimizer and the learner under one
    `tf.distribute` strategy's scope to spread the tasks over its replicas.

    Args:
      model: a built Keras model. Its weights are updated in place.
      loss: `(outputs [T, B, ...], y) -> [T]`, e.g. `maml_tf.losses.cross_entropy`, or what
        `keras.Model.compile` takes, computed for each task alone; see `resolve.objective`.
      metric: what to report, same forms; by default accuracy for the package's
        cross-entropies, else the loss. Sample weights do not enter a metric, as in Keras.
      loss_weights: of the losses of several outputs, as in Keras.
      lower_is_better: whether a metric of your own is better lower; asked for where it matters.
      step_size: alpha of the inner gradient step.
      inner_steps: S. 0 minimises the query loss without adaptation: the paper's pre-training.
      meta_batch_size: T, tasks per meta-step, over all replicas.
      optimizer: of the meta-step, or its Keras name; Adam(1e-3) by default. Its learning rate may
        be a schedule of `keras.optimizers.schedules`, by the number of its updates. With
        `use_ema` the averages that it keeps of all that is meta-learned are what `train` validates,
        and what it leaves in the learner.
      first_order: hold inner gradients constant (first-order MAML).
      learn_step_size: meta-learn alpha. "weight", or True: one number for each number that adapts
        (Meta-SGD); "layer": one for each weight tensor; "layer_and_step": one for each weight
        tensor and inner step (MAML++), of which later steps repeat the last.
      positive_step_size: keep learned step sizes at a thousandth of `step_size` or more.
      inner_optimizer: how the inner loop makes a step of a gradient: "sgd", "momentum" of 0.9,
        "adam", or an `engine.inner_optimizers.InnerOptimizer`, such as `Momentum(0.5)` there. Its
        state is each task's own, and begins at zero at each adaptation; alpha is its step size.
      inner_clip: clip each element of an inner gradient to [-inner_clip, inner_clip]; the
        meta-gradient takes what is clipped for a constant.
      adapts: which trainable variables the inner loop moves; by default all but those of
        normalisation layers, as in the original. All are meta-learned.
      recompute: trade a third more time for memory that hardly grows with S.
      clip: clip each element of the meta-gradient to [-clip, clip].
      clip_norm: shorten the meta-gradient to this norm, over all that is meta-learned, if it is
        longer; after `clip`, where both are given.
      query_weight: factor of the meta-objective. The original divides a query set's summed
        cross-entropy by K, not by its own number of examples per class Q: Q / K.
      pieces: work on the tasks in this many pieces. Pieces run in parallel where TensorFlow may
        run several operations at once, each in a core's own cache.
      jit_compile: compile with XLA: the whole loop of meta-steps, or with several replicas the
        meta-gradient. Faster for small dense networks.
      dropout: "off", or "per_step": dropout and noise layers act while meta-training, with one
        mask for each inner step and one for the query set, the same in both derivatives.
        Evaluation and adaptation are always without.
      multi_step_loss: meta-steps over which the meta-objective passes from the mean of the query
        losses after each inner step to the last one's alone (MAML++); see `multi_step`. 0: off.
      second_order_after: meta-steps that hold inner gradients constant, as `first_order` does,
        before all others (MAML++, Antoniou et al. 2019, paragraph "Derivative-Order Annealing").
      per_step_normalization: meta-learn a scale and an offset of every batch normalisation for each
        inner step and the query set after the last (MAML++); later steps repeat the last. They
        begin as the layer's are now, and do not adapt.
      head_initialization: where each task's head begins: "learned", at its meta-learned weights; or
        "prototypes", at those that the means of its support examples make of a last Dense layer
        (Proto-MAML; see `supervised.prototypes`). Its meta-learned weights are then of no use.
      running_statistics: keep, for the pass after each number of inner steps, moving averages of
        what every batch normalisation sees (MAML++), for predictions with
        `batch_statistics="running"`. They change nothing that is learned.

    Raises:
      ValueError: an argument is out of range, no variable adapts, or the strategy in force is of
        parameter servers.
    """

    remedy = "Lower the inner or the meta step size, or clip the meta-gradient."
    optimizer: keras.optimizers.Optimizer
    settings = AdaptiveModel.settings | {"optimizer", "clip", "clip_norm"}
    settings |= {"query_weight", "jit_compile", "multi_step_loss", "second_order_after"}
    refused: Mapping[str, str] = {}
    """Arguments that do not go with a kind of learner, and why not."""
    gradient_class: type[MetaGradient] = MetaGradient

    def __init__(
        self,
        model: keras.Model,
        loss: LossLike,
        *,
        metric: LossLike | None = None,
        loss_weights: Any = None,
        lower_is_better: bool | None = None,
        step_size: float = 0.01,
        inner_steps: int = 1,
        meta_batch_size: int = 32,
        optimizer: OptimizerLike | None = None,
        first_order: bool = False,
        learn_step_size: bool | str = False,
        positive_step_size: bool = False,
        inner_optimizer: str | InnerOptimizer = "sgd",
        inner_clip: float | None = None,
        adapts: Callable[[keras.Variable], bool] | None = None,
        recompute: bool = False,
        clip: float | None = None,
        clip_norm: float | None = None,
        query_weight: float = 1.0,
        pieces: int = 1,
        jit_compile: bool = False,
        dropout: str = "off",
        multi_step_loss: int = 0,
        second_order_after: int = 0,
        per_step_normalization: bool = False,
        head_initialization: str = "learned",
        running_statistics: bool = False,
    ):
        """Sets the learner up; nothing is computed yet. The class says what the arguments are."""
        super().__init__(
            model,
            loss,
            metric=metric,
            loss_weights=loss_weights,
            lower_is_better=lower_is_better,
            adapts=adapts,
            step_size=step_size,
            learn_step_size=learn_step_size,
            positive_step_size=positive_step_size,
            per_step_normalization=per_step_normalization,
            head_initialization=head_initialization,
            running_statistics=running_statistics,
            inner_steps=inner_steps,
            inner_optimizer=inner_optimizer,
            inner_clip=inner_clip,
            first_order=first_order,
            recompute=recompute,
            meta_batch_size=meta_batch_size,
            pieces=pieces,
        )
        checks.check_dropout(dropout)
        self.dropout, self.jit_compile, self.clip = dropout, jit_compile, clip
        self.clip_norm, self.query_weight, self.optimizer = clip_norm, query_weight, optimizer
        self.multi_step_loss, self.second_order_after = multi_step_loss, second_order_after
        self.variables = self._learned_variables()
        if dropout == "off":
            learner_summary.tell_of_noise(model)
        self._set_up()

    def _checked(self, name: str, value: Any) -> Any:
        if name == "optimizer":
            return optimizer_of(value)
        if name == "query_weight":
            return arguments.number(name, value)
        if name in ("clip", "clip_norm"):
            return None if value is None else arguments.positive(name, value)
        if name in ("multi_step_loss", "second_order_after"):
            return arguments.count(name, value, 0)
        return super()._checked(name, value)

    def _set_up(self) -> None:
        checks.check_settings(self)
        checks.warn_of_activations(self.model, self.loss, self.metric)
        built_for(self.optimizer, self.variables)
        super()._set_up()
        self._norms = Norms.of(self.model, self.inner)
        self._gradient = self.gradient_class(
            self,
            query_weight=self.query_weight,
            multi_step_loss=self.multi_step_loss,
            second_order_after=self.second_order_after,
            noisy=self.dropout != "off",
            jit_compile=self.jit_compile,
        )
        self._steps = MetaSteps(
            self.meta_step,
            self._check_first,
            meta_batch_size=self.meta_batch_size,
            inner_steps=self.inner_steps,
            strategy=self.strategy,
            jit_compile=self.jit_compile,
        ).with_sources_of(vars(self).get("_steps"))

    def _learned_variables(self) -> list[keras.Variable]:
        """What the optimizer moves."""
        return self.inner.parameters

    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        """Prints what becomes of each layer: how it runs, what adapts, what is frozen or off.

        Args:
          print_fn: takes the text.

        Raises:
          ValueError: it is no function.
        """
        arguments.predicate("print_fn", print_fn, "print")
        noise = self.dropout != "off"
        how = self.apply, self.inner, self.inner_steps, self.loss, noise, self.running is not None
        print_fn(learner_summary.text(*how))

    def evaluator(self, tasks: Tasks, **options: Any) -> MetricEvaluator:
        """What measures this learner on held-out tasks; the options are `MetricEvaluator`'s."""
        arguments.options("The evaluation of this learner", MetricEvaluator, options, 2)
        return MetricEvaluator(self, tasks, **options)

    def servable(self, **options: Any) -> Servable:
        """What `export` writes, with the weights as they are now.

        The options are those of `supervised.export.servable`: `steps` and `step_size`, defaults of
        the exported model; `inputs` and `target`, what it takes.
        """
        return exporting.servable(self, **options)

    def portable(self, **options: Any) -> Servable:
        """What `export(..., format="litert")` converts; see `supervised.portable` for options."""
        return portable(self, **options)

    def programs(self, **options: Any) -> Programs:
        """What `export(..., format="stablehlo")` writes; the options are those of `portable`."""
        return programs(self, **options)

    def check_tasks(self, tasks: Tasks) -> None:
        """Refuses what is no source of tasks; draws nothing.

        Raises:
          ValueError: says what to give.
        """
        supply_of(tasks, self.meta_batch_size)

    def meta_gradient(
        self, task: Task, index: tf.Tensor | None = None, scale: tf.Tensor | None = None
    ) -> tuple[Weights, MetaMetrics]:
        """The gradient of the mean meta-objective over `task`'s T tasks, and what was seen.

        Args:
          task: T tasks, T a multiple of `pieces`.
          index: of the meta-batch, which dropout, the weights of a multi-step loss and the order of
            the derivatives are functions of. Without it dropout is off, the loss after the last
            step counts alone, and the order is that after `second_order_after`.
          scale: a factor of the gradient, for an optimizer that divides by it.

        Returns:
          A gradient for each of `self.variables`, and `MetaMetrics`.

        Raises:
          ValueError: T is no multiple of `pieces`, or an operation of the model has no second
            derivative.
        """
        return self._gradient(task, index, scale)

    def meta_step(self, tasks: TaskSource, index: tf.Tensor) -> StepMetrics:
        """Draws meta-batch `index`, moves the weights once, and returns what it saw.

        Runs in a replica's context: each replica takes its own share of the same T tasks.
        """
        replicas = self.strategy.num_replicas_in_sync
        task = draw_share(tasks, index, self.meta_batch_size, replicas)
        scale = loss_scale(self.optimizer)
        gradient, metrics = self.meta_gradient(task, index, scale)
        # Measured and clipped is the sum.
        means = sum_over_replicas([m / replicas for m in [*gradient, *metrics.statistics]])
        gradient, statistics = means[: len(gradient)], means[len(gradient) :]
        norms, step_size = self._norms(gradient, scale), scheduled_step_size(self.optimizer)
        if self.clip is not None:
            gradient = [clipped(g, self.clip, scale) for g in gradient]
        if self.clip_norm is not None:
            gradient = clipped_by_norm(gradient, self.clip_norm, scale)
        before = [tf.convert_to_tensor(v.value) for v in self.variables]
        apply_sum(self.optimizer, gradient, self.variables)
        if self.running:
            self.running.update(statistics)
        moved = [v.value - b for v, b in zip(self.variables, before, strict=True)]
        return StepMetrics(*metrics[:3], norms, self._norms(moved), step_size)

    def meta_steps(self, tasks: Tasks, start: int, count: int) -> StepMetrics:
        """Runs meta-steps `start` ... `start + count - 1` inside one compiled call.

        Args:
          tasks: where meta-batches come from: a `TaskSource`, or what else `sources.prepare` takes.
          start: index of the first meta-batch.
          count: how many; another count does not compile again.

        Returns:
          `StepMetrics` with a leading axis `[count]`.

        Raises:
          ValueError: `tasks` is no source of tasks, or gives one meta-batch for ever.
        """
        start = arguments.count("start", start, 0)
        count = arguments.count("count", count, 1)
        self.apply.refuse_changes()
        return self._steps(tasks, start, count)

    def _check_first(self, drawn: Task) -> None:
        """Looks at the values of the first meta-batch of a source."""
        check_task(self.model, self.loss, self.metric, drawn)
        if self.inner_steps and not self.first_order:
            warn_of_curvature(self.apply, self.initial_weights(), drawn.support.x)

    def finalize(self) -> None:
        """Puts the averages of the weights into the model, if the optimizer keeps any (`use_ema`).

        As `keras.Model.fit` does at its end; `train` does it. Before the first meta-step there are
        none, and nothing changes.
        """
        if has_averages(self.optimizer):
            self.optimizer.finalize_variable_values(self.variables)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Puts the averages into the model as `finalize` does, and afterwards the weights again.

        What the optimizer holds stays as it is, so that a training goes on undisturbed.
        """
        if not has_averages(self.optimizer):
            yield
            return
        kept = [(variable, np.array(np.asarray(variable))) for variable in self.state]
        self.finalize()
        try:
            yield
        finally:
            for variable, value in kept:
                variable.assign(value)
