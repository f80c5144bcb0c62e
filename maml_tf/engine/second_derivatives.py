"""What TensorFlow differentiates once, but not twice, put right or refused.

The meta-gradient differentiates the gradient of the inner step. Two kinds of operation spoil that
in silence: `tf.nn.moments` holds the mean constant inside the variance, and some gradient
operations are registered as "not differentiable", so that their own derivative is taken for zero.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator

import tensorflow as tf
from tensorflow.python.framework import ops as framework

from maml_tf.engine.normalization import moments
from maml_tf.engine.patching import Replacement
from maml_tf.engine.pooling import under_xla


def exact_moments() -> contextlib.AbstractContextManager[None]:
    """While code of others is traced: `tf.nn.moments`, and so Keras', is right to any order."""
    return _EXACT_MOMENTS.inside()


def _exact_moments(x, axes, shift=None, keepdims=False, name=None):
    del shift, name
    x = tf.convert_to_tensor(x)
    wide = tf.cast(x, tf.float32) if x.dtype in (tf.float16, tf.bfloat16) else x
    axes = [axes] if isinstance(axes, int) else [int(axis) for axis in axes]
    mean, variance = (tf.cast(moment, x.dtype) for moment in moments(wide, axes))
    return (mean, variance) if keepdims else (tf.squeeze(mean, axes), tf.squeeze(variance, axes))


_EXACT_MOMENTS = Replacement((tf.nn, "moments", _exact_moments))


@contextlib.contextmanager
def refusing_wrong_pooling() -> Iterator[None]:
    """Refuses second derivatives of max-pooling that come out wrong, of those traced inside.

    `exact_pooling` leaves none in a model; code beside it, such as a loss, may bring some.

    Raises:
      ValueError: names the fault.
    """
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    before = 0 if graph is None else len(graph.get_operations())
    yield
    if graph is None:
        return
    if any(_wrong_pool(op) for op in _with_bodies(graph.get_operations()[before:])):
        raise ValueError(
            "TensorFlow computes a wrong second derivative of max-pooling outside the model, or "
            "over an axis of unknown length. Use keras.layers.MaxPooling2D on inputs of a fixed "
            "shape, jit_compile=False, or first_order=True."
        )


def _wrong_pool(operation: tf.Operation) -> bool:
    """Whether it is a second derivative that `pooling` exists to avoid."""
    if operation.type not in ("MaxPoolGradGrad", "MaxPoolGradGradV2", "MaxPool3DGradGrad"):
        return False
    inputs, outputs = (x.shape[1:] for x in operation.inputs[:2])
    known = inputs.is_fully_defined() and outputs.is_fully_defined()
    return under_xla() or (known and inputs.num_elements() == outputs.num_elements())


@contextlib.contextmanager
def refusing_dead_ends(second_order: bool) -> Iterator[None]:
    """Refuses, of the operations traced inside, gradients that have no gradient of their own.

    Args:
      second_order: whether what is traced inside will be differentiated; else nothing is refused.

    Raises:
      ValueError: names the operation.
    """
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    before = 0 if graph is None else len(graph.get_operations())
    yield
    if graph is None or not second_order:
        return
    ends = sorted({op.type for op in _with_bodies(graph.get_operations()[before:]) if _dead(op)})
    if ends:
        raise ValueError(
            f"The model has no second derivative: TensorFlow takes that of {', '.join(ends)} for "
            "zero, without a word. Use first_order=True, or replace the layer that resizes by "
            "keras.layers.UpSampling2D or Resizing, which have rules here."
        )


def _with_bodies(operations: Iterable[tf.Operation]) -> Iterator[tf.Operation]:
    """The operations, and those of the functions that they call: loops and conditions."""
    for operation in operations:
        yield operation
        for value in operation.node_def.attr.values():
            if value.HasField("func"):
                function = operation.graph._get_function(value.func.name)
                graph = getattr(function, "graph", None)
                if graph is not None:
                    yield from _with_bodies(graph.get_operations())


def _dead(operation: tf.Operation) -> bool:
    """Whether it is a gradient of real numbers, whose own gradient is registered as none."""
    return operation.type in _dead_types() and any(x.dtype.is_floating for x in operation.inputs)


@functools.cache
def _dead_types() -> frozenset[str]:
    registered = framework.gradient_registry._registry
    gradients = {name for name in registered if "Grad" in name and name not in _HARMLESS}
    return frozenset(name for name in gradients if registered[name]["type"] is None)


_HARMLESS = frozenset(
    {"StopGradient", "BroadcastGradientArgs", "TensorArrayGrad", "TensorArrayGradV2"}
    | {"TensorArrayGradV3", "TensorArrayGradWithShape"}
)
