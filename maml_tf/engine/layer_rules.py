"""How each Keras layer type runs on a stack of tasks; one rule per type.

Every rule takes `(layer, x [T, B, ...], run)` and reads weights through `run`, shared `[*shape]` or
stacked `[T, *shape]`. To add a layer type, add a rule; to remove one is always right and only
slower, for the layer then falls back to one task at a time (single_task.py). Normalisations,
convolutions, sequences and operations have files of their own beside this one.

Shape letters: T tasks, B examples per task, C channels in, F features out.
"""

from __future__ import annotations

import functools
from typing import Any

import keras
import tensorflow as tf
from keras import activations, layers

from maml_tf.engine.fast_weights import multiply
from maml_tf.engine.run import Run, run_folded, stacked
from maml_tf.engine.task_axis import first_tensor, fold, get_mask, lengths, unfold, with_mask
from maml_tf.networks import Context

# --- layers that treat each example alone and have no weights: tasks become examples -------------

_EXAMPLE_WISE = (
    *(layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Softmax),
    *(layers.Flatten, layers.Reshape, layers.Permute, layers.RepeatVector, layers.Masking),
    *(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D),
    *(layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D),
    *(layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D),
    *(layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D),
    *(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D),
    *(layers.Cropping1D, layers.Cropping2D, layers.Cropping3D, layers.CenterCrop),
    *(layers.UpSampling1D, layers.UpSampling3D),
    *(layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum),
    *(layers.Concatenate, layers.Dot, layers.UnitNormalization),
    *(layers.Rescaling, layers.Normalization, layers.CategoryEncoding, layers.Discretization),
    *(layers.Hashing, layers.IntegerLookup, layers.StringLookup, layers.TextVectorization),
)


def _example_wise(layer, x, run, **named):
    del run
    if any(v.trainable for v in layer.variables):  # given by whoever derived a layer from it
        return NotImplemented
    return run_folded(layer, first_tensor(x), (x,), named)


for _layer_type in _EXAMPLE_WISE:
    stacked.register(_layer_type, _example_wise)


# --- resizing: a product with a matrix per axis, differentiable to any order ----------------------


@stacked.register(layers.UpSampling2D)
def _up_sampling(layer, x, run):
    if layer.interpolation == "nearest" or layer.data_format != "channels_last":
        return _example_wise(layer, x, run)
    return _resized(x, [n * s for n, s in zip(x.shape[2:4], layer.size, strict=True)], layer)


@stacked.register(layers.Resizing)
def _resizing(layer, x, run):
    shaped = layer.crop_to_aspect_ratio or getattr(layer, "pad_to_aspect_ratio", False)
    fixed = x.shape.rank == 5 and None not in x.shape[2:4] and x.dtype.is_floating
    if layer.interpolation == "nearest" or shaped or not fixed:
        return _example_wise(layer, x, run)
    if layer.data_format != "channels_last":
        return NotImplemented
    return _resized(x, [layer.height, layer.width], layer)


def _resized(x: tf.Tensor, size: list[int], layer: Any) -> tf.Tensor:
    """Interpolation is linear, and one axis after the other: `y = R x C'`."""
    options = {"interpolation": layer.interpolation}
    if getattr(layer, "antialias", False):
        options["antialias"] = True
    for axis, length in zip((2, 3), size, strict=True):
        matrix = _interpolation(int(x.shape[axis]), int(length), tuple(options.items()))
        x = tf.tensordot(x, tf.constant(matrix, x.dtype), [[axis], [0]])
        x = tf.transpose(x, [*range(axis), x.shape.rank - 1, *range(axis, x.shape.rank - 1)])
    return tf.cast(x, layer.compute_dtype)


@functools.lru_cache(maxsize=64)
def _interpolation(length: int, resized: int, options: tuple):
    """What Keras' own resizing makes of the unit vectors: `[length, resized]`."""
    with tf.init_scope():
        units = tf.eye(length)[:, :, None, None]
        rows = keras.ops.image.resize(
            units, (resized, 1), data_format="channels_last", **dict(options)
        )
        return rows[:, :, 0, 0].numpy()


# --- layers that only act while a network is fitted ----------------------------------------------


@stacked.register(layers.InputLayer)
@stacked.register(layers.Identity)
@stacked.register(layers.ActivityRegularization)
def _identity(layer, x, run):
    del layer, run
    return tf.nest.map_structure(lambda t: with_mask(tf.identity(t), get_mask(t)), x)


@stacked.register(layers.Dropout)
@stacked.register(layers.SpatialDropout1D)
@stacked.register(layers.SpatialDropout2D)
@stacked.register(layers.SpatialDropout3D)
@stacked.register(layers.AlphaDropout)
@stacked.register(layers.GaussianDropout)
@stacked.register(layers.GaussianNoise)
def _noise(layer, x, run):
    """Off, unless the run has noise; then Keras' own code on a seed of this call's."""
    seed = run.seed()
    if seed is None:
        return _identity(layer, x, run)
    state = layer.seed_generator.state
    folded = fold(x)
    with keras.StatelessScope([(state, tf.cast(seed, state.dtype))]):
        return unfold(layer(folded, training=True), x)


# --- activations ----------------------------------------------------------------------------------

_SAFE = frozenset(
    getattr(activations, name)
    for name in dir(activations)
    if callable(getattr(activations, name)) and name not in ("get", "serialize", "deserialize")
) | frozenset(
    getattr(module, name)
    for module in (tf.nn, tf.math, keras.ops)
    for name in (
        "relu",
        "relu6",
        "elu",
        "selu",
        "gelu",
        "silu",
        "swish",
        "sigmoid",
        "tanh",
        "softplus",
    )
    + ("softsign", "leaky_relu", "crelu", "sin", "cos", "exp", "square", "abs", "identity")
    if hasattr(module, name)
)
"""Functions that act on each number, or along the last axis, whatever the axes before it."""


def activate(function: Any, x: tf.Tensor, run: Run) -> tf.Tensor:
    """An activation of `x [T, B, ...]`: at once if it is known to mix nothing, else by task."""
    if function is None:
        return x
    if isinstance(function, keras.Layer):
        return run.call(function, x)
    return function(x) if is_safe(function) else run.alone(function, x)


def is_safe(function: Any) -> bool:
    """Whether an activation acts on each number, or along the last axis."""
    if isinstance(function, functools.partial):
        return is_safe(function.func) and function.keywords.get("axis", -1) == -1
    try:
        return function in _SAFE
    except TypeError:  # not hashable
        return False


@stacked.register(layers.Activation)
def _activation(layer, x, run):
    return activate(layer.activation, x, run)


@stacked.register(layers.PReLU)
def _prelu(layer, x, run):
    alpha = run.aligned(layer.alpha, x)
    return tf.nn.relu(x) - alpha * tf.nn.relu(-x)


# --- layers with weights --------------------------------------------------------------------------


def finish(layer: Any, y: tf.Tensor, run: Run) -> tf.Tensor:
    """Adds the bias and applies the activation of a dense or convolutional layer."""
    if layer.use_bias:
        y += run.aligned(layer.bias, y)
    return activate(layer.activation, y, run)


def altered(layer: Any) -> bool:
    """Whether low-rank adapters or quantisation stand in for the plain kernel."""
    return bool(getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None))


@stacked.register(layers.Dense)
def _dense(layer, x, run):
    if altered(layer):
        return NotImplemented
    x = tf.cast(x, layer.compute_dtype)
    return finish(layer, multiply(x, run.matrix(layer.kernel)), run)


@stacked.register(layers.EinsumDense)
def _einsum_dense(layer, x, run):
    if altered(layer):
        return NotImplemented
    x = tf.cast(x, layer.compute_dtype)
    inputs, rest = layer.equation.replace(" ", "").split(",")
    kernel, outputs = rest.split("->")
    task = next(c for c in "ZYXWVUTSRQ" if c not in layer.equation)
    own = task if run.is_stacked(layer.kernel) else ""
    equation = f"{task}{inputs},{own}{kernel}->{task}{outputs}"
    y = tf.einsum(equation, x, tf.cast(run.value(layer.kernel), x.dtype))
    if layer.bias is not None:
        y += run.aligned(layer.bias, y)
    return activate(layer.activation, y, run)


@stacked.register(Context)
def _context(layer, x, run):
    beside = tf.broadcast_to(run.aligned(layer.vector, x), [*lengths(x)[:-1], layer.size])
    return tf.concat([x, beside], -1)
