"""Weights that each pass of the model has its own of: offsets and scales per step, as in MAML++.

Antoniou, Edwards & Storkey 2019, "How to train your MAML", paragraph "Per-Step Batch Normalization
Weights and Biases". Theta's own value serves the pass before the first inner step, and a row of a
further variable the pass after each step.

Shape letters: S inner steps of the training, C channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from maml_tf import arguments
from maml_tf.engine.adaptation import entry
from maml_tf.types import Weights

Rows = dict[int, keras.Variable]
"""By the index of a weight of theta: `[S, *shape]`, its values after 1, 2, ... S inner steps."""


@dataclasses.dataclass(frozen=True)
class StepWeights:
    """Values of `Rows`; the last one's serve all steps beyond those of the training."""

    by_index: Mapping[int, tf.Tensor]

    def after(self, weights: Weights, steps: int | tf.Tensor) -> Weights:
        """`weights` as the pass after so many inner steps takes them.

        Args:
          weights: one for each of theta, of which these take some places.
          steps: 1, 2, ..., which may be known in the graph.
        """
        own = self.by_index
        return [entry(own[i], steps - 1) if i in own else w for i, w in enumerate(weights)]


def normalizations(
    wanted: bool,
    model: keras.Model,
    theta: Sequence[keras.Variable],
    adapts: Sequence[bool],
    steps: int,
) -> Rows:
    """Makes the rows of all that batch normalisations train; they begin as theta is now.

    Args:
      wanted: whether there are to be any: `per_step_normalization` of a learner.
      model: has the layers.
      theta: its trainable variables.
      adapts: of each, whether the inner loop moves it.
      steps: S.

    Raises:
      ValueError: `wanted` is neither True nor False; or there are no steps, the model trains no
        batch normalisation, or one adapts.
    """
    if not arguments.boolean("per_step_normalization", wanted):
        return {}
    if steps < 1:
        raise ValueError(
            f"per_step_normalization is of each inner step, and inner_steps is {steps}; drop it."
        )
    theirs = ids_of(model, (keras.layers.BatchNormalization,))
    own = [i for i, variable in enumerate(theta) if id(variable) in theirs]
    if not own:
        raise ValueError(
            "per_step_normalization is of the scale and offset of batch normalisations, and "
            f"'{model.name}' trains none; drop it, or put BatchNormalization layers in."
        )
    if moving := [theta[i].path for i in own if adapts[i]]:
        raise ValueError(
            f"per_step_normalization gives each inner step its own {moving[0]}, which cannot adapt "
            "as well; let `adapts` leave batch normalisations out, as it does by default."
        )
    rows = {i: _row_for_each(theta[i], steps) for i in own}
    repeat_theta(theta, rows)
    return rows


def ids_of(model: keras.Model, kinds: tuple[type[keras.Layer], ...]) -> set[int]:
    """Ids of the variables that layers of some types train, at any depth."""
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, kinds)]
    return {id(variable) for layer in layers for variable in layer.trainable_variables}


def repeat_theta(theta: Sequence[keras.Variable], rows: Rows) -> None:
    """Gives every row the value that theta has now."""
    for index, variable in rows.items():
        value = tf.convert_to_tensor(theta[index].value)
        variable.assign(tf.repeat(value[None], variable.shape[0], 0))


def _row_for_each(variable: keras.Variable, steps: int) -> keras.Variable:
    name = "per_step_" + variable.path.replace("/", "_")
    start = tf.zeros([steps, *variable.shape], variable.dtype)
    made = keras.Variable(start, dtype=variable.dtype, name=name)
    if constraint := getattr(variable, "constraint", None):
        made.constraint = lambda rows: keras.ops.stack(
            [constraint(row) for row in keras.ops.unstack(rows)]
        )
    return made
