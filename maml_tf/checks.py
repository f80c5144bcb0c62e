"""Checks of what users give, where it comes in: numbers, support sets, labels, activations.

Nothing here runs in a training step.

Shape letters: T tasks, B examples, N ways.
"""

from __future__ import annotations

import math
import operator
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from maml_tf.objectives import BINARY, INDICES, ONE_HOT, VALUES, Objective

# --- numbers ---


def number(name: str, value: Any) -> float:
    """A finite number, as a float.

    Raises:
      ValueError: it is something else.
    """
    try:
        if isinstance(value, (list, tuple)) or np.ndim(value) or isinstance(value, (str, bool)):
            raise TypeError
        made = float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be one number, not {value!r}.") from error
    if not math.isfinite(made):
        raise ValueError(f"{name} must be a finite number, not {value}.")
    return made


def positive(name: str, value: Any) -> float:
    """A positive number.

    Raises:
      ValueError: it is not.
    """
    made = math.nan if isinstance(value, float) and math.isnan(value) else number(name, value)
    if not made > 0:
        hint = "; None does not clip" if name == "clip" else ""
        raise ValueError(f"{name} must be positive, not {value}{hint}.")
    return made


def count(name: str, value: Any, least: int) -> int:
    """A whole number, `least` or more.

    Raises:
      ValueError: it is not.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        made = operator.index(value)
    except TypeError as error:
        raise ValueError(f"{name} must be a whole number, not {value!r}.") from error
    if made < least:
        raise ValueError(f"{name} must be {least} or more, not {value}.")
    return made


# --- sets of examples ---


def support_set(model: keras.Model, loss: Objective, x: Any, y: Any) -> tuple[Any, Any]:
    """Checks one task's support set, and gives it a task axis.

    Args:
      model: that adapts.
      loss: that it descends.
      x: `[B, ...]` examples, or a structure of such.
      y: `[B]` class indices, or `[B, ...]` targets, or a structure of such.

    Returns:
      x and y as tensors `[1, B, ...]`; labels in the form that the loss takes.

    Raises:
      ValueError: it cannot be adapted to; says why.
    """
    inputs = getattr(model, "inputs", None) or [None]
    x = _arrays(x, structured=len(inputs) > 1)
    y = _arrays(y, structured=loss.parts is not None)
    _refuse_one_example(x, inputs)
    lengths = {"x": _lengths(x), "y": _lengths(y)}
    if lengths["x"] != lengths["y"] or len(lengths["x"]) > 1:
        said = " and ".join(f"{n} {'/'.join(map(str, sorted(v)))}" for n, v in lengths.items())
        raise ValueError(f"The support set's lengths differ ({said}); give one target an example.")
    if lengths["x"] == {0}:
        raise ValueError("The support set is empty; give at least one example.")
    for leaf in tf.nest.flatten(x):
        if leaf.dtype.kind == "f" and not np.isfinite(leaf).all():
            raise ValueError("x holds numbers that are not finite (NaN or infinite).")
    x, y = (tf.nest.map_structure(lambda a: a[np.newaxis], s) for s in (x, y))
    y = targets(loss, y, output_shapes(model, x), "y")
    return tuple(tf.nest.map_structure(tf.convert_to_tensor, s) for s in (x, y))


def task(model: keras.Model, loss: Objective, metric: Objective, drawn: Any) -> None:
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


def targets(loss: Objective, y: Any, shapes: Any, name: str, mask: Any = None) -> Any:
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


def _targets(loss: Objective, y: np.ndarray, shape: tf.TensorShape, name: str, mask: Any) -> Any:
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
    mend = "give targets of the outputs' shape"
    if loss.labels == ONE_HOT and y.ndim == shape.rank - 1:
        mend = "give keras.utils.to_categorical(y), or take the loss that is 'sparse'"
    elif loss.labels == VALUES and y.ndim == shape.rank - 1 and shape[-1] == 1:
        mend = "give y[..., None]"
    differ = "rank" if y.ndim != shape.rank else "shape"
    raise ValueError(
        f"{name} has shape {y.shape[1:]} and the outputs {(y.shape[1], *shape[2:])}, which differ "
        f"in {differ}; {mend}."
    )


def output_shapes(model: keras.Model, x: Any) -> Any:
    """Shapes `[T, B, ...]` of a model's outputs, in part unknown; of a structure, a structure."""
    made = getattr(getattr(model, "_functional", None) or model, "_outputs_struct", None)
    if made is None:
        try:
            one = tf.nest.map_structure(lambda a: tf.convert_to_tensor(a)[0, :1], x)
            made = model(one, training=False)
        except (TypeError, ValueError):
            return tf.TensorShape(None)  # whoever runs it says why it cannot
    return tf.nest.map_structure(lambda t: tf.TensorShape([None, None, *t.shape[1:]]), made)


def _arrays(what: Any, *, structured: bool) -> Any:
    """Numbers of Python, NumPy or TensorFlow as arrays; a list is one array or several."""
    if isinstance(what, dict) or (structured and isinstance(what, (list, tuple))):
        names = what if isinstance(what, dict) else range(len(what))
        made = [_arrays(what[name], structured=False) for name in names]
        return dict(zip(names, made, strict=True)) if isinstance(what, dict) else tuple(made)
    try:
        # TensorFlow's types for numbers of Python: float32, int32.
        return np.asarray(what if hasattr(what, "dtype") else tf.convert_to_tensor(what))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Examples of different shapes are no array ({error}); pad them, or give one array."
        ) from error


def _lengths(structure: Any) -> set[int]:
    return {leaf.shape[0] if leaf.ndim else 0 for leaf in tf.nest.flatten(structure)}


def _refuse_one_example(x: Any, inputs: list[Any]) -> None:
    for leaf, wanted in zip(tf.nest.flatten(x), inputs, strict=False):
        shape: Any = getattr(wanted, "shape", None)
        alone = shape is not None and leaf.ndim == len(shape) - 1 and leaf.ndim > 0
        if alone and all(a in (None, b) for a, b in zip(shape[1:], leaf.shape, strict=True)):
            raise ValueError(
                f"x of shape {leaf.shape} is one example; give a set, with a first axis for "
                "examples: x[None]."
            )


def _some(values: np.ndarray) -> str:
    """A few of the values."""
    found = np.unique(values)
    words = ", ".join(f"{v:g}" for v in found[:3].astype(float))
    return words + (", ..." if len(found) > 3 else "")


# --- activations ---


def warn_of_activations(model: keras.Model, loss: Objective, metric: Objective) -> None:
    """Compares a model's last activations, where they are known, with what the loss takes.

    Raises:
      ValueError: the loss takes logits, and the outputs are probabilities.
    """
    made = getattr(getattr(model, "_functional", None) or model, "_outputs_struct", None)
    if made is None:
        return
    known = tf.nest.map_structure(_activation, made)
    pairs = [(loss, known)]
    if loss.parts is not None:
        try:
            pairs = [(p.objective, p.outputs) for p in loss.parts.pieces(known, known)]
        except ValueError:  # said where the targets are known
            pairs = []
    for one, activation in pairs:
        if one.from_logits and activation in ("softmax", "sigmoid"):
            raise ValueError(
                f"The model ends in a {activation}, and '{one.name}' takes logits; leave the "
                "activation out, or take a Keras loss with from_logits=False."
            )
        if one.from_logits is False and activation == "linear":
            warnings.warn(
                f"'{one.name}' takes probabilities, and the model's outputs have no activation; "
                "give the last layer a softmax or sigmoid, or the loss from_logits=True.",
                stacklevel=5,
            )
    if loss.from_logits and loss.labels == BINARY and metric.threshold == 0.5:
        warnings.warn(
            f"The metric '{metric.name}' counts an output above 0.5 as 1, and the loss takes "
            "logits; give keras.metrics.BinaryAccuracy(threshold=0).",
            stacklevel=5,
        )


def _activation(output: Any) -> str:
    """'softmax', 'sigmoid' or 'linear' where the output comes straight from it, else ''."""
    operation, _, index = output._keras_history
    inner: Any = getattr(operation, "outputs", None)
    if isinstance(operation, keras.Model) and inner:
        return _activation(inner[index])
    if isinstance(operation, keras.layers.Softmax):
        return "softmax"
    function = getattr(operation, "activation", None)
    if function is None:
        return ""
    known = {getattr(keras.activations, n): n for n in ("softmax", "sigmoid", "linear")}
    return known.get(function, "") if callable(function) else ""
