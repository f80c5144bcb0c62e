"""The fall-back maps what `tf.vectorized_map` would get wrong."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import normal, one_task_at_a_time, own_weights
from keras import layers, ops

from maml_tf import functional

FUNCTIONS = {
    "padded with ones": lambda x: ops.pad(x, [[0, 0], [1, 0], [0, 2]], constant_values=1.0),
    "padded with zeros": lambda x: tf.pad(x, [[0, 0], [1, 0], [0, 2]]),
    "padded by TensorFlow": lambda x: tf.pad(x, [[0, 0], [1, 0], [0, 2]], constant_values=-2),
    "mirrored": lambda x: tf.pad(x, [[0, 0], [1, 0], [0, 2]], "REFLECT"),
    "rolled": lambda x: ops.roll(x, 1, axis=-1),
    "rolled in two axes": lambda x: tf.roll(x, [1, 2], [-1, 1]),
    "rolled in time": lambda x: tf.roll(x, shift=1, axis=1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_gives_each_task_what_it_gives_alone(name):
    parts = [layers.Dense(3), layers.Lambda(FUNCTIONS[name]), layers.Flatten(), layers.Dense(2)]
    model = keras.Sequential([keras.Input([4, 3]), *parts])
    x, weights = normal(0, 2, 3, 4, 3), own_weights(model, 2)
    expected = one_task_at_a_time(model, weights, x)
    np.testing.assert_allclose(functional(model)(weights, x), expected, atol=1e-5)


@pytest.mark.parametrize(
    "function",
    [
        functools.partial(tf.pad, paddings=[[1, 1], [0, 0]], constant_values=1.0),
        functools.partial(tf.roll, shift=1, axis=-1),
    ],
)
def test_tensorflow_still_needs_the_mend(function):
    x = normal(0, 2, 3, 4)
    mapped, alone = tf.vectorized_map(function, x), tf.stack([function(a) for a in x])
    assert np.any(np.abs(mapped - alone) > 0.1)
