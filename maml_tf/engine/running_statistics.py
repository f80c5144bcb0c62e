"""Running statistics of batch normalisations, for each inner step: as in MAML++.

Antoniou, Edwards & Storkey 2019, "How to train your MAML", section 4, paragraph "Per-Step Batch
Normalization Running Statistics". Every meta-step moves row k towards what the pass after k inner
steps saw, that on the support set for k < S and that on the query set for k = S:

    row <- momentum * row + (1 - momentum) * mean over the tasks of the meta-batch

with the layer's own momentum, and the variance of a batch divided by its size, as Keras' layer has
both. Rows are read by evaluation alone: the passes of a meta-step normalise by their own batches.

Shape letters: T tasks, S inner steps of the training, C channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from maml_tf.engine.adaptation import entry
from maml_tf.engine.functional import Functional
from maml_tf.engine.run import BatchStatistics, Statistics


@dataclasses.dataclass(frozen=True)
class RunningStatistics:
    """Means and variances that batch normalisations saw, after each number of inner steps."""

    layers: Sequence[keras.layers.BatchNormalization]
    variables: Sequence[keras.Variable]
    """Mean and variance of the first layer, of the second, ...: `[S + 1, C]` each."""

    @property
    def steps(self) -> int:
        """S."""
        return self.variables[0].shape[0] - 1

    def begin_anew(self) -> None:
        """Gives every row the moving averages that the layer itself has now."""
        own = [v for layer in self.layers for v in (layer.moving_mean, layer.moving_variance)]
        for variable, value in zip(self.variables, own, strict=True):
            value = tf.convert_to_tensor(value.value)[None]
            variable.assign(tf.repeat(tf.cast(value, variable.dtype), variable.shape[0], 0))

    def noted(self, seen: Statistics) -> list[tf.Tensor]:
        """What one pass saw, summed over its tasks: `[C]` for each of `variables`; no gradients.

        Args:
          seen: `[T, C]` of each call of a batch normalisation.

        Raises:
          ValueError: a layer was called otherwise than once.
        """
        by_layer = _by_layer(seen)
        for layer in self.layers:
            _check_calls(layer, len(by_layer.get(id(layer), [])))
        moments = [m for layer in self.layers for m in by_layer[id(layer)][0][1:]]
        return [tf.stop_gradient(tf.reduce_sum(m, 0)) for m in moments]

    def of_passes(self, passes: Sequence[Sequence[tf.Tensor]]) -> list[tf.Tensor]:
        """What S + 1 passes `noted`, as the rows of each of `variables`, `[S + 1, C]`."""
        return [tf.stack(rows) for rows in zip(*passes, strict=True)]

    def update(self, means: Sequence[tf.Tensor]) -> None:
        """Moves the rows; in a replica's context.

        Args:
          means: `[S + 1, C]` over the tasks of the meta-batch, for each of `variables`; the same on
            all replicas.
        """
        momenta = [layer.momentum for layer in self.layers for _ in range(2)]
        for variable, mean, momentum in zip(self.variables, means, momenta, strict=True):
            mean = tf.cast(mean, variable.dtype)
            variable.assign(momentum * variable.value + (1 - momentum) * mean)

    def after(
        self,
        steps: int | tf.Tensor,
        layers: Sequence[Any],
        values: Sequence[tf.Tensor] | None = None,
        *,
        num_tasks: int | tf.Tensor = 1,
    ) -> Statistics:
        """What normalises a pass after so many inner steps, beyond S as after S.

        Args:
          steps: 0, 1, ..., which may be known in the graph.
          layers: of the pass' batch normalisations, in the order of their calls.
          values: of `variables`; the present ones by default.
          num_tasks: T.

        Returns:
          `[T, C]` for each call.
        """
        if values is None:
            values = [tf.convert_to_tensor(v.value) for v in self.variables]
        places = {id(layer): 2 * place for place, layer in enumerate(self.layers)}

        def row(place: int) -> tf.Tensor:
            one = entry(values[place], steps)
            return tf.broadcast_to(one, tf.concat([[num_tasks], tf.shape(one)], 0))

        return [
            BatchStatistics(layer, row(places[id(layer)]), row(places[id(layer)] + 1))
            for layer in layers
        ]


def running_statistics(
    apply: Functional, theta: Sequence[tf.Tensor], steps: int
) -> RunningStatistics:
    """Makes the rows of all batch normalisations that use their batch's statistics.

    They begin as the layer's own moving averages are: 0 and 1, unless it was trained before.

    Args:
      apply: the model.
      theta: its trainable weights.
      steps: S.

    Raises:
      ValueError: there are no steps, no such layers, or one normalises several times in a pass.
    """
    if steps < 1:
        raise ValueError(
            f"running_statistics are of each inner step, and inner_steps is {steps}; drop them."
        )
    example = apply.example()
    if example is not None:
        seen = _by_layer(apply.statistics(list(theta), example))
        layers = [calls[0].layer for calls in seen.values()]
        for layer in layers:
            _check_calls(layer, len(seen[id(layer)]))
    else:  # A subclassed model, which says nothing of its inputs: `noted` will check.
        kind = keras.layers.BatchNormalization
        flat = apply.model._flatten_layers()
        layers = [layer for layer in flat if isinstance(layer, kind) and layer.trainable]
    if not layers:
        raise ValueError(
            "running_statistics are of batch normalisations that use their batch's statistics, and "
            f"'{apply.model.name}' has none; drop them, or put BatchNormalization layers in."
        )
    variables = [
        _rows(value, steps) for one in layers for value in (one.moving_mean, one.moving_variance)
    ]
    made = RunningStatistics(layers, variables)
    made.begin_anew()
    return made


def _rows(value: keras.Variable, steps: int) -> keras.Variable:
    # Every replica assigns the same: none has to ask the others.
    return keras.Variable(
        tf.zeros([steps + 1, *value.shape], value.dtype),
        dtype=value.dtype,
        trainable=False,
        aggregation="only_first_replica",
        name="running_" + value.path.replace("/", "_"),
    )


def _by_layer(seen: Statistics) -> dict[int, list[BatchStatistics]]:
    found: dict[int, list[BatchStatistics]] = {}
    for call in seen:
        found.setdefault(id(call.layer), []).append(call)
    return found


def _check_calls(layer: keras.Layer, calls: int) -> None:
    if calls != 1:
        raise ValueError(
            f"'{layer.name}' normalises by its batch {calls} times in one pass, and "
            "running_statistics keep one mean and variance of it; drop them, or use a layer for "
            "each call."
        )
