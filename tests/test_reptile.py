"""Reptile: the way that the inner steps went, by hand and by Keras, one task at a time."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import normal, random_task, randomize, resumes_bit_for_bit
from keras import layers
from test_meta_learner import ALPHA, SIZE, B, T, few_shot, quadratic

from maml_tf import Reptile, evaluate, export, losses, train
from maml_tf.networks import conv_network, dense_network
from maml_tf.supervised.reptile import ReptileGradient
from maml_tf.tasks import Sinusoid

TASKS = Sinusoid(shots=5)


def one_of(task, t):
    return tf.nest.map_structure(lambda a: a[t : t + 1], task)


def assert_same(got, expected, **tolerance):
    for one, other in zip(tf.nest.flatten(got), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(one, other, **tolerance)


# --- a linear model, whose inner steps are done by hand ---


def linear(**options):
    dense = layers.Dense(1, use_bias=False)
    model = randomize(keras.Sequential([keras.Input([SIZE]), dense]))
    options = {"step_size": ALPHA, "meta_batch_size": T, "inner_steps": 4, **options}
    return Reptile(model, losses.mean_squared_error, **options)


def way_by_hand(w, task, t, steps):
    """What descent of the mean squared error on task t's support set moves w by, negated."""
    hessian, b = quadratic(task.support, t)
    moved = w
    for _ in range(steps):
        moved = moved - ALPHA * (hessian @ moved - b)
    return w - moved


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("options", [{}, {"pieces": 3}, {"jit_compile": True}], ids=str)
@pytest.mark.cases(3)
def test_the_gradient_is_theta_less_what_descent_makes_of_it(float64, steps, options):
    learner = linear(inner_steps=steps, **options)
    task = random_task(learner.model, T, B)
    w = learner.initial_weights()[0].numpy()[:, 0]
    each = [way_by_hand(w, task, t, steps) for t in range(T)]
    for t in range(T):
        alone, _ = linear(inner_steps=steps).meta_gradient(one_of(task, t))
        np.testing.assert_allclose(alone[0][:, 0], each[t], rtol=1e-10)
    (gradient,), _ = learner.meta_gradient(task)
    np.testing.assert_allclose(gradient[:, 0], np.mean(each, 0), rtol=1e-10)


def test_the_query_set_moves_nothing_and_is_what_is_measured(float64):
    learner = linear()
    task = random_task(learner.model, T, B)
    other = task._replace(query=random_task(learner.model, T, 2 * B, seed=7).query)
    (one, seen), (two, seen_too) = (learner.meta_gradient(t) for t in (task, other))
    np.testing.assert_array_equal(one[0], two[0])
    path, before = learner.adapt_weights(task.support, 4)
    np.testing.assert_allclose(seen.support_loss, tf.reduce_mean(before, -1), rtol=1e-10)
    after = tf.reduce_mean(learner.task_loss(path[-1], task.query))
    np.testing.assert_allclose(seen.query_loss, after, rtol=1e-10)
    assert abs(seen.query_loss - seen_too.query_loss) > 1e-3


def test_one_step_is_the_gradient_of_the_support_loss(float64):
    learner = linear(inner_steps=1)
    task = random_task(learner.model, T, B)
    w = learner.initial_weights()[0].numpy()[:, 0]
    slopes = [h @ w - b for h, b in (quadratic(task.support, t) for t in range(T))]
    (gradient,), _ = learner.meta_gradient(task)
    np.testing.assert_allclose(gradient[:, 0], ALPHA * np.mean(slopes, 0), rtol=1e-10)


def test_a_meta_step_of_descent_is_the_papers_interpolation():
    """Algorithm 2: theta + epsilon times the mean of theta' - theta."""
    learner = linear(optimizer=keras.optimizers.SGD(0.25))
    task = random_task(learner.model, T, B)
    before = learner.initial_weights()[0].numpy()[:, 0]
    towards = -np.mean([way_by_hand(before, task, t, 4) for t in range(T)], 0)
    learner.meta_steps([task, task], 0, 1)
    got = learner.initial_weights()[0].numpy()[:, 0]
    np.testing.assert_allclose(got, before + 0.25 * towards, rtol=1e-4)


# --- any model, against Keras' own training step, one task at a time ---


def functional():
    x = keras.Input([4])
    h = layers.BatchNormalization()(layers.Dense(6, "tanh")(x))
    return keras.Model(x, layers.Dense(3)(layers.Concatenate()([h, x])))


MODELS = {
    "sequential": (lambda: dense_network(4, 3, (6,)), (4,)),
    "functional, batch normalisation": (functional, (4,)),
    "convolutional, batch normalisation": (
        lambda: conv_network((8, 8, 1), 3, filters=3),
        (8, 8, 1),
    ),
}


def trained_by_keras(model, x, y, steps, optimizer):
    """A model's trainable weights after `steps` of an optimizer of Keras on one set."""
    theta = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
    weights = [keras.Variable(w, dtype="float64") for w in theta]
    frozen = [v.value for v in model.non_trainable_variables]
    for _ in range(steps):
        values = [tf.convert_to_tensor(w.value) for w in weights]
        with tf.GradientTape() as tape:
            tape.watch(values)
            outputs, _ = model.stateless_call(values, frozen, x, training=True)
            crosses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, outputs)
            loss = tf.reduce_mean(crosses)
        optimizer.apply(tape.gradient(loss, values), weights)
    return theta, weights


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("inner", ["sgd", "momentum"])
@pytest.mark.cases(1)
def test_the_gradient_is_the_mean_way_of_kerass_own_training(float64, name, inner):
    make_model, shape = MODELS[name]
    model = randomize(make_model())
    options = {"step_size": 0.1, "inner_steps": 3, "meta_batch_size": 4}
    learner = Reptile(model, losses.cross_entropy, inner_optimizer=inner, **options)
    assert all(learner.adapts)  # also scale and offset of normalisations
    task = few_shot(shape=shape)
    ways = []
    for t in range(4):
        momentum = 0.9 if inner == "momentum" else 0.0
        keras_own = keras.optimizers.SGD(0.1, momentum=momentum)
        theta, after = trained_by_keras(model, task.support.x[t], task.support.y[t], 3, keras_own)
        ways.append([a - b.value for a, b in zip(theta, after, strict=True)])
    gradient, _ = learner.meta_gradient(task)
    # Keras' learning rate is a float32.
    assert_same(
        gradient, [np.mean(way, 0) for way in zip(*ways, strict=True)], rtol=1e-5, atol=1e-9
    )
    alone = [learner.meta_gradient(one_of(task, t)) for t in range(4)]
    mean = tf.nest.map_structure(lambda *each: tf.add_n(each) / 4, *alone)
    assert_same(learner.meta_gradient(task), mean, rtol=1e-9, atol=1e-12)


def test_weights_of_low_rank_are_the_same(float64):
    """A wide network, whose kernels are kept as a shared one and factors."""
    model = randomize(dense_network(40, 30, (50,)))
    options = {"step_size": 0.05, "inner_steps": 2, "meta_batch_size": T}
    learner = Reptile(model, losses.mean_squared_error, **options)
    task = random_task(model, T, 2)
    path = learner.adapt_weights(task.support, 2).weights
    expected = [tf.reduce_mean(a - b, 0) for a, b in zip(path[0], path[-1], strict=True)]
    assert_same(learner.meta_gradient(task)[0], expected, rtol=1e-9, atol=1e-12)


def test_dropout_and_a_loss_scale(float64):
    parts = [layers.Dense(8, "relu"), layers.Dropout(0.5), layers.Dense(1)]
    model = randomize(keras.Sequential([keras.Input([2]), *parts]))
    options = {"step_size": 0.1, "inner_steps": 2, "meta_batch_size": T, "dropout": "per_step"}
    learner = Reptile(model, losses.mean_squared_error, **options)
    task, first = random_task(model, T, B), tf.constant(0, tf.int64)
    plain, noisy = learner.meta_gradient(task)[0], learner.meta_gradient(task, first)[0]
    assert not np.allclose(plain[0], noisy[0], rtol=1e-2)
    scaled, _ = learner.meta_gradient(task, first, tf.constant(8.0, tf.float64))
    assert_same(scaled, [8 * g for g in noisy], rtol=1e-12)


# --- training, resuming, exporting ---


def sine_learner(**options):
    options = {"inner_steps": 3, "meta_batch_size": 4, **options}
    return Reptile(dense_network(1, 1, (6,), seed=1), losses.mean_squared_error, **options)


@pytest.mark.slow
def test_a_run_resumes_bit_for_bit_and_is_no_other_methods(tmp_path):
    resumes_bit_for_bit(sine_learner, TASKS, tmp_path)
    with pytest.raises(ValueError, match="inner_steps=3, now 4"):
        train(sine_learner(inner_steps=4), TASKS, iterations=7, logdir=tmp_path / "straight")


def test_it_learns_and_an_export_adapts_as_it_does(tmp_path):
    learner = sine_learner(optimizer=keras.optimizers.Adam(0.01), step_size=0.02, jit_compile=True)
    held_out = Sinusoid(shots=5, split="val")
    before = evaluate(learner, held_out, num_tasks=96, steps=3).mean[-1]
    train(learner, TASKS, iterations=200, progress=False)
    assert evaluate(learner, held_out, num_tasks=96, steps=3).mean[-1] < before - 0.1
    export(learner, tmp_path / "it")
    served = tf.saved_model.load(str(tmp_path / "it"))
    task = TASKS(tf.constant(0), 1)
    weights = learner.adapt_weights(task.support, 3).weights[-1]
    expected = learner.predict(weights, task.support, task.query.x)[0]
    got = served.adapt_and_predict(task.support.x[0], task.support.y[0], task.query.x[0])
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_a_batch_normalisation_that_adapts_does_so_in_a_copy_too():
    model = randomize(functional())
    learner = Reptile(model, losses.cross_entropy, step_size=0.3, inner_steps=2)
    x, y = normal(1, 6, 4), np.array([0, 1, 2] * 2)
    copy = learner.adapt(x, y)
    assert isinstance(learner._gradient, ReptileGradient)
    for own, adapted in zip(model.trainable_variables, copy.trainable_variables, strict=True):
        assert np.abs(own.numpy() - adapted.numpy()).max() > 1e-6, own.path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learn_step_size": True}, "Reptile learns no step sizes; drop learn_step_size"),
        ({"multi_step_loss": 3}, "Reptile learns from no query loss; drop multi_step_loss"),
        ({"query_weight": 2.0}, "Reptile learns from no query loss; drop query_weight"),
        ({"second_order_after": 3}, "Reptile has no second derivatives; drop second_order_after"),
        ({"first_order": False}, "Reptile has no second derivatives; drop first_order=False"),
        ({"inner_steps": 0}, "Reptile learns from inner steps, and inner_steps is 0; give some"),
        ({"adapts": lambda v: "head" in v.path}, "only what its inner steps move; drop adapts"),
    ],
)
@pytest.mark.cases(3)
def test_what_does_not_go_with_it(options, message):
    with pytest.raises(ValueError, match=message):
        sine_learner(**options)
    (name,) = options
    if name not in ("adapts", "learn_step_size"):
        learner = sine_learner()
        with pytest.raises(ValueError, match=message):
            setattr(learner, name, options[name])
        learner.meta_steps(TASKS, 0, 1)


def test_nor_batch_normalisation_per_step():
    model = dense_network(1, 1, (4,), norm="batch_norm")
    with pytest.raises(ValueError, match="only what its inner steps move; drop per_step_norm"):
        Reptile(model, "mse", per_step_normalization=True)
