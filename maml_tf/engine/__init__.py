"""Keras models on explicit weights with a task axis, and the inner loop.

Importing it registers the rules of layers.
"""

from maml_tf.engine import (  # noqa: F401
    convolution_rules,
    layer_rules,
    normalization_rules,
    operation_rules,
    sequence_rules,
)
