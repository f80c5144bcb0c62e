"""Keras' optimizers for the meta-step: by name, and whether one fits the learner."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

OptimizerLike: TypeAlias = (
    "str | Mapping[str, Any] | keras.optimizers.Optimizer | type[keras.optimizers.Optimizer]"
)


def optimizer_of(what: OptimizerLike | None) -> keras.optimizers.Optimizer:
    """Makes an optimizer of its name, class or configuration, as `keras.Model.compile` does.

    Args:
      what: one of these, or an optimizer, or None for Adam(1e-3).

    Raises:
      ValueError: it is none of these.
    """
    if what is None:
        return keras.optimizers.Adam(1e-3)
    if isinstance(what, keras.optimizers.Optimizer):
        return what
    try:
        if inspect.isclass(what) and issubclass(what, keras.optimizers.Optimizer):
            return what()
        return keras.optimizers.get(what)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{what!r} is no optimizer that Keras can make; give one of keras.optimizers, or its "
            "name, such as 'adam'."
        ) from error


def built_for(optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]) -> None:
    """Builds an optimizer for `variables`.

    Raises:
      ValueError: it was built for others before.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    known = inner._trainable_variables if inner.built else variables
    if [id(v) for v in known] != [id(v) for v in variables]:
        raise ValueError(
            f"The optimizer '{inner.name}' was built for other variables ({len(known)} of another "
            f"model or learner; there are {len(variables)} here), whose momenta it holds; make a "
            "new one: type(optimizer).from_config(optimizer.get_config())."
        )
    if not optimizer.built:  # Keras' LossScaleOptimizer would begin its scale anew
        optimizer.build(list(variables))


def has_averages(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether it holds averages of the variables (`use_ema`): before its first update, none."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return bool(inner.use_ema) and int(np.asarray(inner.iterations)) > 0


def loss_scale(optimizer: keras.optimizers.Optimizer) -> tf.Tensor | None:
    """What the optimizer wants the loss multiplied with, for it divides the gradient; or None."""
    scales = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    if not scales and optimizer.loss_scale_factor is None:
        return None
    return tf.convert_to_tensor(optimizer.scale_loss(tf.ones([])))


def clipped(gradient: tf.Tensor, clip: float, scale: tf.Tensor | None) -> tf.Tensor:
    """Clips each element of a scaled gradient as `clip` says of the unscaled.

    What is not finite stays so where there is a scale: the optimizer lowers the scale by it.
    """
    if scale is None:
        return tf.clip_by_value(gradient, -clip, clip)
    bound = clip * tf.cast(scale, gradient.dtype)
    within = tf.clip_by_value(gradient, -bound, bound)
    return tf.where(tf.math.is_finite(gradient), within, gradient)
