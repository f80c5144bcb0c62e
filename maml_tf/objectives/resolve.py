"""Turns what a user gives for a loss, a metric or an optimizer into the one form used here.

Shape letters: T tasks, B examples.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from maml_tf import losses
from maml_tf.objectives.base import Objective, given, is_objective
from maml_tf.objectives.keras_losses import of_loss
from maml_tf.objectives.keras_metrics import of_metric
from maml_tf.objectives.several_outputs import several

_BY_SHAPES = {"loss": ("crossentropy", "ce"), "metric": ("accuracy", "acc")}
_TARGETS = {"y", "y_true", "true", "truth", "target", "targets", "label", "labels"}
_OUTPUTS = {"y_pred", "pred", "preds", "prediction", "predictions", "output", "outputs", "logits"}


LossLike: TypeAlias = (
    "str | type | Callable[..., Any] | keras.Loss | keras.Metric"
    " | Sequence[LossLike | None] | Mapping[str, LossLike | None]"
)
"""A loss or a metric in any form that `objective` takes."""


def loss_of(model: keras.Model, loss: LossLike, weights: Any = None) -> Objective:
    """The loss of a model's outputs; `made_of` of it is what was given.

    Args:
      model: whose outputs are judged.
      loss: see `objective`.
      weights: of the losses of several outputs.
    """
    made = objective(loss, weights=weights, **_outputs_of(model))
    if made is not loss:
        made.made_of = loss
    return made


def metric_of(
    model: keras.Model, metric: LossLike | None, loss: Objective, *, lower_is_better: bool | None
) -> Objective | None:
    """What is reported of a model's outputs; None: the loss itself.

    Args:
      model: whose outputs are judged.
      metric: see `objective`. None: accuracy for the package's cross-entropies, else the loss.
      loss: what is descended.
      lower_is_better: of the metric, where neither Keras nor the package knows it.

    Raises:
      ValueError: it is no metric, or the loss, and said to be better higher.
    """
    if metric is None and loss in (losses.cross_entropy, losses.summed_cross_entropy):
        metric = losses.accuracy
    if metric is None and lower_is_better is False:
        raise ValueError("Without a metric the loss is reported, which is better lower.")
    if metric is None:
        return None
    return objective(metric, role="metric", lower_is_better=lower_is_better, **_outputs_of(model))


def _outputs_of(model: keras.Model) -> dict[str, Any]:
    return {
        "output_names": list(getattr(model, "output_names", None) or []),
        "num_outputs": len(tf.nest.flatten(getattr(model, "outputs", None) or [0])),
    }


def objective(
    what: LossLike,
    *,
    role: str = "loss",
    lower_is_better: bool | None = None,
    weights: Any = None,
    output_names: Sequence[str] = (),
    num_outputs: int = 1,
) -> Objective:
    """Makes one callable `(outputs, y, sample_weight=(), mask=()) -> [T]` of a loss or a metric.

    Args:
      what: a function of `maml_tf.losses`; a function `(outputs, y) -> [T]`; anything that
        `keras.Model.compile` takes: a `keras.losses.Loss`, a `keras.metrics.Metric`, their
        classes, names and configurations, a function whose parameters are named `y_true, y_pred`;
        for several outputs a list, tuple or dictionary of these.
      role: "loss" or "metric".
      lower_is_better: of a metric, where neither Keras nor the package knows it.
      weights: of the losses of several outputs, as Keras' `loss_weights`.
      output_names: the model's, in its order.
      num_outputs: how many the model has.

    Returns:
      `Objective`, or a function with its attributes.

    Raises:
      ValueError: it is none of these.
    """
    if isinstance(what, (list, tuple)) and len(what) == num_outputs == 1:
        what = what[0]
    is_config = isinstance(what, dict) and "class_name" in what
    if isinstance(what, (list, tuple, dict)) and not is_config:
        parts = tf.nest.map_structure(lambda one: None if one is None else _one(one, role), what)
        made = several(parts, weights, output_names, role)
    else:
        made = _one(what, role)
        if num_outputs > 1 and not made.whole:
            if role == "metric":
                raise ValueError(
                    f"The model has {num_outputs} outputs; say which one metric='{made.name}' is "
                    f"of, e.g. metric={{'{output_names[0] if output_names else 'name'}': "
                    f"'{made.name}'}}."
                )
            made = several(made, weights, output_names, role)
        elif weights is not None and role == "loss":
            made = several([made], weights, output_names, role)
    if role == "metric" and lower_is_better is not None:
        made = _directed(made, lower_is_better)
    return made


def _one(what: Any, role: str) -> Objective:
    if is_objective(what):
        return what
    name = what if isinstance(what, str) else None
    if name is not None and name.lower() in _BY_SHAPES[role]:
        return _by_shapes(name, role)
    what = _instance(what, role)
    if isinstance(what, keras.losses.Loss):
        return of_loss(what)
    if isinstance(what, keras.metrics.Metric):
        if role == "loss":
            raise ValueError(
                f"A loss is needed, and '{name or what.name}' is a metric, which has no gradient; "
                "choose one of keras.losses, and give this one as `metric`."
            )
        made = of_metric(what)
        made.name = made.__name__ = name or made.name
        return made
    if not callable(what):
        raise ValueError(
            f"{what!r} is no {role}; give a function `(outputs, y) -> [T]`, or what Keras takes: "
            f"an object of keras.{'losses' if role == 'loss' else 'metrics'}, or its name."
        )
    return _of_function(what, role, name)


def _instance(what: Any, role: str) -> Any:
    """What Keras has of this name, class or configuration."""
    module = keras.losses if role == "loss" else keras.metrics
    try:
        if isinstance(what, (str, dict)):
            return module.get(what)
        is_class = inspect.isclass(what) and issubclass(
            what, (keras.losses.Loss, keras.metrics.Metric)
        )
        return what() if is_class else what
    except (TypeError, ValueError) as error:
        other = keras.metrics if role == "loss" else keras.losses
        try:
            return other.get(what)  # a metric given as a loss is told so; a loss may be a metric
        except (TypeError, ValueError):
            pass
        raise ValueError(
            f"{what!r} is no {role} that Keras can make ({error}); give an object of "
            f"{module.__name__.removeprefix('keras.api.')}, or a function `(outputs, y) -> [T]`."
        ) from error


def _by_shapes(name: str, role: str) -> Objective:
    """For "accuracy" and "crossentropy": which of Keras' three it is, by the shapes."""
    made: dict[str, Objective] = {}
    suffix = _BY_SHAPES[role][0]

    def choose(y: tf.TensorShape, outputs: tf.TensorShape) -> Objective:
        one, target = outputs[1:], y[1:]  # of one task, as Keras would see them
        if one[-1] == 1:
            kind = "binary"
        elif target.rank < one.rank or target[-1] == 1:
            kind = "sparse_categorical"
        else:
            kind = "categorical"
        if kind not in made:
            made[kind] = _one(f"{kind}_{suffix}", role)
        return made[kind]

    def compute(outputs, y, sample_weight, mask):
        chosen = choose(tf.convert_to_tensor(y).shape, outputs.shape)
        return chosen(outputs, y, sample_weight, mask)

    known = {"from_logits": False} if role == "loss" else {"threshold": 0.5}
    return Objective(compute, name, lower_is_better=role == "loss", for_shapes=choose, **known)


def _of_function(function: Callable[..., Any], role: str, name: str | None) -> Objective:
    """A function: Keras' own or one with Keras' names of parameters, or one in this order."""
    name = str(name or getattr(function, "__name__", type(function).__name__))
    parameters = _parameters(function)
    first, second = [*parameters, "", ""][:2]
    if (first, second) == ("y_true", "y_pred"):
        # What `keras.Model.compile` makes of it.
        if role == "loss":
            return of_loss(keras.losses.MeanSquaredError.__base__(function, name=name))
        made = of_metric(keras.metrics.MeanMetricWrapper(function, name=name))
        if getattr(function, "__module__", "").startswith("keras.") and "accuracy" in name:
            made.lower_is_better = False
        return made
    if first in _TARGETS and second in _OUTPUTS:
        raise ValueError(
            f"'{name}' takes `({first}, {second})`, and a function here takes `(outputs, y)`; swap "
            "them, or name them y_true and y_pred, to be called as Keras calls it."
        )

    def compute(outputs, y, sample_weight, mask):
        extra = {"sample_weight": sample_weight, "mask": mask}
        for what, value in list(extra.items()):
            if what not in parameters:
                del extra[what]
                if given(value):
                    raise ValueError(
                        f"The tasks have a {what}, and '{name}' does not take one; give it a "
                        f"parameter of this name, [T, B], or use a Keras loss."
                    )
        return function(outputs, y, **extra)

    lower = True if role == "loss" else None
    return Objective(compute, name, lower_is_better=lower, whole=True)


def _parameters(function: Callable[..., Any]) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def _directed(made: Objective, lower_is_better: bool) -> Objective:
    """The same with a direction; what Keras or the package knows is not to be contradicted."""
    if made.lower_is_better is None:
        made = copy.copy(made)
        made.lower_is_better = lower_is_better
        return made
    if made.lower_is_better != lower_is_better:
        better = "lower" if made.lower_is_better else "higher"
        raise ValueError(f"'{made.name}' is better {better}; leave out lower_is_better.")
    return made
