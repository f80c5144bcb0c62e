"""Runs an ordinary Keras model on explicit weights, with a task axis.

`functional(model)(weights, x)` is `model(x)` with `weights` in place of the model's own, for T
tasks at once: `x [T, B, ...]` and each weight shared `[*shape]` or stacked `[T, *shape]`. Keras'
own `stateless_call` refuses values whose shape differs from the variable's, so each layer type has
a small rule (`layer_rules.py`) that says how it runs on stacked weights. A layer without a rule
falls back to its own call, one task at a time under `tf.vectorized_map`: slower, as right.

A rule for a layer of your own::

    @maml_tf.stacked.register(MyScale)
    def _(layer, x, run):
        return x * run.aligned(layer.scale, x)

Shape letters: T tasks, B examples a task, C channels.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import keras
import tensorflow as tf

from maml_tf.fast_weights import FastWeight
from maml_tf.normalization import moments, standardize
from maml_tf.types import Weights

_LOG = logging.getLogger(__name__)


class BatchStatistics(NamedTuple):
    """What one batch normalisation saw."""

    layer: Any  # the Keras layer, or None
    mean: tf.Tensor  # [T, C]
    variance: tf.Tensor  # [T, C]


Statistics: TypeAlias = list[BatchStatistics]
"""One a call of a batch normalisation, in the order of the calls."""


class Functional:
    """A Keras model as a pure function of its weights; an `ApplyFn`.

    Batch normalisation uses the statistics of each task's current batch (the paper's transductive
    setting) unless `statistics` are given. Dropout and noise are off: the meta-gradient
    differentiates through the inner step, and both must see one function.
    """

    def __init__(self, model: keras.Model):
        """Use `functional`, which checks the model."""
        self.model = model

    def __call__(
        self, weights: Weights, x: tf.Tensor, *, statistics: Statistics | None = None
    ) -> tf.Tensor:
        """Returns the outputs `[T, B, ...]` for `x [T, B, ...]`."""
        return self._run(weights, x, statistics)[0]

    def statistics(self, weights: Weights, x: tf.Tensor) -> Statistics:
        """Returns the batch statistics that `x [T, B, ...]` gives under `weights`."""
        return self._run(weights, x, None)[1]

    def _run(self, weights, x, statistics) -> tuple[Any, Statistics]:
        variables = self.model.trainable_variables
        x = tf.nest.map_structure(tf.convert_to_tensor, x)
        if len(weights) != len(variables):
            raise ValueError(
                f"'{self.model.name}' has {len(variables)} trainable weights; got {len(weights)}."
            )
        run = Run(dict(zip(map(id, variables), weights, strict=True)), statistics)
        return run.call(self.model, x), run.statistics


def functional(model: keras.Model) -> Functional:
    """Turns a Keras model into a function of (weights, x).

    Args:
      model: a built Keras 3 model, Sequential, functional or subclassed; it is not changed. A
        subclassed model has no graph to walk and runs whole through the fall-back.

    Returns:
      A callable `(weights, x [T, B, ...], *, statistics=None) -> outputs [T, B, ...]`.

    Raises:
      ValueError: the model has no trainable weights yet.
    """
    if not model.built or not model.trainable_variables:
        raise ValueError(
            f"'{model.name}' has no trainable weights: build it first, e.g. with a keras.Input."
        )
    for variable in model.trainable_variables:
        if getattr(variable, "regularizer", None) is not None:
            _LOG.warning(
                "'%s' has a regularizer; meta-learning minimises the task loss alone.",
                variable.path,
            )
    return Functional(model)


class Run:
    """What the layers of one call share: the weights in force, and batch statistics."""

    def __init__(self, weights: dict[int, tf.Tensor], statistics: Statistics | None):
        """Holds `weights` by the id of the variable that each stands for."""
        self._weights = weights
        self._given = None if statistics is None else iter(statistics)
        self.statistics: Statistics = []

    def value(self, variable: keras.Variable) -> tf.Tensor:
        """Returns what stands for `variable`: shared, stacked, or its own value if it is frozen."""
        value = self.matrix(variable)
        return value.stacked() if isinstance(value, FastWeight) else value

    def matrix(self, variable: keras.Variable) -> tf.Tensor | FastWeight:
        """Returns `value`, or what gives its products without making it: for `multiply` alone."""
        return self._weights.get(id(variable), variable.value)

    def is_stacked(self, variable: keras.Variable) -> bool:
        """Whether each task has its own value of `variable`."""
        value = self.matrix(variable)
        return isinstance(value, FastWeight) or value.shape.rank == len(variable.shape) + 1

    def aligned(self, variable: keras.Variable, x: tf.Tensor) -> tf.Tensor:
        """Returns `variable`'s value, shaped to broadcast against the last axes of `x [T, ...]`."""
        value = tf.cast(self.value(variable), x.dtype)
        if not self.is_stacked(variable):
            return value
        ones = [1] * (x.shape.rank - value.shape.rank)
        return tf.reshape(value, [-1, *ones, *value.shape[1:]])

    def standardize_batch(self, layer: keras.Layer, x: tf.Tensor) -> tf.Tensor:
        """Standardises `x [T, ..., C]` by each task's own moments, or by those given; records them.

        Not by `tf.nn.moments`, which would hold the mean constant inside the variance: right for
        one derivative, wrong for two. Its meta-gradient gives a bias before the normalisation,
        which can change nothing, a gradient (tests/test_goldens.py).
        """
        axes = list(range(1, x.shape.rank - 1))
        if self._given is not None:
            given = next(self._given)
            shape = [-1, *[1] * len(axes), x.shape[-1]]
            mean, variance = tf.reshape(given.mean, shape), tf.reshape(given.variance, shape)
            y = (x - mean) * tf.math.rsqrt(variance + layer.epsilon)
        else:
            mean, variance = moments(x, axes)
            y = standardize(x, axes, layer.epsilon)
        seen = BatchStatistics(layer, tf.squeeze(mean, axes), tf.squeeze(variance, axes))
        self.statistics.append(seen)
        return y

    def call(self, layer: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        """Runs one layer, or any Keras operation, on tensors with a task axis."""
        if len(args) == 1 and not kwargs and _has_rule(layer):
            outputs = stacked(layer, args[0], self)
            if outputs is not NotImplemented:
                return outputs
        return _one_task_at_a_time(layer, self, args, kwargs)


@functools.singledispatch
def stacked(layer: keras.Operation, x: Any, run: Run) -> Any:
    """Runs `layer` on `x [T, B, ...]` (or a structure of such); register one rule a layer type.

    A rule reads each weight with `run.value` or `run.aligned` and returns `[T, B, ...]`, or
    `NotImplemented` for a variation that it does not know, which then falls back.
    """
    return NotImplemented


def _has_rule(layer: keras.Operation) -> bool:
    """A rule for one of Keras' layers does not speak for a subclass that may compute otherwise."""
    kinds = type(layer).__mro__
    registered = next(kind for kind in kinds if kind in stacked.registry)
    caller = next((kind for kind in kinds if "call" in vars(kind)), registered)
    containers = (keras.Function, keras.Sequential)
    return (
        registered is type(layer)
        or type(layer).__module__.startswith("keras.")
        or (registered in containers and caller.__module__.startswith("keras."))
    )


@stacked.register(keras.Sequential)
def _sequential(model, x, run):
    for layer in model.layers:
        x = run.call(layer, x)
    return x


@stacked.register(keras.Function)
def _graph(model, x, run):
    # The hook that `keras.models.clone_model` walks a functional model with.
    return model._run_through_graph(x, lambda operation: functools.partial(run.call, operation))


# --- the fall-back --------------------------------------------------------------------------------


def _one_task_at_a_time(operation, run: Run, args, kwargs):
    """Maps `operation` over the task axis of its tensors and of its stacked weights."""
    inputs, rebuild = _split_tensors((args, kwargs), _constants(operation))
    layer = operation if isinstance(operation, keras.Layer) else None
    variables = layer.trainable_variables if layer else []
    mapped = [v for v in variables if run.is_stacked(v)]
    if layer:
        _refuse_hidden_state(layer)
        _log_once(f"{type(layer).__name__} ('{layer.name}')")

    def one_task(elements):
        task_args, task_kwargs = rebuild(elements[0])
        if not layer:
            return operation(*task_args, **task_kwargs)
        values = dict(zip(map(id, mapped), elements[1], strict=True))
        weights = [(v, values[id(v)] if id(v) in values else run.value(v)) for v in variables]
        frozen = [(v, v.value) for v in layer.non_trainable_variables]
        with keras.StatelessScope(weights + frozen) as scope:
            before = [scope.get_current_value(v) for v, _ in frozen]
            outputs = layer(*task_args, **task_kwargs, training=False)
            after = [scope.get_current_value(v) for v, _ in frozen]
        _refuse_side_effects(layer, outputs, before, after)
        return outputs

    elements = (inputs, [run.value(v) for v in mapped])
    return tf.vectorized_map(one_task, elements)


def _constants(operation) -> set[int]:
    """Ids of the tensors written into a functional model's graph: they have no task axis."""
    return {
        id(leaf)
        for node in getattr(operation, "_inbound_nodes", [])
        for leaf in tf.nest.flatten((node.arguments.args, node.arguments.kwargs))
        if tf.is_tensor(leaf)
    }


def _split_tensors(structure, constants: set[int]) -> tuple[list[tf.Tensor], Callable]:
    """Takes the tensors out of nested arguments; the second result puts others in their place."""
    flat = tf.nest.flatten(structure)
    places = [i for i, leaf in enumerate(flat) if tf.is_tensor(leaf) and id(leaf) not in constants]

    def rebuild(tensors):
        leaves = list(flat)
        for place, tensor in zip(places, tensors, strict=True):
            leaves[place] = tensor
        return tf.nest.pack_sequence_as(structure, leaves)

    return [flat[i] for i in places], rebuild


def _refuse_side_effects(layer: keras.Layer, outputs, before, after) -> None:
    if any(a is not b for a, b in zip(after, before, strict=True)):
        raise ValueError(
            f"Layer '{layer.name}' ({type(layer).__name__}) changes its state when it is called, "
            "so an inner step has no well-defined derivative; remove it, or register a rule for "
            "it with maml_tf.stacked."
        )
    if any(getattr(leaf, "_keras_mask", None) is not None for leaf in tf.nest.flatten(outputs)):
        raise ValueError(
            f"Layer '{layer.name}' ({type(layer).__name__}) masks time steps, and a mask does not "
            "travel from layer to layer with a task axis. Build it without (mask_zero=False), or "
            "wrap it and the layers that read the mask in one layer of your own."
        )


def _refuse_hidden_state(layer: keras.Layer) -> None:
    inner = [sub for sub in layer._flatten_layers() if sub is not layer]
    if any(isinstance(sub, keras.layers.BatchNormalization) for sub in [layer, *inner]):
        raise ValueError(
            f"'{layer.name}' ({type(layer).__name__}) normalises batches where maml_tf cannot see "
            "it, with moving averages that meta-learning never updates. Build the model from "
            "layers (Sequential or functional), or register a rule for it with maml_tf.stacked."
        )
    if getattr(layer, "stateful", False):
        raise ValueError(
            f"'{layer.name}' is stateful: it would carry memory from one task to the next. "
            "Build it with stateful=False."
        )


@functools.cache
def _log_once(what: str) -> None:
    _LOG.info(
        "%s has no stacked rule: it runs one task at a time (slower, as right). "
        "Register one with maml_tf.stacked.",
        what,
    )
