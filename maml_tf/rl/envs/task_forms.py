"""Tasks of an environment of a user's, kept as they are: as rows, as numbers, copied, compared.

A task may be a number, an array, a name, an index, a dictionary or any other object.

Shape letters: n tasks, T tasks of a meta-batch, E episodes per task, G numbers of a task.
"""

from __future__ import annotations

import copy
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from maml_tf.rl.envs.faults import EnvironmentFault, brief, is_finite


def rows(drawn: Any) -> np.ndarray:
    """Tasks as one array: [n, G] float64 of an array of floats, else [n] objects as given."""
    if isinstance(drawn, np.ndarray) and drawn.dtype.kind == "f":
        return np.array(drawn, np.float64).reshape(len(drawn), -1)
    made = np.empty(len(drawn), object)
    for index in range(len(drawn)):
        made[index] = drawn[index]
    return made


def own_copy(task: Any) -> Any:
    """A task that `set_task` may change without another's noticing; itself if it has no copy."""
    try:
        return copy.deepcopy(task)
    except Exception:  # of a lock, a module or a __deepcopy__ of the user's
        return task


def own_copies(tasks: np.ndarray) -> np.ndarray:
    """The same of all rows, [n, ...]: no two of them share an object."""
    made = np.array(tasks)
    if made.dtype == object:
        for index in np.ndindex(made.shape):
            made[index] = own_copy(made[index])
    return made


def numbers_of(name: str, task: Any) -> np.ndarray:
    """A task's numbers [G]: an array row after row, a dictionary in the order of its keys.

    Raises:
      ValueError: it holds something else than numbers that are finite in float32.
    """
    flat: list[float] = []
    try:
        _collect(task, flat)
    except Exception as error:  # of a mapping or number of the user's as well
        raise EnvironmentFault(
            f"{name} has the task {brief(task)}, which is not made of numbers, so that an oracle "
            "cannot observe it; give numbers as tasks, or leave the oracle."
        ) from error
    array = np.asarray(flat, np.float64)
    if not is_finite(array[np.newaxis]):
        raise EnvironmentFault(
            f"{name} has the task {brief(task)}, which is not finite in float32, so that an oracle "
            "cannot observe it; give finite numbers as tasks, or leave the oracle."
        )
    return array


def _collect(task: Any, flat: list[float]) -> None:
    if isinstance(task, Mapping):
        for key in sorted(task, key=str):
            _collect(task[key], flat)
    elif isinstance(task, (numbers.Real, np.bool_)):
        flat.append(float(task))
    elif isinstance(task, (list, tuple)):
        for part in task:
            _collect(part, flat)
    else:
        array = np.asarray(task)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"{array.dtype}")
        flat.extend(array.astype(np.float64).ravel().tolist())


def same(one: Any, other: Any) -> bool:
    """Whether two draws are the same, as far as can be seen."""
    try:
        return _same(one, other)
    except Exception:  # of objects of the user's, or of one that holds itself
        return True


def _same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray) and one.dtype != object:
        return np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (Sequence, np.ndarray)) and not isinstance(one, (str, bytes)):
        return len(one) == len(other) and all(map(_same, one, other))
    try:
        if bool(np.all(one == other)):
            return True
    except Exception:  # of a comparison of the user's
        return True
    kept = getattr(one, "__dict__", None)
    if kept:
        return _same(kept, vars(other))
    # Objects without values to compare are taken for the same, and numbers only if both are NaN.
    return type(one).__eq__ is object.__eq__ or bool(np.all(one != one))


def is_number(task: Any) -> bool:
    """Whether a task is one real number."""
    return isinstance(task, (numbers.Real, np.bool_)) or (
        isinstance(task, np.ndarray) and task.ndim == 0 and task.dtype.kind in "fiub"
    )


def as_array(tasks: Any) -> np.ndarray:
    """Tasks as an array: of numbers [T, G] or [T, E, G], or of objects [T] or [T, E]."""
    if isinstance(tasks, np.ndarray):
        return tasks
    try:
        array = np.asarray(tasks, np.float64)
    except Exception:  # of numbers beyond all floats, or of tasks of the user's
        array = np.zeros(0)
    if array.ndim > 1:
        return array
    if not isinstance(tasks, (list, tuple)):
        raise ValueError(f"the tasks given are {brief(tasks)}; give what sample_tasks returns.")
    return rows(tasks)
