"""Implicit MAML: the meta-gradient of a quadratic in closed form, and by central differences."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import (
    assert_is_the_derivative,
    normal,
    random_task,
    randomize,
    resumes_bit_for_bit,
    slow,
    slow_but,
    values,
)
from keras import layers
from test_meta_learner import B, T, few_shot, quadratic

from maml_tf import ImplicitMAML, adapt, evaluate, export, losses, train
from maml_tf.networks import conv_network, dense_network
from maml_tf.supervised.imaml import Proximal, slope_products
from maml_tf.tasks import Sinusoid

LAMBDA, ALPHA, STEPS, SIZE = 3.0, 0.14, 60, 6
TASKS = Sinusoid(shots=5)


def one_of(task, t):
    return tf.nest.map_structure(lambda a: a[t : t + 1], task)


def assert_same(got, expected, **tolerance):
    for one, other in zip(tf.nest.flatten(got), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(one, other, **tolerance)


# --- the inner steps ---


def test_steps_descend_the_regularised_loss(float64):
    theta = normal(1, T, SIZE)
    centre = normal(2, T, SIZE)
    loss = lambda w, c: tf.reduce_sum(tf.sin(w[0] - c), -1)  # noqa: E731
    path = adapt(loss, [theta], [centre] * 5, step_size=0.1, optimizer=Proximal(LAMBDA)).weights
    phi = theta
    for (got,) in path:
        np.testing.assert_allclose(got, phi, rtol=1e-12)
        with tf.GradientTape() as tape:
            tape.watch(phi)
            pull = LAMBDA / 2 * tf.reduce_sum(tf.square(phi - theta), -1)
            total = tf.reduce_sum(loss([phi], centre) + pull)
        phi = phi - 0.1 * tape.gradient(total, phi)


# --- linear regression, whose inner problem has a closed solution ---


def linear(**options):
    dense = layers.Dense(1, use_bias=False)
    model = randomize(keras.Sequential([keras.Input([SIZE]), dense]))
    options = {"step_size": ALPHA, "inner_steps": STEPS, "imaml_lambda": LAMBDA, **options}
    options = {"cg_steps": SIZE, "meta_batch_size": T, **options}
    return ImplicitMAML(model, losses.mean_squared_error, **options)


def closed_form(theta, task, t):
    """phi, and (I + H / lambda)^-1 times the query loss's gradient there, of one task."""
    (hessian, b), (query_hessian, query_b) = (quadratic(s, t) for s in task)
    phi = np.linalg.solve(hessian + LAMBDA * np.eye(SIZE), b + LAMBDA * theta)
    of_query = query_hessian @ phi - query_b
    return phi, np.linalg.solve(np.eye(SIZE) + hessian / LAMBDA, of_query)


HOW = [{}, {"pieces": 3}, {"jit_compile": True}, {"query_weight": 3.0}]


@pytest.mark.parametrize("options", HOW, ids=str)
@pytest.mark.cases(2)
def test_the_meta_gradient_of_a_quadratic(float64, options):
    learner, one = linear(**options), linear()
    task = random_task(learner.model, T, B)
    theta = learner.initial_weights()[0].numpy()[:, 0]
    adapted = learner.adapt_weights(task.support, STEPS).weights[-1][0]
    each = []
    for t in range(T):
        phi, gradient = closed_form(theta, task, t)
        np.testing.assert_allclose(adapted[t, :, 0], phi, rtol=1e-9)
        alone, _ = one.meta_gradient(one_of(task, t))
        np.testing.assert_allclose(alone[0][:, 0], gradient, rtol=1e-9)
        each.append(gradient)
    (gradient,), _ = learner.meta_gradient(task)
    weight = options.get("query_weight", 1.0)
    np.testing.assert_allclose(gradient[:, 0], weight * np.mean(each, 0), rtol=1e-9)


def test_it_is_the_derivative_of_the_query_loss_at_the_solution(float64):
    """By theta, from values of the closed form alone."""
    learner = linear()
    task = random_task(learner.model, T, B)
    theta = learner.initial_weights()[0].numpy()[:, 0]

    def objective(theta):
        found = 0.0
        for t in range(T):
            phi, _ = closed_form(theta, task, t)
            errors = task.query.x[t].numpy() @ phi - task.query.y[t, :, 0].numpy()
            found += np.mean(errors**2) / T
        return found

    steps = 1e-6 * np.eye(SIZE)
    expected = [(objective(theta + s) - objective(theta - s)) / 2e-6 for s in steps]
    (gradient,), metrics = learner.meta_gradient(task)
    np.testing.assert_allclose(gradient[:, 0], expected, rtol=1e-7)
    np.testing.assert_allclose(metrics.query_loss, objective(theta), rtol=1e-9)


@pytest.mark.slow
def test_fewer_conjugate_gradients_are_less_exact(float64):
    task = random_task(linear().model, T, B)
    theta = linear().initial_weights()[0].numpy()[:, 0]
    exact = np.mean([closed_form(theta, task, t)[1] for t in range(T)], 0)
    errors = []
    for steps in range(1, SIZE + 1):
        (gradient,), _ = linear(cg_steps=steps).meta_gradient(task)
        errors.append(np.linalg.norm(gradient[:, 0] - exact) / np.linalg.norm(exact))
    assert all(after < before / 1.5 for before, after in zip(errors, errors[1:], strict=False))
    assert errors[0] > 1e-2 and errors[2] > 1e-3 and errors[-1] < 1e-9


def test_without_curvature_it_is_first_order(float64):
    """Where lambda is large phi is theta, and the meta-gradient the query loss's there."""
    learner = linear(imaml_lambda=1e9, step_size=1e-10, inner_steps=1)
    task = random_task(learner.model, T, B)
    theta = learner.initial_weights()[0].numpy()[:, 0]
    slopes = [h @ theta - b for h, b in (quadratic(task.query, t) for t in range(T))]
    (gradient,), _ = learner.meta_gradient(task)
    np.testing.assert_allclose(gradient[:, 0], np.mean(slopes, 0), rtol=1e-6)


# --- networks ---


def functional():
    x = keras.Input([4])
    h = layers.BatchNormalization()(layers.Dense(5, "tanh")(x))
    return keras.Model(x, layers.Dense(3)(layers.Concatenate()([h, x])))


def sequential():
    parts = [layers.Dense(5, "tanh"), layers.BatchNormalization(), layers.Dense(3)]
    return keras.Sequential([keras.Input([4]), *parts])


def regularised():
    model = functional()
    model.layers[1].kernel_regularizer = keras.regularizers.L2(0.1)
    return model


MODELS = {
    "sequential, batch normalisation": (sequential, (4,)),
    "functional, batch normalisation": (functional, (4,)),
    "with a regulariser": (regularised, (4,)),
    "convolutional": (lambda: conv_network((8, 8, 1), 3, filters=2, norm="none"), (8, 8, 1)),
    "convolutional, batch normalisation": (
        lambda: conv_network((8, 8, 1), 3, filters=2),
        (8, 8, 1),
    ),
}


def classifier(name, **options):
    make, shape = MODELS[name]
    model = randomize(make())
    options = {"step_size": 0.1, "inner_steps": 2, "meta_batch_size": 4, **options}
    return ImplicitMAML(model, losses.cross_entropy, **options), few_shot(shape=shape)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.cases(2)
def test_a_hessian_times_a_vector_is_a_central_difference_of_gradients(float64, name):
    learner, task = classifier(name)
    weights = learner.adapt_weights(task.support, 1).weights[-1]
    moving = [i for i, own in enumerate(learner.adapts) if own]
    direction = [normal(50 + i, *weights[i].shape) for i in moving]

    @tf.function(autograph=False)
    def products(weights):
        product = slope_products(learner.task_loss, weights, learner.adapts, task.support)
        return product(direction, weights)

    @tf.function(autograph=False)
    def slope(weights):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            total = tf.reduce_sum(learner.task_loss(weights, task.support))
        return tape.gradient(total, weights, unconnected_gradients="zero")

    def moved(step):
        made = list(weights)
        for i, d in zip(moving, direction, strict=True):
            made[i] = weights[i] + step * d
        return slope(made)

    step = 1e-5
    for got, ahead, behind in zip(products(weights), moved(step), moved(-step), strict=True):
        difference = (ahead - behind) / (2 * step)
        np.testing.assert_allclose(got, difference, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("make", [sequential, regularised])
@pytest.mark.cases(1)
def test_the_meta_gradient_is_the_derivative_at_the_minimum(float64, make):
    """Of weights that adapt, and of scale and offset, which do not."""
    model = randomize(make())
    learner = ImplicitMAML(
        model,
        losses.mean_squared_error,
        imaml_lambda=8.0,
        step_size=0.08,
        inner_steps=STEPS,
        cg_steps=50,
        meta_batch_size=2,
    )
    assert not all(learner.adapts)
    task, inner = random_task(model, 2, 24), learner.inner
    gradient, _ = learner.meta_gradient(task)

    @tf.function(autograph=False)
    def objective(theta):
        begin = inner.stacked(2, theta)
        phi, _ = inner.loop(learner.task_loss, begin, task.support, tf.constant(STEPS))
        return tf.reduce_mean(learner.task_loss(phi, task.query))

    theta, names = learner.initial_weights(), [v.path for v in model.trainable_variables]
    assert_is_the_derivative(gradient, objective, theta, names, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "name", slow_but({"with a regulariser", "convolutional, batch normalisation"}, MODELS)
)
@pytest.mark.parametrize("options", [slow({}), {"pieces": 2}], ids=str)
@pytest.mark.cases(1)
def test_tasks_together_are_the_mean_of_each_alone(float64, name, options):
    learner, task = classifier(name, **options)
    one, _ = classifier(name)
    alone = [one.meta_gradient(one_of(task, t)) for t in range(4)]
    mean = tf.nest.map_structure(lambda *each: tf.add_n(each) / 4, *alone)
    assert_same(learner.meta_gradient(task), mean, rtol=1e-8, atol=1e-10)


def test_what_is_reported_is_without_the_pull(float64):
    learner, task = classifier("functional, batch normalisation", inner_steps=3)
    _, metrics = learner.meta_gradient(task)
    path, before = learner.adapt_weights(task.support, 3)
    np.testing.assert_allclose(metrics.support_loss, tf.reduce_mean(before, -1), rtol=1e-6)
    after = tf.reduce_mean(learner.task_loss(path[-1], task.query))
    np.testing.assert_allclose(metrics.query_loss, after, rtol=1e-9)


@pytest.mark.slow
def test_a_loss_scale_is_a_factor(float64):
    learner, task = classifier("functional, batch normalisation")
    plain, _ = learner.meta_gradient(task)
    scaled, _ = learner.meta_gradient(task, None, tf.constant(8.0, tf.float64))
    assert_same(scaled, [8 * g for g in plain], rtol=1e-9, atol=1e-12)


# --- training, resuming, exporting ---


def sine_learner(**options):
    options = {"inner_steps": 3, "meta_batch_size": 4, "imaml_lambda": 0.5, **options}
    return ImplicitMAML(dense_network(1, 1, (6,), seed=1), losses.mean_squared_error, **options)


@pytest.mark.slow
def test_a_run_resumes_bit_for_bit_and_knows_lambda(tmp_path):
    resumes_bit_for_bit(sine_learner, TASKS, tmp_path)
    with pytest.raises(ValueError, match="imaml_lambda=0.5, now 3.0"):
        train(sine_learner(imaml_lambda=3.0), TASKS, iterations=7, logdir=tmp_path / "straight")
    with pytest.raises(ValueError, match="cg_steps=5, now 4"):
        train(sine_learner(cg_steps=4), TASKS, iterations=7, logdir=tmp_path / "straight")


@pytest.mark.slow
def test_xla_takes_the_same_meta_steps():
    plain, compiled = (sine_learner(jit_compile=jit) for jit in (False, True))
    for learner in (plain, compiled):
        learner.meta_steps(TASKS, 0, 3)
    for one, other in zip(values(plain), values(compiled), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("steps", [0, 3, 8])
@pytest.mark.cases(1)
def test_evaluation_copy_and_export_are_pulled_towards_theta(tmp_path, steps):
    """All by the same regularised steps as training, and not by those without lambda."""
    learner = sine_learner(imaml_lambda=4.0, step_size=0.05)
    task = TASKS(tf.constant(0, tf.int64), 1)
    theta = learner.initial_weights()
    phi = [w[None] for w in theta]
    for _ in range(steps):
        with tf.GradientTape() as tape:
            tape.watch(phi)
            far = tf.add_n([tf.reduce_sum((p - w) ** 2) for p, w in zip(phi, theta, strict=True)])
            total = tf.reduce_sum(learner.task_loss(phi, task.support)) + 2.0 * far
        slope = tape.gradient(total, phi)
        phi = [p - 0.05 * g for p, g in zip(phi, slope, strict=True)]
    expected = learner.predict(phi, task.support, task.query.x)[0]
    tolerance = {"rtol": 1e-4, "atol": 1e-5}
    support = task.support.x[0], task.support.y[0]
    seen = learner.adapt_and_observe(
        task.support, steps, lambda w: learner.predict(w, task.support, task.query.x)
    )
    np.testing.assert_allclose(seen[-1, 0], expected, **tolerance)
    copy = learner.adapt(*support, steps=steps)
    np.testing.assert_allclose(copy(task.query.x[0]), expected, **tolerance)
    export(learner, tmp_path / "it")
    served = tf.saved_model.load(str(tmp_path / "it"))
    for _ in range(2):  # the pull is towards theta at each call
        got = served.adapt_and_predict(*support, task.query.x[0], steps=steps)
        np.testing.assert_allclose(got, expected, **tolerance)
    if steps:
        other = sine_learner(imaml_lambda=1e-3, step_size=0.05)
        free = other.adapt(*support, steps=steps)(task.query.x[0])
        assert np.abs(free - expected).max() > 1e-3


@pytest.mark.slow
def test_it_learns():
    steps = {"inner_steps": 5, "step_size": 0.02, "cg_steps": 2}
    optimizer = keras.optimizers.Adam(0.01)
    learner = sine_learner(optimizer=optimizer, clip_norm=1.0, jit_compile=True, **steps)
    held_out = Sinusoid(shots=5, split="val")
    before = evaluate(learner, held_out, num_tasks=96, steps=5).mean[-1]
    train(learner, TASKS, iterations=200, progress=False)
    after = evaluate(learner, held_out, num_tasks=96, steps=5).mean[-1]
    assert after < before - 0.1


@pytest.mark.slow
def test_lambda_may_be_changed_later():
    changed, made = sine_learner(imaml_lambda=3.0), sine_learner()
    changed.imaml_lambda = 0.5
    for learner in (changed, made):
        learner.meta_steps(TASKS, 0, 2)
    for one, other in zip(values(changed), values(made), strict=True):
        np.testing.assert_array_equal(one, other)
    lines = []
    changed.summary(lines.append)
    assert "3 inner steps of 0.01 by Proximal, second order" in lines[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"imaml_lambda": 0}, "imaml_lambda must be positive"),
        ({"cg_steps": 0}, "cg_steps must be 1 or more"),
        ({"first_order": True}, "a Hessian, unlike MetaLearner.first_order=True.; drop first"),
        ({"learn_step_size": "layer"}, "differentiates no inner step; drop learn_step_size"),
        ({"multi_step_loss": 3}, "differentiates no inner step; drop multi_step_loss"),
        ({"second_order_after": 3}, "differentiates no inner step; drop second_order_after"),
        ({"dropout": "per_step"}, "adapts to one loss in all inner steps; drop dropout"),
        ({"inner_optimizer": "adam"}, "takes plain gradient steps; drop inner_optimizer"),
        ({"inner_clip": 1.0}, "takes plain gradient steps; drop inner_clip"),
        ({"inner_steps": 0}, "where inner steps lead, and inner_steps is 0; give some"),
    ],
)
@pytest.mark.cases(2)
def test_what_does_not_go_with_it(options, message):
    with pytest.raises(ValueError, match=message):
        sine_learner(**options)
    (name,) = options
    if name not in ("learn_step_size", "dropout"):
        learner = sine_learner()
        with pytest.raises(ValueError, match=message):
            setattr(learner, name, options[name])
        learner.meta_steps(TASKS, 0, 1)


def test_nor_constraints_and_batch_normalisation_per_step():
    model = dense_network(1, 1, (4,), norm="batch_norm")
    with pytest.raises(ValueError, match="one loss in all inner steps; drop per_step_normali"):
        ImplicitMAML(model, "mse", per_step_normalization=True)
    bounded = keras.Sequential(
        [keras.Input([1]), layers.Dense(1, kernel_constraint=keras.constraints.NonNeg())]
    )
    with pytest.raises(ValueError, match="a minimum without constraints; drop those"):
        ImplicitMAML(bounded, "mse")


def test_a_model_without_second_derivatives_is_refused():
    def resized(t):
        return tf.image.resize(t, (3, 3), "bicubic")

    parts = [layers.Conv2D(2, 2), layers.Lambda(resized), layers.Flatten(), layers.Dense(3)]
    model = keras.Sequential([keras.Input([6, 6, 1]), *parts])
    learner = ImplicitMAML(model, losses.cross_entropy, meta_batch_size=4)
    with pytest.raises(ValueError, match="no second derivative"):
        learner.meta_gradient(few_shot(shape=(6, 6, 1)))
