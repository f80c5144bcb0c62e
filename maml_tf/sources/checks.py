"""One check of what a task source gives, in its user's words.

Shape letters: T tasks, B examples in a set.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from maml_tf.types import Batch, Task

_FORM = "Task(support=Batch(x, y), query=Batch(x, y))"
_SETS = f"Return {_FORM}, or the tuples ((support_x, support_y), (query_x, query_y))."


class UnknownShape(ValueError):
    """A traced source's shapes are not known before it runs."""


def as_task(value: object, num_tasks: int | None = None) -> Task:
    """What a task source gave as a checked `Task` of arrays or tensors.

    Lists of numbers become arrays, and NumPy's float64 becomes Keras' float type, as in
    `keras.Model.fit`. Everything else stays as it is.

    Args:
      value: a `Task`, or ((support x, y), (query x, y)), each with sample weights and a mask after
        them if there are any.
      num_tasks: T that was asked for; any if not given.

    Returns:
      `Task`; every leaf is an array or a tensor `[T, B, ...]`, B the same within a set.

    Raises:
      UnknownShape: a tensor in a graph has no static shape.
      ValueError: the structure is another, or the shapes do not belong together.
    """
    task = Task(*(_as_batch(part, name) for part, name in _sets(value)))
    counts = [_check_set(batch, name) for batch, name in zip(task, Task._fields, strict=True)]
    if counts[0] != counts[1]:
        raise ValueError(
            f"Support sets of {counts[0]} tasks came with query sets of {counts[1]}; the first "
            "axis of every array is the tasks', and a task has one of each."
        )
    if num_tasks is not None and counts[0] != num_tasks:
        raise ValueError(
            f"The task source gave {counts[0]} tasks where {num_tasks} were asked for: the first "
            f"axis of support x {list(tf.nest.flatten(task)[0].shape)} is the tasks'. A function "
            "gives as many as its second argument says; of data that come in meta-batches, set "
            "meta_batch_size to their size, and drop an incomplete last one."
        )
    return task


def _sets(value: Any) -> list[tuple[Any, str]]:
    """The support and the query set of something like a task."""
    if isinstance(value, Batch) or not isinstance(value, (tuple, list)):
        keys = f" with {', '.join(map(repr, value))}" if isinstance(value, Mapping) else ""
        raise ValueError(f"The task source gave a {type(value).__name__}{keys}. {_SETS}")
    nested = all(isinstance(part, (tuple, list, Mapping)) for part in value)
    if len(value) != 2 or not nested:
        raise ValueError(
            f"The task source gave {len(value)} values ({_kinds(value)}), and which of them are "
            f"support and query, x and y cannot be known. {_SETS}"
        )
    return [*zip(value, Task._fields, strict=True)]


def _as_batch(value: Any, name: str) -> Batch:
    if isinstance(value, Mapping) or (not isinstance(value, Batch) and not 2 <= len(value) <= 4):
        shown = f"a dictionary with {', '.join(map(repr, value))}"
        shown = shown if isinstance(value, Mapping) else f"{len(value)} values ({_kinds(value)})"
        raise ValueError(
            f"The {name} set is {shown}; give Batch(x, y), or (x, y), (x, y, sample_weight), "
            "(x, y, sample_weight, mask)."
        )
    batch = Batch(*value)
    if batch.y is None or batch.x is None:
        raise ValueError(f"The {name} set has no {'y' if batch.x is not None else 'x'}. {_SETS}")
    names = [f"{name} {field}" for field in Batch._fields]
    rest = [() if part is None else part for part in batch[2:]]
    return Batch(*map(_as_arrays, [*batch[:2], *rest], names))


def _as_arrays(value: Any, name: str) -> Any:
    """A structure of arrays and tensors; a list of numbers is one array."""
    if isinstance(value, Mapping):
        return {key: _as_arrays(part, f"{name}[{key!r}]") for key, part in value.items()}
    if isinstance(value, (list, tuple)) and not _is_data(value):
        parts = [_as_arrays(part, f"{name}[{i}]") for i, part in enumerate(value)]
        return parts if isinstance(value, list) else tuple(parts)
    return _as_array(value, name)


def _is_data(value: Sequence) -> bool:
    """Whether nested lists hold numbers or text, and no arrays."""
    return bool(value) and all(
        _is_data(part)
        if isinstance(part, (list, tuple))
        else isinstance(part, (numbers.Number, np.generic, str, bytes))
        for part in value
    )


def _as_array(value: Any, name: str) -> Any:
    if isinstance(value, (tf.RaggedTensor, tf.SparseTensor)):
        raise ValueError(
            f"{name} is a {type(value).__name__}; make it dense and say in `mask` [T, B] which "
            "examples there are."
        )
    if isinstance(value, tf.Variable):
        return tf.convert_to_tensor(value)
    if tf.is_tensor(value):
        return value
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(
            f"{name} cannot become one array ({error}); pad what is shorter, and say in `mask` "
            "[T, B] which examples there are."
        ) from error
    if array.dtype == object and not all(isinstance(v, (str, bytes)) for v in array.flat):
        raise ValueError(
            f"{name} holds {type(value).__name__} objects; give an array of numbers, with sets of "
            "different sizes padded and a `mask` [T, B]."
        )
    if array.dtype.kind in "US":
        return array.astype(object)  # whatever the length of the longest
    return array.astype(keras.config.floatx()) if array.dtype == np.float64 else array


def _check_set(batch: Batch, name: str) -> int:
    """Checks one set's shapes; returns T."""
    leaves = [
        (f"{name} {field}", leaf)
        for field, part in zip(Batch._fields, batch, strict=True)
        for leaf in tf.nest.flatten(part)
    ]
    for full, leaf in leaves:
        _check_axes(full, leaf)
    if not tf.nest.flatten(batch.x):
        raise ValueError(f"The {name} set has no x. {_SETS}")
    first, x = leaves[0]
    for full, leaf in leaves[1:]:
        for axis, what in enumerate(("tasks", "examples")):
            if leaf.shape[axis] != x.shape[axis]:
                raise ValueError(
                    f"{first} {list(x.shape)} has {x.shape[axis]} {what} and {full} "
                    f"{list(leaf.shape)} has {leaf.shape[axis]}. The first two axes are [tasks, "
                    "examples] and agree within a set; np.stack makes one array of one a task."
                )
    for field in ("sample_weight", "mask"):
        _check_factor(f"{name} {field}", getattr(batch, field))
    return int(x.shape[0])


def _check_axes(name: str, leaf: Any) -> None:
    if tf.is_tensor(leaf) and not leaf.shape.is_fully_defined():
        raise UnknownShape(
            f"{name} has shape {leaf.shape} while the source is traced; give it a static shape "
            "with tf.ensure_shape."
        )
    if len(leaf.shape) < 2:
        raise ValueError(
            f"{name} has shape {list(leaf.shape)}; the first two axes are tasks and examples, "
            "[T, B, ...]: array[None] makes a stack of one task."
        )
    if 0 in leaf.shape[:2]:
        raise ValueError(f"{name} has shape {list(leaf.shape)}: a set without examples.")


def _check_factor(name: str, factor: Any) -> None:
    """A sample weight, or a mask, is one number an example."""
    if isinstance(factor, tuple) and not factor:
        return
    if isinstance(factor, (tuple, list, dict)) or len(factor.shape) != 2:
        raise ValueError(f"{name} has to be one array [tasks, examples] of one number an example.")
    if not name.endswith("mask"):
        return
    if tf.as_dtype(factor.dtype) != tf.bool:
        raise ValueError(f"{name} is {tf.as_dtype(factor.dtype).name}; give booleans: mask != 0.")
    if not tf.is_symbolic_tensor(factor) and not np.asarray(factor).any(1).all():
        task = int(np.argmin(np.asarray(factor).any(1)))
        raise ValueError(f"{name} is False everywhere for task {task}: a set without examples.")


def _kinds(values: Sequence) -> str:
    """A few words for each of some values."""
    return ", ".join(
        f"{type(value).__name__} {getattr(value, 'shape', '')}".strip() for value in values
    )
