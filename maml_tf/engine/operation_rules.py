"""How Keras' operations inside a functional model run on a stack of tasks (see layer_rules.py).

Those that act on each number, of tensors of one rank, need no rule but themselves: the task axis is
one more that they broadcast along. All others fall back.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from maml_tf.engine.run import stacked

WITH_TWO = ("add", "subtract", "multiply", "divide", "true_divide", "maximum", "minimum", "power")
ELEMENT_WISE = (
    *WITH_TWO,
    *("negative", "absolute", "abs", "square", "sqrt", "rsqrt", "exp", "log", "log1p", "sin"),
    *("cos", "tanh", "sigmoid", "relu", "relu6", "elu", "selu", "gelu", "silu", "softplus"),
    *("softsign", "leaky_relu", "hard_sigmoid", "hard_silu", "clip", "cast", "reciprocal"),
)
"""Names in `keras.ops`."""


def _element_wise(operation, x, run, **named):
    del run
    tensors = [leaf for leaf in tf.nest.flatten((x, named)) if tf.is_tensor(leaf)]
    if len({tensor.shape.rank for tensor in tensors}) != 1:
        return NotImplemented  # a scalar of one task against its vectors: axes would not align
    return operation(x, **named)


def _operation_types():
    """The classes behind `keras.ops.NAME`, as a functional model holds them."""
    a, b = keras.KerasTensor([None, 2]), keras.KerasTensor([None, 2])
    for name in ELEMENT_WISE:
        function = getattr(keras.ops, name)
        options = {"clip": (0.0, 1.0), "cast": ("float32",)}.get(name, ())
        result = function(a, b) if name in WITH_TWO else function(a, *options)
        yield type(result._keras_history.operation)


for _kind in set(_operation_types()):
    stacked.register(_kind, _element_wise)
