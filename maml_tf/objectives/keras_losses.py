"""Keras' losses, as Keras would compute them for each task alone.

Keras' functions take `(y_true, y_pred)` of one batch. Most give one value an example from that
example alone; they are called once on all tasks. The others (Dice, Hinge, which looks at all labels
to tell 0/1 from -1/1, a function of the user's) run under `tf.vectorized_map`. Then the values are
reduced here, by the loss' own rule: Keras' reduction would mix the tasks, and divides by the number
of replicas.

Shape letters: T tasks, B examples, N ways.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from maml_tf import losses
from maml_tf.objectives.base import (
    BINARY,
    INDICES,
    ONE_HOT,
    VALUES,
    Objective,
    average,
    given,
    summed,
    weighted,
    weighted_average,
)
from maml_tf.types import Structure

_LABELS = {
    INDICES: "sparse_categorical_crossentropy sparse_categorical_accuracy "
    "sparse_top_k_categorical_accuracy",
    ONE_HOT: "categorical_crossentropy categorical_focal_crossentropy categorical_hinge "
    "categorical_accuracy top_k_categorical_accuracy",
    BINARY: "binary_crossentropy binary_focal_crossentropy binary_accuracy",
    VALUES: "mean_squared_error mean_absolute_error mean_absolute_percentage_error huber poisson "
    "mean_squared_logarithmic_error log_cosh kl_divergence cosine_similarity hinge squared_hinge "
    "dice tversky root_mean_squared_error r2_score",
}
KINDS = {name: kind for kind, names in _LABELS.items() for name in names.split()}

# Each example's value is a function of its own outputs and targets, along the last axis.
EACH_BY_ITSELF = {name for name, kind in KINDS.items() if "crossentropy" in name} | {
    "mean_squared_error",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_logarithmic_error",
    "huber",
    "log_cosh",
    "poisson",
    "kl_divergence",
    "cosine_similarity",
}
# Sums over the set of products with the targets or the outputs: zeros are as good as nothing.
_ZEROS_ARE_NOTHING = ("dice", "tversky")

_REDUCE = {
    "sum": summed,
    "mean": average,
    "sum_over_batch_size": average,
    "mean_with_sample_weight": weighted_average,
}


def of_loss(loss: keras.losses.Loss) -> Objective:
    """A `keras.losses.Loss` as an objective: its own values, and its own reduction of each task's.

    Raises:
      ValueError: its reduction leaves no number per task, or it cannot run here.
    """
    if loss.reduction not in _REDUCE:
        raise ValueError(
            f"'{loss.name}' has reduction={loss.reduction!r} and gives no number per task; choose "
            "reduction='sum_over_batch_size', 'sum' or 'mean_with_sample_weight'."
        )
    # A subclass that overrides `call` is not the function that it was made of.
    wraps = type(loss).call is keras.losses.MeanSquaredError.call
    name, options = (keras_name(loss.fn), loss._fn_kwargs) if wraps else ("", {})
    if name == "ctc":
        raise ValueError(
            "TensorFlow's CTC loss has no second derivative and does not run one task at a time; "
            "give a function `(outputs, y) -> [T]` of your own."
        )
    kind = KINDS.get(name)
    if type(loss).__call__ is not keras.losses.Loss.__call__:
        compute: Callable[..., tf.Tensor] = _OwnCall(loss)
    elif _is_softmax_cross_entropy(loss, name, options):
        compute = _FusedCrossEntropy(loss)
    else:
        compute = _Values(loss, name, kind, options)
    return Objective(
        compute,
        loss.name,
        lower_is_better=True,
        labels=kind,
        from_logits=options.get("from_logits", False) if "crossentropy" in name else None,
        ignored=options.get("ignore_class"),
    )


class _Values:
    """Values of each example by `Loss.call`, reduced by the loss' rule."""

    def __init__(self, loss: keras.losses.Loss, name: str, kind: str | None, options: dict):
        self.loss, self.name, self.kind = loss, name, kind
        self.at_once = name in EACH_BY_ITSELF and options.get("axis", -1) == -1
        self.over_the_set = name in _ZEROS_ARE_NOTHING and options.get("axis") is None

    def __call__(self, outputs, y, sample_weight, mask) -> tf.Tensor:
        outputs, y = matched(outputs, y, self.kind, self.loss.name)
        outputs, y = _cast(outputs, self.loss.dtype), _cast(y, self.loss.dtype)
        if given(mask):
            y = weighted(y, (), mask)  # a label of nothing may be no label at all
        if given(mask) and self.over_the_set:
            outputs, mask = weighted(outputs, (), mask), ()
        if self.at_once:
            values = self.loss.call(y, outputs)
            ignoring = getattr(values, "_keras_mask", None)
        else:
            values, ignoring = self._one_task_at_a_time(outputs, y)
        if values.shape.rank == 1 and (given(mask) or given(sample_weight)):
            raise ValueError(
                f"'{self.loss.name}' gives one number for a whole set, in which examples cannot be "
                "weighted or left out; give sets of one size without weights, or a loss of each "
                "example."
            )
        if ignoring is not None:
            exists = weighted(tf.cast(ignoring, values.dtype), (), mask)
            mask = tf.cast(exists, tf.bool)
        return _REDUCE[self.loss.reduction](values, sample_weight, mask)

    def _one_task_at_a_time(self, outputs, y):
        def one_task(pair):
            values = self.loss.call(pair[1], pair[0])
            ignoring = getattr(values, "_keras_mask", None)
            return [values] if ignoring is None else [values, ignoring]

        results = tf.vectorized_map(one_task, (outputs, y))
        return results[0], results[1] if len(results) == 2 else None


class _FusedCrossEntropy:
    """`SparseCategoricalCrossentropy(from_logits=True)`, by `losses.cross_entropy`: as exact.

    Its second derivative is cheaper than that of TensorFlow's fused operation.
    """

    def __init__(self, loss: keras.losses.Loss):
        self.loss = loss

    def __call__(self, outputs, y, sample_weight, mask) -> tf.Tensor:
        logits = getattr(outputs, "_keras_logits", None)
        if logits is not None:  # Keras takes what the softmax was given, and warns
            outputs = logits
        outputs, y = matched(outputs, y, INDICES, self.loss.name)
        if y.dtype.is_floating:
            y = tf.cast(y, tf.int32)
        return losses.cross_entropy(_cast(outputs, self.loss.dtype), y, sample_weight, mask)


class _OwnCall:
    """A loss that overrides `__call__`: called as it is, for one task at a time."""

    def __init__(self, loss: keras.losses.Loss):
        self.loss = loss

    def __call__(self, outputs, y, sample_weight, mask) -> tf.Tensor:
        if given(mask) or tf.distribute.get_strategy().num_replicas_in_sync > 1:
            raise ValueError(
                f"'{self.loss.name}' overrides Loss.__call__, so that padded examples cannot be "
                "left out and replicas not told apart; override `call` alone."
            )
        weights = [sample_weight] if given(sample_weight) else []
        return tf.vectorized_map(
            lambda one: self.loss(one[1], one[0], *one[2:]), [outputs, y, *weights]
        )


def matched(
    outputs: Structure, y: Structure, kind: str | None, name: str
) -> tuple[Structure, Structure]:
    """Squeezes or expands a last axis of size 1 as Keras does, and refuses what would broadcast.

    Args:
      outputs: `[T, B, ...]`.
      y: `[T, B, ...]`.
      kind: of targets.
      name: of the loss.

    Returns:
      Outputs and targets.

    Raises:
      ValueError: the shapes do not fit.
    """
    outputs, y = tf.convert_to_tensor(outputs), tf.convert_to_tensor(y)
    shape, target = outputs.shape, y.shape
    if shape.rank == target.rank + 1 and shape[-1] == 1:
        # For one task, Keras expands targets [B], and squeezes outputs of more axes.
        y, outputs = (y[..., tf.newaxis], outputs) if target.rank == 2 else (y, outputs[..., 0])
    elif target.rank == shape.rank + 1 and target[-1] == 1:
        y, outputs = (y, outputs[..., tf.newaxis]) if shape.rank == 2 else (y[..., 0], outputs)
    if kind == INDICES:
        if y.shape.rank == outputs.shape.rank and y.shape[-1] == 1:
            y = y[..., 0]
        if not y.shape.is_compatible_with(outputs.shape[:-1]):
            raise ValueError(
                f"'{name}' takes class indices of shape {outputs.shape[:-1]}, not {target}; of "
                "one-hot labels give tf.argmax(y, -1), or the loss without 'sparse'."
            )
    elif kind is not None and not y.shape.is_compatible_with(outputs.shape):
        raise ValueError(
            f"'{name}' takes targets of the outputs' shape {shape}, not {target}, which would "
            "broadcast; "
            + (
                "give keras.utils.to_categorical(y), or the loss that is 'sparse'."
                if kind == ONE_HOT
                else "give the model as many outputs as there are targets."
            )
        )
    return outputs, y


def _is_softmax_cross_entropy(loss, name: str, options: dict) -> bool:
    plain = options.get("axis", -1) == -1 and options.get("ignore_class") is None
    averages = loss.reduction in ("mean", "sum_over_batch_size")
    sparse = name == "sparse_categorical_crossentropy"
    return sparse and plain and averages and bool(options.get("from_logits"))


def _cast(x: Any, dtype: str) -> Any:
    # Not `tf.cast` where nothing changes: Keras keeps a softmax's logits on its output.
    return x if x.dtype == dtype else tf.cast(x, dtype)


def is_of_keras(thing: object) -> bool:
    """Whether a function or a class is one of Keras' own."""
    return (getattr(thing, "__module__", None) or "").split(".")[0] == "keras"


def keras_name(function: Callable) -> str:
    """The name of one of Keras' own functions, or ''."""
    return function.__name__ if function is not None and is_of_keras(function) else ""
