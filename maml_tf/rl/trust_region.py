"""A trust-region step (Schulman et al. 2015, "Trust region policy optimization").

    minimise loss(theta)  subject to  mean KL(old || theta) <= delta

by a step along d = H^-1 gradient, H the Hessian of the mean KL at the old policy, and a line search
on the way back. Nothing here knows of policies: a caller says what its outputs are, and how far two
outputs are apart. Everything runs inside one traced function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias, TypeVar

import tensorflow as tf

from maml_tf.engine.conjugate_gradient import conjugate_gradient, flatten, unflatten
from maml_tf.engine.pieces import Product
from maml_tf.types import Weights

Outputs = TypeVar("Outputs")
"""A structure of tensors."""

OutputsFn: TypeAlias = Callable[[Weights], Outputs]
"""`weights -> outputs`: all that the divergence depends on."""

Divergence: TypeAlias = Callable[[Outputs, Outputs], tf.Tensor]
"""`(old outputs, new outputs) -> []`, 0 with zero gradient where both agree."""

CURVATURES = ("fisher", "hessian", "finite_differences")

DIFFERENCE = 1e-3
"""Length of a finite difference, relative to the weights' own (or 1, if they are shorter)."""


class TrustRegionStep(NamedTuple):
    """How a step ended; on a line search in vain, the weights are as before."""

    weights: Weights
    loss_before: tf.Tensor  # []
    loss_after: tf.Tensor  # []
    divergence: tf.Tensor  # []
    backtracks: tf.Tensor  # [] int32: k of the accepted ratio^k, or -1


def curvature(
    outputs: OutputsFn[Outputs],
    divergence: Divergence[Outputs],
    weights: Weights,
    product: str = "fisher",
) -> Product:
    """Products with the Hessian of the divergence from the policy at `weights`, at `weights`.

    Args:
      outputs: differentiable; J is its Jacobian.
      divergence: how far two outputs are apart.
      weights: where to take the Hessian.
      product: "fisher": J' M J v with M the divergence's Hessian by the outputs, forward mode and
        then reverse mode; the same matrix, for the divergence's own gradient is zero there.
        "hessian": reverse mode twice. "finite_differences": of the divergence's gradient,
        symmetric, as in the original program.

    Returns:
      `vector [n] -> [n]`; any number of calls, in graph loops too.

    Raises:
      ValueError: `product` is unknown.
    """
    if product not in CURVATURES:
        raise ValueError(f"curvature must be one of {', '.join(CURVATURES)}; not '{product}'.")
    if product == "finite_differences":
        return _finite_differences(outputs, divergence, weights)
    here = [tf.identity(w) for w in weights]
    return (_fisher if product == "fisher" else _hessian)(outputs, divergence, here)


def _fisher(outputs: OutputsFn[Outputs], divergence: Divergence[Outputs], here: Weights) -> Product:
    zero = tf.UnconnectedGradients.ZERO
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(here)
        new = outputs(here)
    flat = tf.nest.flatten(new)
    hessian_of_outputs = _hessian_of_outputs(divergence, new)

    def product(vector: tf.Tensor) -> tf.Tensor:
        # J'u is linear in u, so that its gradient along v is J v for any u.
        upstream = [tf.zeros_like(n) for n in flat]
        with tf.GradientTape(watch_accessed_variables=False) as transposed:
            transposed.watch(upstream)
            pulled = tape.gradient(flat, here, upstream, unconnected_gradients=zero)
        pushed = transposed.gradient(
            pulled, upstream, unflatten(vector, here), unconnected_gradients=zero
        )
        return _gradient(tape, flat, here, hessian_of_outputs(pushed))

    return product


def _hessian(
    outputs: OutputsFn[Outputs], divergence: Divergence[Outputs], here: Weights
) -> Product:
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(here)
        gradient = _divergence_gradient(outputs, divergence, here, here)
    return lambda vector: _gradient(tape, gradient, here, vector)


def _finite_differences(
    outputs: OutputsFn[Outputs], divergence: Divergence[Outputs], weights: Weights
) -> Product:
    start = flatten(weights)

    def product(vector: tf.Tensor) -> tf.Tensor:
        length = DIFFERENCE * tf.maximum(tf.norm(start), 1.0) / tf.norm(vector)
        ahead, behind = (
            _divergence_gradient(
                outputs, divergence, weights, unflatten(start + by * vector, weights)
            )
            for by in (length, -length)
        )
        return (ahead - behind) / (2 * length)

    return product


def natural_gradient(
    product: Product, gradient: tf.Tensor, damping: float = 1e-5, iterations: int = 10
) -> tuple[tf.Tensor, tf.Tensor]:
    """Solves (H + damping) x = gradient by conjugate gradients; returns x and its image, `[n]`."""
    return conjugate_gradient(lambda v: product(v) + damping * v, gradient, iterations)


def slope(
    evaluate: Callable[[Weights], tuple[tf.Tensor, tf.Tensor]], weights: Weights
) -> tuple[tf.Tensor, tf.Tensor]:
    """A differentiable `evaluate`'s loss `[]` at `weights`, and its gradient `[n]`."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(weights)
        loss, _ = evaluate(weights)
    return loss, _gradient(tape, loss, weights)


def trust_region_step(
    evaluate: Callable[[Weights], tuple[tf.Tensor, tf.Tensor]],
    slope: tuple[tf.Tensor, tf.Tensor],
    product: Product,
    weights: Weights,
    *,
    max_divergence: float = 0.01,
    damping: float = 1e-5,
    iterations: int = 10,
    ratio: float = 0.8,
    max_backtracks: int = 14,
) -> TrustRegionStep:
    """Moves along the natural gradient as far as the trust region reaches.

    The full step is d sqrt(2 delta / d'Hd), H damped; of its lengths ratio^k, k = 0, 1, ..., the
    first that lowers the loss within the divergence is taken.

    Args:
      evaluate: `weights -> (loss [], divergence [])`.
      slope: loss `[]` and gradient `[n]` at `weights`, such as by `slope`.
      product: with H at `weights`, such as by `curvature`.
      weights: where to start.
      max_divergence: delta.
      damping: added to H's diagonal.
      iterations: how many of conjugate gradients, at most.
      ratio: ratio of one length to the one before.
      max_backtracks: the last k.

    Returns:
      `TrustRegionStep`.
    """
    before, gradient = slope
    direction, image = natural_gradient(product, gradient, damping, iterations)
    scale = tf.sqrt(2 * max_divergence / _dot(direction, image))
    start = flatten(weights)

    def candidate(k):
        return unflatten(start - ratio ** tf.cast(k, start.dtype) * scale * direction, weights)

    def fits(loss, apart):  # False if either is not a number
        return (loss < before) & (apart <= max_divergence)

    def shorter(k, loss, apart):
        return k + 1, *evaluate(candidate(k + 1))

    k, loss, apart = tf.while_loop(
        lambda k, loss, apart: (k < max_backtracks) & tf.logical_not(fits(loss, apart)),
        shorter,
        [tf.constant(0), *evaluate(candidate(tf.constant(0)))],
    )
    found = fits(loss, apart)
    return TrustRegionStep(
        [tf.where(found, new, old) for new, old in zip(candidate(k), weights, strict=True)],
        before,
        tf.where(found, loss, before),
        tf.where(found, apart, tf.zeros_like(apart)),
        tf.where(found, k, -1),
    )


def _dot(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(a * b)


def _gradient(tape, target, sources: Weights, upstream=None) -> tf.Tensor:
    """One vector; zero for what the target does not depend on."""
    gradients = tape.gradient(
        target, sources, upstream, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    return flatten(gradients)


def _divergence_gradient(
    outputs: OutputsFn[Outputs], divergence: Divergence[Outputs], old: Weights, new: Weights
) -> tf.Tensor:
    """Gradient `[n]` of the divergence by `new`."""
    fixed = tf.nest.map_structure(tf.stop_gradient, outputs(old))
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(new)
        apart = divergence(fixed, outputs(new))
    return _gradient(tape, apart, new)


def _hessian_of_outputs(
    divergence: Divergence[Outputs], point: Outputs
) -> Callable[[list[tf.Tensor]], list[tf.Tensor]]:
    """Products with the divergence's Hessian by its second argument, both at `point`; flat."""
    fixed = tf.nest.map_structure(tf.stop_gradient, point)
    flat = [tf.identity(t) for t in tf.nest.flatten(fixed)]
    zero = tf.UnconnectedGradients.ZERO
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as outer:
        outer.watch(flat)
        with tf.GradientTape(watch_accessed_variables=False) as inner:
            inner.watch(flat)
            apart = divergence(fixed, tf.nest.pack_sequence_as(point, flat))
        slope = inner.gradient(apart, flat, unconnected_gradients=zero)
    return lambda direction: outer.gradient(slope, flat, direction, unconnected_gradients=zero)
