"""Checks of targets where they come in: converted where that is unambiguous, or refused.

Nothing here runs in a training step.

Shape letters: T tasks, B examples, N ways.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from maml_tf.objectives.base import BINARY, INDICES, ONE_HOT, VALUES, Objective
from maml_tf.types import Structure, Task


def check_task(model: keras.Model, loss: Objective, metric: Objective, drawn: Task) -> None:
    """Checks the labels of a drawn `Task`, whose values are known.

    Raises:
      ValueError: they do not fit the losses; says which.
    """
    shapes = output_shapes(model, drawn.support.x)
    for name, batch, judges in (
        ("support", drawn.support, [loss]),
        ("query", drawn.query, [loss, metric]),
    ):
        arrays = tf.nest.map_structure(np.asarray, batch.y)
        there = np.asarray(batch.mask) if not isinstance(batch.mask, tuple) else None
        for judge in judges:
            targets(judge, arrays, shapes, f"The {name} set's y", there)


def check_ways(model: keras.Model, ways: int, drawn: Task) -> None:
    """Checks tasks of fewer classes than a model has outputs, whose values are known.

    Raises:
      ValueError: the model has fewer outputs, or several, or the labels are no indices of so many.
    """
    y, shape = drawn.query.y, output_shapes(model, drawn.support.x)
    if not isinstance(shape, tf.TensorShape) or tf.nest.is_nested(y):
        raise ValueError("ways is of models of one output; drop it.")
    y, outputs = np.asarray(y), shape[-1] if shape.rank else None
    if shape.rank == y.ndim and y.shape[-1] != 1:
        raise ValueError(f"ways takes class indices, and y has shape {y.shape[1:]}; drop ways.")
    if outputs is not None and ways > outputs:
        raise ValueError(f"ways is {ways}, and the model has {outputs} outputs; give no more.")
    seen = y if isinstance(drawn.query.mask, tuple) else y[np.asarray(drawn.query.mask, bool)]
    if (seen >= ways).any():
        raise ValueError(
            f"The query set's y holds {_some(seen[seen >= ways])}, and ways is {ways}: give class "
            f"indices 0 ... {ways - 1}, or more ways."
        )


def targets(
    loss: Objective, y: Structure, shapes: Structure, name: str, mask: Structure | None = None
) -> Structure:
    """Checks targets `[T, B, ...]` against outputs, and converts what is unambiguous.

    Args:
      loss: that takes them.
      y: arrays.
      shapes: of the outputs, `[T, B, ...]`, in part unknown.
      name: of the targets, for messages.
      mask: `[T, B]`, where they exist.

    Returns:
      `y`: class indices as int32, without a last axis of size 1.

    Raises:
      ValueError: they do not fit; names the values.
    """
    if loss.parts is None:
        return y if tf.nest.is_nested(y) else _targets(loss, y, shapes, name, mask)
    converted = {}
    for piece in loss.parts.pieces(shapes, y):
        label = f"{name} of output '{piece.name}'"
        made = _targets(piece.objective, piece.y, piece.outputs, label, mask)
        converted[id(piece.y)] = made
    return tf.nest.map_structure(lambda leaf: converted.get(id(leaf), leaf), y)


def _targets(loss: Objective, y: Any, shape: Any, name: str, mask: Any) -> Any:
    if y.dtype.kind in "OSUV":
        some = ", ".join(map(repr, np.unique(y.astype(str)).tolist()[:3]))
        raise ValueError(
            f"{name} holds no numbers ({some}); give class indices 0, 1, ..., e.g. "
            "np.unique(y, return_inverse=True)[1]."
        )
    if loss.for_shapes is not None and shape.rank is not None:
        loss = loss.for_shapes(tf.TensorShape(y.shape), shape)
    seen = y if mask is None else y[np.asarray(mask, bool)]
    if loss.labels is not None and y.dtype.kind == "f" and not np.isfinite(seen).all():
        raise ValueError(f"{name} holds numbers that are not finite (NaN or infinite).")
    if shape.rank is None or loss.labels is None:
        return y
    if loss.labels == INDICES:
        return _class_indices(loss, y, shape, name, mask)
    _check_shape(loss, y, shape, name)
    if loss.labels == BINARY and seen.size and (seen.min() < 0 or seen.max() > 1):
        raise ValueError(
            f"{name} holds {_some(seen[(seen < 0) | (seen > 1)])}, and '{loss.name}' takes 0 or 1 "
            "(or a share between)."
        )
    return y


def _class_indices(loss: Objective, y, shape: tf.TensorShape, name: str, mask: Any) -> np.ndarray:
    ways = shape.as_list()[-1]
    if y.ndim == shape.rank and y.shape[-1] == 1:
        y = y[..., 0]
    if y.ndim == shape.rank and y.shape[-1] == ways and ways != 1:
        raise ValueError(
            f"{name} has shape {y.shape[1:]}, as one-hot labels have, and '{loss.name}' takes class"
            " indices; give np.argmax(y, -1), or a loss of one-hot labels such as "
            "keras.losses.CategoricalCrossentropy."
        )
    if not tf.TensorShape(y.shape).is_compatible_with([y.shape[0], y.shape[1], *shape[2:-1]]):
        raise ValueError(
            f"{name} has shape {y.shape[1:]} and the outputs {('B', *shape[2:])}; give class "
            f"indices of shape {('B', *shape[2:-1])}."
        )
    seen = y if mask is None else y[np.asarray(mask, bool)]
    if y.dtype.kind == "f" and (seen != np.round(seen)).any():
        raise ValueError(
            f"{name} holds {_some(seen[seen != np.round(seen)])}, and '{loss.name}' takes class "
            "indices, whole numbers."
        )
    wrong = (seen < 0) | ((seen >= ways) if ways is not None else False)
    if loss.ignored is not None:
        wrong &= seen != loss.ignored
    if wrong.any():
        hint = f"the model has {ways} outputs: give class indices 0 ... {(ways or 0) - 1}"
        if seen.min() == 1 and seen.max() == ways:
            hint += ", counted from 0 (subtract 1)"
        raise ValueError(f"{name} holds {_some(seen[wrong])}, and {hint}.")
    return y if y.dtype.kind in "iu" else y.astype(np.int32)


def _check_shape(loss: Objective, y, shape: tf.TensorShape, name: str) -> None:
    """Of targets that stand beside the outputs one to one; Keras squeezes an axis of size 1."""
    target = list(y.shape)
    strict = loss.name == "mean_squared_error" and not isinstance(loss, Objective)
    if not strict and shape.rank == y.ndim + 1 and shape[-1] == 1:
        target.append(1)
    elif not strict and y.ndim == shape.rank + 1 and y.shape[-1] == 1:
        target.pop()
    if tf.TensorShape(target[2:]).is_compatible_with(shape[2:]) and len(target) == shape.rank:
        return
    remedy = "give targets of the outputs' shape"
    if loss.labels == ONE_HOT and y.ndim == shape.rank - 1:
        remedy = "give keras.utils.to_categorical(y), or take the loss that is 'sparse'"
    elif loss.labels == VALUES and y.ndim == shape.rank - 1 and shape[-1] == 1:
        remedy = "give y[..., None]"
    differ = "rank" if y.ndim != shape.rank else "shape"
    raise ValueError(
        f"{name} has shape {y.shape[1:]} and the outputs {(y.shape[1], *shape[2:])}, which differ "
        f"in {differ}; {remedy}."
    )


def output_shapes(model: keras.Model, x: Structure) -> Structure:
    """Shapes `[T, B, ...]` of a model's outputs, in part unknown; of a structure, a structure."""
    made = getattr(getattr(model, "_functional", None) or model, "_outputs_struct", None)
    if made is None:
        try:
            one = tf.nest.map_structure(lambda a: tf.convert_to_tensor(a)[0, :1], x)
            made = model(one, training=False)
        except (TypeError, ValueError):
            return tf.TensorShape(None)  # whoever runs it says why it cannot
    return tf.nest.map_structure(lambda t: tf.TensorShape([None, None, *t.shape[1:]]), made)


def _some(values: np.ndarray) -> str:
    """A few of the values."""
    found = np.unique(values)
    words = ", ".join(f"{v:g}" for v in found[:3].astype(float))
    return words + (", ..." if len(found) > 3 else "")
