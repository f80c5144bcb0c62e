"""Factored weights against the stacked matrices that they stand for, in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_is_the_derivative, meta_objective, normal, random_task, randomize
from keras import layers

from maml_tf import MetaLearner, adapt, losses, stack
from maml_tf.engine import fast_weights
from maml_tf.engine.adaptation import fast, gradient_step
from maml_tf.engine.fast_weights import FastWeight, multiply

pytestmark = pytest.mark.usefixtures("float64")

T, B, IN, OUT = 2, 3, 8, 6


@pytest.fixture(params=["factors", "matrices"])
def kept(request, monkeypatch):
    """Both ways to hold a weight after a step, whatever would pay."""
    share = {"factors": 1e9, "matrices": 0.0}[request.param]
    monkeypatch.setattr(fast_weights, "WORTHWHILE", share)
    return request.param


def dense():
    return keras.Sequential(
        [keras.Input([IN]), layers.Dense(OUT, activation="tanh"), layers.Dense(3, use_bias=False)]
    )


def convolutional():
    return keras.Sequential(
        [
            keras.Input([5, 4, 2]),
            layers.Conv2D(3, 3, padding="same", activation="tanh"),
            layers.Conv2D(2, 2, strides=2, activation="tanh"),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )


def used_twice():
    x = keras.Input([IN])
    twice = layers.Dense(IN, activation="tanh")
    return keras.Model(x, layers.Dense(2)(twice(twice(x))))


@keras.saving.register_keras_serializable("tests")
class Gram(layers.Layer):
    """Reads a matrix as a whole, without a rule."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=[shape[-1], 3])

    def call(self, x):
        return tf.tanh(x @ self.kernel) @ tf.transpose(self.kernel)


def without_rule():
    return keras.Sequential([keras.Input([IN]), layers.Dense(OUT), Gram(), layers.Dense(2)])


MODELS = (dense, convolutional, used_twice, without_rule)


def both_ways(model, steps=3, **options):
    """Query loss and its gradient, once from stacked and once from fast weights."""
    learner = MetaLearner(randomize(model), losses.mean_squared_error)
    task = random_task(model)
    for begin in (stack, fast):
        weights = learner.initial_weights()
        with tf.GradientTape() as tape:
            tape.watch(weights)
            path = adapt(
                learner.task_loss,
                begin(weights, T, None),
                [task.support] * steps,
                **{"step_size": 0.3, **options},
            ).weights
            loss = tf.reduce_sum(learner.task_loss(path[-1], task.query))
        yield loss, tape.gradient(loss, weights), path


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.cases(6)
def test_fast_weights_give_the_losses_and_gradients_of_stacked_ones(kept, model, first_order):
    (expected, gradient, _), (got, fast_gradient, path) = both_ways(
        model(), first_order=first_order
    )
    np.testing.assert_allclose(got, expected, rtol=1e-10)
    for a, b in zip(fast_gradient, gradient, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)
    assert isinstance(path[-1][0], FastWeight) is (kept == "factors")


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)
@pytest.mark.cases(2)
def test_the_meta_gradient_is_the_derivative(kept, model):
    learner = MetaLearner(
        randomize(model()), losses.mean_squared_error, step_size=0.3, inner_steps=2
    )
    task = random_task(learner.model)
    gradient, _ = learner.meta_gradient(task)
    names = [v.path for v in learner.model.trainable_variables]
    objective = meta_objective(learner, task)  # of stacked weights
    assert_is_the_derivative(gradient, objective, learner.initial_weights(), names, rtol=1e-4)


def test_a_step_size_for_each_number_makes_the_matrices(kept):
    model = dense()
    alphas = [0.1 + tf.abs(normal(7, *v.shape)) for v in model.trainable_variables]
    (expected, *_), (got, _, path) = both_ways(model, step_size=alphas)
    np.testing.assert_allclose(got, expected, rtol=1e-10)
    assert not isinstance(path[-1][0], FastWeight)


def test_factors_give_way_to_matrices_where_they_hold_more_numbers(monkeypatch):
    monkeypatch.setattr(fast_weights, "WORTHWHILE", 1.0)
    rank = IN * OUT // (IN + OUT)  # 3, and B = 3 examples a step
    assert rank == B
    _, (*_, path) = both_ways(dense(), steps=2)
    first = [weights[0] for weights in path]
    assert [isinstance(w, FastWeight) for w in first] == [True, True, False]
    assert first[1].left.shape == (T, rank, IN) and first[2].shape == (T, IN, OUT)


def test_an_unknown_number_of_examples_makes_the_matrices(kept):
    shared = normal(0, IN, OUT)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([T, None, IN], tf.float64)])
    def step(x):
        def loss(weights, x):
            return tf.reduce_sum(multiply(x, weights[0]) ** 2, [1, 2])

        return gradient_step(loss, fast([shared], T, None), x, step_size=0.1)[0][0]

    x = normal(1, T, B, IN)
    expected = [shared - 0.2 * tf.transpose(t) @ t @ shared for t in x]
    np.testing.assert_allclose(step(x), expected, rtol=1e-12)


def test_a_weight_that_the_loss_does_not_read_stays(kept):
    weights = fast([normal(0, IN, OUT), normal(1, OUT, 2)], T, None)
    x = normal(2, T, B, IN)

    def loss(weights, x):
        return tf.reduce_sum(multiply(x, weights[0]), [1, 2])

    (used, unused), _ = gradient_step(loss, weights, x, step_size=0.1)
    assert isinstance(unused, FastWeight) and unused.left is None
    value = used.stacked() if isinstance(used, FastWeight) else used
    expected = [normal(0, IN, OUT) - 0.1 * tf.reduce_sum(t, 0)[:, None] for t in x]
    np.testing.assert_allclose(value, expected, rtol=1e-12)
