"""One MAML meta-step in JAX: `jit` of `vmap` over tasks of `grad`, compiled once.

Convolutions are products of patches (nine strided slices) and kernels: XLA's native convolution
with a kernel of its own for every task is more than ten times slower on a CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import settings
from benchmarks.settings import Setting

Weights: TypeAlias = dict[str, jax.Array]

# XLA for CPUs hands sums to a library routine. It is slow where the summed axis comes first, as in
# gradients of shared weights: without it the dense Omniglot step takes a quarter of the time. The
# convolutional one, where it sums over examples and space, takes two and a half times as long.
_OPTIONS = {"omniglot_dense": {"xla_cpu_experimental_ynn_fusion_type": ""}}


def _patches(x: jax.Array, stride: int) -> jax.Array:
    """[B, H, W, C] to [B, H', W', 9 * C], rows and columns of the kernel before channels.

    Cutting the image into blocks of `stride` x `stride` pixels first makes the nine slices
    contiguous, and the gradient of each a plain padding.
    """
    sizes = x.shape[1:3]
    rows, columns = (-(-size // stride) for size in sizes)
    blocks = [count + (settings.KERNEL_SIZE - 1) // stride for count in (rows, columns)]
    pads = []
    for size, count in zip(sizes, blocks, strict=True):
        before, _ = settings.same_padding(size, stride)
        pads.append((before, count * stride - size - before))
    x = jnp.pad(x, [(0, 0), *pads, (0, 0)])
    x = x.reshape(x.shape[0], blocks[0], stride, blocks[1], stride, x.shape[-1])
    taps = [
        x[:, i // stride :, i % stride, j // stride :, j % stride][:, :rows, :columns]
        for i in range(settings.KERNEL_SIZE)
        for j in range(settings.KERNEL_SIZE)
    ]
    return jnp.concatenate(taps, axis=-1)


def convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """[B, H, W, C] by a kernel [3, 3, C, F], padded as TensorFlow's "SAME"."""
    x = _patches(x, stride)
    return x @ kernel.reshape(x.shape[-1], -1)


def _normalise(x: jax.Array, offset: jax.Array) -> jax.Array:
    """Batch normalisation by the current set's own statistics, with an offset and no scale.

    Like `tf.nn.moments`, which the original uses, the variance takes its mean for a constant. That
    leaves first derivatives as they are, since deviations sum to zero, but changes second ones.
    """
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    variance = jnp.square(x - jax.lax.stop_gradient(mean)).mean(axes)
    return (x - mean) * jax.lax.rsqrt(variance + settings.BATCH_NORM_EPSILON) + offset


def _max_pool(x: jax.Array) -> jax.Array:
    """2x2, stride 2, dropping an odd last row and column."""
    x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
    x = jnp.maximum(x[:, 0::2], x[:, 1::2])
    return jnp.maximum(x[:, :, 0::2], x[:, :, 1::2])


def apply(setting: Setting, weights: Weights, x: jax.Array) -> jax.Array:
    """Outputs [B, N] of one task's examples [B, ...]."""
    depth = len(settings.layers(setting))
    for i in range(1, depth):
        if setting.convolutional:
            x = convolve(x, weights[f"conv{i}"], 1 if setting.max_pool else 2) + weights[f"b{i}"]
        else:
            x = x @ weights[f"w{i}"] + weights[f"b{i}"]
        if f"beta{i}" in weights:
            x = _normalise(x, weights[f"beta{i}"])
        x = jax.nn.relu(x)
        if setting.convolutional and setting.max_pool:
            x = _max_pool(x)
    if setting.network == "omniglot_conv":
        x = x.mean((1, 2))
    return x.reshape(x.shape[0], -1) @ weights[f"w{depth}"] + weights[f"b{depth}"]


def _loss(setting: Setting, weights: Weights, x: jax.Array, y: jax.Array) -> jax.Array:
    """One task's mean squared error, or its summed cross-entropy divided by K."""
    outputs = apply(setting, weights, x)
    if setting.regression:
        return jnp.square(outputs - y).mean()
    picked = jnp.take_along_axis(jax.nn.log_softmax(outputs), y[:, None], axis=-1)
    return -picked.sum() / setting.shots


def _query_loss(setting: Setting, weights: Weights, task: Weights) -> jax.Array:
    """One task's query loss after `inner_steps` gradient steps on its support set."""
    fixed = {name: value for name, value in weights.items() if name.startswith("beta")}
    fast = {name: value for name, value in weights.items() if name not in fixed}

    def support_loss(fast: Weights) -> jax.Array:
        return _loss(setting, fixed | fast, task["support_x"], task["support_y"])

    for _ in range(setting.inner_steps):
        gradient = jax.grad(support_loss)(fast)
        if setting.first_order:
            gradient = jax.lax.stop_gradient(gradient)
        fast = {name: value - setting.step_size * gradient[name] for name, value in fast.items()}
    return _loss(setting, fixed | fast, task["query_x"], task["query_y"])


def meta_loss(setting: Setting, weights: Weights, data: Weights) -> jax.Array:
    """Mean over tasks of the query loss after adaptation."""
    return jax.vmap(partial(_query_loss, setting), in_axes=(None, 0))(weights, data).mean()


class Step:
    """Weights, optimizer state and the compiled meta-step on fixed data."""

    def __init__(self, setting: Setting, weights: Mapping[str, np.ndarray], data: Mapping):
        self.weights = {name: jnp.asarray(value) for name, value in weights.items()}
        self._data = {name: jnp.asarray(value) for name, value in data.items()}
        optimizer = optax.adam(settings.META_STEP_SIZE, eps=settings.ADAM_EPSILON)
        self._state = optimizer.init(self.weights)
        options = _OPTIONS.get(setting.network)
        loss_and_gradient = jax.value_and_grad(partial(meta_loss, setting))
        self._loss_and_gradient = jax.jit(loss_and_gradient, compiler_options=options)

        @partial(jax.jit, donate_argnums=(0, 1), compiler_options=options)
        def update(weights, state, data):
            loss, gradient = loss_and_gradient(weights, data)
            updates, state = optimizer.update(gradient, state)
            return optax.apply_updates(weights, updates), state, loss

        self._update = update

    def __call__(self) -> float:
        """Takes one meta-step in place; returns the query loss before it."""
        self.weights, self._state, loss = self._update(self.weights, self._state, self._data)
        jax.block_until_ready(self.weights)
        return float(loss)

    def meta_gradient(self) -> tuple[float, dict[str, np.ndarray]]:
        """The query loss and its gradient by weight, without taking a step."""
        loss, gradient = self._loss_and_gradient(self.weights, self._data)
        return float(loss), {name: np.asarray(value) for name, value in gradient.items()}


def build(
    setting: Setting, weights: Mapping[str, np.ndarray] | None, data: Mapping[str, np.ndarray]
) -> Step:
    """The meta-step of `setting` on `data`, from `weights` or from random ones."""
    return Step(setting, weights or settings.initial_weights(setting), data)
