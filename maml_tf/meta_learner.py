"""The meta-learner: meta-objective, meta-gradient and meta-step (paper Algorithm 1 and 2).

Shape letters: T tasks of a meta-batch, B examples, S inner steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from maml_tf import losses
from maml_tf.adaptation import Adaptation, adapt, adapt_for, fast, stack
from maml_tf.compiled_loop import compile_fed_loop, compile_loop
from maml_tf.functional import functional
from maml_tf.sources import InGraph, prepare
from maml_tf.types import Batch, OutputLoss, Task, TaskSource, Weights

NORMALIZATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
)


class MetaMetrics(NamedTuple):
    """What one meta-step saw, averaged over its tasks, before the update."""

    support_loss: tf.Tensor  # [S]: before each inner step, on the set that it descends
    query_loss: tf.Tensor  # []: after the last inner step
    query_metric: tf.Tensor  # []: the learner's metric, after the last inner step

    def progress(self, metric: str) -> str:
        """A few words for the progress bar, about arrays with a leading axis `[count]`."""
        parts = f"loss {np.mean(self.query_loss):.3g}"
        if self.support_loss.shape[1]:
            before = np.mean(self.support_loss[:, 0])
            parts = f"loss {before:.3g} -> {np.mean(self.query_loss):.3g}"
        if metric != "loss":
            parts += f", {metric} {np.mean(self.query_metric):.3f}"
        return parts


class MetaLearner:
    """Meta-learns a Keras model's weights so that a few gradient steps on a new task do well.

    The meta-objective is the mean over tasks of the query loss after adaptation (paper eq. 2-3),
    minimised by any Keras optimizer. Create the model, the optimizer and the learner under one
    `tf.distribute` strategy's scope to spread the tasks over its replicas.
    """

    mend = "Lower the inner or the meta step size, or clip the meta-gradient."

    def __init__(
        self,
        model: keras.Model,
        loss: OutputLoss,
        *,
        metric: OutputLoss | None = None,
        step_size: float = 0.01,
        inner_steps: int = 1,
        meta_batch_size: int = 32,
        optimizer: keras.optimizers.Optimizer | None = None,
        first_order: bool = False,
        learn_step_size: bool = False,
        adapts: Callable[[keras.Variable], bool] | None = None,
        recompute: bool = False,
        clip: float | None = None,
        query_weight: float = 1.0,
        task_chunks: int = 1,
        jit_compile: bool = False,
    ):
        """Sets the learner up; nothing is computed yet.

        Args:
          model: a built Keras model. Its weights are updated in place.
          loss: `(outputs [T, B, ...], y) -> [T]`, e.g. `maml_tf.losses.cross_entropy`.
          metric: what to report, same form; by default accuracy for the package's cross-entropies,
            else the loss.
          step_size: alpha of the inner gradient step.
          inner_steps: S. 0 minimises the query loss without adaptation: the paper's pre-training.
          meta_batch_size: T, tasks a meta-step, over all replicas.
          optimizer: of the meta-step; Adam(1e-3) by default.
          first_order: hold inner gradients constant (first-order MAML).
          learn_step_size: meta-learn alpha, one number for each number that adapts (Meta-SGD).
          adapts: which trainable variables the inner loop moves; by default all but those of
            normalisation layers, as in the original. All are meta-learned.
          recompute: trade a third more time for memory that hardly grows with S.
          clip: clip each element of the meta-gradient to [-clip, clip].
          query_weight: factor of the meta-objective. The original divides a query set's summed
            cross-entropy by K, not by its own number of examples a class Q: Q / K.
          task_chunks: work on the tasks in this many pieces. Pieces run in parallel where
            TensorFlow may run several operations at once, each in a core's own cache.
          jit_compile: compile with XLA: the whole loop of meta-steps, or with several replicas the
            meta-gradient. Faster for small dense networks.

        Raises:
          ValueError: an argument is out of range, or no variable adapts.
        """
        _check(step_size, inner_steps, meta_batch_size, task_chunks, clip)
        self.model = model
        self.loss = loss
        self.metric, self.metric_name = _metric_of(loss, metric)
        self.step_size = step_size
        self.inner_steps = inner_steps
        self.meta_batch_size = meta_batch_size
        self.first_order = first_order
        self.recompute = recompute
        self.clip = clip
        self.query_weight = query_weight
        self.task_chunks = task_chunks
        self.jit_compile = jit_compile
        self.strategy = tf.distribute.get_strategy()
        self.optimizer = optimizer if optimizer is not None else keras.optimizers.Adam(1e-3)
        self.apply = functional(model)
        self.adapts = _adapting(model, adapts)
        self.step_sizes = self._make_step_sizes() if learn_step_size else []
        self.variables = self._learned_variables()
        self.optimizer.build(self.variables)
        replicas = self.strategy.num_replicas_in_sync
        if meta_batch_size % (replicas * task_chunks):
            raise ValueError(
                f"A meta-batch of {meta_batch_size} tasks does not divide into {replicas} replicas "
                f"x {task_chunks} chunks; choose a multiple, or fewer chunks."
            )
        self._chunk_gradient = tf.function(
            self._sum_gradient,
            autograph=False,
            jit_compile=jit_compile,
            # One optimised copy, which each piece runs; inlined, the graph would hold them all.
            experimental_attributes={"_noinline": True},
        )
        self._loops: dict[int, tuple[Any, Callable]] = {}

    def _learned_variables(self) -> list[keras.Variable]:
        """What the optimizer moves."""
        return [*self.model.trainable_variables, *self.step_sizes]

    @property
    def state(self) -> list[keras.Variable]:
        """All that a checkpoint must hold, the optimizer's own apart; in a fixed order."""
        return [*self.model.variables, *self.step_sizes]

    # --- the inner loop, on this learner's model ---

    def task_loss(self, weights: Weights, batch: Batch) -> tf.Tensor:
        """`LossFn` of this model and loss: `[T]`."""
        return self.loss(self.apply(weights, batch.x), batch.y)

    def initial_weights(self) -> Weights:
        """Reads the meta-learned weights, theta."""
        return [tf.convert_to_tensor(v.value) for v in self.model.trainable_variables]

    def alphas(self, step_size: float | tf.Tensor | None = None) -> float | list[tf.Tensor]:
        """Returns the inner step size in force: the given one, the meta-learned, or the fixed."""
        if step_size is not None or not self.step_sizes:
            return self.step_size if step_size is None else step_size
        learned = iter(self.step_sizes)
        return [
            tf.convert_to_tensor(next(learned).value) if own else tf.zeros([], v.dtype)
            for v, own in zip(self.model.trainable_variables, self.adapts, strict=True)
        ]

    def predict(
        self, weights: Weights, support: Batch, x: tf.Tensor, *, inductive: bool = False
    ) -> tf.Tensor:
        """Returns the outputs for `x [T, Q, ...]` of tasks that `weights` are adapted to.

        Args:
          weights: shared, or stacked `[T, *shape]`.
          support: the sets that they were adapted to.
          x: `[T, Q, ...]`.
          inductive: normalise batches by the support set's statistics, not by those of `x`.

        Returns:
          `[T, Q, ...]`.
        """
        seen = self.apply.statistics(weights, support.x) if inductive else None
        return self.apply(weights, x, statistics=seen)

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
        """
        weights = stack(self.initial_weights(), _num_tasks(support), self.adapts)
        return adapt(
            self.task_loss,
            weights,
            [support] * steps,
            step_size=self.alphas(step_size),
            adapts=self.adapts,
            first_order=True,
        )

    def adapt_and_observe(
        self,
        support: Batch,
        steps: int,
        observe: Callable[[Weights], tf.Tensor],
        *,
        step_size: float | tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Adapts theta to every task of `support`, and watches.

        Args:
          support: `x [T, B, ...]`, `y [T, B]`.
          steps: S, any number.
          observe: `weights -> [T, ...] float32`.
          step_size: alpha; the learner's own by default.

        Returns:
          `[S + 1, T, ...]`: what `observe` gave after 0, 1, ... S steps.
        """
        _, seen = adapt_for(
            self.task_loss,
            stack(self.initial_weights(), _num_tasks(support), self.adapts),
            support,
            tf.constant(steps),
            step_size=self.alphas(step_size),
            adapts=self.adapts,
            observe=observe,
        )
        return seen

    def adapt(self, x, y, *, steps: int | None = None, step_size: float | None = None):
        """Adapts a copy of the model to one task, and returns it: an ordinary Keras model.

        Args:
          x: `[B, ...]` support examples.
          y: `[B]` class indices, or `[B, ...]` targets.
          steps: gradient steps; the learner's inner steps by default.
          step_size: alpha; the learner's own by default.

        Returns:
          A Keras model with its own weights. Its batch normalisation predicts with the statistics
          of the support set, so that one example can be classified alone.
        """
        support = Batch(tf.convert_to_tensor(x)[None], tf.convert_to_tensor(y)[None])
        steps = self.inner_steps if steps is None else steps
        weights = self.adapt_weights(support, steps, step_size=step_size).weights[-1]
        values = {
            id(variable): value[0] if own else value
            for variable, value, own in zip(
                self.model.trainable_variables, weights, self.adapts, strict=True
            )
        }
        for seen in self.apply.statistics(weights, support.x):
            values[id(seen.layer.moving_mean)] = seen.mean[0]
            values[id(seen.layer.moving_variance)] = seen.variance[0]
        adapted = keras.models.clone_model(self.model)
        for copy, variable in zip(adapted.variables, self.model.variables, strict=True):
            copy.assign(values.get(id(variable), variable.value))
        return adapted

    # --- the outer loop ---

    def meta_gradient(self, task: Task) -> tuple[Weights, MetaMetrics]:
        """The gradient of the mean meta-objective over `task`'s T tasks, and what was seen.

        Args:
          task: T tasks, T a multiple of `task_chunks`.

        Returns:
          A gradient for each of `self.variables`, and `MetaMetrics`.

        Raises:
          ValueError: T is no multiple of `task_chunks`, or an operation of the model has no second
            derivative.
        """
        weights, alphas = self.initial_weights(), self.alphas()
        num_tasks = tf.nest.flatten(task)[0].shape[0]
        if num_tasks % self.task_chunks:
            raise ValueError(
                f"{num_tasks} tasks do not divide into task_chunks={self.task_chunks} pieces; give "
                "a multiple, or fewer chunks."
            )
        size = num_tasks // self.task_chunks
        try:
            pieces = [
                self._chunk_gradient(
                    weights, alphas, tf.nest.map_structure(lambda t, i=i: t[i : i + size], task)
                )
                for i in range(0, num_tasks, size)
            ]
        except LookupError as error:
            raise ValueError(
                f"The model has no second derivative ({error}); use first_order=True, or replace "
                "the layer that lacks one."
            ) from error
        return tf.nest.map_structure(lambda *sums: tf.add_n(sums) / num_tasks, *pieces)

    def _sum_gradient(self, weights, alphas, task: Task) -> tuple[Weights, MetaMetrics]:
        """Gradient and metrics, summed over tasks."""
        sources = list(weights)
        if self.step_sizes:
            sources += [a for a, own in zip(alphas, self.adapts, strict=True) if own]
        begin = stack if self.recompute else fast
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)
            adaptation = adapt(
                self.task_loss,
                begin(weights, _num_tasks(task.support), self.adapts),
                [task.support] * self.inner_steps,
                step_size=alphas,
                adapts=self.adapts,
                first_order=self.first_order,
                recompute=self.recompute,
            )
            outputs = self.apply(adaptation.weights[-1], task.query.x)
            query_loss = tf.reduce_sum(self.loss(outputs, task.query.y))
            objective = self.query_weight * query_loss
        gradient = tape.gradient(
            objective, sources, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        support_losses = [tf.reduce_sum(losses) for losses in adaptation.losses]
        metric = tf.reduce_sum(self.metric(outputs, task.query.y))
        support_loss = tf.stack(support_losses) if support_losses else tf.zeros([0])
        return gradient, MetaMetrics(support_loss, query_loss, metric)

    def meta_step(self, tasks: TaskSource, index: tf.Tensor) -> MetaMetrics:
        """Draws meta-batch `index`, moves the weights once, and returns what it saw before.

        Runs in a replica's context: each replica takes its own share of the same T tasks.
        """
        task = tasks(index, self.meta_batch_size)
        context = tf.distribute.get_replica_context()
        replicas = self.strategy.num_replicas_in_sync
        if replicas > 1:
            share = self.meta_batch_size // replicas
            mine = context.replica_id_in_sync_group
            task = tf.nest.map_structure(
                lambda t: tf.reshape(t, [replicas, share, *t.shape[1:]])[mine], task
            )
        gradient, metrics = self.meta_gradient(task)
        gradient = [g / replicas for g in gradient]
        if self.clip is not None:
            if replicas > 1:
                # Clip the sum; the optimizer adds the replicas' gradients once more.
                gradient = context.all_reduce(tf.distribute.ReduceOp.SUM, gradient)
            gradient = [tf.clip_by_value(g, -self.clip, self.clip) / replicas for g in gradient]
        self.optimizer.apply(gradient, self.variables)
        return metrics

    def meta_steps(self, tasks: Any, start: int, count: int) -> MetaMetrics:
        """Runs meta-steps `start` ... `start + count - 1` inside one compiled call.

        Args:
          tasks: where meta-batches come from: a `TaskSource`, or what else `sources.prepare` takes.
          start: index of the first meta-batch.
          count: how many; another count does not compile again.

        Returns:
          `MetaMetrics` with a leading axis `[count]`.

        Raises:
          ValueError: `tasks` is no source of tasks, or gives one meta-batch for ever.
        """
        if count < 1:
            raise ValueError(f"count must be 1 or more, not {count}.")
        if id(tasks) not in self._loops:
            # The source is kept beside its loop, so that its id stays its own.
            self._loops[id(tasks)] = (tasks, self._compile(tasks, start))
        return self._loops[id(tasks)][1](start, count)

    def _compile(self, tasks: Any, start: int) -> Callable[[int, int], MetaMetrics]:
        def step(index, draw):
            metrics = self.strategy.run(self.meta_step, args=(draw, index))
            return tf.nest.map_structure(
                lambda m: self.strategy.reduce(tf.distribute.ReduceOp.MEAN, m, axis=None), metrics
            )

        spec = MetaMetrics(tf.TensorSpec([self.inner_steps]), tf.TensorSpec([]), tf.TensorSpec([]))
        jit = self.jit_compile and self.strategy.num_replicas_in_sync == 1
        source = prepare(tasks, self.meta_batch_size, start=start)
        if isinstance(source, InGraph):
            return compile_loop(lambda index: step(index, source), spec, jit_compile=jit)
        return compile_fed_loop(
            lambda index, task: step(index, lambda *_: task),
            spec,
            source.draw,
            capacity=source.capacity,
            jit_compile=jit,
        )

    def _make_step_sizes(self) -> list[keras.Variable]:
        return [
            keras.Variable(
                tf.constant(self.step_size, v.dtype, v.shape),
                name="step_size_" + v.path.replace("/", "_"),
            )
            for v, own in zip(self.model.trainable_variables, self.adapts, strict=True)
            if own
        ]


def _num_tasks(batch: Batch) -> int | tf.Tensor:
    x = tf.nest.flatten(batch.x)[0]  # a model may have several inputs
    return x.shape[0] if x.shape[0] is not None else tf.shape(x)[0]


def _metric_of(loss: OutputLoss, metric: OutputLoss | None) -> tuple[OutputLoss, str]:
    if metric is None and loss in (losses.cross_entropy, losses.summed_cross_entropy):
        metric = losses.accuracy
    if metric is None:
        return loss, "loss"
    return metric, getattr(metric, "__name__", "metric")


def _adapting(model: keras.Model, adapts: Callable[[keras.Variable], bool] | None) -> list[bool]:
    if adapts is None:
        fixed = {
            id(variable)
            for layer in model._flatten_layers()
            if isinstance(layer, NORMALIZATIONS)
            for variable in layer.trainable_variables
        }
        chosen = [id(v) not in fixed for v in model.trainable_variables]
    else:
        chosen = [bool(adapts(v)) for v in model.trainable_variables]
    if not any(chosen):
        paths = ", ".join(v.path for v in model.trainable_variables)
        raise ValueError(f"No variable adapts; let `adapts` choose at least one of {paths}.")
    return chosen


def _check(step_size, inner_steps, meta_batch_size, task_chunks, clip) -> None:
    if not step_size > 0:
        raise ValueError(f"step_size must be positive, not {step_size}.")
    if inner_steps < 0:
        raise ValueError(f"inner_steps must be 0 or more, not {inner_steps}.")
    if meta_batch_size < 1:
        raise ValueError(f"meta_batch_size must be 1 or more, not {meta_batch_size}.")
    if task_chunks < 1:
        raise ValueError(f"task_chunks must be 1 or more, not {task_chunks}.")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip must be positive, not {clip}; None does not clip.")
