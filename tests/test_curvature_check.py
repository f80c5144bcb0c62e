"""Second derivatives of layers of one's own, against numerical ones."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import normal, randomize
from keras import layers, ops

from maml_tf import functional
from maml_tf.engine.curvature_check import warn_of_curvature


def curvature_warnings(*parts, shape=(4,), example=None):
    model = randomize(keras.Sequential([keras.Input(shape), *parts]))
    weights = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
    x = normal(0, 2, 3, *shape) if example is None else example
    return warn_of_curvature(functional(model), weights, x)


class Weighted(layers.Layer):
    """A layer with one weight; `act` is what it does besides."""

    act = staticmethod(ops.tanh)

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name="scale")

    def call(self, x):
        return self.act(x * self.scale)


class Stopped(Weighted):
    @staticmethod
    def act(h):
        return h / tf.stop_gradient(1.0 + tf.square(h))


class Replaced(Weighted):
    @staticmethod
    @tf.custom_gradient
    def act(h):
        y = tf.tanh(h)
        return y, lambda upstream: upstream * (1 - tf.stop_gradient(y) ** 2)


class Normalised(Weighted):
    """By Keras' moments, which are exact here."""

    @staticmethod
    def act(h):
        mean, variance = ops.moments(h, axes=[-1], keepdims=True)
        return (h - mean) * ops.rsqrt(variance + 0.1)


class Kinked(Weighted):
    act = staticmethod(ops.relu)


@pytest.mark.parametrize("kind", [Stopped, Replaced])
def test_a_gradient_that_is_stopped_or_replaced_is_told(kind):
    (warning,) = curvature_warnings(layers.Dense(3), kind())
    assert f"({kind.__name__}) is off by" in warning and "first_order=True" in warning


@pytest.mark.parametrize(
    "part",
    [Weighted, Normalised, Kinked, lambda: layers.SpectralNormalization(layers.Dense(2))],
)
def test_an_exact_one_is_not_warned_of(part):
    assert curvature_warnings(layers.Dense(3), part()) == []


def test_a_layer_of_words_is_tried_by_its_weights():
    class Table(layers.Layer):
        def build(self, shape):
            self.table = self.add_weight(shape=(5, 3))

        def call(self, x):
            return ops.tanh(ops.take(self.table, ops.cast(x, "int32"), axis=0))

    words = tf.constant(np.random.default_rng(0).integers(0, 5, [2, 3, 4]), tf.float32)
    assert curvature_warnings(Table(), example=words) == []


def test_layers_with_rules_cost_nothing():
    model = keras.Sequential([keras.Input([4]), layers.Dense(2)])
    assert functional(model).fall_backs([v.value for v in model.trainable_variables], None) == []
