"""A numerical look at second derivatives, of layers whose code nobody here has seen.

The meta-gradient differentiates a layer's gradient. A `tf.stop_gradient` or a custom gradient
inside a layer can make that wrong in silence; an ordinary training never notices.

Shape letters: T tasks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from maml_tf.engine.functional import Functional
from maml_tf.engine.run import Run
from maml_tf.engine.single_task import one_task_at_a_time
from maml_tf.types import Weights

_LOG = logging.getLogger(__name__)

TOLERATED = 0.01
"""Relative difference from the numerical value that float32 and a kink may make."""

STEP = 3e-3
"""Of the central difference, relative to the size of what is moved."""


def warn_of_curvature(apply: Functional, weights: Weights, x: Any) -> list[str]:
    """Warns of layers whose second derivative is not the derivative of their first.

    Only layers that fall back are tried, one of each type, on one task's first examples.

    Args:
      apply: the model.
      weights: shared, `[*shape]`.
      x: `[T, B, ...]`, eager.

    Returns:
      The warnings, which are logged.
    """
    few = tf.nest.map_structure(lambda a: tf.convert_to_tensor(a)[:1, :2], x)
    seen, warnings = set(), []
    for layer, args, kwargs, run in apply.fall_backs(weights, few):
        if type(layer) in seen or not isinstance(layer, keras.Layer):
            continue
        seen.add(type(layer))
        error = _error(layer, args, kwargs, run)
        if error > TOLERATED:
            warnings.append(
                f"The second derivative of layer '{layer.name}' ({type(layer).__name__}) is off by "
                f"{100 * error:.2g} % of a numerical one: something in it stops or replaces a "
                "gradient. Meta-gradients through it are wrong by as much; use first_order=True, "
                "or register an exact rule for it with maml_tf.stacked."
            )
            _LOG.warning(warnings[-1])
    return warnings


def _error(layer: keras.Layer, args: tuple, kwargs: dict, run: Run) -> float:
    """Relative error of a Hessian's product with a random vector; 0 where it cannot be known."""
    flat = tf.nest.flatten((args, kwargs))
    places = [i for i, a in enumerate(flat) if tf.is_tensor(a) and a.dtype.is_floating]
    variables = layer.trainable_variables
    point = [flat[i] for i in places] + [tf.convert_to_tensor(run.value(v)) for v in variables]
    random = np.random.default_rng(0)

    def value(z: list[tf.Tensor]) -> tf.Tensor:
        leaves = list(flat)
        for place, tensor in zip(places, z, strict=False):
            leaves[place] = tensor
        own_args, own_kwargs = tf.nest.pack_sequence_as((args, kwargs), leaves)
        own = run.moved(dict(zip(map(id, variables), z[len(places) :], strict=True)))
        outputs = one_task_at_a_time(layer, own, own_args, own_kwargs)
        weights = np.random.default_rng(1)
        terms = [
            tf.reduce_sum(y * tf.constant(weights.normal(size=y.shape), y.dtype))
            for y in tf.nest.flatten(outputs)
            if y.dtype.is_floating
        ]
        return tf.add_n(terms) if terms else tf.zeros([])

    direction = [tf.constant(random.normal(size=z.shape), z.dtype) for z in point]
    scale = tf.linalg.global_norm(point) / tf.linalg.global_norm(direction)
    try:
        analytic = _product(value, point, direction)
        coarse, fine = (
            _difference(value, point, direction, step * scale) for step in (STEP, STEP / 3)
        )
    except (LookupError, tf.errors.OpError):  # refused, where it is, when the graph is traced
        return 0.0
    size = max(float(tf.linalg.global_norm(v)) for v in (analytic, coarse))
    error = _distance(analytic, coarse)
    is_known = _distance(coarse, fine) < error / 4
    return error / size if size > 0 and is_known else 0.0


def _gradient(value: Callable, z: list[tf.Tensor]) -> list[tf.Tensor]:
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(z)
        y = value(z)
    return [
        tf.convert_to_tensor(g)
        for g in tape.gradient(y, z, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    ]


def _product(value: Callable, z: list[tf.Tensor], direction: list[tf.Tensor]) -> list[tf.Tensor]:
    """The Hessian times `direction`, by the derivative of the gradient."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(z)
        gradient = _gradient(value, z)
        along = tf.add_n([tf.reduce_sum(g * d) for g, d in zip(gradient, direction, strict=True)])
    return [
        tf.convert_to_tensor(g)
        for g in tape.gradient(along, z, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    ]


def _difference(value: Callable, z, direction, step: tf.Tensor) -> list[tf.Tensor]:
    """The same by a central difference of the gradient."""
    ahead, behind = (
        _gradient(value, [a + sign * step * d for a, d in zip(z, direction, strict=True)])
        for sign in (1.0, -1.0)
    )
    return [(a - b) / (2 * step) for a, b in zip(ahead, behind, strict=True)]


def _distance(a: list[tf.Tensor], b: list[tf.Tensor]) -> float:
    return float(tf.linalg.global_norm([x - y for x, y in zip(a, b, strict=True)]))
