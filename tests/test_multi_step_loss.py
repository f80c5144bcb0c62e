"""The multi-step loss of MAML++: sums of single steps' losses that a reader can do again."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_is_the_derivative, normal, random_task, randomize, slow, values
from keras import layers
from test_meta_learner import T, linear_learner, meta_gradient_by_hand

from maml_tf import Batch, MetaLearner, MultitaskLearner, Task, adapt, losses, stack, train
from maml_tf.networks import conv_network, dense_network
from maml_tf.supervised.multi_step import step_weights
from maml_tf.tasks import Sinusoid

STEPS, ITERATIONS = 3, 8


def weights_at(index, steps=STEPS, iterations=ITERATIONS):
    return step_weights(tf.constant(index, tf.int64), steps, iterations).numpy()


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (0, [0.25, 0.25, 0.25, 0.25]),
        (50, [0.125, 0.125, 0.125, 0.625]),
        (97, [0.0075, 0.0075, 0.0075, 0.9775]),  # 3 % of a fourth, and no less
        (99, [0.0075, 0.0075, 0.0075, 0.9775]),
        (100, [0, 0, 0, 1]),
        (10**12, [0, 0, 0, 1]),
    ],
)
def test_weights_at_a_meta_step(index, expected):
    np.testing.assert_allclose(weights_at(index, 4, 100), expected, atol=1e-15)


def test_of_one_step_there_is_one_weight():
    assert [weights_at(index, 1, 10).tolist() for index in (0, 5, 10)] == [[1.0]] * 3


def test_they_are_those_of_the_code_of_maml_plus_plus():
    for epoch in range(10):  # its `get_per_step_loss_importance_vector`, of 5 steps and 10 epochs
        early = max(1 / 5 - epoch * (1 / 5 / 10), 0.03 / 5)
        last = min(1 / 5 + epoch * 4 * (1 / 5 / 10), 1 - 4 * 0.03 / 5)
        np.testing.assert_allclose(weights_at(epoch, 5, 10), [*[early] * 4, last], atol=1e-15)


HOW = [{}, {"first_order": True}, {"recompute": True}, {"pieces": 3}, {"query_weight": 2.0}]


@pytest.mark.parametrize("options", HOW, ids=str)
@pytest.mark.parametrize("index", [0, 3, 7, 8])
@pytest.mark.cases(3)
def test_the_gradient_is_the_weighted_sum_of_those_after_each_step(float64, index, options):
    learner = linear_learner(inner_steps=STEPS, multi_step_loss=ITERATIONS, **options)
    task = random_task(learner.model, T, 5)
    w = learner.initial_weights()[0].numpy()[:, 0]
    first_order, factor = options.get("first_order", False), options.get("query_weight", 1.0)
    by_step = [meta_gradient_by_hand(w, task, s, first_order)[0] for s in range(1, STEPS + 1)]
    (gradient,), _ = learner.meta_gradient(task, tf.constant(index, tf.int64))
    np.testing.assert_allclose(gradient[:, 0], factor * weights_at(index) @ by_step, rtol=1e-9)


@pytest.mark.parametrize("index", [None, 0, 8])
def test_metrics_are_those_after_the_last_step(float64, index):
    plain, learner = (linear_learner(inner_steps=STEPS, multi_step_loss=n) for n in (0, ITERATIONS))
    task = random_task(plain.model, T, 5)
    given = None if index is None else tf.constant(index, tf.int64)
    (expected,), wanted = plain.meta_gradient(task)
    (gradient,), metrics = learner.meta_gradient(task, given)
    for one, other in zip(metrics, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    np.testing.assert_allclose(gradient, expected, rtol=1e-12 if index != 0 else 1.0)
    assert np.allclose(gradient, expected, rtol=1e-9) == (index != 0)


def regularized():
    model = conv_network((12, 12, 1), 3, filters=3)
    model.layers[1].kernel_regularizer = keras.regularizers.L2(0.1)
    return randomize(model, 0.7), losses.cross_entropy


def two_outputs():
    x = keras.Input([3])
    h = layers.Dense(5, "tanh")(x)
    model = keras.Model(x, [layers.Dense(2, name="a")(h), layers.Dense(1, name="b")(h)])
    return randomize(model), ["mse", "mae"]


def task_of(model, loss):
    if loss is losses.cross_entropy:
        x = normal(1, 2, 6, *model.input_shape[1:])
        return Task(*[Batch(x * scale, tf.constant([[0, 1, 2] * 2] * 2)) for scale in (1, 0.7)])
    targets = tuple(normal(seed, 2, 4, *s[1:]) for seed, s in enumerate(model.output_shape))
    return Task(*[Batch(normal(seed, 2, 4, 3), targets) for seed in (1, 2)])


@pytest.mark.parametrize("make", [regularized, two_outputs])
@pytest.mark.slow
def test_the_gradient_is_the_derivative_of_the_weighted_losses(float64, make):
    model, loss = make()
    options = {"step_size": 0.05, "inner_steps": 2, "meta_batch_size": 2}
    learner = MetaLearner(model, loss, multi_step_loss=4, **options)
    task, index = task_of(model, loss), 1

    @tf.function(autograph=False)
    def objective(weights):
        path = adapt(
            learner.task_loss,
            stack(weights, 2, learner.adapts),
            [task.support] * 2,
            step_size=0.05,
            adapts=learner.adapts,
        ).weights
        after = [tf.reduce_mean(learner.task_loss(w, task.query)) for w in path[1:]]
        return 0.375 * after[0] + 0.625 * after[1]  # 1 - 1 / 4 of a half, and the rest

    gradient, _ = learner.meta_gradient(task, tf.constant(index, tf.int64))
    weights, names = learner.initial_weights(), [v.path for v in model.trainable_variables]
    assert_is_the_derivative(gradient, objective, weights, names, rtol=1e-4)


def test_a_loss_scale_is_a_factor_of_the_whole(float64):
    learner = linear_learner(inner_steps=STEPS, multi_step_loss=ITERATIONS)
    task, index = random_task(learner.model, T, 5), tf.constant(2, tf.int64)
    (plain,), _ = learner.meta_gradient(task, index)
    (scaled,), _ = learner.meta_gradient(task, index, tf.constant(8.0, tf.float64))
    np.testing.assert_allclose(scaled, 8 * plain, rtol=1e-12)


TASKS = Sinusoid(shots=5)


def sine_learner(**options):
    model = dense_network(1, 1, (6,), seed=1)
    options = {"inner_steps": 2, "meta_batch_size": 4, "multi_step_loss": 7, **options}
    return MetaLearner(model, losses.mean_squared_error, **options)


@pytest.mark.parametrize("options", [slow({}), {"dropout": "per_step"}], ids=str)
@pytest.mark.slow
def test_a_run_resumes_bit_for_bit_in_the_middle_of_the_annealing(tmp_path, options):
    def run(place, iterations):
        start = keras.initializers.GlorotUniform(seed=1)
        middle = [layers.Dense(6, "relu", kernel_initializer=start), layers.Dropout(0.2, seed=1)]
        head = layers.Dense(1, kernel_initializer=start)
        model = keras.Sequential([keras.Input([1]), *middle, head])
        learner = MetaLearner(
            model,
            losses.mean_squared_error,
            inner_steps=2,
            meta_batch_size=4,
            multi_step_loss=7,
            **options,
        )
        quiet = {"progress": False, "save_every": 4}
        train(learner, TASKS, iterations=iterations, logdir=tmp_path / place, **quiet)
        return learner

    straight = run("straight", 10)
    run("resumed", 4)
    for one, other in zip(values(straight), values(run("resumed", 10)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_it_counts_until_its_last_iteration_and_xla_says_the_same():
    plain, annealed, compiled = (
        sine_learner(**options) for options in ({"multi_step_loss": 0}, {}, {"jit_compile": True})
    )
    for learner in (plain, annealed, compiled):
        learner.meta_steps(TASKS, 7, 3)  # the annealing is over
    for one, two, three in zip(*map(values, (plain, annealed, compiled)), strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(three, one, rtol=1e-4, atol=1e-5)
    for learner in (plain, annealed, compiled):
        learner.meta_steps(TASKS, 0, 7)
    apart = [
        np.abs(one - two).max() for one, two in zip(*map(values, (plain, annealed)), strict=True)
    ]
    assert max(apart) > 1e-5
    for two, three in zip(*map(values, (annealed, compiled)), strict=True):
        np.testing.assert_allclose(three, two, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_it_may_be_changed_later():
    changed, made = sine_learner(multi_step_loss=0), sine_learner()
    changed.multi_step_loss = 7
    for learner in (changed, made):
        learner.meta_steps(TASKS, 0, 2)
    for one, other in zip(values(changed), values(made), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"multi_step_loss": -1}, "multi_step_loss must be 0 or more, not -1"),
        ({"multi_step_loss": 1.5}, "multi_step_loss must be a whole number, not 1.5"),
        ({"multi_step_loss": True}, "multi_step_loss must be a whole number, not True"),
        ({"inner_steps": 0}, "multi_step_loss weighs inner steps, and inner_steps is 0"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sine_learner(**options)
    with pytest.raises(ValueError, match="inner_steps is 0"):
        MultitaskLearner(dense_network(1, 1, (4,)), losses.mean_squared_error, multi_step_loss=3)
