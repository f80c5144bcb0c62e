"""The paper's networks, as plain Keras models (paper sections 5.1 and 5.2).

Initialisation and normalisation follow the original program: batch normalisation has an offset and
no scale, epsilon 1e-3. Every model is a function of `seed` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import initializers, layers, ops

from maml_tf import arguments

NORMS = ("batch_norm", "layer_norm", "none")

PARTS = ("all", "head", "body", "context")
"""Of a network, which the inner loop may adapt."""

NORMALIZATIONS = (
    layers.BatchNormalization,
    layers.LayerNormalization,
    layers.GroupNormalization,
)
"""Layers whose weights do not adapt by default, as in the original."""

CONTEXT_NUMBERS = 5
"""Of the context vector beside an input vector (Finn et al. 2017, appendix)."""

CONTEXT_CHANNELS = 3
"""Of the context beside an image."""


@keras.saving.register_keras_serializable("maml_tf")
class Context(layers.Layer):
    """Puts learned numbers beside every input: the context vector (Rei 2015).

    `[B, C] -> [B, C + size]`, the same numbers `[size]` for each example; an image
    `[B, H, W, C] -> [B, H, W, C + size]`, with numbers `[H, W, size]` of each place's own. They
    start at zero.
    """

    def __init__(self, size: int, **options):
        """Takes how many numbers, and Keras' own options of a layer."""
        super().__init__(**options)
        self.size = size

    def build(self, input_shape):
        """Makes the numbers."""
        shape = (*input_shape[1:-1], self.size)
        self.vector = self.add_weight(name="vector", shape=shape, initializer="zeros")

    def call(self, x):
        """Concatenates."""
        shape = (*ops.shape(x)[:-1], self.size)
        return ops.concatenate([x, ops.broadcast_to(ops.cast(self.vector, x.dtype), shape)], -1)

    def compute_output_shape(self, input_shape):
        """The last axis grows."""
        return (*input_shape[:-1], input_shape[-1] + self.size)

    def get_config(self):
        """What makes another like it."""
        return {**super().get_config(), "size": self.size}


def part_of(model: keras.Model, part: str) -> Callable[[keras.Variable], bool] | None:
    """Which weights of a network belong to one of its parts, as a learner's `adapts` takes it.

    Args:
      model: one of this module's networks, or any with a layer of the part's kind.
      part: "head", the layer of that name, whose adaptation alone is ANIL (Raghu et al. 2020);
        "body", what adapts by default but for the head's, which is BOIL (Oh et al. 2021);
        "context", every `Context`; or "all".

    Returns:
      `variable -> bool`; None for "all", a learner's own choice.

    Raises:
      ValueError: the part is unknown, or the network has none.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}; not {arguments.shown(part)}.")
    if part == "all":
        return None
    inside = list(model._flatten_layers())
    found = [
        layer
        for layer in inside
        if (isinstance(layer, Context) if part == "context" else layer.name == "head")
    ]
    if not found:
        what = "context" if part == "context" else "head"
        remedy = "context=True" if part == "context" else "its last layer name='head'"
        raise ValueError(f"The network '{model.name}' has no {what}; give it {remedy}.")
    if part == "body":
        found += [layer for layer in inside if isinstance(layer, NORMALIZATIONS)]
    named = {id(variable) for layer in found for variable in layer.trainable_variables}
    return lambda variable: (id(variable) in named) != (part == "body")


def dense_network(
    inputs: int | tuple[int, ...],
    outputs: int,
    hidden: tuple[int, ...] = (40, 40),
    *,
    norm: str = "none",
    context: bool = False,
    head_stddev: float | None = None,
    seed: int = 0,
) -> keras.Model:
    """Dense layers with ReLU: the sinusoid regressor, and Omniglot without convolution.

    Args:
      inputs: width of an example `[inputs]`, or its shape, which is flattened.
      outputs: width of the result: 1 for regression, N logits for classification.
      hidden: widths; (40, 40) for the sinusoid, (256, 128, 64, 64) for Omniglot.
      norm: after each hidden product: "batch_norm", "layer_norm" or "none".
      context: put a `Context` of five numbers beside the input.
      head_stddev: of the head's initial kernel, normal; None: as the other layers'.
      seed: of the initial weights: truncated normal of standard deviation 0.01, biases 0.

    Returns:
      A model `[B, *inputs] -> [B, outputs]`.

    Raises:
      ValueError: a size is no positive whole number, or another argument out of range.
    """
    if not isinstance(inputs, (tuple, list)):
        inputs = (arguments.count("inputs", inputs, 1),)
    shape, hidden = arguments.sizes("inputs", inputs), arguments.sizes("hidden", hidden)
    outputs = arguments.count("outputs", outputs, 1)
    _check(norm, head_stddev, seed)
    model = keras.Sequential([keras.Input(shape)], name="dense_network")
    if len(shape) > 1:
        model.add(layers.Flatten())
    if context:
        model.add(Context(CONTEXT_NUMBERS, name="context"))
    for index, width in enumerate(hidden):
        kernel = _small(seed, index)
        model.add(layers.Dense(width, kernel_initializer=kernel, name=f"dense_{index + 1}"))
        _normalize_and_activate(model, norm, index)
    model.add(_head(outputs, _small(seed, len(hidden)), head_stddev))
    return model


def conv_network(
    image_shape: tuple[int, int, int],
    ways: int,
    *,
    filters: int = 64,
    max_pool: bool = False,
    norm: str = "batch_norm",
    context: bool = False,
    head_stddev: float | None = None,
    seed: int = 0,
) -> keras.Model:
    """Four 3x3 convolutions, then a linear head (Vinyals et al. 2016; paper section 5.2).

    Args:
      image_shape: (height, width, channels), e.g. (28, 28, 1) or (84, 84, 3).
      ways: classes of a task, N.
      filters: 64 for Omniglot, 32 for MiniImagenet.
      max_pool: False: stride 2 and a mean over space before the head (Omniglot). True: stride 1,
        2x2 max-pooling after each block, a flattened head (MiniImagenet).
      norm: "batch_norm", "layer_norm" or "none".
      context: put a `Context` of three channels beside the image.
      head_stddev: of the head's initial kernel, normal; None: 1 after a mean over space, else
        Glorot uniform. 0.1 learns 20-way Omniglot faster than 1 (RESULTS.md).
      seed: of the initial weights: Glorot uniform kernels, biases 0.

    Returns:
      A model `[B, height, width, channels] -> [B, ways]` of logits.

    Raises:
      ValueError: a size is no positive whole number, or another argument out of range.
    """
    known: Any = image_shape
    if isinstance(image_shape, (tuple, list)):  # height and width may be known at run time alone
        known = tuple(16 if n is None else n for n in image_shape[:2]) + tuple(image_shape[2:])
    if len(arguments.sizes("image_shape", known)) != 3:
        raise ValueError(f"image_shape must be (height, width, channels), not {image_shape}.")
    if max_pool and min(known[:2]) < 16:
        raise ValueError(
            f"image_shape {tuple(image_shape)} is too small to be halved four times; give images "
            "of 16 x 16 or more, or max_pool=False."
        )
    ways, filters = arguments.count("ways", ways, 1), arguments.count("filters", filters, 1)
    _check(norm, head_stddev, seed)
    model = keras.Sequential([keras.Input(tuple(image_shape))], name="conv_network")
    if context:
        model.add(Context(CONTEXT_CHANNELS, name="context"))
    for index in range(4):
        model.add(
            layers.Conv2D(
                filters,
                3,
                strides=1 if max_pool else 2,
                padding="same",
                kernel_initializer=initializers.GlorotUniform(_layer_seed(seed, index)),
                name=f"conv_{index + 1}",
            )
        )
        _normalize_and_activate(model, norm, index)
        if max_pool:
            model.add(layers.MaxPooling2D(2, name=f"pool_{index + 1}"))
    model.add(layers.Flatten() if max_pool else layers.GlobalAveragePooling2D())
    head_seed = _layer_seed(seed, 4)
    wide = initializers.RandomNormal(stddev=1.0, seed=head_seed)
    usual = initializers.GlorotUniform(head_seed) if max_pool else wide
    model.add(_head(ways, usual, head_stddev))
    return model


def _check(norm: str, head_stddev: float | None, seed: int) -> None:
    """Checks what both networks take."""
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}; got '{norm}'.")
    if head_stddev is not None and arguments.number("head_stddev", head_stddev) < 0:
        raise ValueError(f"head_stddev must be 0 or more, not {head_stddev}.")
    arguments.whole("seed", seed)


def _head(width: int, usual: initializers.Initializer, stddev: float | None) -> layers.Dense:
    """The last layer, its kernel drawn by `usual` unless a standard deviation is given."""
    if stddev is not None:
        usual = initializers.RandomNormal(stddev=stddev, seed=usual.seed)
    return layers.Dense(width, kernel_initializer=usual, name="head")


def _small(seed: int, index: int) -> initializers.Initializer:
    return initializers.TruncatedNormal(stddev=0.01, seed=_layer_seed(seed, index))


def _layer_seed(seed: int, index: int) -> int:
    # A layer's own stream: equal shapes must not start equal.
    return 1000 * seed + index


def _normalize_and_activate(model: keras.Sequential, norm: str, index: int) -> None:
    name = f"norm_{index + 1}"
    if norm == "batch_norm":
        model.add(layers.BatchNormalization(scale=False, epsilon=1e-3, name=name))
    elif norm == "layer_norm":
        # One group: over height, width and channels, with one scale and offset per channel.
        model.add(layers.GroupNormalization(1, epsilon=1e-12, name=name))
    model.add(layers.ReLU(name=f"relu_{index + 1}"))
