"""A copy of a Keras model with other weights, whatever layers it is made of."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

_LOG = logging.getLogger(__name__)


def copy_with(model: keras.Model, values: Mapping[int, tf.Tensor], example: Any) -> keras.Model:
    """A model that computes as `model` does, with weights of its own.

    Sequential and functional models are cloned layer by layer. A layer without weights, such as a
    `Lambda` or a vocabulary, is the same object in both. What cannot be made anew from its
    configuration, such as a subclassed model, is wrapped: the copy holds weights of its own and
    calls the original's code on them.

    Args:
      model: is not changed.
      values: by the id of a variable of `model`; all others keep their values.
      example: a batch of inputs, to see whether a clone reads weights of the original.

    Returns:
      A built model for inference.
    """
    try:
        copy = _cloned(model)
        with _Reading({id(v) for v in model.variables}):
            copy(example, training=False)
        pairs = list(zip(copy.variables, model.variables, strict=True))
        if any(a.shape != b.shape for a, b in pairs):
            raise ValueError("the configuration of a layer makes other weights")
    except Exception as error:
        _LOG.info("'%s' is wrapped, not cloned: %s", model.name, str(error).split("\n")[0])
        return WeightsSwapped(model, values)
    for mine, original in pairs:
        mine.assign(values.get(id(original), original.value))
    for layer in copy._flatten_layers():
        if hasattr(layer, "finalize_state"):  # a `Normalization` holds constants made of weights
            layer.finalize_state()
    return copy


def _cloned(model: keras.Model) -> keras.Model:
    if not isinstance(model, keras.Sequential) and not _is_plain_functional(model):
        raise ValueError(f"{type(model).__name__} is a subclass of keras.Model")
    return keras.models.clone_model(model, clone_function=_cloned_layer)


class _Reading(keras.StatelessScope):
    """Refuses that some variables are read: by a closure, or as a constant of a graph."""

    def __init__(self, refused: set[int]):
        super().__init__()
        self._refused = refused

    def get_current_value(self, variable):
        if id(variable) in self._refused:
            raise ValueError(f"the model reads '{variable.path}' outside the layer that owns it")
        return super().get_current_value(variable)


def _cloned_layer(layer: keras.Operation) -> keras.Operation:
    if not isinstance(layer, keras.Layer) or (not layer.variables and _is_more(layer)):
        return layer
    if isinstance(layer, keras.Model):
        return _cloned(layer)
    copy = type(layer).from_config(layer.get_config())
    copy.trainable = layer.trainable
    return copy


def _is_more(layer: keras.Layer) -> bool:
    """Whether a layer without weights may be more than its configuration says."""
    more = (keras.layers.Lambda, keras.layers.TextVectorization)
    tables = (keras.layers.StringLookup, keras.layers.IntegerLookup)
    return isinstance(layer, more + tables) or not type(layer).__module__.startswith("keras.")


def _is_plain_functional(model: keras.Model) -> bool:
    """Whether a model is its graph, and no subclass that may compute otherwise."""
    caller = next(kind for kind in type(model).__mro__ if "call" in vars(kind))
    return isinstance(model, keras.Function) and caller.__module__.startswith("keras.")


class WeightsSwapped(keras.Model):
    """Calls a model's own code on other weights. It cannot be saved as a `.keras` file."""

    def __init__(self, model: keras.Model, values: Mapping[int, Any]):
        """Copies the weights; `model`'s own stay what they are."""
        super().__init__(name=f"{model.name}_adapted")
        # In a tuple, which Keras does not search for layers: the original's weights are not mine.
        object.__setattr__(self, "_original", model)
        object.__setattr__(self, "_originals", tuple(model.variables))
        self._own = [
            self.add_weight(
                shape=variable.shape,
                dtype=variable.dtype,
                initializer="zeros",
                trainable=variable.trainable,
                name=variable.name,
            )
            for variable in model.variables
        ]
        for own, variable in zip(self._own, model.variables, strict=True):
            own.assign(values.get(id(variable), variable.value))
        self.built = True

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """What the original gives for `inputs` with these weights."""
        options = {"training": training} if self._original._call_has_training_arg else {}
        if mask is not None:
            options["mask"] = mask
        values = [(a, b.value) for a, b in zip(self._originals, self._own, strict=True)]
        with keras.StatelessScope(values):
            return self._original(inputs, **options)
