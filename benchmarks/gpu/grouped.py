"""The meta-objective as one network of T * C channels: grouped convolutions, in JAX.

Batch normalisation by channel is then by task, and nothing is transposed but the data. A
convolution, its input's and its kernel's gradient are each other's derivatives at every order, as
`maml_tf.engine.patches` has it; left to JAX, a second derivative becomes a convolution with a
kernel of the image's size.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from benchmarks import settings
from benchmarks.peers import jax_vmap


def native(x, kernel, stride, groups):
    """A convolution of XLA's own, padded as TensorFlow's "SAME"."""
    pads = [settings.same_padding(size, stride) for size in x.shape[1:3]]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _of_input(dy, kernel, shape, stride, groups):
    like = jax.ShapeDtypeStruct(shape, dy.dtype)
    return jax.linear_transpose(lambda x: native(x, kernel, stride, groups), like)(dy)[0]


def _of_kernel(x, dy, shape, stride, groups):
    like = jax.ShapeDtypeStruct(shape, dy.dtype)
    return jax.linear_transpose(lambda k: native(x, k, stride, groups), like)(dy)[0]


def convolution(stride, groups, x_shape, kernel_shape):
    """`(x, kernel) -> y`, whose derivatives of every order are convolutions of its own size."""

    @jax.custom_vjp
    def forward(x, kernel):
        return native(x, kernel, stride, groups)

    @jax.custom_vjp
    def of_input(dy, kernel):
        return _of_input(dy, kernel, x_shape, stride, groups)

    @jax.custom_vjp
    def of_kernel(x, dy):
        return _of_kernel(x, dy, kernel_shape, stride, groups)

    def saved(function):
        return lambda a, b: (function(a, b), (a, b))

    forward.defvjp(saved(forward), lambda s, dy: (of_input(dy, s[1]), of_kernel(s[0], dy)))
    of_input.defvjp(saved(of_input), lambda s, dx: (forward(dx, s[1]), of_kernel(dx, s[0])))
    of_kernel.defvjp(saved(of_kernel), lambda s, dk: (of_input(s[1], dk), forward(s[0], dk)))
    return forward


def _apply(setting, weights, x):
    """Outputs [T, B, N] of x [B, H, W, T * C]; `weights` have a leading axis T but for `beta`."""
    tasks, depth = setting.tasks, len(settings.layers(setting))
    for i in range(1, depth):
        kernel = jnp.moveaxis(weights[f"conv{i}"], 0, 3)  # [3, 3, C, T, F]
        kernel = kernel.reshape(*kernel.shape[:3], -1)
        stride = 1 if setting.max_pool else 2
        x = convolution(stride, tasks, x.shape, kernel.shape)(x, kernel)
        x = x + weights[f"b{i}"].reshape(-1)
        mean = x.mean((0, 1, 2))
        variance = jnp.square(x - jax.lax.stop_gradient(mean)).mean((0, 1, 2))
        scale = jax.lax.rsqrt(variance + settings.BATCH_NORM_EPSILON)
        x = jax.nn.relu((x - mean) * scale + jnp.tile(weights[f"beta{i}"], tasks))
        if setting.max_pool:
            x = jax_vmap._max_pool(x)
    x = jnp.moveaxis(x.reshape(*x.shape[:3], tasks, -1), 3, 0)  # [T, B, H, W, C]
    x = x.mean((2, 3)) if setting.network == "omniglot_conv" else x.reshape(*x.shape[:2], -1)
    return x @ weights[f"w{depth}"] + weights[f"b{depth}"][:, None]


def meta_loss(setting, weights, data):
    """Mean over tasks of the query loss after adaptation, as `jax_vmap.meta_loss`."""

    def losses(weights, x, y):
        logits = jax.nn.log_softmax(_apply(setting, weights, x))
        return -jnp.take_along_axis(logits, y[..., None], axis=-1).sum() / setting.shots

    def laid(x):  # [T, B, H, W, C] -> [B, H, W, T * C]
        x = jnp.moveaxis(x, 0, 3)
        return x.reshape(*x.shape[:3], -1)

    fixed = {k: v for k, v in weights.items() if k.startswith("beta")}
    fast = {
        k: jnp.broadcast_to(v, (setting.tasks, *v.shape))
        for k, v in weights.items()
        if k not in fixed
    }
    support, query = laid(data["support_x"]), laid(data["query_x"])
    gradient = jax.grad(functools.partial(lambda f: losses(fixed | f, support, data["support_y"])))
    for _ in range(setting.inner_steps):
        fast = jax.tree.map(lambda v, g: v - setting.step_size * g, fast, gradient(fast))
    return losses(fixed | fast, query, data["query_y"]) / setting.tasks
