"""The meta-learner: meta-objective, meta-gradient and meta-step (paper Algorithm 1 and 2).

Shape letters: T tasks of a meta-batch, B examples, S inner steps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from maml_tf import arguments, losses, seeds
from maml_tf.engine.adaptation import Adaptation, adapt, adapt_for, fast, stack
from maml_tf.engine.cloning import copy_with
from maml_tf.engine.compilation import compile_fed_loop, compile_loop
from maml_tf.engine.curvature_check import warn_of_curvature
from maml_tf.engine.fast_weights import FastWeight
from maml_tf.engine.functional import functional
from maml_tf.engine.inner_loop import InnerLoop
from maml_tf.engine.pooling import under_xla
from maml_tf.engine.second_derivatives import refusing_wrong_pooling
from maml_tf.engine.strategies import refuse_several_workers
from maml_tf.objectives.labels import check_task
from maml_tf.objectives.optimizers import built_for, clipped, loss_scale, optimizer_of
from maml_tf.objectives.resolve import objective
from maml_tf.saving import weights as learner_files
from maml_tf.sources.read_ahead import ReadAhead
from maml_tf.sources.resolve import InGraph, prepare
from maml_tf.sources.supplies import supply_of
from maml_tf.supervised import checks
from maml_tf.supervised import export as exporting
from maml_tf.supervised import summary as learner_summary
from maml_tf.supervised.evaluation import Evaluator
from maml_tf.supervised.learner_settings import Settings
from maml_tf.types import Batch, Servable, Task, TaskSource, Weights

NORMALIZATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
)

LEAST_STEP_SIZE = 1e-3
"""Of the step size at the beginning: where `positive_step_size` holds learned ones."""

_LEAST = {"inner_steps": 0, "meta_batch_size": 1, "task_chunks": 1}


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


class MetaLearner(Settings):
    """Meta-learns a Keras model's weights so that a few gradient steps on a new task do well.

    The meta-objective is the mean over tasks of the query loss after adaptation (paper eq. 2-3),
    minimised by any Keras optimizer. Create the model, the optimizer and the learner under one
    `tf.distribute` strategy's scope to spread the tasks over its replicas.
    """

    remedy = "Lower the inner or the meta step size, or clip the meta-gradient."
    settings = frozenset(
        "loss metric step_size inner_steps meta_batch_size first_order recompute clip query_weight "
        "task_chunks jit_compile optimizer".split()
    )
    fixed = frozenset({"model", "adapts", "loss_weights"})
    metric_name: str

    def __init__(
        self,
        model: keras.Model,
        loss: Any,
        *,
        metric: Any = None,
        loss_weights: Any = None,
        lower_is_better: bool | None = None,
        step_size: float = 0.01,
        inner_steps: int = 1,
        meta_batch_size: int = 32,
        optimizer: Any = None,
        first_order: bool = False,
        learn_step_size: bool = False,
        positive_step_size: bool = False,
        adapts: Callable[[keras.Variable], bool] | None = None,
        recompute: bool = False,
        clip: float | None = None,
        query_weight: float = 1.0,
        task_chunks: int = 1,
        jit_compile: bool = False,
        dropout: str = "off",
    ):
        """Sets the learner up; nothing is computed yet.

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
          meta_batch_size: T, tasks a meta-step, over all replicas.
          optimizer: of the meta-step, or its Keras name; Adam(1e-3) by default.
          first_order: hold inner gradients constant (first-order MAML).
          learn_step_size: meta-learn alpha, one number for each number that adapts (Meta-SGD).
          positive_step_size: keep learned step sizes at a thousandth of `step_size` or more.
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
          dropout: "off", or "per_step": dropout and noise layers act while meta-training, with one
            mask for each inner step and one for the query set, the same in both derivatives.
            Evaluation and adaptation are always without.

        Raises:
          ValueError: an argument is out of range, no variable adapts, or the strategy in force has
            several workers.
        """
        refuse_several_workers()
        self.model = model
        if lower_is_better is not None:
            arguments.boolean("lower_is_better", lower_is_better)
        self.loss_weights, self._direction = loss_weights, lower_is_better
        self.loss, self.metric = loss, metric
        self.step_size = step_size
        self.inner_steps = inner_steps
        self.meta_batch_size = meta_batch_size
        self.first_order = first_order
        self.recompute = recompute
        self.clip = clip
        self.query_weight = query_weight
        self.task_chunks = task_chunks
        self.jit_compile = jit_compile
        if dropout not in ("off", "per_step"):
            raise ValueError(f"dropout must be 'off' or 'per_step', not {dropout!r}.")
        self.dropout = dropout
        self.strategy = tf.distribute.get_strategy()
        self.optimizer = optimizer
        self.apply = functional(model)
        self.adapts = _adapting(model, adapts)
        positive = arguments.boolean("positive_step_size", positive_step_size)
        learns = arguments.boolean("learn_step_size", learn_step_size)
        self.step_sizes = self._make_step_sizes(positive) if learns else []
        self.variables = self._learned_variables()
        self._sources: dict[int, tuple[Any, InGraph | ReadAhead]] = {}
        if dropout == "off":
            learner_summary.tell_of_noise(model)
        self._set_up()

    def _checked(self, name: str, value: Any) -> Any:
        if name in ("loss", "metric"):
            return self._objective(name, value)
        if name == "optimizer":
            return optimizer_of(value)
        if name == "step_size":
            if self._is_set_up and self.step_sizes:
                raise ValueError("Step sizes are learned; assign to those in `step_sizes`.")
            return arguments.positive(name, value)
        if name in _LEAST:
            return arguments.count(name, value, _LEAST[name])
        if name in ("first_order", "recompute", "jit_compile"):
            return arguments.boolean(name, value)
        if name == "query_weight":
            return arguments.number(name, value)
        if name == "clip" and value is not None:
            return arguments.positive(name, value)
        return value

    def _objective(self, role: str, what: Any) -> Any:
        about: dict[str, Any] = {
            "output_names": list(getattr(self.model, "output_names", None) or []),
            "num_outputs": len(tf.nest.flatten(getattr(self.model, "outputs", None) or [0])),
        }
        if role == "loss":
            made = objective(what, weights=self.loss_weights, **about)
            if made is not what:
                made.made_of = what
            if self._is_set_up and self.metric_name == "loss":
                vars(self)["metric"] = made
            return made
        self.metric_name = "loss"
        if what is None and self.loss in (losses.cross_entropy, losses.summed_cross_entropy):
            what = losses.accuracy
        if what is None and self._direction is False:
            raise ValueError("Without a metric the loss is reported, which is better lower.")
        if what is None:
            return self.loss
        made = objective(what, role="metric", lower_is_better=self._direction, **about)
        self.metric_name = made.name
        return made

    @property
    def lower_is_better(self) -> bool | None:
        """Whether the metric is an error; None where nobody said so."""
        return True if self.metric_name == "loss" else self.metric.lower_is_better

    def _set_up(self) -> None:
        replicas = self.strategy.num_replicas_in_sync
        if self.meta_batch_size % (replicas * self.task_chunks):
            raise ValueError(
                f"A meta-batch of {self.meta_batch_size} tasks does not divide into {replicas} "
                f"replicas x {self.task_chunks} chunks; choose a multiple, or fewer chunks."
            )
        checks.warn_of_activations(self.model, self.loss, self.metric)
        built_for(self.optimizer, self.variables)
        super()._set_up()
        self._chunk_gradient = tf.function(
            self._sum_gradient,
            autograph=False,
            jit_compile=self.jit_compile,
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

    def save(self, path: str | Path) -> None:
        """Writes the model's weights and what else was learned, such as step sizes, as one file.

        Args:
          path: `<name>.weights.h5`, replaced whole or not at all; `model.load_weights` reads it
            too. The optimizer is not kept: to go on training, give `train` its `logdir`.

        Raises:
          ValueError: another ending.
          OSError: nothing can be written there.
        """
        learner_files.save(self, path)

    def load(self, path: str | Path) -> None:
        """Puts what `save` wrote into this learner, made by the same code; in place.

        Args:
          path: `<name>.weights.h5`, or the directory of a release.

        Raises:
          FileNotFoundError: there is none.
          ValueError: it is another network's, or cannot be read; the learner is as it was.
        """
        learner_files.load(self, path)

    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        """Prints what becomes of each layer: how it runs, what adapts, what is frozen or off.

        Args:
          print_fn: takes the text.

        Raises:
          ValueError: it is no function.
        """
        arguments.predicate("print_fn", print_fn, "print")
        lines = learner_summary.rows(self.apply, self.adapts, noise=self.dropout != "off")
        second = "first" if self.first_order else "second"
        title = (
            f"'{self.model.name}': {self.inner_steps} inner step{'s' * (self.inner_steps != 1)} of "
            f"{'learned size' if self.step_sizes else format(self.step_size, 'g')}, "
            f"{second} order, loss {self.loss.name}"
        )
        print_fn(learner_summary.table(lines, title))

    def evaluator(self, tasks: Any, **options: Any) -> Evaluator:
        """What measures this learner on held-out tasks; the options are `Evaluator`'s."""
        return Evaluator(self, tasks, **options)

    def servable(self, **options: Any) -> Servable:
        """What `export` writes, with the weights as they are now.

        Args:
          **options: `steps`: default number of gradient steps; the learner's inner steps by
            default. `step_size`: default alpha; the learner's own by default. A learner with
            meta-learned step sizes uses those until a number is given, here or in a call, which
            replaces them all; NaN in a call stands for the meta-learned ones.
            `inputs`: shape and dtype of a set's x, `tf.TensorSpec([None, ...])`, or a list or
            dictionary of such; by default the model's own inputs, which a subclassed model may
            not know. `target`: shape and dtype of a set's y, `[None, ...]`, or a dictionary of
            such. By default int32 class indices for losses that take such, and for others floats
            of the outputs' shape.

        Raises:
          ValueError: an argument is out of range, or the model takes sizes known only at run time.
        """
        return exporting.servable(self, **options)

    def check_tasks(self, tasks: Any) -> None:
        """Refuses what is no source of tasks; draws nothing.

        Raises:
          ValueError: says what to give.
        """
        supply_of(tasks, self.meta_batch_size)

    # --- the inner loop, on this learner's model ---

    @property
    def inner(self) -> InnerLoop:
        """Theta, what adapts and by which step sizes."""
        return InnerLoop(
            self.model.trainable_variables,
            self.adapts,
            self.step_size,
            self.step_sizes,
            self.first_order,
            self.recompute,
        )

    def task_loss(self, weights: Weights, batch: Batch) -> tf.Tensor:
        """`LossFn` of this model and loss: `[T]`, regularisers and `add_loss` included."""
        losses, penalty, _ = self._judge(weights, batch)
        return losses if penalty is None else losses + penalty

    def _judge(
        self, weights: Weights, batch: Batch, noise: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor | None, Any]:
        """The loss `[T]`, what the model itself adds to it `[T]` or None, and the outputs."""
        result = self.apply.run(weights, batch.x, mask=batch.mask, noise=noise)
        losses = self.loss(result.outputs, *batch[1:])
        penalty = None if result.penalty is None else tf.cast(result.penalty, losses.dtype)
        return losses, penalty, result.outputs

    def measure(self, outputs: Any, batch: Batch) -> tf.Tensor:
        """The metric of each task, `[T]`; without sample weights, unless it is the loss."""
        weights = batch.sample_weight if self.metric_name == "loss" else ()
        return self.metric(outputs, batch.y, weights, batch.mask)

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
        self, weights: Weights, support: Batch, x: Any, *, inductive: bool = False, mask: Any = ()
    ) -> Any:
        """Returns the outputs for `x [T, Q, ...]` of tasks that `weights` are adapted to.

        Args:
          weights: shared, or stacked `[T, *shape]`.
          support: the sets that they were adapted to.
          x: `[T, Q, ...]`.
          inductive: normalise batches by the support set's statistics, not by those of `x`.
          mask: `[T, Q]`: False where a query set is padded.

        Returns:
          `[T, Q, ...]`.
        """
        if inductive:
            _check_batch(support)
        seen = self.apply.statistics(weights, support.x, mask=support.mask) if inductive else None
        return self.apply(weights, x, statistics=seen, mask=mask)

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
        _check_batch(support)
        steps = arguments.count("steps", steps, 0)
        weights = stack(self.initial_weights(), _num_tasks(support), self.adapts)
        return adapt(
            self.task_loss,
            weights,
            [support] * steps,
            step_size=self.alphas(step_size),
            adapts=self.adapts,
            first_order=True,
            constrain=self.constrain,
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

        Raises:
          ValueError: `support` is no `Batch`, or `steps` no whole number.
        """
        _check_batch(support)
        steps = steps if tf.is_tensor(steps) else arguments.count("steps", steps, 0)
        _, seen = adapt_for(
            self.task_loss,
            stack(self.initial_weights(), _num_tasks(support), self.adapts),
            support,
            tf.constant(steps),
            step_size=self.alphas(step_size),
            adapts=self.adapts,
            observe=observe,
            constrain=self.constrain,
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

        Raises:
          ValueError: an argument is out of range, or the labels do not fit the loss.
        """
        self.apply.refuse_changes()
        one_task = Batch(*checks.support_set(self.model, self.loss, x, y))
        steps = self.inner_steps if steps is None else arguments.count("steps", steps, 0)
        step_size = None if step_size is None else arguments.positive("step_size", step_size)
        weights = self.adapt_weights(one_task, steps, step_size=step_size).weights[-1]
        values = {
            id(variable): value[0] if own else value
            for variable, value, own in zip(
                self.model.trainable_variables, weights, self.adapts, strict=True
            )
        }
        for seen in self.apply.statistics(weights, one_task.x):
            if id(seen.layer.moving_mean) in values:
                raise ValueError(
                    f"'{seen.layer.name}' normalises twice in one pass, and a Keras model has one "
                    "mean and variance for both; use learner.predict, or an exported model, which "
                    "keep them apart."
                )
            values[id(seen.layer.moving_mean)] = seen.mean[0]
            values[id(seen.layer.moving_variance)] = seen.variance[0]
        example = tf.nest.map_structure(lambda a: a[0], one_task.x)
        return copy_with(self.model, values, example)

    # --- the outer loop ---

    def meta_gradient(
        self, task: Task, index: tf.Tensor | None = None, scale: tf.Tensor | None = None
    ) -> tuple[Weights, MetaMetrics]:
        """The gradient of the mean meta-objective over `task`'s T tasks, and what was seen.

        Args:
          task: T tasks, T a multiple of `task_chunks`.
          index: of the meta-batch, which dropout is a function of; without it dropout is off.
          scale: a factor of the gradient, for an optimizer that divides by it.

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
        scaled = [] if scale is None else [scale]
        try:
            pieces = [
                self._chunk_gradient(
                    weights,
                    alphas,
                    tf.nest.map_structure(lambda t, i=i: t[i : i + size], task),
                    self._noise(index, i // size),
                    *scaled,
                    xla=under_xla(),
                )
                for i in range(0, num_tasks, size)
            ]
        except LookupError as error:
            raise ValueError(
                f"The model has no second derivative ({error}); use first_order=True, or replace "
                "the layer that lacks one."
            ) from error
        return tf.nest.map_structure(lambda *sums: tf.add_n(sums) / num_tasks, *pieces)

    def _sum_gradient(
        self,
        weights,
        alphas,
        task: Task,
        noise: Any = (),
        scale: tf.Tensor | None = None,
        *,
        xla: bool = False,
    ) -> tuple[Weights, MetaMetrics]:
        """Gradient and metrics, summed over tasks; `noise` holds the seeds of S + 1 passes."""
        del xla  # of the caller: what was traced without XLA must not serve within it
        sources = list(weights)
        if self.step_sizes:
            sources += [a for a, own in zip(alphas, self.adapts, strict=True) if own]
        begin = stack if self.recompute else fast
        *steps, last = noise if len(noise) else [None] * (self.inner_steps + 1)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)
            adaptation = adapt(
                self.task_loss if not len(noise) else self._noisy_task_loss,
                begin(weights, _num_tasks(task.support), self.adapts),
                [task.support if seed is None else (task.support, seed) for seed in steps],
                step_size=alphas,
                adapts=self.adapts,
                first_order=self.first_order,
                recompute=self.recompute,
                constrain=self.constrain,
            )
            losses, penalty, outputs = self._judge(adaptation.weights[-1], task.query, last)
            query_loss = tf.reduce_sum(losses)
            objective = self.query_weight * query_loss
            if penalty is not None:
                objective += tf.reduce_sum(penalty)
                query_loss += tf.reduce_sum(penalty)
            if scale is not None:
                objective *= tf.cast(scale, objective.dtype)
        with refusing_wrong_pooling():
            gradient = tape.gradient(
                objective, sources, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
        support_losses = [tf.reduce_sum(losses) for losses in adaptation.losses]
        metric = tf.reduce_sum(self.measure(outputs, task.query))
        support_loss = tf.stack(support_losses) if support_losses else tf.zeros([0])
        gradient = [tf.convert_to_tensor(g) for g in gradient]  # a table's comes as slices
        return gradient, MetaMetrics(support_loss, query_loss, metric)

    def _noisy_task_loss(self, weights: Weights, batch: tuple[Batch, tf.Tensor]) -> tf.Tensor:
        losses, penalty, _ = self._judge(weights, *batch)
        return losses if penalty is None else losses + penalty

    @property
    def constrain(self) -> Callable[[Weights], Weights] | None:
        """What Keras' constraints make of weights `[T, *shape]`; None where there are none."""
        found = [getattr(v, "constraint", None) for v in self.model.trainable_variables]
        if not any(c is not None and own for c, own in zip(found, self.adapts, strict=True)):
            return None
        return functools.partial(_constrained, constraints=found, adapts=self.adapts)

    def _noise(self, index: tf.Tensor | None, chunk: int) -> list[tf.Tensor]:
        """Seeds of the S + 1 passes of a piece of meta-batch `index`; none where noise is off."""
        if self.dropout == "off" or index is None:
            return []
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        seed = seeds.stream(0, "train", f"dropout {chunk}", index)
        seed = tf.random.experimental.stateless_fold_in(seed, replica)
        passes = range(self.inner_steps + 1)
        return [tf.random.experimental.stateless_fold_in(seed, step) for step in passes]

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
        scale = loss_scale(self.optimizer)
        gradient, metrics = self.meta_gradient(task, index, scale)
        gradient = [g / replicas for g in gradient]
        if self.clip is not None:
            if replicas > 1:
                # Clip the sum; the optimizer adds the replicas' gradients once more.
                gradient = context.all_reduce(tf.distribute.ReduceOp.SUM, gradient)
            gradient = [clipped(g, self.clip, scale) / replicas for g in gradient]
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
        start = arguments.count("start", start, 0)
        count = arguments.count("count", count, 1)
        self.apply.refuse_changes()
        if id(tasks) not in self._loops:
            if id(tasks) not in self._sources:
                source = prepare(tasks, self.meta_batch_size, start=start)
                self._check_first(source, start)
                # The source is kept beside what was made of it, so that its id stays its own.
                self._sources[id(tasks)] = (tasks, source)
            self._loops[id(tasks)] = (tasks, self._compile(self._sources[id(tasks)][1]))
        return self._loops[id(tasks)][1](start, count)

    def _check_first(self, source: InGraph | ReadAhead, index: int) -> None:
        """Draws one meta-batch to look at its values: once a source, never in a step."""
        if isinstance(source, InGraph):
            drawn = source(tf.constant(index, tf.int64), self.meta_batch_size)
        else:
            drawn = source.peek(index)
        check_task(self.model, self.loss, self.metric, drawn)
        if self.inner_steps and not self.first_order:
            warn_of_curvature(self.apply, self.initial_weights(), drawn.support.x)

    def _compile(self, source: InGraph | ReadAhead) -> Callable[[int, int], MetaMetrics]:
        def step(index, draw):
            metrics = self.strategy.run(self.meta_step, args=(draw, index))
            return tf.nest.map_structure(
                lambda m: self.strategy.reduce(tf.distribute.ReduceOp.MEAN, m, axis=None), metrics
            )

        spec = MetaMetrics(tf.TensorSpec([self.inner_steps]), tf.TensorSpec([]), tf.TensorSpec([]))
        jit = self.jit_compile and self.strategy.num_replicas_in_sync == 1
        if isinstance(source, InGraph):
            return compile_loop(lambda index: step(index, source), spec, jit_compile=jit)
        return compile_fed_loop(
            lambda index, task: step(index, lambda *_: task),
            spec,
            source.draw,
            capacity=source.capacity,
            jit_compile=jit,
        )

    def finalize(self) -> None:
        """Puts the averages of the weights into the model, if the optimizer keeps any (`use_ema`).

        As `keras.Model.fit` does at its end; `train` does it.
        """
        self.optimizer.finalize_variable_values(self.variables)

    def _make_step_sizes(self, positive: bool) -> list[keras.Variable]:
        made = [
            keras.Variable(
                tf.constant(self.step_size, v.dtype, v.shape),
                name="step_size_" + v.path.replace("/", "_"),
            )
            for v, own in zip(self.model.trainable_variables, self.adapts, strict=True)
            if own
        ]
        if positive:
            least = self.step_size * LEAST_STEP_SIZE
            for variable in made:
                variable.constraint = lambda alpha: keras.ops.maximum(alpha, least)
        return made


def _constrained(weights: Weights, constraints: list, adapts: list[bool]) -> Weights:
    return [
        weight
        if constraint is None or not own
        else tf.vectorized_map(
            lambda w, c=constraint: tf.convert_to_tensor(c(w)),
            weight.stacked() if isinstance(weight, FastWeight) else weight,
        )
        for weight, constraint, own in zip(weights, constraints, adapts, strict=True)
    ]


def _check_batch(support: Any) -> None:
    if not isinstance(support, Batch):
        raise ValueError(
            f"The support set is {arguments.shown(support)}; give Batch(x, y) of stacked tasks, "
            "x [T, B, ...]."
        )


def _num_tasks(batch: Batch) -> int | tf.Tensor:
    x = tf.nest.flatten(batch.x)[0]  # a model may have several inputs
    return x.shape[0] if x.shape[0] is not None else tf.shape(x)[0]


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
        arguments.predicate("adapts", adapts, "lambda v: 'head' in v.path")
        chosen = [bool(adapts(v)) for v in model.trainable_variables]
    if not any(chosen):
        paths = ", ".join(v.path for v in model.trainable_variables)
        raise ValueError(f"No variable adapts; let `adapts` choose at least one of {paths}.")
    return chosen
