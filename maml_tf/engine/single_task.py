"""The fall-back: a layer's own code, one task at a time under `tf.vectorized_map`.

Right for every layer that treats a task's batch as Keras does, and slower than a rule. Inside it
Keras' variables have the task's own values, `tf.nn.moments` has its exact derivative, batch
normalisations use the batch's statistics and report them, and whatever would carry something from
one task to the next is refused.

Shape letters: T tasks, B examples per task, C channels.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from maml_tf.engine.penalties import refuse_padding
from maml_tf.engine.second_derivatives import exact_moments
from maml_tf.engine.task_axis import get_mask, with_mask
from maml_tf.engine.vectorized import exact_mapping

Run: TypeAlias = Any
"""`run.Run`, which stands on this module."""

_LOG = logging.getLogger(__name__)

OFF = 0
"""What a layer is given for `training`: false, and yet not the `False` that somebody wrote.

Dropout and noise are off either way, but a batch normalisation that is given `False` by its own
model uses its moving averages, as in Keras, and one that inherits this uses the batch's own.
"""


def one_task_at_a_time(operation: Any, run: Run, args: tuple, kwargs: dict) -> Any:
    """Maps a layer, an operation or a function over the task axis of its tensors and weights.

    Args:
      operation: a Keras layer or operation, or any function of one task's tensors.
      run: the weights in force; batch statistics and losses are added to it.
      args: positional arguments; tensors `[T, B, ...]`.
      kwargs: named arguments, likewise.

    Returns:
      What `operation` gives, its tensors with a task axis.

    Raises:
      ValueError: it changes its state when it is called.
    """
    layer = operation if isinstance(operation, keras.Layer) else None
    if layer is not None:
        _refuse_stateful(layer)
    call = _Call(operation, layer, run, args, kwargs)
    while True:
        unmapped = len(call.variables)
        try:
            return call.outputs()
        except Exception:
            # A variable that turned out to be read, such as another layer's kernel, is mapped, too.
            if len(call.variables) == unmapped:
                raise


class _Call:
    """One call of the fall-back, repeated until all variables that it reads are known."""

    def __init__(self, operation, layer, run: Run, args, kwargs):
        self.operation, self.layer, self.run = operation, layer, run
        own = layer.trainable_variables if layer is not None else []
        self.variables = [v for v in own if run.is_stacked(v)]
        self.inputs, self._rebuild = _split_tensors((args, kwargs), constants(operation))
        self.masks = [
            (i, get_mask(x)) for i, x in enumerate(self.inputs) if get_mask(x) is not None
        ]
        self.given = run.statistics_to_come()
        self.noise = run.seeds()
        self._structure: Any = None
        self._seen: list[Any] = []

    def outputs(self) -> Any:
        elements = {
            "inputs": self.inputs,
            "masks": [mask for _, mask in self.masks],
            "weights": [self.run.value(v) for v in self.variables],
            "given": [tuple(moments) for moments in self.given],
            "noise": [] if self.noise is None else [self.noise],
            "examples": [] if self.run.mask is None else [self.run.mask],
        }
        results = _map(self._one_task, elements, self.run.num_tasks)
        flat = list(self._structure[0])
        for (place, masked), tensor in zip(self._structure[1], results["outputs"], strict=True):
            flat[place] = with_mask(tensor, results["masks"][masked] if masked >= 0 else None)
        for layer, (mean, variance) in zip(self._seen, results["seen"], strict=True):
            self.run.saw(layer, mean, variance)
        self.run.penalties.extend(results["losses"])
        return tf.nest.pack_sequence_as(self._structure[2], flat)

    def _one_task(self, elements) -> dict[str, Any]:
        for (place, _), mask in zip(self.masks, elements["masks"], strict=True):
            with_mask(elements["inputs"][place], mask)
        args, kwargs = self._rebuild(elements["inputs"])
        scope = _Scope(self, elements)
        batches = _Batches(self.run, self.layer, elements)
        with scope, exact_moments(), exact_mapping(), batches.counted():
            if self.layer is not None and self.layer._call_has_training_arg:
                training = self.run.training
                kwargs = {**kwargs, "training": self.run.switch if training is None else training}
            outputs = self.operation(*args, **kwargs)
        scope.refuse_changes()
        if scope.losses and self.run.mask is not None:
            refuse_padding(getattr(self.operation, "name", type(self.operation).__name__))
        self._seen = [layer for layer, _ in batches.seen]
        flat = tf.nest.flatten(outputs)
        places = [i for i, leaf in enumerate(flat) if tf.is_tensor(leaf)]
        masks = [get_mask(flat[i]) for i in places]
        order = [sum(m is not None for m in masks[:n]) for n in range(len(masks))]
        numbers = [n if m is not None else -1 for n, m in zip(order, masks, strict=True)]
        others = [None if tf.is_tensor(leaf) else leaf for leaf in flat]
        self._structure = (others, list(zip(places, numbers, strict=True)), outputs)
        return {
            "outputs": [flat[i] for i in places],
            "masks": [mask for mask in masks if mask is not None],
            "seen": [moments for _, moments in batches.seen],
            "losses": [tf.add_n(scope.losses)] if scope.losses else [],
        }


def _map(function: Callable, elements: Any, num_tasks: int | tf.Tensor) -> Any:
    """`tf.vectorized_map`, or for one task alone the function itself."""
    if isinstance(num_tasks, int) and num_tasks == 1:
        with tf.name_scope("task"):  # a model may have a name that cannot begin one
            outputs = function(tf.nest.map_structure(lambda x: x[0], elements))
        return tf.nest.map_structure(lambda x: x[None], outputs)
    if not tf.nest.flatten(elements):
        elements = {**elements, "tasks": tf.range(num_tasks)}
    return tf.vectorized_map(function, elements)


class _Scope(keras.StatelessScope):
    """Gives Keras' variables one task's values, and notes which others are read or changed."""

    def __init__(self, call: _Call, elements: dict[str, Any]):
        values = list(zip(call.variables, elements["weights"], strict=True))
        layers = call.layer._flatten_layers() if call.layer is not None else []
        seeds = [g.state for sub in layers for g in getattr(sub, "_seed_generators", [])]
        if elements["noise"]:
            noise = elements["noise"][0]
            values += [
                (state, tf.cast(noise, state.dtype) + tf.constant([number, 0], state.dtype))
                for number, state in enumerate(seeds)
            ]
        super().__init__(values, collect_losses=True)
        self._call = call
        self._changed: list[keras.Variable] = []
        self._may_change = {id(state) for state in seeds} if elements["noise"] else set()

    def get_current_value(self, variable):
        value = super().get_current_value(variable)
        if value is not None or not self._call.run.stands_for(variable):
            return value
        if self._call.run.is_stacked(variable):
            self._call.variables.append(variable)
            raise LookupError(f"'{variable.path}' is each task's own.")
        return self._call.run.value(variable)

    def add_update(self, update):
        if id(update[0]) not in self._may_change:
            self._changed.append(update[0])
        super().add_update(update)

    def refuse_changes(self) -> None:
        if self._changed:
            name = getattr(self._call.operation, "name", str(self._call.operation))
            raise ValueError(
                f"Layer '{name}' ({type(self._call.operation).__name__}) changes its state when it "
                f"is called ('{self._changed[0].path}'), so an inner step has no well-defined "
                "derivative; remove it, or register a rule for it with maml_tf.stacked."
            )


class _Batches:
    """Stands in for the batch normalisations inside a layer, while one task runs through it."""

    def __init__(self, run: Run, layer: keras.Layer | None, elements: dict[str, Any]):
        self._run = run
        inside = layer._flatten_layers() if layer is not None else []
        kind = keras.layers.BatchNormalization
        # A subclass with a `call` of its own would go on moving its averages: refused by `_Scope`.
        self._layers = [v for v in inside if isinstance(v, kind) and type(v).call is kind.call]
        self._given = iter(elements["given"])
        self._has_given = bool(elements["given"])
        self._examples = elements["examples"][0] if elements["examples"] else None
        self.seen: list[tuple[keras.Layer, tuple[tf.Tensor, tf.Tensor]]] = []

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for layer in self._layers:
                stack.enter_context(replaced(layer, "call", functools.partial(self._call, layer)))
            yield

    def _call(self, layer, inputs, training=None, mask=None):
        own = self._has_given and not uses_averages(layer, training)
        outputs, statistics = self._run.normalized(
            layer,
            inputs,
            training=training,
            mask=mask,
            given=next(self._given) if own else None,
            examples=self._examples,
        )
        self.seen.extend((layer, moments) for moments in statistics)
        return outputs


def uses_averages(layer: keras.Layer, training: Any) -> bool:
    """Whether a batch normalisation takes its moving averages: frozen, or `training` is False."""
    return training is False or not layer.trainable


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Sets one attribute of one object for a while, past Keras' tracking of attributes."""
    attributes = vars(owner)
    before = attributes.get(name, _Missing)
    object.__setattr__(owner, name, value)
    try:
        yield
    finally:
        if before is _Missing:
            object.__delattr__(owner, name)
        else:
            object.__setattr__(owner, name, before)


class _Missing:
    """Stands for no attribute."""


def constants(operation: Any) -> set[int]:
    """Ids of the tensors written into a functional model's graph: they have no task axis."""
    return {
        id(leaf)
        for node in getattr(operation, "_inbound_nodes", [])
        for leaf in tf.nest.flatten((node.arguments.args, node.arguments.kwargs))
        if tf.is_tensor(leaf)
    }


def _split_tensors(structure, without: set[int]) -> tuple[list[tf.Tensor], Callable]:
    """Takes the tensors out of nested arguments; the second result puts others in their place."""
    flat = tf.nest.flatten(structure)
    places = [i for i, leaf in enumerate(flat) if tf.is_tensor(leaf) and id(leaf) not in without]

    def rebuild(tensors):
        leaves = list(flat)
        for place, tensor in zip(places, tensors, strict=True):
            leaves[place] = tensor
        return tf.nest.pack_sequence_as(structure, leaves)

    return [flat[i] for i in places], rebuild


def _refuse_stateful(layer: keras.Layer) -> None:
    for sub in layer._flatten_layers():
        if getattr(sub, "stateful", False):
            raise ValueError(
                f"'{sub.name}' is stateful: it would carry memory from one task to the next. "
                "Build it with stateful=False."
            )


@functools.cache
def warn_once(what: str) -> None:
    """Says once that a kind of layer falls back."""
    _LOG.warning(
        "%s has no stacked rule: it runs one task at a time (slower, as right). "
        "Register one with maml_tf.stacked.",
        what,
    )
