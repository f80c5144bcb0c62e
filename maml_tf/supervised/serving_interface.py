"""What goes into an exported model and comes out of it, read off the learner's model.

Several inputs, outputs or targets are dictionaries by name, whatever structure the model has.
Shape letters: B examples in a set, N ways.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import keras
import tensorflow as tf
from tensorflow.python.trackable import resource

from maml_tf.engine import model_inputs
from maml_tf.engine.served_weights import unique_names
from maml_tf.objectives.base import INDICES
from maml_tf.supervised.adaptive_model import AdaptiveModel
from maml_tf.types import Specs, Structure

Sets: TypeAlias = tf.TensorSpec | dict[str, tf.TensorSpec]
"""Of sets of examples: one, or several by name."""


class Interface(NamedTuple):
    """What goes in and comes out."""

    x: Sets  # TensorSpec [None, ...], or a dictionary of such by the names of the inputs
    y: Sets  # TensorSpec [None] of class indices or [None, ...] of targets, or one an output
    outputs: Any  # the shape of one example's, or of each output by name
    names: tuple[str, ...]  # of several outputs, in the order of their structure; else none
    inputs: tuple[str, ...]  # of several inputs that the model takes in a list, in its order
    targeted: tuple[tuple[str, str], ...]  # outputs that have a loss: as here, and as it calls them
    structure: Structure  # of the model's outputs
    ways: int | None  # N, where y is known to be class indices
    weights: tuple[tf.TensorSpec, ...]  # trainable weights, then batch statistics; named
    normalizations: tuple[Any, ...]  # the layers whose statistics these are

    def by_name(self, outputs: Structure) -> Structure:
        """The model's outputs: one tensor, or a dictionary."""
        flat = tf.nest.flatten(outputs)
        return dict(zip(self.names, flat, strict=True)) if self.names else flat[0]

    def examples(self, x: Structure) -> Structure:
        """Inputs as the model takes them: in a list, if it does not know their names."""
        return [x[name] for name in self.inputs] if isinstance(x, dict) and self.inputs else x

    def targets(self, y: Structure) -> Structure:
        """Targets as the loss takes them: by its own names, or in the structure of the outputs."""
        if not isinstance(y, dict) or not self.names:
            return y
        if self.targeted:
            return {name: y[own] for own, name in self.targeted if own in y}
        if y.keys() != set(self.names):
            return y
        return tf.nest.pack_sequence_as(self.structure, [y[name] for name in self.names])


def interface(
    learner: AdaptiveModel, weights: list[tf.Tensor], inputs: Specs | None, target: Specs | None
) -> Interface:
    """Runs one example of zeros, to see what comes out and which statistics there are.

    Args:
      learner: what is exported.
      weights: its own.
      inputs: specification of x; None reads it off the model.
      target: specification of y; None: class indices where the loss takes them, else floats of the
        outputs' shape.

    Raises:
      ValueError: the model does not say what it takes.
    """
    model = learner.model
    x, order = (_input_specs(model), _list_of_inputs(model)) if inputs is None else _named(inputs)
    zeros = tf.nest.map_structure(lambda s: tf.zeros([1, 1, *s.shape[1:]], s.dtype), x)
    given = [zeros[name] for name in order] if order else zeros
    result = learner.apply.run(weights, given)
    flat = tf.nest.flatten(result.outputs)
    names = tuple(_output_names(model, result.outputs)) if len(flat) > 1 else ()
    shapes = [tuple(y.shape[2:]) for y in flat]
    judged = _judged(learner.loss, result.outputs, names)
    if target is None:
        specs = {own: _target_spec(loss, y) for own, (_, loss, y) in judged.items()}
        target = specs if names else next(iter(specs.values()))
    loss = next(iter(judged.values()))[1]
    checks_labels = len(flat) == 1 and loss.labels == INDICES and loss.ignored is None
    return Interface(
        x,
        target,
        dict(zip(names, shapes, strict=True)) if names else shapes[0],
        names,
        order,
        tuple((own, name) for own, (name, *_) in judged.items() if name),
        tf.nest.map_structure(lambda y: None, result.outputs),
        shapes[0][-1] if checks_labels else None,
        tuple(_weight_specs(model, weights, result.statistics, x)),
        tuple(s.layer for s in result.statistics),
    )


def _named(inputs: Any) -> tuple[Any, tuple[str, ...]]:
    """Specifications that a user gave: a list becomes a dictionary, with the names in order."""
    if not isinstance(inputs, (list, tuple)):
        return inputs, ()
    order = tuple(f"input_{i}" for i in range(len(inputs)))
    return dict(zip(order, inputs, strict=True)), order


def _judged(loss: Any, outputs: Any, names: tuple[str, ...]) -> dict[str, tuple[str, Any, Any]]:
    """Outputs that have a loss, by name: the loss's name for it ("" if none), the loss, itself."""
    flat = tf.nest.flatten(outputs)
    keys = names or ("",)
    if loss.parts is None or any(map(tf.nest.is_nested, _values(outputs))):
        return {key: ("", loss, y) for key, y in zip(keys, flat, strict=True)}
    number = {id(y): n for n, y in enumerate(flat)}
    pieces = loss.parts.pieces(outputs, outputs)
    return {keys[number[id(p.outputs)]]: (p.name, p.objective, p.outputs) for p in pieces}


def _values(outputs: Any) -> list[Any]:
    if isinstance(outputs, dict):
        return list(outputs.values())
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def _target_spec(loss: Any, outputs: tf.Tensor) -> tf.TensorSpec:
    """Class indices where the loss takes them, else floats as `outputs [1, 1, ...]`."""
    if loss.labels == INDICES:
        return tf.TensorSpec([None, *outputs.shape[2:-1]], tf.int32)
    return tf.TensorSpec([None, *outputs.shape[2:]], outputs.dtype)


def named(specs: Sets, name: str, prefix: str) -> Sets:
    """Specifications with names for a signature: `name`, or `prefix` and a dictionary's key."""
    if not isinstance(specs, dict):
        return tf.TensorSpec(specs.shape, specs.dtype, name)
    return {k: tf.TensorSpec(s.shape, s.dtype, f"{prefix}{k}") for k, s in specs.items()}


def frozen_variables(model: keras.Model) -> list[tf.Variable]:
    """What the graph may read beside trainable weights."""
    return [v.value for v in model.variables if not v.trainable]


def tables(model: keras.Model) -> list[Any]:
    """Vocabularies and other resources that layers hold beside their variables."""
    kind = resource.TrackableResource
    held = [value for layer in model._flatten_layers() for value in vars(layer).values()]
    return [value for value in held if isinstance(value, kind)]


def _weight_specs(model, weights, statistics, x) -> Iterator[tf.TensorSpec]:
    paths = [v.path.removeprefix(f"{model.name}/") for v in model.trainable_variables]
    paths += [f"{s.layer.name}/{moment}" for s in statistics for moment in ("mean", "variance")]
    values = [*weights, *(moment[0] for s in statistics for moment in (s.mean, s.variance))]
    taken = (*(x if isinstance(x, dict) else ("x",)), "transductive")
    for name, value in zip(unique_names(paths, taken), values, strict=True):
        yield tf.TensorSpec(value.shape, value.dtype, name)


def _output_names(model: keras.Model, outputs: Any) -> list[str]:
    if isinstance(outputs, dict) and len(outputs) == len(tf.nest.flatten(outputs)):
        return sorted(outputs)
    known = list(getattr(model, "output_names", None) or [])
    count = len(tf.nest.flatten(outputs))
    unique = len(set(known)) == count
    return known if unique else [f"output_{i}" for i in range(count)]


def _input_specs(model: keras.Model) -> Any:
    """The model's inputs `[None, ...]`."""
    graph = getattr(model, "_functional", model)
    if isinstance(graph, keras.Function):
        specs = [_spec(model, r.shape, r.dtype) for r in tf.nest.flatten(graph._inputs_struct)]
        if len(specs) == 1:
            return specs[0]
        order = _list_of_inputs(model)
        if not order:  # as `tf.nest` sorts them
            order = tuple(sorted(model_inputs.names(graph)))
        return dict(zip(order, specs, strict=True))
    # A subclassed model has no symbolic inputs, but remembers what it was built with.
    shape = (model.get_build_config() or {}).get("input_shape")
    if not isinstance(shape, (list, tuple)) or any(isinstance(n, (list, tuple)) for n in shape):
        raise ValueError(
            f"'{model.name}' does not say what it takes; export(..., inputs=tf.TensorSpec(...)), "
            "or a dictionary of such."
        )
    return _spec(model, shape, model.input_dtype)


def _list_of_inputs(model: keras.Model) -> tuple[str, ...]:
    """Names for the inputs of a model that takes a list; Keras' own where somebody chose them."""
    graph = getattr(model, "_functional", model)
    if not isinstance(graph, keras.Function) or isinstance(graph._inputs_struct, dict):
        return ()
    names = model_inputs.names(graph)
    if len(names) == 1:
        return ()
    # Those that nobody chose hold a counter of this process.
    return tuple(
        f"input_{i}" if re.fullmatch(r"keras_tensor(_\d+)?", name) else name
        for i, name in enumerate(names)
    )


def _spec(model: keras.Model, shape: Any, dtype: Any) -> tf.TensorSpec:
    if None in shape[1:]:
        raise ValueError(
            f"'{model.name}' takes examples of shape {tuple(shape[1:])}, in part known only at run "
            "time; to export it, build it with a keras.Input of one size."
        )
    return tf.TensorSpec([None, *shape[1:]], dtype)
