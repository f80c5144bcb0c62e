"""What every meta-learner has: theta, which of it adapts, and by which step sizes.

Shape letters: T tasks, S inner steps.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from maml_tf import arguments
from maml_tf.engine.adaptation import (
    Adaptation,
    PerStep,
    StepSizes,
    adapt,
    adapt_for,
    fast,
    stack,
)
from maml_tf.engine.fast_weights import FastWeight
from maml_tf.engine.inner_optimizers import PLAIN, SGD, InnerOptimizer
from maml_tf.engine.step_weights import Rows, StepWeights, repeat_theta
from maml_tf.types import LossFn, Weights

LEARNED = ("weight", "layer", "layer_and_step")
"""What has a learned step size of its own: each number that adapts (Meta-SGD, Li et al. 2017), each
weight tensor, or each weight tensor in each inner step (MAML++, Antoniou et al. 2019, "How to train
your MAML", paragraph "Learning Per-Layer Per-Step Learning Rates and Gradient Directions"; its
code, too, gives a kernel and its bias one each)."""

Head: TypeAlias = Callable[[Weights, Any], dict[int, tf.Tensor]]
"""From theta, shared by all tasks, and their support sets to stacked weights, by the index of what
each stands for."""

LEAST_STEP_SIZE = 1e-3
"""Of the step size at the beginning: where learned ones that must stay positive are held."""

UNROLLED = 5
"""Steps that `InnerLoop.loop` writes out at most, where their number is known. A small runtime
takes two thirds of the time for them (docs/on_device.md), and the graph grows with each."""


@dataclasses.dataclass(frozen=True)
class InnerLoop:
    """A few gradient steps from theta, for a stack of tasks.

    An outer step differentiates through `differentiable`. Evaluation and exported models take
    `steps`, or `loop` where only the running graph knows how many there are.
    """

    variables: Sequence[keras.Variable]
    """Theta."""
    adapts: Sequence[bool]
    """Of each variable, whether the inner loop moves it."""
    step_size: float
    """Alpha, where it is not learned."""
    step_sizes: Sequence[keras.Variable] = ()
    """Learned alphas, one per variable that adapts; see `learned_step_sizes`."""
    first_order: bool = False
    """Hold inner gradients constant in `differentiable`."""
    recompute: bool = False
    """In `differentiable`: trade time for memory that hardly grows with S."""
    per_step: bool = False
    """Whether each of `step_sizes` is `[S]`, an alpha per step: "layer_and_step" of `LEARNED`."""
    rows: Rows = dataclasses.field(default_factory=dict)
    """Of some of theta, which do not adapt, what takes their place after each step."""
    optimizer: InnerOptimizer = PLAIN
    """How a gradient becomes a step. Its state begins at zero with `differentiable`, `steps` and
    `loop`."""
    clip: float | None = None
    """Bound on the size of each element of an inner gradient."""
    head: Head | None = None
    """What tasks begin with in place of some of theta, which adapt."""

    @property
    def beside(self) -> list[keras.Variable]:
        """What is meta-learned beside theta: step sizes, then weights of each step's own."""
        return [*self.step_sizes, *self.rows.values()]

    @property
    def parameters(self) -> list[keras.Variable]:
        """All that is meta-learned: theta, and what is beside it."""
        return [*self.variables, *self.beside]

    def values(self) -> list[tf.Tensor]:
        """Reads all that is meta-learned, in the order of `parameters`."""
        return [tf.convert_to_tensor(v.value) for v in self.parameters]

    def initial_weights(self) -> Weights:
        """Reads the meta-learned weights, theta."""
        return [tf.convert_to_tensor(v.value) for v in self.variables]

    def split(
        self, parameters: Sequence[tf.Tensor]
    ) -> tuple[Weights, StepSizes, StepWeights | None]:
        """Theta, alpha, and weights of steps, as differentiable functions of `parameters`."""
        size, end = len(self.variables), len(self.variables) + len(self.step_sizes)
        alphas = self.of_learned(parameters[size:end]) if self.step_sizes else self.step_size
        return list(parameters[:size]), alphas, self.of_steps(parameters[end:])

    def alphas(self, step_size: float | tf.Tensor | None = None) -> StepSizes:
        """The inner step size in force: the given one, the meta-learned, or the fixed."""
        if step_size is not None or not self.step_sizes:
            return self.step_size if step_size is None else step_size
        return self.of_learned([tf.convert_to_tensor(v.value) for v in self.step_sizes])

    def alphas_by_weight(self, step_size: float | None = None, step: int = 0) -> list[tf.Tensor]:
        """As `alphas`, of one step, 0, 1, ...; one tensor per weight, for a compiled function."""
        alphas = self.alphas(step_size)
        if isinstance(alphas, PerStep):
            return alphas.at(step)
        if isinstance(alphas, (list, tuple)):
            return list(alphas)
        return [tf.constant(alphas, v.dtype) for v in self.variables]

    def of_learned(self, learned: Sequence[tf.Tensor]) -> StepSizes:
        """Alpha of every weight, 0 of those that do not adapt, by a value of each `step_sizes`."""
        rest = iter(learned)
        alphas = [
            next(rest) if own else tf.zeros([], v.dtype)
            for v, own in zip(self.variables, self.adapts, strict=True)
        ]
        return PerStep(alphas) if self.per_step else alphas

    def of_steps(self, values: Sequence[tf.Tensor] | None = None) -> StepWeights | None:
        """Weights that steps have their own of, of values of `rows`: by default the present ones.

        None where there are no such weights.
        """
        if values is None:
            values = [tf.convert_to_tensor(v.value) for v in self.rows.values()]
        return StepWeights(dict(zip(self.rows, values, strict=True))) if self.rows else None

    def begin_anew(self) -> None:
        """Gives each step the weights that theta has now: after another model's were put in."""
        repeat_theta(self.variables, self.rows)

    def stacked(
        self, num_tasks: int | tf.Tensor, weights: Weights | None = None, support: Any = None
    ) -> Weights:
        """Gives each task its own copy `[T, *shape]` of every weight that adapts.

        Args:
          num_tasks: T.
          weights: shared ones; theta by default.
          support: the tasks' support sets, for a `head`.
        """
        weights = self.initial_weights() if weights is None else weights
        return self._begun(stack(weights, num_tasks, self.adapts), weights, support)

    def _begun(self, begin: Weights, shared: Weights, support: Any) -> Weights:
        """Where tasks begin: `begin`, or what `head` makes of the shared weights."""
        own = self.head(shared, support) if self.head else {}
        return [own.get(index, weight) for index, weight in enumerate(begin)]

    def differentiable(
        self,
        loss_fn: LossFn,
        parameters: Sequence[tf.Tensor],
        batches: Sequence[Any],
        num_tasks: int | tf.Tensor,
        support: Any = None,
    ) -> Adaptation:
        """Adapts to T tasks, as a function of `parameters` that an outer step differentiates.

        Args:
          loss_fn: `(weights, batch) -> [T]`, or a tuple of that and of notes; see `adapt`.
          parameters: a value for each of `self.parameters`.
          batches: one per inner step, what `loss_fn` takes.
          num_tasks: T.
          support: the tasks' support sets, for a `head`.

        Returns:
          `Adaptation`, S + 1 weights and S losses.
        """
        weights, alphas, own = self.split(parameters)
        plain = isinstance(self.optimizer, SGD) and self.clip is None
        begin = fast if plain and not self.recompute else stack
        return adapt(
            loss_fn,
            self._begun(begin(weights, num_tasks, self.adapts), weights, support),
            batches,
            step_size=alphas,
            first_order=self.first_order,
            recompute=self.recompute,
            **self._how,
            next_pass=own.after if own else None,
        )

    def steps(
        self,
        loss_fn: LossFn,
        weights: Weights,
        batches: Sequence[Any],
        *,
        step_size: StepSizes | None = None,
        own: StepWeights | None = None,
    ) -> Adaptation:
        """Gradient steps that nobody differentiates through.

        Args:
          loss_fn: `(weights, batch) -> [T]`.
          weights: where to begin, as `stacked` gives them.
          batches: one per inner step, what `loss_fn` takes.
          step_size: alpha; the own one by default.
          own: weights of each step's own; the present ones, if there are any, by default.

        Returns:
          `Adaptation`, S + 1 weights and S losses.
        """
        own = self.of_steps() if own is None else own
        return adapt(
            loss_fn,
            weights,
            batches,
            step_size=self.alphas() if step_size is None else step_size,
            first_order=True,
            **self._how,
            next_pass=own.after if own else None,
        )

    def loop(
        self,
        loss_fn: LossFn,
        weights: Weights,
        batch: Any,
        steps: tf.Tensor | int,
        *,
        step_size: StepSizes | None = None,
        own: StepWeights | None = None,
        observe: Callable[[Weights, tf.Tensor], tf.Tensor] | None = None,
    ) -> tuple[Weights, tf.Tensor | None]:
        """As `steps`, on one batch, where only the running graph knows S; see `adapt_for`.

        Args:
          loss_fn: `(weights, batch) -> [T]`.
          weights: where to begin, as `stacked` gives them.
          batch: what `loss_fn` takes, the same at every step.
          steps: S, an int32 scalar; or a number, which is written out up to `UNROLLED`.
          step_size: alpha; the own one by default.
          own: weights of each step's own; the present ones, if there are any, by default.
          observe: `(weights, steps) -> [T, ...] float32`, called after 0, 1, ... S steps.

        Returns:
          The weights after the last step, and what was observed `[S + 1, T, ...]`, or None.
        """
        if isinstance(steps, int) and steps <= UNROLLED and observe is None:
            path = self.steps(loss_fn, weights, [batch] * steps, step_size=step_size, own=own)
            return path.weights[-1], None
        own = self.of_steps() if own is None else own
        return adapt_for(
            loss_fn,
            weights,
            batch,
            steps,
            step_size=self.alphas() if step_size is None else step_size,
            observe=observe,
            **self._how,
            next_pass=own.after if own else None,
        )

    @property
    def _how(self) -> dict[str, Any]:
        """What all three ways to take steps have in common."""
        how = {"optimizer": self.optimizer, "clip": self.clip}
        return {"adapts": self.adapts, "constrain": self.constrain, **how}

    @property
    def constrain(self) -> Callable[[Weights], Weights] | None:
        """What Keras' constraints make of weights `[T, *shape]`; None where there are none."""
        found = [getattr(v, "constraint", None) for v in self.variables]
        if not any(c is not None and own for c, own in zip(found, self.adapts, strict=True)):
            return None
        return functools.partial(_constrained, constraints=found, adapts=self.adapts)


def which_adapt(
    variables: Sequence[keras.Variable],
    adapts: Callable[[keras.Variable], bool] | None,
    *,
    default: Callable[[keras.Variable], bool] = lambda variable: True,
) -> list[bool]:
    """Of each variable, whether the inner loop moves it.

    Args:
      variables: theta.
      adapts: what a user chose, if anything.
      default: what is taken otherwise.

    Raises:
      ValueError: `adapts` is no function of a variable, or no variable adapts.
    """
    if adapts is not None:
        arguments.predicate("adapts", adapts, "lambda v: 'head' in v.path")
    chosen = [bool((adapts or default)(variable)) for variable in variables]
    if not any(chosen):
        paths = ", ".join(v.path for v in variables)
        raise ValueError(f"No variable adapts; let `adapts` choose at least one of {paths}.")
    return chosen


def what_is_learned(learn_step_size: bool | str) -> str | None:
    """Which of `LEARNED` a user asks for, None for none; True is "weight".

    Raises:
      ValueError: it is something else.
    """
    if isinstance(learn_step_size, str) and learn_step_size in LEARNED:
        return learn_step_size
    try:
        return LEARNED[0] if arguments.boolean("learn_step_size", learn_step_size) else None
    except ValueError as error:
        words = ", ".join(repr(word) for word in LEARNED)
        raise ValueError(f"{str(error)[:-1]}, nor one of {words}.") from error


def learned_step_sizes(
    variables: Sequence[keras.Variable],
    adapts: Sequence[bool],
    step_size: float,
    *,
    per: str | None = "weight",
    steps: int = 1,
    positive: bool = False,
    names: Sequence[str] | None = None,
) -> list[keras.Variable]:
    """Makes alpha a variable of each weight that adapts.

    Args:
      variables: theta.
      adapts: of each, whether it adapts.
      step_size: alpha at the beginning.
      per: one of `LEARNED`; None for no step sizes.
      steps: S, the inner steps of the training; later ones repeat the last.
      positive: hold each at `LEAST_STEP_SIZE` of it or more.
      names: of each variable's alpha; by default by the variable's path.

    Returns:
      One variable per variable that adapts: of its shape, `[]`, or `[S]`.

    Raises:
      ValueError: each step is to have its own, and there are no steps.
    """
    if not per:
        return []
    if per == "layer_and_step" and steps < 1:
        raise ValueError(
            "learn_step_size='layer_and_step' learns a step size for each inner step, and "
            f"inner_steps is {steps}; give 1 or more."
        )
    if names is None:
        names = ["step_size_" + v.path.replace("/", "_") for v in variables]
    made = []
    for variable, own, name in zip(variables, adapts, names, strict=True):
        shape = {"weight": variable.shape, "layer": (), "layer_and_step": (steps,)}[per]
        start = tf.constant(step_size, variable.dtype, shape)
        made += [keras.Variable(start, name=name)] if own else []
    if positive:
        least = step_size * LEAST_STEP_SIZE
        for variable in made:
            variable.constraint = lambda alpha: keras.ops.maximum(alpha, least)
    return made


def _constrained(
    weights: Weights, constraints: Sequence[Callable | None], adapts: Sequence[bool]
) -> Weights:
    return [
        weight
        if constraint is None or not own
        else tf.vectorized_map(
            lambda w, c=constraint: tf.convert_to_tensor(c(w)),
            weight.stacked() if isinstance(weight, FastWeight) else weight,
        )
        for weight, constraint, own in zip(weights, constraints, adapts, strict=True)
    ]
