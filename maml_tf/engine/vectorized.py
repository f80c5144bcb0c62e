"""What `tf.vectorized_map` computes otherwise than the function that it maps, put right.

Of the operations that it knows, two came out wrong in silence (122 were tried): `tf.pad` fills with
zeros whatever it is given, and `tf.roll` along an axis counted from the end takes its neighbour.
"""

from __future__ import annotations

import contextlib

import tensorflow as tf

from maml_tf.engine.patching import Replacement

_pad, _roll = tf.pad, tf.roll


def exact_mapping() -> contextlib.AbstractContextManager[None]:
    """While code of others is traced to be mapped: such operations are made of others."""
    return _EXACT_MAPPING.inside()


def pad(tensor, paddings, mode="CONSTANT", constant_values=0, name=None):
    """`tf.pad`, right within `tf.vectorized_map`."""
    zeros = not tf.is_tensor(constant_values) and constant_values == 0
    if mode.upper() != "CONSTANT" or zeros:
        return _pad(tensor, paddings, mode, constant_values, name)
    tensor = tf.convert_to_tensor(tensor)
    inside = _pad(tf.ones_like(tensor, tf.bool), paddings)
    value = tf.cast(constant_values, tensor.dtype)
    return tf.where(inside, _pad(tensor, paddings), value, name)


def roll(input, shift, axis, name=None):
    """`tf.roll`, right within `tf.vectorized_map`."""
    tensor = tf.convert_to_tensor(input)
    if not tf.is_tensor(axis):
        axis = tf.nest.map_structure(lambda a: a % tensor.shape.rank, axis)
    return _roll(tensor, shift, axis, name)


_EXACT_MAPPING = Replacement((tf, "pad", pad), (tf, "roll", roll))
