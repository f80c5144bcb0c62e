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

from maml_tf.types import Structure

_LOG = logging.getLogger(__name__)

_HOST = {"PyFunc", "PyFuncStateless", "EagerPyFunc", "IteratorGetNext", "IteratorGetNextSync"}
"""Operations that leave the graph, which XLA cannot compile: such a source may as well run in
Python, beside the graph instead of inside it."""


_KNOWN: weakref.WeakKeyDictionary[Any, set[int]] = weakref.WeakKeyDictionary()
"""With which T a source was found to be drawn by its index, and need not be traced to see it."""


_PROBES = (1, 2, 10, 1000)
"""How far from the first the meta-batches are that must not all equal it."""


class Verdict(NamedTuple):
    """What tracing a source found."""

    in_graph: bool  # whether every run of the traced source draws all of its meta-batch anew
    drawn: list[Any]  # fresh meta-batches that it gave on the way, to be lost by nobody


class Trace(NamedTuple):
    """A source as a graph."""

    function: Any  # index -> flat tensors
    by_index: bool  # whether what it gives surely depends on the index
    frozen: list[Any]  # what was computed while tracing
    leaves_the_graph: bool


def python_function(source: Callable) -> Callable:
    """What `tf.function` was made of: it would freeze what NumPy draws in it."""
    if isinstance(source, tf.types.experimental.PolymorphicFunction):
        return source.python_function
    return source


def try_tracing(
    source: Callable, num_tasks: int, start: int, check: Callable, *, constant: bool = False
) -> Verdict:
    """Finds out whether a source can be traced.

    It is traced twice, unless its class itself has `draws_by_index = True`: TensorFlow operations
    alone, whose result depends on the index. What a source draws with NumPy or Python is a constant
    of its graph, and another one each time. Otherwise it is as good as its graph, whose result
    depends on the index, or holds random operations, so that it differs from run to run.

    Args:
      source: `(index, num_tasks) -> Task`.
      num_tasks: T.
      start: index of the first meta-batch that is wanted.
      check: `what the source gave -> Task`, or raises.
      constant: a source that always gives the same draws all of it.
    """
    with contextlib.suppress(TypeError):  # not every source can be looked up
        if num_tasks in _KNOWN.get(source, ()):
            return Verdict(True, [])
    # Not inherited: a subclass may draw otherwise.
    if vars(type(source)).get("draws_by_index", False):
        return Verdict(True, [])
    given: list[Any] = []
    try:
        one, other = (_trace(source, num_tasks, check, given) for _ in range(2))
    except Exception as error:  # whatever NumPy or Python say to a tensor without a value
        _LOG.debug("The task source is not traced: %s", error)
        return Verdict(False, [])
    if not same_values(one.frozen, other.frozen):
        # It has not looked at the index, or it would hold a tensor without a value.
        values = not any(map(tf.is_symbolic_tensor, tf.nest.flatten(given)))
        return Verdict(False, given if values else [])
    if one.leaves_the_graph:
        return Verdict(False, [])
    if one.by_index:
        with contextlib.suppress(TypeError):
            _KNOWN.setdefault(source, set()).add(num_tasks)
    run = one.function
    varies = one.by_index or not is_constant(lambda i: run(tf.constant(i, tf.int64)), start)
    return Verdict(varies or constant, [])


def is_constant(draw: Callable[[int], Structure], start: int) -> bool:
    """Whether all meta-batches that can be had are the same; one alone does not tell."""
    first, others = draw(start), 0
    for offset in _PROBES:
        try:
            other = draw(start + offset)
        except Exception:  # it has no meta-batch of this number; if it is asked for, it will say so
            continue
        if not same_values(first, other):
            return False
        others += 1
    return others > 0


def same_values(one: Structure, other: Structure) -> bool:
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


def _trace(source: Callable, num_tasks: int, check: Callable, given: list[Any]) -> Trace:
    function = python_function(source)

    @tf.function(autograph=function is not source, input_signature=[tf.TensorSpec([], tf.int64)])
    def draw(index):
        task = check(function(index, num_tasks))
        given.append(tf.nest.map_structure(lambda a: a if tf.is_tensor(a) else np.array(a), task))
        return [tf.convert_to_tensor(leaf) for leaf in tf.nest.flatten(task)]

    traced = draw.get_concrete_function()
    graph = traced.graph
    operations = graph.get_operations()
    constants = [op.get_attr("value") for op in operations if op.type == "Const"]
    # A function inside takes the index whether it needs it or not.
    calls = any(value.HasField("func") for op in operations for value in op.node_def.attr.values())
    return Trace(
        traced,
        not calls and _reaches(graph.outputs, graph.inputs[0]),
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
