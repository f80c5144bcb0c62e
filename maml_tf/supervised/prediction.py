"""What a learner predicts for tasks that it adapts to, and whose statistics normalise that.

Shape letters: T tasks, B examples, Q query examples, S gradient steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from maml_tf import arguments
from maml_tf.engine.adaptation import Adaptation
from maml_tf.engine.functional import Functional
from maml_tf.engine.inner_loop import InnerLoop
from maml_tf.engine.run import Statistics
from maml_tf.engine.running_statistics import RunningStatistics
from maml_tf.objectives.base import Objective
from maml_tf.supervised import checks
from maml_tf.supervised.adapted_copy import adapted_copy
from maml_tf.types import Batch, Structure, Weights

BATCH_STATISTICS = ("transductive", "inductive", "running")
"""Whose statistics normalise a query set: its own, the support set's, or those of the training."""


class Predicting:
    """Adapts and predicts; what it needs of a learner comes first."""

    model: keras.Model
    loss: Objective
    apply: Functional
    adapts: Sequence[bool]
    inner_steps: int
    running: RunningStatistics | None

    @property
    def inner(self) -> InnerLoop:
        """The inner loop."""
        raise NotImplementedError

    def task_loss(self, weights: Weights, batch: Batch) -> tf.Tensor:
        """The loss of each task, `[T]`."""
        raise NotImplementedError

    def adapt_weights(
        self, support: Batch, steps: int, *, step_size: float | tf.Tensor | None = None
    ) -> Adaptation:
        """The weights `[T, *shape]` after 0, 1, ... S steps."""
        raise NotImplementedError

    def adapt_and_observe(
        self,
        support: Batch,
        steps: int | tf.Tensor,
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
        return self._observed(support, steps, lambda w, _: observe(w), step_size)

    def adapt_and_predict(
        self,
        support: Batch,
        steps: int | tf.Tensor,
        x: Structure,
        observe: Callable[[Structure], tf.Tensor],
        *,
        mask: Structure = (),
        step_size: float | tf.Tensor | None = None,
        batch_statistics: str = "transductive",
    ) -> tf.Tensor:
        """Adapts theta to every task of `support`, and watches what it predicts for `x`.

        Args:
          support: `x [T, B, ...]`, `y [T, B]`.
          steps: S, any number.
          x: `[T, Q, ...]`.
          observe: `outputs [T, Q, ...] -> [T, ...] float32`.
          mask: `[T, Q]`: False where a query set is padded.
          step_size: alpha; the learner's own by default.
          batch_statistics: one of `BATCH_STATISTICS`; see `MetricEvaluator`.

        Returns:
          `[S + 1, T, ...]`: what `observe` gave after 0, 1, ... S steps.

        Raises:
          ValueError: `support` is no `Batch`, `steps` no whole number, or there are no such
            statistics.
        """
        checks.check_batch_statistics(self, batch_statistics, BATCH_STATISTICS)

        def predicted(weights: Weights, taken: tf.Tensor) -> tf.Tensor:
            how: dict[str, Any] = {"inductive": batch_statistics == "inductive"}
            if batch_statistics == "running":
                how["running_after"] = taken
            return observe(self.predict(weights, support, x, mask=mask, **how))

        return self._observed(support, steps, predicted, step_size)

    def _observed(
        self,
        support: Batch,
        steps: int | tf.Tensor,
        observe: Callable[[Weights, tf.Tensor], tf.Tensor],
        step_size: float | tf.Tensor | None,
    ) -> tf.Tensor:
        num_tasks, inner = checks.num_tasks(support), self.inner
        steps = steps if tf.is_tensor(steps) else arguments.count("steps", steps, 0)
        begin = inner.stacked(num_tasks, support=support)
        given = self.task_loss, begin, support, tf.constant(steps)
        return inner.loop(*given, step_size=step_size, observe=observe)[1]

    def adapt(
        self,
        x: Structure,
        y: Structure,
        *,
        sample_weight: Any = None,
        mask: Any = None,
        steps: int | None = None,
        step_size: float | None = None,
        batch_statistics: str = "inductive",
    ) -> keras.Model:
        """Adapts a copy of the model to one task, and returns it: an ordinary Keras model.

        Args:
          x: `[B, ...]` support examples.
          y: `[B]` class indices, or `[B, ...]` targets.
          sample_weight: `[B]`, factors of the examples' losses, as in Keras.
          mask: `[B]` booleans: False where the set is padded, with whatever values.
          steps: gradient steps; the learner's inner steps by default.
          step_size: alpha; the learner's own by default.
          batch_statistics: what the copy's batch normalisations predict with: "inductive", the
            statistics of the support set, or "running", those of the meta-training after so many
            steps.

        Returns:
          A Keras model with its own weights, by which one example can be classified alone.

        Raises:
          ValueError: an argument is out of range, or the labels do not fit the loss.
        """
        checks.check_batch_statistics(self, batch_statistics, BATCH_STATISTICS[1:])
        self.apply.refuse_changes()
        support = checks.support_set(self.model, self.loss, x, y, sample_weight, mask)
        steps = self.inner_steps if steps is None else arguments.count("steps", steps, 0)
        step_size = None if step_size is None else arguments.positive("step_size", step_size)
        weights = self.adapt_weights(support, steps, step_size=step_size).weights[-1]
        seen = self.apply.statistics(weights, support.x)
        if batch_statistics == "running":
            seen = self._running_after(steps, seen, 1)
        return adapted_copy(self.apply, self.adapts, weights, support, seen)

    def predict(
        self,
        weights: Weights,
        support: Batch,
        x: Structure,
        *,
        inductive: bool = False,
        running_after: int | tf.Tensor | None = None,
        mask: Structure = (),
    ) -> Structure:
        """Returns the outputs for `x [T, Q, ...]` of tasks that `weights` are adapted to.

        Args:
          weights: shared, or stacked `[T, *shape]`.
          support: the sets that they were adapted to.
          x: `[T, Q, ...]`.
          inductive: normalise batches by the support set's statistics, not by those of `x`.
          running_after: how many steps `weights` are after, to normalise by the running statistics
            of so many.
          mask: `[T, Q]`: False where a query set is padded.

        Returns:
          `[T, Q, ...]`.

        Raises:
          ValueError: `support` is needed and no `Batch`, or the learner has no running statistics.
        """
        seen: Statistics | None = None
        if running_after is not None:
            # A graph keeps nothing of this pass, which tells the order of the normalisations.
            order, num_tasks = self.apply.statistics(weights, x), checks.num_tasks(Batch(x, ()))
            seen = self._running_after(running_after, order, num_tasks)
        elif inductive:
            checks.check_batch(support)
            seen = self.apply.statistics(weights, support.x, mask=support.mask)
        return self.apply(weights, x, statistics=seen, mask=mask)

    def _running_after(
        self, steps: int | tf.Tensor, order: Statistics, num_tasks: int | tf.Tensor
    ) -> Statistics:
        layers = [call.layer for call in order]
        return checks.running_of(self).after(steps, layers, num_tasks=num_tasks)
