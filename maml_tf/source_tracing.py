"""Whether a task source can be traced: what it gives must not be frozen by it.

A function of TensorFlow operations is traced once and runs inside the compiled loop. Traced like
that, a function that draws with NumPy or Python would give its first meta-batch for ever.
"""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

_LOG = logging.getLogger(__name__)

_HOST = {"PyFunc", "PyFuncStateless", "EagerPyFunc", "IteratorGetNext", "IteratorGetNextSync"}
"""Operations that leave the graph, which XLA cannot compile: such a source may as well run in
Python, beside the graph instead of inside it."""


_KNOWN: weakref.WeakKeyDictionary[Any, set[int]] = weakref.WeakKeyDictionary()
"""With which T a source was found to be drawn by its index, and need not be traced to see it."""


class Trace(NamedTuple):
    """A source as a graph."""

    function: Any  # index -> flat tensors
    by_index: bool  # whether what it gives depends on the index
    frozen: list[Any]  # what was computed while tracing
    leaves_the_graph: bool


def draws_in_graph(
    source: Callable, num_tasks: int, start: int, check: Callable, *, constant: bool = False
) -> bool:
    """Whether every run of the traced source draws all of its meta-batch anew.

    It is traced twice. What a source draws with NumPy or Python is a constant of its graph, and
    another one each time. Otherwise it is as good as its graph, whose result depends on the index,
    or holds random operations, so that it differs from run to run.

    Args:
      source: `(index, num_tasks) -> Task`.
      num_tasks: T.
      start: index of the first meta-batch that is wanted.
      check: `what the source gave -> Task`, or raises.
      constant: a source that always gives the same draws all of it.
    """
    with contextlib.suppress(TypeError):  # not every source can be looked up
        if num_tasks in _KNOWN.get(source, ()):
            return True
    try:
        one, other = (_trace(source, num_tasks, check) for _ in range(2))
    except Exception as error:  # whatever NumPy or Python say to a tensor without a value
        _LOG.debug("The task source is not traced: %s", error)
        return False
    if one.leaves_the_graph or not same_values(one.frozen, other.frozen):
        return False
    if one.by_index:
        with contextlib.suppress(TypeError):
            _KNOWN.setdefault(source, set()).add(num_tasks)
    if one.by_index or constant:
        return True
    results = [one.function(tf.constant(start + i, tf.int64)) for i in range(2)]
    return not same_values(*results)


def same_values(one: Any, other: Any) -> bool:
    """Whether two structures hold the same bits."""
    ones, others = (tf.nest.flatten(structure) for structure in (one, other))
    return len(ones) == len(others) and all(
        a is b or _bits(a) == _bits(b) for a, b in zip(ones, others, strict=True)
    )


def _bits(value: Any) -> Any:
    if isinstance(value, bytes):
        return value
    if tf.is_tensor(value) and value.dtype in (tf.resource, tf.variant):
        return id(value)
    array = np.asarray(value)
    content = array.tolist() if array.dtype == object else array.tobytes()
    return array.shape, array.dtype.str, content


def _trace(source: Callable, num_tasks: int, check: Callable) -> Trace:
    @tf.function(autograph=False, input_signature=[tf.TensorSpec([], tf.int64)])
    def draw(index):
        task = check(source(index, num_tasks))
        return [tf.convert_to_tensor(leaf) for leaf in tf.nest.flatten(task)]

    function = draw.get_concrete_function()
    graph = function.graph
    operations = graph.get_operations()
    constants = [op.get_attr("value") for op in operations if op.type == "Const"]
    return Trace(
        function,
        _reaches(graph.outputs, graph.inputs[0]),
        [value.SerializeToString() for value in constants]
        + [outside for outside, _ in graph.captures],
        any(op.type in _HOST for op in operations),
    )


def _reaches(tensors: list[tf.Tensor], origin: tf.Tensor) -> bool:
    """Whether any of `tensors` is computed from `origin`."""
    waiting, seen = [tensor.op for tensor in tensors], set()
    while waiting:
        operation = waiting.pop()
        if operation is origin.op:
            return True
        if operation not in seen:
            seen.add(operation)
            waiting += [tensor.op for tensor in operation.inputs]
            waiting += operation.control_inputs
    return False
