"""Keras' metrics, as Keras would compute them for each task alone.

Shape letters: T tasks, B examples, N ways.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from maml_tf import losses
from maml_tf.objectives.base import INDICES, Objective, given, weighted
from maml_tf.objectives.keras_losses import KINDS, is_of_keras, keras_name, matched

_COUNTS = {
    "FalsePositives": True,
    "FalseNegatives": True,
    "TruePositives": False,
    "TrueNegatives": False,
}

_OTHERS = {"RootMeanSquaredError": "root_mean_squared_error", "R2Score": "r2_score"}


def of_metric(metric: keras.metrics.Metric) -> Objective:
    """A `keras.metrics.Metric` as an objective: what it gives for each task alone."""
    kind_name = type(metric).__name__
    name, options = "", dict[str, Any]()
    if is_of_keras(type(metric)):
        wraps = hasattr(metric, "_fn")
        name = keras_name(metric._fn) if wraps else _OTHERS.get(kind_name, "")
        options = getattr(metric, "_fn_kwargs", {})
    direction = {"up": False, "down": True}.get(getattr(metric, "_direction", ""))
    lower = _COUNTS.get(kind_name, direction) if is_of_keras(type(metric)) else direction
    compute: Callable[..., tf.Tensor] = _State(metric, KINDS.get(name))
    if type(metric) is keras.metrics.SparseCategoricalAccuracy:
        compute = _sparse_accuracy
    return Objective(
        compute,
        metric.name,
        lower_is_better=lower,
        labels=KINDS.get(name),
        from_logits=options.get("from_logits", False) if "crossentropy" in name else None,
        threshold=options.get("threshold", 0.5) if name == "binary_accuracy" else None,
    )


class _State:
    """A metric's state for each task alone, from its beginning."""

    def __init__(self, metric: keras.metrics.Metric, kind: str | None):
        self.metric, self.kind = metric, kind

    def __call__(self, outputs, y, sample_weight, mask) -> tf.Tensor:
        metric = self.metric
        outputs, y = matched(outputs, y, self.kind, metric.name)
        weights: list[Any] = []
        if given(mask) or given(sample_weight):
            ones = tf.ones(tf.shape(tf.nest.flatten(y)[0])[:2], metric.dtype)
            weights = [weighted(ones, sample_weight, mask)]
        if given(mask):
            y = weighted(y, (), mask)
        self._build(outputs, y)

        def one_task(one):
            state = metric.stateless_update_state(start, one[1], one[0], *one[2:])
            # Not `stateless_result`: a result that is a variable must be read in here.
            with keras.StatelessScope(zip(metric.variables, state, strict=True)):
                return tf.nest.map_structure(_read, metric.result())

        start = metric.stateless_reset_state()
        try:
            value = tf.vectorized_map(one_task, [outputs, y, *weights])
            if len(start) != len(metric.variables):
                raise NotImplementedError("it makes variables when it is called")
        except (TypeError, ValueError, NotImplementedError) as error:
            raise ValueError(
                f"Metric '{metric.name}' cannot be computed for each task alone in a graph "
                f"({str(error).splitlines()[0]}); give a function `(outputs, y) -> [T]`."
            ) from error
        if isinstance(value, dict) or value.shape.rank != 1:
            raise ValueError(
                f"Metric '{metric.name}' gives several numbers; choose one of them, for instance "
                "average='macro'."
            )
        return value

    def _build(self, outputs, y) -> None:
        """Some metrics make their variables when they first see a shape: not while tracing."""
        if getattr(self.metric, "_built", True) and self.metric.variables:
            return
        with tf.init_scope():
            zeros = [tf.zeros([1, *a.shape[2:]], a.dtype) for a in (y, outputs)]
            self.metric.update_state(*zeros)
            self.metric.reset_state()


def _sparse_accuracy(outputs, y, sample_weight, mask) -> tf.Tensor:
    outputs, y = matched(outputs, y, INDICES, "sparse_categorical_accuracy")
    return losses.accuracy(outputs, y, sample_weight, mask)


def _read(x: Any) -> tf.Tensor:
    return tf.convert_to_tensor(x.value if isinstance(x, keras.Variable) else x)
