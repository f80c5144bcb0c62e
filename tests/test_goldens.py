"""The numbers of the original program's graph, with fixed weights and data.

Keys of the files: `support_x`, `support_y`, `query_x`, `query_y`; `w/<name>` the weights;
`losses[j]` and `accuracies[j]` after j inner steps, on the support set for j = 0 and on the query
set after; `g/<name>` the second-order meta-gradient of `losses[1]`.

The original's batch normalisation takes its moments from `tf.nn.moments`, which holds the mean
constant inside the variance. That is right for one derivative, for the mean's part of it is zero,
and wrong for two, for the derivative of that zero is not. So its meta-gradient is not the
derivative of its meta-objective. Two tests show it: with such moments this package gives the
original's gradient to the last digit, and with its own it gives the true one.
"""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import central_difference, meta_objective
from keras import layers

from maml_tf import Batch, MetaLearner, Task, losses, stacked
from maml_tf.networks import conv_network, dense_network

DATA = pathlib.Path(__file__).parent / "data"
CONVOLUTIONS = [
    name for i in (1, 2, 3, 4) for name in (f"conv{i}", f"b{i}", f"model/{i - 1}/beta:0")
]
NAMES = {
    "sine": ["w1", "b1", "w2", "b2", "w3", "b3"],
    "omni5": [*CONVOLUTIONS, "w5", "b5"],
}


class Golden:
    """One file: its task, and a learner with its weights."""

    def __init__(self, name):
        with np.load(DATA / f"{name}.npz") as file:
            arrays = dict(file)
        self.names = NAMES[name]
        self.losses, self.accuracies = arrays["losses"], arrays["accuracies"]
        self.gradient = {key: arrays[f"g/{key}"] for key in self.names}
        sets = [[arrays[f"{part}_x"], arrays[f"{part}_y"]] for part in ("support", "query")]
        if name == "sine":
            model, loss, step_size = dense_network(1, 1), losses.mean_squared_error, 0.001
        else:
            model, loss, step_size = conv_network((28, 28, 1), 5), losses.summed_cross_entropy, 0.4
            sets = [[x.reshape(3, 5, 28, 28, 1), y.argmax(-1)] for x, y in sets]
        for variable, key in zip(model.trainable_variables, self.names, strict=True):
            variable.assign(arrays[f"w/{key}"])
        real = keras.config.floatx()
        self.task = Task(*(Batch(tf.constant(x, real), tf.constant(y)) for x, y in sets))
        self.learner = MetaLearner(model, loss, step_size=step_size, meta_batch_size=3)

    def meta_gradient(self):
        gradient, metrics = self.learner.meta_gradient(self.task)
        return dict(zip(self.names, gradient, strict=True)), metrics


def relative_error(got, expected):
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


def curve(golden, metric):
    """`metric` before any step on the support set, then after each step on the query set."""
    steps = len(golden.losses) - 1
    learner, (support, query) = golden.learner, golden.task
    path = learner.adapt_weights(support, steps).weights
    sets = [support] + [query] * steps
    return [
        tf.reduce_mean(metric(learner.apply(weights, batch.x), batch.y))
        for weights, batch in zip(path, sets, strict=True)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_losses(name):
    golden = Golden(name)
    np.testing.assert_allclose(curve(golden, golden.learner.loss), golden.losses, rtol=1e-4)


def test_accuracies():
    golden = Golden("omni5")
    np.testing.assert_allclose(curve(golden, losses.accuracy), golden.accuracies, rtol=1e-4)


def test_metrics_of_the_meta_step():
    golden = Golden("omni5")
    _, metrics = golden.meta_gradient()
    np.testing.assert_allclose(metrics.support_loss, golden.losses[:1], rtol=1e-4)
    np.testing.assert_allclose(metrics.query_loss, golden.losses[1], rtol=1e-4)
    np.testing.assert_allclose(metrics.query_metric, golden.accuracies[1], rtol=1e-4)


def test_sinusoid_meta_gradient():
    golden = Golden("sine")
    gradient, _ = golden.meta_gradient()
    for key, expected in golden.gradient.items():
        assert relative_error(gradient[key], expected) < 5e-4, key


@pytest.fixture
def the_originals_moments():
    """Batch normalisation by `tf.nn.moments`, for one test."""
    ours = stacked.registry[layers.BatchNormalization]

    def theirs(layer, x, run):
        mean, variance = tf.nn.moments(x, list(range(1, x.shape.rank - 1)), keepdims=True)
        offset = run.aligned(layer.beta, x)
        return tf.nn.batch_normalization(x, mean, variance, offset, None, layer.epsilon)

    stacked.register(layers.BatchNormalization, theirs)
    yield
    stacked.register(layers.BatchNormalization, ours)


def test_omniglot_meta_gradient_with_the_originals_moments(the_originals_moments):
    """Everything else is the original's: each weight's gradient agrees to 5e-4."""
    golden = Golden("omni5")
    gradient, _ = golden.meta_gradient()
    for key, expected in golden.gradient.items():
        assert relative_error(gradient[key], expected) < 5e-4, key


def test_omniglot_meta_gradient_is_the_derivative_and_the_originals_is_not(float64):
    """Central differences in float64, along the direction in which the two differ most.

    For d = (g - ours) / |g - ours| the two derivatives <g, d> and <ours, d> differ by |g - ours|.
    """
    golden = Golden("omni5")
    gradient, _ = golden.meta_gradient()
    objective = meta_objective(golden.learner, golden.task)
    weights = golden.learner.initial_weights()
    for key in ("conv1", "conv2", "conv3", "conv4"):
        ours, theirs = gradient[key], tf.constant(golden.gradient[key], tf.float64)
        distance = tf.norm(theirs - ours)
        direction = (theirs - ours) / distance
        index = golden.names.index(key)
        true = central_difference(objective, weights, index, direction)
        assert abs(true - tf.reduce_sum(ours * direction)) < 1e-5 * distance, key
        assert abs(true - tf.reduce_sum(theirs * direction)) > 0.99 * distance, key
        assert distance > 0.01 * tf.norm(ours), key


def test_a_bias_before_batch_normalisation_cannot_matter_yet_does_in_the_original(float64):
    """A constant added before the mean is subtracted changes no loss: its derivative is zero."""
    golden = Golden("omni5")
    gradient, _ = golden.meta_gradient()
    for key in ("b1", "b2", "b3", "b4"):
        assert np.abs(gradient[key]).max() < 1e-10
        assert np.abs(golden.gradient[key]).max() > 1e-3
