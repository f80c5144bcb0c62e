"""Random changes of images that are a pure function of the seed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from maml_tf import arguments

Change: TypeAlias = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""`(x [B, ...], seed int32 [2]) -> [B, ...]`."""

SETS = ("support", "query")


def changes(augment: Any) -> dict[str, Change]:
    """What changes the examples of each set.

    Args:
      augment: a Keras layer or model of layers such as `RandomFlip`, or a function `(x [B, ...],
        seed [2]) -> [B, ...]`, for both sets; or a dictionary of such by "support" and "query".

    Raises:
      ValueError: it is something else.
    """
    if augment is None:
        return {}
    if not isinstance(augment, Mapping):
        change = _change(augment)
        return {name: change for name in SETS}
    unknown = set(augment) - set(SETS)
    if unknown:
        raise ValueError(
            f"augment has {sorted(map(str, unknown))[0]}; its keys are support, query."
        )
    return {name: _change(each) for name, each in augment.items() if each is not None}


def check(changes: Mapping[str, Change], x: Any) -> None:
    """Tries the changes on examples x [B, ...].

    Raises:
      ValueError: they cannot be changed, or come out in another shape.
    """
    for name, change in changes.items():
        if not isinstance(x, tf.Tensor) or x.dtype == tf.string:
            raise ValueError("augment changes one array of numbers; drop it for several or text.")
        try:
            changed = tf.convert_to_tensor(change(x, tf.constant([0, 0])))
        except Exception as error:  # Of the user's own code, or of a layer's.
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"augment of the {name} set fails on {x.dtype.name} examples {x.shape[1:]}: "
                f"{reason}"
            ) from error
        if changed.shape != x.shape:
            raise ValueError(
                f"augment of the {name} set makes {changed.shape[1:]} of examples {x.shape[1:]}; "
                "keep their shape."
            )


def _change(augment: Any) -> Change:
    if isinstance(augment, keras.Layer):
        return _of_layer(augment)
    try:
        inspect.signature(augment).bind(None, None)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "augment must be a Keras layer or model, a function of (x, seed), or a dictionary of "
            f"such by support and query, not {arguments.shown(augment)}."
        ) from error
    return augment


def _of_layer(layer: keras.Layer) -> Change:
    """A layer whose random numbers are those of a seed, whatever it drew before.

    Keras keeps the state of its generators in variables, which a `StatelessScope` replaces.
    """
    weights = [weight.path for weight in layer.trainable_weights]
    if weights:
        raise ValueError(f"augment has weights to train, {weights[0]}; give layers without any.")
    known = {id(weight) for weight in layer.weights}
    generators = [v for v in layer.variables if id(v) not in known and v.shape == (2,)]

    def change(x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        states = []
        for number, variable in enumerate(generators):
            # Of one meta-batch: high and low half differ together, so no other has this seed.
            own = tf.bitwise.bitwise_xor(seed, np.int32(number))
            states.append((variable, tf.cast(own, variable.dtype)))
        with keras.StatelessScope(state_mapping=states):
            return layer(x, training=True)

    return change
