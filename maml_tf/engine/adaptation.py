"""The inner loop: a few gradient steps on a task's own data (paper Algorithm 1, lines 5-6).

There is no other inner loop in the package: regression, classification and policies, one task or a
stack, training, evaluation and export all come here.

Shape letters: T tasks, S inner steps.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import tensorflow as tf

from maml_tf import arguments
from maml_tf.engine.custom_gradients import custom_gradient
from maml_tf.engine.fast_weights import FastWeight
from maml_tf.engine.inner_optimizers import PLAIN, SGD, InnerOptimizer, State, updated
from maml_tf.engine.second_derivatives import refusing_dead_ends
from maml_tf.types import LossFn, Weights


@dataclasses.dataclass(frozen=True)
class PerStep:
    """An alpha for each weight and step: LSLR of MAML++ (Antoniou et al. 2019; see `LEARNED`).

    Steps beyond the last one of these take the last one's again.
    """

    by_weight: Sequence[tf.Tensor]
    """Of each weight: `[S]`, one number per step; or `[]`, one for all steps."""

    def at(self, step: int | tf.Tensor) -> list[tf.Tensor]:
        """The alpha of each weight, `[]`, in step 0, 1, ..., which may be known in the graph."""
        return [entry(alphas, step) if alphas.shape.rank else alphas for alphas in self.by_weight]

    def after(self, steps: tf.Tensor) -> PerStep:
        """Those that are left after so many steps, an int32 scalar: what was step 2 is now 0."""

        def left(alphas: tf.Tensor) -> tf.Tensor:
            size = alphas.shape[0]
            return tf.gather(alphas, tf.minimum(tf.range(size) + steps, size - 1))

        return PerStep([left(alphas) if alphas.shape.rank else alphas for alphas in self.by_weight])


StepSize: TypeAlias = float | tf.Tensor | Sequence[tf.Tensor]
"""alpha of a step: one number, or one tensor per weight, broadcastable to it (Meta-SGD, Li et al.
2017)."""

StepSizes: TypeAlias = StepSize | PerStep
"""alpha of several steps: the same in all, or each step's own."""

NextPass: TypeAlias = Callable[[Weights, "int | tf.Tensor"], Weights]
"""Of weights after some steps, and how many, those that the next pass of the model takes."""


class Adaptation(NamedTuple):
    """What the inner loop passed through."""

    weights: list[Weights]  # S + 1: before and after each step
    losses: list[Any]  # S, each [T]: the loss that step s descended, before it, and any notes


def stack(weights: Weights, num_tasks: int | tf.Tensor, adapts: Sequence[bool] | None) -> Weights:
    """Gives each task its own copy `[T, *shape]` of every weight that adapts."""
    adapts = _adapting(adapts, weights)
    if not tf.is_tensor(num_tasks):
        num_tasks = arguments.count("num_tasks", num_tasks, 0)
    return [
        tf.broadcast_to(w, tf.concat([[num_tasks], tf.shape(w)], 0)) if own else w
        for w, own in zip(weights, adapts, strict=True)
    ]


def fast(
    weights: Weights, num_tasks: int | tf.Tensor, adapts: Sequence[bool] | None
) -> list[tf.Tensor | FastWeight]:
    """As `stack`, but a matrix stays shared and factored while that is less work: for `adapt`."""
    adapts = adapts if adapts is not None else [True] * len(weights)
    return [
        FastWeight(w, num_tasks) if own and w.shape.rank >= 2 else kept
        for w, own, kept in zip(weights, adapts, stack(weights, num_tasks, adapts), strict=True)
    ]


def gradient_step(
    loss_fn: LossFn,
    weights: Weights,
    batch: Any,
    *,
    step_size: StepSize,
    adapts: Sequence[bool] | None = None,
    first_order: bool = False,
    clip: float | None = None,
) -> tuple[Weights, tf.Tensor]:
    """One step of gradient descent for every task: theta' = theta - alpha dL/dtheta (eq. 1).

    The tasks' losses are independent, so the gradient of their sum with respect to stacked weights
    is every task's own gradient.

    Args:
      loss_fn: `(weights, batch) -> [T]`.
      weights: stacked where they adapt.
      batch: what `loss_fn` takes.
      step_size: alpha, one for all or one per weight.
      adapts: which weights move; all by default.
      first_order: hold the gradient constant when differentiating through this step.
      clip: bound on the size of each element of the gradient.

    Returns:
      The new weights, and the losses `[T]` before the step.
    """
    stepped, _, losses = _step(
        loss_fn,
        weights,
        _no_state(weights),
        batch,
        0,
        alphas=_one_per_weight(step_size, weights),
        adapts=adapts,
        first_order=first_order,
        optimizer=PLAIN,
        clip=clip,
    )
    return stepped, losses


def adapt(
    loss_fn: LossFn,
    weights: Weights,
    batches: Sequence[Any],
    *,
    step_size: StepSizes,
    adapts: Sequence[bool] | None = None,
    first_order: bool = False,
    recompute: bool = False,
    constrain: Callable[[Weights], Weights] | None = None,
    next_pass: NextPass | None = None,
    optimizer: InnerOptimizer = PLAIN,
    clip: float | None = None,
) -> Adaptation:
    """Weights before and after each gradient step, one batch per step.

    Args:
      loss_fn: `(weights, batch) -> [T]`, or a tuple of that and of notes: a list of tensors that
        nothing differentiates, such as what the pass saw.
      weights: those that adapt stacked `[T, *shape]` (see `stack`), the others as they are.
      batches: one per step. Supervised code repeats the support set, reinforcement learning passes
        fresh trajectories.
      step_size: alpha, one for all or one per weight; or an `engine.adaptation.PerStep`.
      adapts: which weights move; all by default.
      first_order: treat every inner gradient as a constant (first-order MAML, paper section 5.2).
      recompute: keep only the weights between steps for the backward pass and compute the rest
        again, so that memory grows by one set of weights per step, for about a third more time.
      constrain: applied to the weights after each step, as Keras' optimizers apply constraints.
      next_pass: `(weights, steps taken) -> weights` that the following pass takes, such as
        `engine.step_weights.StepWeights.after`.
      optimizer: how a gradient becomes a step; its state begins at zero here. Gradient descent by
        default.
      clip: bound on the size of each element of an inner gradient, which is differentiated as what
        it is: a constant where it is in force.

    Returns:
      `Adaptation`, S + 1 weights and S losses, each as `loss_fn` gave it.
    """
    if not isinstance(batches, Sequence):
        raise ValueError(
            f"batches are {arguments.shown(batches)}; give a list of one batch per gradient step."
        )
    alphas_of = _by_step(step_size, weights)

    def step(weights, state, alphas, batch, number):
        stepped, state, losses = _step(
            *(loss_fn, weights, state, batch, number),
            alphas=alphas,
            adapts=adapts,
            first_order=first_order,
            optimizer=optimizer,
            clip=clip,
        )
        return constrain(stepped) if constrain else stepped, state, losses

    counts = not isinstance(optimizer, SGD)
    run = _recomputed(step, counts) if recompute else step
    path, losses, state = [list(weights)], [], _initial_state(optimizer, weights, adapts)
    for number, batch in enumerate(batches):
        stepped, state, before = run(path[-1], state, alphas_of(number), batch, number)
        path.append(next_pass(stepped, number + 1) if next_pass else stepped)
        losses.append(before)
    return Adaptation(path, losses)


def adapt_for(
    loss_fn: LossFn,
    weights: Weights,
    batch: Any,
    steps: tf.Tensor,
    *,
    step_size: StepSizes,
    adapts: Sequence[bool] | None = None,
    observe: Callable[[Weights, tf.Tensor], tf.Tensor] | None = None,
    constrain: Callable[[Weights], Weights] | None = None,
    next_pass: NextPass | None = None,
    optimizer: InnerOptimizer = PLAIN,
    clip: float | None = None,
) -> tuple[Weights, tf.Tensor | None]:
    """Weights after `steps` gradient steps on one batch, where only the running graph knows S.

    The same steps as `adapt`, in a `tf.while_loop`, whose graph does not grow with S: for
    evaluation, and for an exported model, whose caller chooses S. XLA cannot differentiate such a
    loop, so meta-training unrolls instead.

    Args:
      loss_fn: `(weights, batch) -> [T]`.
      weights: those that adapt stacked `[T, *shape]` (see `stack`), the others as they are.
      batch: what `loss_fn` takes, the same at every step.
      steps: S, an int32 scalar; none are taken for S <= 0.
      step_size: alpha, one for all or one per weight; or an `engine.adaptation.PerStep`.
      adapts: which weights move; all by default.
      observe: `(weights, steps) -> [T, ...] float`, called after 0, 1, ... S steps.
      constrain: applied to the weights after each step.
      next_pass: `(weights, steps taken) -> weights` that the following pass takes.
      optimizer: how a gradient becomes a step; the loop carries its state.
      clip: bound on the size of each element of a gradient.

    Returns:
      The weights after the last step, of unchanged static shapes, and what was observed
      `[S + 1, T, ...]`, or None.
    """
    alphas_of = _by_step(step_size, weights)

    def note(step, current, seen):
        return [kept.write(step, observe(current, step)) for kept in seen] if observe else []

    def body(step, current, state, seen):
        seen = note(step, current, seen)
        stepped, state, _ = _step(
            *(loss_fn, current, state, batch, step),
            alphas=alphas_of(step),
            adapts=adapts,
            first_order=True,
            optimizer=optimizer,
            clip=clip,
        )
        stepped = constrain(stepped) if constrain else stepped
        stepped = next_pass(stepped, step + 1) if next_pass else stepped
        kept = tf.nest.map_structure(
            lambda new, old: tf.ensure_shape(new, old.shape), (stepped, state), (weights, begin)
        )
        return step + 1, *kept, seen

    weights, begin = list(weights), _initial_state(optimizer, weights, adapts)
    # No array where nothing is observed: small runtimes have no operation for one of no size.
    seen = [tf.TensorArray(tf.float32, size=tf.maximum(steps, 0) + 1)] if observe else []
    step, weights, _, seen = tf.while_loop(
        lambda step, *_: step < steps, body, [tf.constant(0), weights, begin, seen]
    )
    return weights, note(step, weights, seen)[0].stack() if observe else None


def _step(
    loss_fn: LossFn,
    weights: Weights,
    state: Sequence[State],
    batch: Any,
    number: int | tf.Tensor,
    *,
    alphas: Sequence[tf.Tensor],
    adapts: Sequence[bool] | None,
    first_order: bool,
    optimizer: InnerOptimizer,
    clip: float | None,
) -> tuple[Weights, list[State], Any]:
    """Step `number` of each task: the new weights, the optimizer's state, what `loss_fn` gave."""
    if not callable(loss_fn):
        raise ValueError(
            f"loss_fn is {arguments.shown(loss_fn)}; give a function (weights, batch) -> [T]."
        )
    adapts = _adapting(adapts, weights)
    hold = tf.stop_gradient if first_order else tf.identity
    weights = [w.recording() if isinstance(w, FastWeight) else w for w in weights]
    moving = [w for w, own in zip(weights, adapts, strict=True) if own]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([w.matrix if isinstance(w, FastWeight) else w for w in moving])
        told: Any = loss_fn(weights, batch)
        total = tf.reduce_sum(told[0] if isinstance(told, tuple) else told)
    sources = [w.outputs if isinstance(w, FastWeight) else w for w in moving]
    with refusing_dead_ends(second_order=not first_order):
        gradients = iter(tf.nest.map_structure(_dense, tape.gradient(total, sources)))
    stepped, after = [], []
    for weight, alpha, own, memory in zip(weights, alphas, adapts, state, strict=True):
        gradient = next(gradients) if own else None
        if isinstance(weight, FastWeight):  # one gradient per use
            weight = weight.stepped(alpha, gradient or [], hold)
        elif gradient is not None:
            if clip is not None:
                gradient = tf.clip_by_value(gradient, -clip, clip)
            change, memory = updated(optimizer, hold(gradient), memory, number, alpha)
            weight = weight + change
        stepped.append(weight)
        after.append(memory)
    return stepped, after, told


def _no_state(weights: Weights) -> list[State]:
    return [[] for _ in weights]


def _initial_state(
    optimizer: InnerOptimizer, weights: Weights, adapts: Sequence[bool] | None
) -> list[State]:
    """What the optimizer remembers of each weight that adapts, before the first step."""
    moving = zip(weights, _adapting(adapts, weights), strict=True)
    return [list(optimizer.initial_state(w)) if own else [] for w, own in moving]


def _adapting(adapts: Sequence[bool] | None, weights: Weights) -> list[bool]:
    """Which weights move."""
    made = [True] * len(weights) if adapts is None else list(adapts)
    if len(made) != len(weights):
        raise ValueError(
            f"adapts has {len(made)} entries for {len(weights)} weights; give one per weight."
        )
    return made


def _dense(gradient: Any) -> tf.Tensor | None:
    """A gradient as a tensor: that of a table that words are looked up in comes as slices."""
    return None if gradient is None else tf.convert_to_tensor(gradient)


def _by_step(
    step_size: StepSizes, weights: Weights
) -> Callable[[int | tf.Tensor], list[tf.Tensor]]:
    """The alpha of each weight as a function of the step, 0, 1, ..."""
    if isinstance(step_size, PerStep):
        return lambda step: _one_per_weight(step_size.at(step), weights)
    same = _one_per_weight(step_size, weights)
    return lambda step: same


def entry(values: tf.Tensor, step: int | tf.Tensor) -> tf.Tensor:
    """Entry `step` of `values [S, ...]`, or the last one, where there are no more."""
    last = values.shape[0] - 1
    return (
        values[min(step, last)]
        if isinstance(step, int)
        else tf.gather(values, tf.minimum(step, last))
    )


def _one_per_weight(step_size: StepSize, weights: Weights) -> list[tf.Tensor]:
    if isinstance(step_size, (list, tuple)):
        if len(step_size) != len(weights):
            differs = "longer" if len(step_size) > len(weights) else "shorter"
            raise ValueError(
                f"step_size has {len(step_size)} entries for {len(weights)} weights, and is "
                f"{differs}; give one number, or one entry per weight."
            )
        return [_as_type(a, w.dtype) for a, w in zip(step_size, weights, strict=True)]
    return [_as_type(step_size, w.dtype) for w in weights]


def _as_type(number: float | tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    if not hasattr(number, "dtype"):
        arguments.number("step_size", number)
    # tf.cast alone would round a Python number to float32 first.
    return tf.constant(number, dtype) if isinstance(number, float | int) else tf.cast(number, dtype)


def _recomputed(step, counts):
    """`step`, whose backward pass runs it again instead of keeping its intermediate tensors.

    `tf.recompute_grad` does not serve: it stops every tape while `step` runs, `step`'s own too.
    Both passes are functions that are not inlined: traced once for all steps, and out of reach of
    the graph optimiser, which would share work between them and so keep what is to be forgotten.
    """
    own_function = functools.partial(
        tf.function, autograph=False, experimental_attributes={"_noinline": True}
    )

    @own_function
    def forward(moving, batch, number):
        return step(*moving, batch, number)

    @own_function
    def backward(moving, batch, number, upstream):
        sources = tf.nest.flatten(moving)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)
            made = tf.nest.flatten(step(*moving, batch, number))
        return tape.gradient(
            made, sources, upstream, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )

    def run(weights, state, alphas, batch, number):
        moving = weights, state, alphas
        number = tf.constant(number) if counts else 0  # a tensor: it is not traced anew
        structure: list[Any] = []

        @custom_gradient
        def again(*flat):
            given = tf.nest.pack_sequence_as(moving, flat), batch, number
            made = forward(*given)
            structure[:] = [made]
            return tf.nest.flatten(made), lambda *upstream: backward(*given, list(upstream))

        made = again(*tf.nest.flatten(moving))
        return tf.nest.pack_sequence_as(structure[0], made)

    return run
