"""Reptile: towards where inner steps lead (Nichol, Achiam & Schulman 2018, arXiv 1803.02999).

"On First-Order Meta-Learning Algorithms", Algorithm 2, the batched version. In place of a gradient
the meta-optimizer is given

    mean over tasks of theta - theta'

theta' the weights after S inner steps: gradient descent on it, of step size epsilon, moves theta by
epsilon times the mean of theta' - theta. The paper's own (section 5.1) is this divided by alpha,
which Adam's steps hardly depend on. There are no second derivatives.

Every inner step sees the whole support set. The query set moves nothing: it is measured, and its
size changes nothing that is learned. The paper draws a mini-batch of one set of examples for each
inner step, and for its few-shot experiments (section 6) more examples of a class in training than
at test: `--shots=15 --test_shots=5`. With S = 1 Reptile is joint training on all tasks, as
`--method=pretrained` is, on support sets.

Shape letters: T tasks, S inner steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from maml_tf.engine.fast_weights import FastWeight
from maml_tf.objectives.resolve import LossLike
from maml_tf.supervised.learner import MetaLearner
from maml_tf.supervised.meta_gradient import MetaGradient, MetaMetrics
from maml_tf.types import Task, Weights


class ReptileGradient(MetaGradient):
    """By how much the inner steps moved theta, with the sign of a gradient."""

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
        """As `MetaGradient._sum`."""
        del counts, first_order, xla
        adaptation = self._adapted(self._inner, parameters, task, noise)
        adapted = adaptation.weights[-1]
        judged = self._learner.judge(adapted, task.query, noise[-1] if len(noise) else None)
        stacked = [w.stacked() if isinstance(w, FastWeight) else w for w in adapted]
        gradient = [
            tf.reduce_sum(before - after, 0)
            for before, after in zip(parameters, stacked, strict=True)
        ]
        if scale is not None:
            gradient = [g * tf.cast(scale, g.dtype) for g in gradient]
        return gradient, self._seen(adaptation.losses, judged, task)


class Reptile(MetaLearner):
    """Meta-learns initial weights by moving them towards those after the inner steps.

    Only what the inner steps move is learned, so all trainable weights adapt, those of
    normalisation layers among them, also when it is evaluated and exported. See this module for the
    equation, and for which examples the inner steps see.
    """

    refused = {
        "learn_step_size": "learns no step sizes",
        "multi_step_loss": "learns from no query loss",
        "query_weight": "learns from no query loss",
        "second_order_after": "has no second derivatives",
        "head_initialization": "learns only what its inner steps move",
    }
    gradient_class = ReptileGradient

    def __init__(
        self,
        model: keras.Model,
        loss: LossLike,
        *,
        adapts: Callable[[keras.Variable], bool] | None = None,
        **options: Any,
    ):
        """Sets the learner up.

        Args:
          model: a built Keras model.
          loss: of the support sets; see `MetaLearner`.
          adapts: of each trainable variable, whether the inner steps move it: they must move all,
            and do by default. Others are frozen by `trainable=False`.
          **options: those of `MetaLearner`, but for what there is no use of: learned step sizes,
            the multi-step loss, `query_weight`, second derivatives, batch normalisations per step,
            and heads of prototypes. `inner_optimizer` and `inner_clip` are as there.

        Raises:
          ValueError: an argument is out of range or does not go with Reptile, or a variable does
            not adapt.
        """
        if options.get("per_step_normalization"):
            raise ValueError(
                "Reptile learns only what its inner steps move; drop per_step_normalization."
            )
        everything = adapts or (lambda variable: True)
        super().__init__(model, loss, adapts=everything, **{"first_order": True, **options})

    def _set_up(self) -> None:
        if not self.first_order:
            raise ValueError("Reptile has no second derivatives; drop first_order=False.")
        if not self.inner_steps:
            raise ValueError("Reptile learns from inner steps, and inner_steps is 0; give some.")
        if not all(self.adapts):
            raise ValueError(
                "Reptile learns only what its inner steps move; drop adapts, or freeze what is to "
                "stay by trainable=False."
            )
        super()._set_up()
