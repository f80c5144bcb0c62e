"""Derivatives of one's own, which leave with their graph.

`tf.custom_gradient` registers the derivative of each call that is traced, by a name of its own and
for as long as the process lives. The derivative holds its graph, and so each learner would leave
its graphs behind: some 16 MB of a small network. Here the graph holds the derivative.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import ops

_TABLE: dict[str, dict[str, Any]] = ops.gradient_registry._registry
"""TensorFlow's derivatives, by the name of the operation or of the call."""


def custom_gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `tf.custom_gradient`: a function `(*tensors) -> (values, their derivative)`.

    Args:
      function: of tensors alone; uses no variables.
    """
    differentiable = tf.custom_gradient(function)

    @functools.wraps(function)
    def call(*tensors):
        values = differentiable(*tensors)
        if not tf.executing_eagerly():
            _leave_to_graph(tf.nest.flatten(values)[0])
        return values

    return call


def _leave_to_graph(value: tf.Tensor) -> None:
    """The graph of a call's value holds the call's derivative; the table finds it there."""
    graph, name = value.graph, value.op.get_attr("_gradient_op_type").decode()
    entry = _TABLE[name]
    graph._custom_gradients = {**getattr(graph, "_custom_gradients", {}), name: entry["type"]}
    found: Any = weakref.ref(graph)
    entry["type"] = lambda *of_op: found()._custom_gradients[name](*of_op)
    weakref.finalize(graph, _TABLE.pop, name, None)
