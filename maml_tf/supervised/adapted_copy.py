"""An adapted model as an ordinary Keras model.

Shape letters: T tasks, here one; B examples.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from maml_tf.engine.cloning import copy_with
from maml_tf.engine.functional import Functional
from maml_tf.engine.run import Statistics
from maml_tf.types import Batch, Weights


def adapted_copy(
    apply: Functional,
    adapts: Sequence[bool],
    weights: Weights,
    support: Batch,
    statistics: Statistics,
) -> keras.Model:
    """A copy of a model with the weights of one task.

    Args:
      apply: the model.
      adapts: of each trainable variable, whether it was adapted.
      weights: those that were stacked, `[1, *shape]`, the others as they are.
      support: `x [1, B, ...]` that they were adapted to.
      statistics: `[1, C]`, what each batch normalisation of a pass predicts with.

    Raises:
      ValueError: a layer normalises twice in one pass.
    """
    variables = apply.model.trainable_variables
    values = {
        id(variable): value[0] if own else value
        for variable, value, own in zip(variables, weights, adapts, strict=True)
    }
    for seen in statistics:
        if id(seen.layer.moving_mean) in values:
            raise ValueError(
                f"'{seen.layer.name}' normalises twice in one pass, and a Keras model has one "
                "mean and variance for both; use learner.predict, or an exported model, which "
                "keep them apart."
            )
        values[id(seen.layer.moving_mean)] = seen.mean[0]
        values[id(seen.layer.moving_variance)] = seen.variance[0]
    example = tf.nest.map_structure(lambda a: a[0], support.x)
    return copy_with(apply.model, values, example)
