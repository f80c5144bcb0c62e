"""The gradient of the mean meta-objective over the tasks of a meta-batch (paper eq. 2-3).

Shape letters: T tasks of a meta-batch, B examples, S inner steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from maml_tf import seeds
from maml_tf.engine import pieces
from maml_tf.engine.adaptation import Adaptation
from maml_tf.engine.inner_loop import InnerLoop
from maml_tf.engine.pooling import under_xla
from maml_tf.engine.run import Statistics
from maml_tf.engine.second_derivatives import refusing_wrong_pooling
from maml_tf.supervised import checks
from maml_tf.supervised.adaptive_model import AdaptiveModel
from maml_tf.supervised.multi_step import step_weights
from maml_tf.types import Batch, Structure, Task, Weights

Judged: TypeAlias = "tuple[tf.Tensor, tf.Tensor | None, Structure, Statistics]"
"""What `AdaptiveModel.judge` says: losses `[T]`, what the model adds, outputs, batch statistics."""


class MetaMetrics(NamedTuple):
    """What one meta-step saw, averaged over its tasks, before the update."""

    support_loss: tf.Tensor  # [S]: before each inner step, on the set that it descends
    query_loss: tf.Tensor  # []: after the last inner step
    query_metric: tf.Tensor  # []: the learner's metric, after the last inner step
    statistics: Sequence[tf.Tensor] = ()  # [S + 1, C] for each of `RunningStatistics.variables`

    def progress(self, metric: str) -> str:
        """A few words for the progress bar, about arrays with a leading axis `[count]`."""
        parts = f"loss {np.mean(self.query_loss):.3g}"
        if self.support_loss.shape[1]:
            before = np.mean(self.support_loss[:, 0])
            parts = f"loss {before:.3g} -> {np.mean(self.query_loss):.3g}"
        if metric != "loss":
            parts += f", {metric} {np.mean(self.query_metric):.3f}"
        return parts


class MetaGradient:
    """Computes it in pieces of the tasks, which run in parallel, each in a core's own cache."""

    def __init__(
        self,
        learner: AdaptiveModel,
        *,
        query_weight: float,
        multi_step_loss: int,
        second_order_after: int,
        noisy: bool,
        jit_compile: bool,
    ):
        """Nothing is traced yet; the learner's settings must not change afterwards.

        Args:
          learner: whose meta-objective it is.
          query_weight: factor of the query loss.
          multi_step_loss: meta-steps with a multi-step loss; see `multi_step.step_weights`.
          second_order_after: meta-steps that hold inner gradients constant, before all others.
          noisy: whether dropout and noise layers act, with one mask for each of S + 1 passes.
          jit_compile: compile with XLA.
        """
        self._learner, self._inner, self._pieces = learner, learner.inner, learner.pieces
        self._steps, self._running = learner.inner_steps, learner.running
        self._query_weight, self._noisy = query_weight, noisy
        self._multi_step_loss = multi_step_loss
        self._second_order_after = second_order_after
        self.piece = tf.function(
            self._sum,
            autograph=False,
            jit_compile=jit_compile,
            # One optimised copy, which each piece runs; inlined, the graph would hold them all.
            experimental_attributes={"_noinline": True},
        )

    def __call__(
        self, task: Task, index: tf.Tensor | None, scale: tf.Tensor | None
    ) -> tuple[Weights, MetaMetrics]:
        """The gradient for each of the inner loop's parameters; see `MetaLearner.meta_gradient`."""
        num_tasks = tf.nest.flatten(task)[0].shape[0]
        if num_tasks % self._pieces:
            raise ValueError(
                f"{num_tasks} tasks do not divide into pieces={self._pieces}; give a multiple, or "
                "fewer pieces."
            )
        parameters, counts = self._inner.values(), self._step_weights(index)
        each = [self._noise(index, number) for number in range(self._pieces)]
        noise = [tf.stack(of_pass) for of_pass in zip(*each, strict=True)]
        xla = under_xla()

        def compute(first_order: bool) -> tuple[Weights, MetaMetrics]:
            def of_piece(own: tuple[Task, list[tf.Tensor]]) -> tuple[Weights, MetaMetrics]:
                call = (parameters, *own, scale, counts)
                return self.piece(*call, first_order=first_order, xla=xla)

            sums = pieces.each(of_piece, (pieces.stacked(task, self._pieces), noise), self._pieces)
            return tf.nest.map_structure(lambda *each: tf.add_n(each) / num_tasks, *sums)

        try:
            if not self._second_order_after or index is None:
                return compute(self._inner.first_order)
            early = index < self._second_order_after
            return tf.cond(early, lambda: compute(True), lambda: compute(False))
        except LookupError as error:
            raise ValueError(
                f"The model has no second derivative ({error}); use first_order=True, or replace "
                "the layer that lacks one."
            ) from error

    def _sum(
        self,
        parameters: Weights,
        task: Task,
        noise: Sequence[tf.Tensor] = (),
        scale: tf.Tensor | None = None,
        counts: tf.Tensor | None = None,
        *,
        first_order: bool,
        xla: bool = False,
    ) -> tuple[Weights, MetaMetrics]:
        """Gradient and metrics, summed over tasks: what another `gradient_class` overrides.

        `noise` holds the seeds of S + 1 passes, `counts [S]` the weights of a multi-step loss.
        """
        del xla  # of the caller: what was traced without XLA must not serve within it
        inner = dataclasses.replace(self._inner, first_order=first_order)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(parameters)
            adaptation = self._adapted(inner, parameters, task, noise)
            last = noise[-1] if len(noise) else None
            judged = self._learner.judge(adaptation.weights[-1], task.query, last)
            objective = self._objective(*judged[:2])
            if counts is not None:
                counts = tf.unstack(tf.cast(counts, objective.dtype))
                objective *= counts[-1]
                objective += self._of_earlier_steps(adaptation.weights[1:-1], counts, task, last)
            if scale is not None:
                objective *= tf.cast(scale, objective.dtype)
        with refusing_wrong_pooling():
            gradient = gradient_of(tape, objective, parameters)
        return gradient, self._seen(adaptation.losses, judged, task)

    def _adapted(
        self, inner: InnerLoop, parameters: Weights, task: Task, noise: Sequence[tf.Tensor]
    ) -> Adaptation:
        """The inner steps on the support sets, as `InnerLoop.differentiable` takes them."""
        steps: Sequence[tf.Tensor | None] = noise[:-1] if len(noise) else [None] * self._steps
        return inner.differentiable(
            self._told_loss if self._running or len(noise) else self._learner.task_loss,
            parameters,
            [
                (task.support, seed) if self._running or len(noise) else task.support
                for seed in steps
            ],
            checks.num_tasks(task.support),
            task.support,
        )

    def _objective(self, losses: tf.Tensor, penalty: tf.Tensor | None) -> tf.Tensor:
        """What is minimised of query losses `[T]`, and of what the model adds to them."""
        summed = self._query_weight * tf.reduce_sum(losses)
        return summed if penalty is None else summed + tf.reduce_sum(penalty)

    def _seen(self, before: Sequence[Any], judged: Judged, task: Task) -> MetaMetrics:
        """The metrics, summed over tasks, of what the inner loop's loss gave before each step."""
        losses, penalty, outputs, seen = judged
        passes = []
        if self._running:
            passes = [notes for _, notes in before] + [self._running.noted(seen)]
            before = [losses for losses, _ in before]
        query_loss = tf.reduce_sum(losses)
        if penalty is not None:
            query_loss += tf.reduce_sum(penalty)
        sums = [tf.reduce_sum(losses) for losses in before]
        support_loss = tf.stack(sums) if sums else tf.zeros([0])
        metric = tf.reduce_sum(self._learner.measure(outputs, task.query))
        statistics = self._running.of_passes(passes) if self._running else ()
        return MetaMetrics(support_loss, query_loss, metric, statistics)

    def _of_earlier_steps(
        self,
        path: Sequence[Weights],
        counts: Sequence[tf.Tensor],
        task: Task,
        noise: tf.Tensor | None,
    ) -> tf.Tensor:
        """The weighted objectives after the inner steps before the last; not computed for 0."""

        def compute():
            judged = [self._learner.judge(weights, task.query, noise) for weights in path]
            each = [self._objective(losses, penalty) for losses, penalty, *_ in judged]
            return tf.add_n([v * one for v, one in zip(counts, each, strict=False)])

        if not path:
            return tf.zeros([], counts[-1].dtype)
        return tf.cond(counts[0] > 0, compute, lambda: tf.zeros([], counts[-1].dtype))

    def _step_weights(self, index: tf.Tensor | None) -> tf.Tensor | None:
        """How much the loss after each inner step counts, `[S]`; None: the last alone."""
        if not self._multi_step_loss or index is None:
            return None
        return step_weights(index, self._steps, self._multi_step_loss)

    def _told_loss(self, weights: Weights, batch: tuple[Batch, tf.Tensor | None]) -> Any:
        """The loss under noise, and where statistics run along, what the pass saw."""
        losses, penalty, _, seen = self._learner.judge(weights, *batch)
        losses = losses if penalty is None else losses + penalty
        return (losses, self._running.noted(seen)) if self._running else losses

    def _noise(self, index: tf.Tensor | None, piece: int) -> list[tf.Tensor]:
        """Seeds of the S + 1 passes of a piece of meta-batch `index`; none where noise is off."""
        if not self._noisy or index is None:
            return []
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        seed = seeds.stream(0, "train", f"dropout {piece}", index)
        seed = tf.random.experimental.stateless_fold_in(seed, replica)
        passes = range(self._steps + 1)
        return [tf.random.experimental.stateless_fold_in(seed, step) for step in passes]


def gradient_of(
    tape: tf.GradientTape,
    target: tf.Tensor | Weights,
    sources: Weights,
    upstream: Weights | None = None,
) -> Weights:
    """The gradient by `sources` as tensors of their shapes: zero for what does not matter.

    That of a table that words are looked up in comes as slices.
    """
    zero = tf.UnconnectedGradients.ZERO
    gradient = tape.gradient(target, sources, upstream, unconnected_gradients=zero)
    made = [tf.convert_to_tensor(g) for g in gradient]
    for g, source in zip(made, sources, strict=True):
        g.set_shape(source.shape)
    return made
