"""Matches what a user gives to the inputs of a functional model, as the model's own call does.

Shape letters: T tasks, B examples per task.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from maml_tf.engine.task_axis import get_mask, with_mask


def matched(model: keras.Function, x: Any) -> list[tf.Tensor]:
    """The inputs of a functional model, in its order, in its types.

    Args:
      model: with named inputs.
      x: one tensor `[T, B, ...]`, a list in the order of the inputs, or a dictionary by name.

    Returns:
      A tensor `[T, B, ...]` an input, in the type of its `keras.Input`.

    Raises:
      ValueError: there are too few or too many, a name is unknown, or a shape differs.
    """
    expected = tf.nest.flatten(model._inputs_struct)
    given = _in_order(model, x, expected)
    return [_fitted(tensor, reference) for tensor, reference in zip(given, expected, strict=True)]


def takes_several(model: keras.Model, what: Any) -> bool:
    """Whether a list or tuple that is given to a model holds one entry for each input.

    So it does where a functional model has several inputs. A subclassed model does not say; it
    remembers what it was built with, or else a list of arrays is a list to it, as to its call.
    """
    known = getattr(model, "inputs", None)
    if known:
        return len(known) > 1
    shape = (model.get_build_config() or {}).get("input_shape")
    if shape is not None:
        return any(tf.nest.is_nested(part) for part in shape)
    return isinstance(what, (list, tuple)) and all(getattr(a, "shape", ()) != () for a in what)


def gives_several(model: keras.Model) -> bool:
    """Whether a functional model has several outputs."""
    return len(tf.nest.flatten(getattr(model, "outputs", None) or [])) > 1


def names(model: keras.Function) -> list[str]:
    """The names of a functional model's inputs: keys of its dictionary, else of its `Input`s."""
    structure = model._inputs_struct
    return list(structure) if _by_key(structure) else [r.name for r in tf.nest.flatten(structure)]


def _in_order(model: keras.Function, x: Any, expected: list) -> list:
    if isinstance(x, dict):
        keys = names(model)
        if set(x) != set(keys):
            raise ValueError(
                f"'{_name(model)}' has inputs {', '.join(map(repr, sorted(keys)))}; "
                f"got {', '.join(map(repr, sorted(x)))}."
            )
        # `tf.nest` sorts the keys of a dictionary; so it did with `expected`.
        return tf.nest.flatten(x) if _by_key(model._inputs_struct) else [x[k] for k in keys]
    given = tf.nest.flatten(x)
    if len(given) != len(expected):
        raise ValueError(
            f"'{_name(model)}' takes {len(expected)} inputs "
            f"({', '.join(r.name for r in expected)}); got {len(given)}."
        )
    if _by_key(model._inputs_struct) and len(expected) > 1:
        raise ValueError(
            f"'{_name(model)}' takes a dictionary of inputs "
            f"({', '.join(map(repr, model._inputs_struct))}); a list has no names."
        )
    return given


def _fitted(x: tf.Tensor, reference: keras.KerasTensor) -> tf.Tensor:
    """`x [T, B, ...]` in an input's type and rank; a last axis of one example may come or go."""
    mask, shape = get_mask(x), tuple(reference.shape[1:])
    if x.dtype != reference.dtype:
        if x.dtype == tf.string or (x.dtype.is_complex and "complex" not in reference.dtype):
            raise ValueError(
                f"Input '{reference.name}' takes {reference.dtype}, and x is of {x.dtype.name}; "
                "convert it."
            )
        x = tf.cast(x, reference.dtype) if reference.dtype != "string" else x
    rank = len(shape) + 2
    if x.shape.rank == rank + 1 and x.shape[-1] == 1:
        x = tf.squeeze(x, -1)
    elif x.shape.rank == rank - 1 and shape and shape[-1] == 1:
        x = x[..., None]
    known = x.shape.rank == rank and all(
        a is None or b is None or a == b for a, b in zip(x.shape[2:], shape, strict=True)
    )
    if not known:
        raise ValueError(
            f"Input '{reference.name}' takes examples of shape {shape}, in sets [tasks, examples, "
            f"*shape]; got {tuple(x.shape)}."
        )
    return with_mask(x, mask)


def _by_key(structure: Any) -> bool:
    """Whether a model was made with a flat dictionary of inputs."""
    return isinstance(structure, dict) and len(structure) == len(tf.nest.flatten(structure))


def _name(model: Any) -> str:
    return getattr(model, "name", type(model).__name__)
