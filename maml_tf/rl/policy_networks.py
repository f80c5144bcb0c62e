"""The networks of policies: the paper's, and what a user's own has to be.

A policy's network is a pure function of one observation: the same when it acts on few observations
and when its trajectories are weighed again in one large batch.
"""

from __future__ import annotations

import math

import keras
import tensorflow as tf
from keras import initializers, layers

from maml_tf import arguments
from maml_tf.engine.functional import functional
from maml_tf.engine.task_axis import lengths
from maml_tf.networks import CONTEXT_NUMBERS, Context
from maml_tf.rl.standardization import Standardize

_REFUSED = {
    layers.RNN: "a recurrent layer's output depends on the observations before, and a policy's on "
    "one; put the last few into the observation (gymnasium.wrappers.FrameStackObservation)",
    layers.BatchNormalization: "batch normalisation's output depends on the other observations of "
    "the batch, which are others when the policy acts; freeze it, or take LayerNormalization",
}
"""Layers that are no function of one observation, and why not."""


def dense(
    inputs: int,
    outputs: int,
    hidden: tuple[int, ...],
    seed: int,
    *,
    context: bool,
    head_stddev: float | None,
    standardize: bool,
    name: str,
) -> keras.Sequential:
    """The paper's network: ReLU layers and a linear one.

    Args:
      inputs: numbers of an observation.
      outputs: numbers that the head needs.
      hidden: widths of the ReLU layers.
      seed: seed of the Glorot uniform kernels; biases are 0.
      context: put a `Context` of five numbers beside the observation.
      head_stddev: of the linear layer's kernel, normal; None: Glorot uniform.
      standardize: begin with a `Standardize`.
      name: of the model.

    Raises:
      ValueError: a size is below 1.
    """
    hidden = arguments.sizes("hidden", hidden, -(10**9))
    sizes = (inputs, outputs, *hidden)
    if min(sizes) < 1:
        raise ValueError(f"Sizes of a policy must be 1 or more, not {sizes}.")
    if head_stddev is not None and arguments.number("head_stddev", head_stddev) < 0:
        raise ValueError(f"head_stddev must be 0 or more, not {head_stddev}.")
    model = keras.Sequential([keras.Input((inputs,))], name=name)
    if standardize:
        model.add(Standardize(name="standardize"))
    if context:
        model.add(Context(CONTEXT_NUMBERS, name="context"))
    for index, width in enumerate((*hidden, outputs)):
        last = index == len(hidden)
        kernel = initializers.GlorotUniform(1000 * seed + index)
        if last and head_stddev is not None:
            kernel = initializers.RandomNormal(0.0, head_stddev, 1000 * seed + index)
        model.add(
            layers.Dense(
                width,
                activation=None if last else "relu",
                kernel_initializer=kernel,
                name="head" if last else f"dense_{index + 1}",
            )
        )
    return model


def check(network: object, inputs: int, outputs: int) -> None:
    """Refuses a network that does not fit a policy, or is no function of one observation.

    Args:
      network: the user's.
      inputs: numbers of an observation.
      outputs: numbers that the head needs.

    Raises:
      ValueError: with the reason.
    """
    apply = functional(network)  # type: ignore[arg-type]
    assert isinstance(network, keras.Model)
    for layer in network._flatten_layers():
        _check_layer(network, layer)
    shape = input_shape(network)
    if math.prod(shape) != inputs:
        raise ValueError(
            f"'{network.name}' takes {shape}, {math.prod(shape)} numbers, and an observation has "
            f"{inputs}; give it an Input of as many."
        )
    weights = [tf.convert_to_tensor(v.value) for v in network.trainable_variables]
    if others := {w.dtype.name for w in weights} - {keras.config.floatx()}:
        raise ValueError(
            f"'{network.name}' has weights in {others.pop()}, and trajectories are in "
            f"{keras.config.floatx()}; make its layers in that, or let them compute in another by "
            "a mixed dtype policy."
        )
    result = apply.run(weights, shaped(network, tf.zeros([1, 2, inputs], _dtype(network))))
    given = result.outputs
    if result.penalty is not None:
        raise ValueError(
            f"'{network.name}' has a regulariser or adds a loss, and what a policy learns by is a "
            "return; drop it."
        )
    found = tuple(given.shape[2:]) if tf.is_tensor(given) else None
    if found != (outputs,):
        what = "several outputs" if found is None else f"{found} numbers"
        raise ValueError(
            f"'{network.name}' gives {what} for an observation, and the actions need ({outputs},); "
            f"end it with Dense({outputs})."
        )


def standardizer(network: keras.Model) -> Standardize | None:
    """The layer that standardizes the observations, if there is one.

    Raises:
      ValueError: it is not the first one, so that observations do not enter it.
    """
    found = [layer for layer in network._flatten_layers() if isinstance(layer, Standardize)]
    if not found:
        return None
    kept = [layer for layer in network.layers if not isinstance(layer, layers.InputLayer)]
    if len(found) > 1 or kept[0] is not found[0]:
        raise ValueError(
            f"'{network.name}' has a Standardize that is not its first layer; put it there, once."
        )
    return found[0]


def _check_layer(network: keras.Model, layer: keras.Layer) -> None:
    for kind, reason in _REFUSED.items():
        frozen = isinstance(layer, layers.BatchNormalization) and not layer.trainable
        if isinstance(layer, kind) and not frozen:
            raise ValueError(f"'{network.name}' has the layer '{layer.name}': {reason}.")
    if getattr(layer, "_seed_generators", None) or getattr(layer, "seed_generator", None):
        raise ValueError(
            f"'{network.name}' has the layer '{layer.name}', which draws random numbers: those of "
            "acting would not be those of the update, and their ratio is what is learned from; "
            "drop it."
        )


def input_shape(network: keras.Model) -> tuple[int, ...]:
    """The shape of one observation as a network takes it.

    Raises:
      ValueError: it takes several inputs, or does not say which shape.
    """
    shape = getattr(network, "input_shape", None)
    if shape is None:
        shape = (network.get_build_config() or {}).get("input_shape")
    sizes = tuple(shape[1:]) if isinstance(shape, (tuple, list)) else (None,)
    if not all(isinstance(size, int) for size in sizes):
        raise ValueError(
            f"'{network.name}' does not take one input of a known shape ({shape}); build it with "
            "the shape of one observation."
        )
    return sizes


def shaped(network: keras.Model, observations: tf.Tensor) -> tf.Tensor:
    """Observations `[T, L, O]` as a user's network takes them, `[T, L, ...]`."""
    observations = tf.cast(observations, _dtype(network))
    return tf.reshape(observations, [*lengths(observations)[:2], *input_shape(network)])


def _dtype(network: keras.Model) -> str:
    return keras.backend.standardize_dtype(network.trainable_variables[0].dtype)
