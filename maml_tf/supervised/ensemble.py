"""Several sets of learned weights that predict together.

MAML++ (Antoniou, Edwards & Storkey 2019, "How to train your MAML") tests the ensemble of the five
checkpoints that validated best: each adapts to a task by itself, and their probabilities are
averaged.

Shape letters: M members, T tasks, Q query examples, S gradient steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from maml_tf import arguments
from maml_tf.objectives.base import BINARY
from maml_tf.sources.resolve import Piece
from maml_tf.sources.supplies import Tasks
from maml_tf.supervised.adaptive_model import AdaptiveModel
from maml_tf.supervised.evaluation import DRAW, MetricEvaluator
from maml_tf.types import Task

_TINY = 1e-37
"""A normal number of single precision: the logarithm of a probability stays finite."""

Member = Sequence[np.ndarray]
"""A value for each variable of `learner.state`."""


class Ensemble:
    """M members that adapt alone and predict together; `maml_tf.evaluate` takes it as a learner.

    Where the loss takes logits, the mean is of the probabilities that they stand for; otherwise it
    is of the outputs themselves: probabilities, or what a regression predicts.
    """

    def __init__(self, learner: AdaptiveModel, members: Sequence[Member]):
        """Keeps the members; computes nothing.

        Args:
          learner: whose model, loss and inner loop they share; its weights stay as they are.
          members: M of them, each a value for each variable of `learner.state`.

        Raises:
          ValueError: there are none, one has other variables, or the model has several outputs.
        """
        shapes = [tuple(variable.shape) for variable in learner.state]
        if not members or any([v.shape for v in member] != shapes for member in members):
            raise ValueError("Give members, each with an array for each of `learner.state`.")
        if len(tf.nest.flatten(learner.model.outputs)) > 1:
            raise ValueError("An ensemble averages one output, and this model has several.")
        self.learner, self.members = learner, members
        self.metric_name = learner.metric_name

    @property
    def lower_is_better(self) -> bool | None:
        """Of the metric; None where it is not known."""
        return self.learner.lower_is_better

    def evaluator(self, tasks: Tasks, **options: Any) -> EnsembleEvaluator:
        """What measures the mean prediction; the options are `MetricEvaluator`'s."""
        arguments.options("The evaluation of an ensemble", MetricEvaluator, options, 2)
        return EnsembleEvaluator(self, tasks, **options)


class EnsembleEvaluator(MetricEvaluator):
    """As `MetricEvaluator`, of the mean of what the members predict after each step."""

    def __init__(self, ensemble: Ensemble, tasks: Tasks, *, workers: int = 1, **options: Any):
        """Sets the evaluation up.

        Args:
          ensemble: whose members adapt, one after another.
          tasks: held-out tasks.
          workers: has no effect: the members share the learner's variables.
          **options: of `MetricEvaluator`.
        """
        del workers
        self._members = ensemble.members
        super().__init__(ensemble.learner, tasks, **options)

    def _compile(self) -> None:
        super()._compile()
        self._judge = tf.function(self._judged, autograph=False)

    def _measured(self, pieces: Sequence[Piece | tuple[tf.Tensor, int]]) -> Iterator[np.ndarray]:
        kept = [np.array(np.asarray(variable)) for variable in self.learner.state]
        try:
            for drawn, count in pieces:
                yield self._judge(drawn, self._mean(drawn)).numpy()[:count]
        finally:
            self._assign(kept)

    def _mean(self, drawn: Any) -> tf.Tensor:
        """What the members predict together for the tasks of a draw, `[T, S + 1, Q, ...]`."""
        each = []
        for member in self._members:
            self._assign(member)
            each.append(self._draw(drawn))
        return tf.add_n(each) / len(each)

    def _assign(self, member: Member) -> None:
        for variable, value in zip(self.learner.state, member, strict=True):
            variable.assign(value)

    def _adaptation_curves(self, task: Task) -> tf.Tensor:
        """What one member predicts after each step, `[T, S + 1, Q, ...]`."""
        return _swapped(self._observed(task, lambda y: self._meant(tf.cast(y, tf.float32))))

    def _judged(self, drawn: Any, mean: tf.Tensor) -> tf.Tensor:
        """The metric of each task after each step, `[T, S + 1]`."""
        task = self._source(drawn, DRAW) if self._source else drawn

        def measure(outputs):
            return self._metric(self._as_outputs(outputs), task.query)

        curves = tf.map_fn(measure, _swapped(mean), fn_output_signature=tf.TensorSpec([DRAW]))
        return tf.transpose(curves)

    @property
    def _link(self) -> str:
        """Of what the loss takes: "softmax" or "sigmoid" of logits, or "" of the mean itself."""
        loss = self.learner.loss
        if not loss.from_logits:
            return ""
        return "sigmoid" if loss.labels == BINARY else "softmax"

    def _meant(self, outputs: tf.Tensor) -> tf.Tensor:
        """What is averaged of a model's outputs."""
        link = self._link
        return getattr(tf.nn, link)(outputs) if link else outputs

    def _as_outputs(self, mean: tf.Tensor) -> tf.Tensor:
        """A mean in the form of the model's outputs, for a loss or metric: logits where it has."""
        if not self._link:
            return mean
        logs = tf.math.log(tf.maximum(mean, _TINY))
        if self._link == "softmax":
            return logs
        return logs - tf.math.log(tf.maximum(1 - mean, _TINY))


def _swapped(seen: tf.Tensor) -> tf.Tensor:
    """With the first two axes exchanged."""
    return tf.transpose(seen, [1, 0, *range(2, seen.shape.rank)])
