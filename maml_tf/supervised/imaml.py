"""Implicit MAML (Rajeswaran, Finn, Kakade & Levine 2019, arXiv 1909.04630).

"Meta-Learning with Implicit Gradients". Of a task with support loss L and query loss Q the inner
problem (eq. 4) is

    phi = argmin of L(phi) + lambda / 2 |phi - theta|^2

which S steps of gradient descent from theta approach. At the minimum the Jacobian of phi by theta
is (I + H / lambda)^-1, with H the Hessian of L at phi (Lemma 1), whatever way led there. So

    g = (I + H / lambda)^-1 dQ/dphi

is the task's meta-gradient, solved by conjugate gradients (Algorithm 2), whose products with H are
derivatives of dL/dphi along a direction. No inner step is differentiated or remembered, so that
neither memory nor the graph grow with S. The equation supposes that the inner steps have come near
the minimum, and does not see their alpha.

Weights psi that do not adapt are meta-learned too: phi depends on them through L, and their
meta-gradient is, by the same implicit differentiation,

    dQ/dpsi - d/dpsi <dL/dphi, g> / lambda

The paper has no such weights. Its code (aravindr93/imaml_dev) solves another system, with
2 v + H v / (lambda + 10), and takes the pull towards theta in one step after the others; here it is
the paper's equations.

Shape letters: T tasks, S inner steps, n numbers that adapt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from maml_tf import arguments
from maml_tf.engine.conjugate_gradient import conjugate_gradient, flatten, unflatten
from maml_tf.engine.inner_loop import InnerLoop
from maml_tf.engine.second_derivatives import refusing_dead_ends, refusing_wrong_pooling
from maml_tf.objectives.resolve import LossLike
from maml_tf.supervised import checks
from maml_tf.supervised.learner import MetaLearner
from maml_tf.supervised.meta_gradient import MetaGradient, MetaMetrics, gradient_of
from maml_tf.types import LossFn, Task, Weights


@dataclasses.dataclass(frozen=True)
class Proximal:
    """Gradient descent on a loss plus lambda / 2 |phi - theta|^2, where theta is its beginning.

    An `InnerOptimizer`, so that training, evaluation and exported models take the same steps. Its
    state is phi - theta, which is zero where an adaptation begins.
    """

    strength: float
    """Lambda."""

    def initial_state(self, weight: tf.Tensor) -> list[tf.Tensor]:
        """How far the weight is from theta."""
        return [tf.zeros_like(weight)]

    def update(
        self,
        gradient: tf.Tensor,
        state: Sequence[tf.Tensor],
        step: int | tf.Tensor,
        alpha: tf.Tensor,
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """See `engine.inner_optimizers.InnerOptimizer`."""
        change = -alpha * (gradient + self.strength * state[0])
        return change, [state[0] + change]


def slope_products(
    loss_fn: LossFn, weights: Weights, adapts: Sequence[bool], batch: Any
) -> Callable[[Weights, Weights], Weights]:
    """Derivatives of each task's slope dL/dphi along a direction: products with its Hessian.

    Args:
      loss_fn: `(weights, batch) -> [T]`, twice differentiable.
      weights: phi, those that adapt stacked `[T, *shape]`, and psi, the others.
      adapts: which adapt.
      batch: what `loss_fn` takes.

    Returns:
      `(direction, by) -> derivatives`: of `direction`, one tensor `[T, *shape]` for each weight
      that adapts, the derivative of <dL/dphi, direction> by each of `by`, which are among
      `weights`. By phi it is H times the direction, a product for each task. Any number of calls
      share what does not depend on the direction.

    Raises:
      ValueError: an operation of the loss has no second derivative.
    """
    moving = [w for w, own in zip(weights, adapts, strict=True) if own]
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as outer:
        outer.watch(weights)
        with tf.GradientTape(watch_accessed_variables=False) as inner:
            inner.watch(moving)
            total = tf.reduce_sum(loss_fn(weights, batch))
        with refusing_dead_ends(second_order=True):
            slope = gradient_of(inner, total, moving)
    return lambda direction, by: gradient_of(outer, slope, by, direction)


class ImplicitGradient(MetaGradient):
    """The meta-gradient at phi, whatever steps led there."""

    _learner: ImplicitMAML

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
        del noise, counts, first_order, xla
        learner, inner = self._learner, self._inner
        weights, seen = inner.loop(
            learner.task_loss,
            inner.stacked(checks.num_tasks(task.support), parameters),
            task.support,
            tf.constant(self._steps),
            observe=lambda w, _: tf.cast(learner.task_loss(w, task.support), tf.float32),
        )
        support_losses = tf.unstack(seen, self._steps + 1)[:-1]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            judged = learner.judge(weights, task.query)
            objective = self._objective(*judged[:2])
            if scale is not None:
                objective *= tf.cast(scale, objective.dtype)
        of_query = gradient_of(tape, objective, weights)
        with refusing_wrong_pooling():
            gradient = self._through_the_minimum(weights, task, of_query)
        return gradient, self._seen(support_losses, judged, task)

    def _through_the_minimum(self, weights: Weights, task: Task, of_query: Weights) -> Weights:
        """The meta-gradient, summed over tasks, of the query loss's gradient by phi and psi."""
        learner = self._learner
        adapts, strength = learner.adapts, learner.imaml_lambda
        product = slope_products(learner.task_loss, weights, adapts, task.support)
        moving, fixed = _divided(weights, adapts)
        of_moving, of_fixed = _divided(of_query, adapts)

        def system(vector: tf.Tensor) -> tf.Tensor:  # [T, n], as its result
            hessian = product(unflatten(vector, moving, stacked=True), moving)
            return vector + flatten(hessian, stacked=True) / strength

        target = flatten(of_moving, stacked=True)
        solution, _ = conjugate_gradient(system, target, learner.cg_steps, tolerance=0.0)
        solved = unflatten(solution, moving, stacked=True)
        through = product(solved, fixed) if fixed else []
        sums = iter([tf.reduce_sum(g, 0) for g in solved])
        rest = iter([g - t / strength for g, t in zip(of_fixed, through, strict=True)])
        return [next(sums if own else rest) for own in adapts]


class ImplicitMAML(MetaLearner):
    """Meta-learns initial weights by the implicit gradient of a regularised adaptation.

    The inner steps descend the support loss plus lambda / 2 |phi - theta|^2, theta being where an
    adaptation begins; so do evaluations, `adapt` and exported models. What is reported as support
    loss is without that term. See this module for the equations.
    """

    settings = MetaLearner.settings | {"imaml_lambda", "cg_steps"}
    refused = {
        "first_order": "takes products with a Hessian, unlike MetaLearner(first_order=True)",
        "learn_step_size": "differentiates no inner step",
        "multi_step_loss": "differentiates no inner step",
        "second_order_after": "differentiates no inner step",
        "per_step_normalization": "adapts to one loss in all inner steps",
        "running_statistics": "notes nothing of its inner steps",
        "dropout": "adapts to one loss in all inner steps",
        "inner_optimizer": "takes plain gradient steps",
        "inner_clip": "takes plain gradient steps",
        "head_initialization": "differentiates where inner steps lead, not where they begin",
    }
    gradient_class = ImplicitGradient
    imaml_lambda: float
    cg_steps: int

    def __init__(
        self,
        model: keras.Model,
        loss: LossLike,
        *,
        imaml_lambda: float = 2.0,
        cg_steps: int = 5,
        **options: Any,
    ):
        """Sets the learner up.

        Args:
          model: a built Keras model; layers need second derivatives.
          loss: see `MetaLearner`.
          imaml_lambda: lambda, the strength of the pull towards theta, in units of the loss by
            squared weights. 2.0 is the paper's for Omniglot.
          cg_steps: steps of conjugate gradients for each meta-gradient, 1 or more; the paper's 5.
          **options: those of `MetaLearner`, but for first-order derivatives, learned step sizes,
            the multi-step loss, batch normalisations per step, running statistics, dropout, heads
            of prototypes, and other inner steps than those of gradient descent.

        Raises:
          ValueError: an argument is out of range or does not go with implicit gradients, or a
            weight that adapts has a constraint.
        """
        self.imaml_lambda, self.cg_steps = imaml_lambda, cg_steps
        super().__init__(model, loss, **options)

    def _checked(self, name: str, value: Any) -> Any:
        if name == "imaml_lambda":
            return arguments.positive(name, value)
        if name == "cg_steps":
            return arguments.count(name, value, 1)
        return super()._checked(name, value)

    def _set_up(self) -> None:
        if not self.inner_steps:
            raise ValueError(
                "ImplicitMAML differentiates where inner steps lead, and inner_steps is 0; give "
                "some."
            )
        if self.inner.constrain is not None:
            raise ValueError(
                "ImplicitMAML differentiates a minimum without constraints; drop those of the "
                "weights that adapt."
            )
        super()._set_up()

    @property
    def inner(self) -> InnerLoop:
        """As `MetaLearner`'s, with the pull towards theta."""
        return dataclasses.replace(super().inner, optimizer=Proximal(self.imaml_lambda))


def _divided(tensors: Sequence[tf.Tensor], adapts: Sequence[bool]) -> tuple[Weights, Weights]:
    """Of each weight one: those of weights that adapt, and the others."""
    pairs = list(zip(tensors, adapts, strict=True))
    return [t for t, own in pairs if own], [t for t, own in pairs if not own]
