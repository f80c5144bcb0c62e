"""Step sizes per weight tensor, and per step: against steps that are written out by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import random_task, slow_but, values
from test_meta_learner import ALPHA, SIZE, B, T, linear_learner, quadratic

from maml_tf import MetaLearner, adapt, evaluate, losses, stack, train
from maml_tf.engine.adaptation import PerStep, adapt_for
from maml_tf.engine.inner_loop import LEAST_STEP_SIZE
from maml_tf.networks import dense_network
from maml_tf.tasks import Sinusoid

RATES = [0.05, 0.2, 0.1]
"""Alpha of each of S = 3 inner steps."""


def rated(learn_step_size="layer_and_step", **options):
    learner = linear_learner(inner_steps=3, learn_step_size=learn_step_size, **options)
    if learner.step_sizes and learner.step_sizes[0].shape == (3,):
        learner.step_sizes[0].assign(RATES)
    return learner


def adapted_by_hand(w, task, t, rates):
    """Weights after each step on task t's support set, `[S + 1, SIZE]`."""
    hessian, b = quadratic(task.support, t)
    path = [w]
    for rate in rates:
        path.append(path[-1] - rate * (hessian @ path[-1] - b))
    return np.stack(path)


@pytest.mark.parametrize("options", [{}, {"recompute": True}, {"first_order": True}], ids=str)
def test_each_step_takes_its_own_and_has_its_own_gradient(float64, options):
    learner = rated(**options)
    task = random_task(learner.model, T, B)
    w = learner.initial_weights()[0].numpy()[:, 0]
    (of_w, of_rates), _ = learner.meta_gradient(task)
    expected_w, expected_rates = np.zeros(SIZE), np.zeros(3)
    for t in range(T):
        (hessian, b), (query_hessian, query_b) = (quadratic(s, t) for s in task)
        path = adapted_by_hand(w, task, t, RATES)
        cotangent = query_hessian @ path[-1] - query_b
        for step in (2, 1, 0):
            expected_rates[step] -= cotangent @ (hessian @ path[step] - b) / T
            if not options.get("first_order"):
                cotangent = cotangent - RATES[step] * hessian @ cotangent
        expected_w += cotangent / T
    np.testing.assert_allclose(of_w[:, 0], expected_w, rtol=1e-9)
    np.testing.assert_allclose(of_rates, expected_rates, rtol=1e-9)


def test_fewer_step_sizes_have_the_sums_of_the_gradients_of_more(float64):
    def gradient(learn_step_size):
        learner = linear_learner(inner_steps=3, learn_step_size=learn_step_size)
        return learner.meta_gradient(random_task(learner.model, T, B))[0][1].numpy()

    per_number, per_layer, per_step = map(gradient, ("weight", "layer", "layer_and_step"))
    assert [per_number.shape, per_layer.shape, per_step.shape] == [(SIZE, 1), (), (3,)]
    np.testing.assert_allclose(per_layer, per_number.sum(), rtol=1e-10)
    np.testing.assert_allclose(per_step.sum(), per_layer, rtol=1e-10)
    np.testing.assert_array_equal(gradient(True), per_number)


def test_steps_beyond_those_of_the_training_repeat_the_last(float64):
    learner = rated()
    task = random_task(learner.model, T, B)
    w = learner.initial_weights()[0].numpy()[:, 0]
    by_hand = [adapted_by_hand(w, task, t, [*RATES, 0.1, 0.1]) for t in range(T)]
    unrolled = learner.adapt_weights(task.support, 5).weights
    looped = learner.adapt_and_observe(task.support, 5, lambda v: tf.cast(v[0], tf.float32))
    for step, weights in enumerate(unrolled):
        expected = np.stack([path[step] for path in by_hand])
        np.testing.assert_allclose(stacked(weights[0]), expected, rtol=1e-10)
        np.testing.assert_allclose(stacked(looped[step]), expected, rtol=1e-5)
    given = learner.adapt_weights(task.support, 2, step_size=0.3).weights[-1]
    expected = np.stack([adapted_by_hand(w, task, t, [0.3, 0.3])[-1] for t in range(T)])
    np.testing.assert_allclose(stacked(given[0]), expected, rtol=1e-10)


def stacked(weights):
    """`[T, SIZE]`, of a kernel that the tasks may still share."""
    return np.broadcast_to(np.asarray(weights)[..., 0], (T, SIZE))


def test_adapt_takes_a_step_size_per_step():
    weights = stack([tf.constant([1.0, 2.0]), tf.constant(3.0)], 1, [True, False])
    sizes = PerStep([tf.constant([0.1, 0.2]), tf.constant(0.0)])
    loss = lambda w, batch: tf.reduce_sum(w[0], -1)  # noqa: E731  of gradient 1
    path, _ = adapt(loss, weights, [None] * 3, step_size=sizes, adapts=[True, False])
    expected = [[1, 2], [0.9, 1.9], [0.7, 1.7], [0.5, 1.5]]
    np.testing.assert_allclose([w[0][0] for w in path], expected, rtol=1e-6)
    for steps in range(4):
        looped, _ = adapt_for(
            loss, weights, (), tf.constant(steps), step_size=sizes, adapts=[True, False]
        )
        np.testing.assert_allclose(looped[0][0], expected[steps], rtol=1e-6)
    later, _ = adapt(
        loss, weights, [None], step_size=sizes.after(tf.constant(1)), adapts=[True, False]
    )
    np.testing.assert_allclose(later[1][0][0], [0.8, 1.8], rtol=1e-6)


TASKS = Sinusoid(shots=5)
KINDS = {"weight": [(1, 6), (6,), (6, 1), (1,)], "layer": [()] * 4, "layer_and_step": [(2,)] * 4}


def sine_learner(learn_step_size, seed=1, **options):
    model = dense_network(1, 1, (6,), seed=seed)
    options = {"inner_steps": 2, "meta_batch_size": 4, **options}
    return MetaLearner(model, losses.mean_squared_error, learn_step_size=learn_step_size, **options)


@pytest.mark.parametrize("kind", slow_but({"layer_and_step"}, KINDS))
def test_they_are_learned_resumed_saved_and_loaded(kind, tmp_path):
    def run(place, iterations):
        learner = sine_learner(kind)
        quiet = {"progress": False, "save_every": 3}
        train(learner, TASKS, iterations=iterations, logdir=tmp_path / place, **quiet)
        return learner

    straight = run("straight", 6)
    assert [tuple(v.shape) for v in straight.step_sizes] == KINDS[kind]
    assert all(np.any(np.asarray(v) != np.float32(0.01)) for v in straight.step_sizes)
    run("resumed", 3)
    for one, other in zip(values(straight), values(run("resumed", 6)), strict=True):
        np.testing.assert_array_equal(one, other)
    straight.save(tmp_path / "it.weights.h5")
    again = sine_learner(kind, seed=2)
    again.load(tmp_path / "it.weights.h5")
    measured = [evaluate(x, TASKS, num_tasks=24, steps=4).mean for x in (straight, again)]
    np.testing.assert_array_equal(*measured)
    for other in (k for k in KINDS if k != kind):
        told = "holds other arrays beside .* than this learner: of shape .* learn_step_size"
        with pytest.raises(ValueError, match=told):
            sine_learner(other).load(tmp_path / "it.weights.h5")
        with pytest.raises(ValueError, match=f"learn_step_size={kind}, now {other}"):
            train(sine_learner(other), TASKS, iterations=7, logdir=tmp_path / "straight")


def test_step_sizes_of_another_number_of_steps_are_refused(tmp_path):
    sine_learner("layer_and_step").save(tmp_path / "it.weights.h5")
    with pytest.raises(ValueError, match=r"of shape \(2,\), and here \(3,\); make the learner"):
        sine_learner("layer_and_step", inner_steps=3).load(tmp_path / "it.weights.h5")


@pytest.mark.parametrize("kind", slow_but({"layer_and_step"}, KINDS))
def test_they_stay_positive_by_choice(kind):
    learner = sine_learner(kind, positive_step_size=True, optimizer=keras.optimizers.SGD(1e3))
    learner.meta_steps(TASKS, 0, 1)
    least = min(np.min(np.asarray(v)) for v in learner.step_sizes)
    np.testing.assert_allclose(least, LEAST_STEP_SIZE * 0.01, rtol=1e-6)


def test_factored_weights_serve_a_step_size_per_layer(float64):
    def gradient(learn_step_size):
        model = dense_network(20, 3, (16,), seed=1)
        options = {"step_size": ALPHA, "inner_steps": 2, "meta_batch_size": T}
        learner = MetaLearner(
            model, losses.mean_squared_error, learn_step_size=learn_step_size, **options
        )
        return learner.meta_gradient(random_task(model, T, 1))[0][:4]

    for one, other in zip(gradient("layer_and_step"), gradient("weight"), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("value", ["Layer", "", 1])
def test_what_is_no_kind_of_step_sizes(value):
    told = "learn_step_size must be True or False, not .*, nor one of 'weight', 'layer', 'layer_an"
    with pytest.raises(ValueError, match=told):
        sine_learner(value)


def test_what_cannot_be():
    with pytest.raises(ValueError, match="a step size for each inner step, and inner_steps is 0"):
        sine_learner("layer_and_step", inner_steps=0)
    learner = sine_learner("layer")
    with pytest.raises(ValueError, match="`learn_step_size` cannot be changed later"):
        learner.learn_step_size = "weight"
    assert learner.learn_step_size == "layer"
