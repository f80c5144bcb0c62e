"""Keras' optimizers as Keras uses them."""

import keras
import numpy as np
import pytest
from helpers import random_task, slow
from keras.optimizers import SGD, Adam
from keras.optimizers import LossScaleOptimizer as LossScale

from maml_tf import MetaLearner, losses, train
from maml_tf.networks import dense_network
from maml_tf.tasks import ConstantTasks

TASKS = [random_task(dense_network(2, 1), 2, 3, seed=s) for s in range(40)]


def learner_of(optimizer, **options):
    model = dense_network(2, 1, (4,), seed=3)
    options = {"step_size": 0.1, "meta_batch_size": 2, "optimizer": optimizer} | options
    return MetaLearner(model, losses.mean_squared_error, **options)


same_task = ConstantTasks(TASKS[0])


def trained(optimizer, steps=3, **options):
    learner = learner_of(optimizer, **options)
    for i in range(steps):
        learner.meta_steps(ConstantTasks(TASKS[i]), i, 1)
    return learner, learner.model.get_weights()


def assert_close(a, b, rtol=1e-5):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-7)


def assert_differ(a, b):
    assert max(np.abs(x - y).max() for x, y in zip(a, b, strict=True)) > 1e-6


@pytest.mark.parametrize(
    "what",
    [
        "adam",
        slow("Adam"),
        slow(Adam),
        slow({"class_name": "Adam", "config": {"learning_rate": 1e-3}}),
        None,
    ],
)
@pytest.mark.slow
def test_every_way_to_say_adam(what):
    expected = trained(Adam(1e-3))[1]
    assert_close(trained(what)[1], expected)


@pytest.mark.parametrize("what", ["nonsense", 3, "mse", keras.losses.MeanSquaredError])
def test_what_is_no_optimizer_is_refused(what):
    with pytest.raises(ValueError, match="no optimizer"):
        learner_of(what)


@pytest.mark.parametrize("clip", [slow(None), 0.01])
@pytest.mark.parametrize(
    "make",
    [
        lambda: LossScale(SGD(0.05), initial_scale=2.0**10),
        lambda: LossScale(SGD(0.05), initial_scale=64.0, dynamic_growth_steps=1),
        lambda: SGD(0.05, loss_scale_factor=512.0),
    ],
)
@pytest.mark.cases(1)
def test_a_scaled_loss_gives_the_same_step(make, clip):
    options = {} if clip is None else {"clip": clip}
    expected = trained(SGD(0.05), **options)[1]
    learner, weights = trained(make(), **options)
    assert_close(weights, expected)
    assert_differ(weights, learner_of("sgd").model.get_weights())


def test_the_scale_grows_and_a_gradient_that_is_not_finite_halves_it():
    learner = learner_of(LossScale(SGD(0.05), initial_scale=4.0, dynamic_growth_steps=2))
    for _ in range(4):
        learner.meta_steps(same_task, 0, 1)
    assert float(learner.optimizer.dynamic_scale) == 16
    learner.clip = 0.1  # what is clipped would be finite
    learner.query_weight = 1e38
    before = learner.model.get_weights()
    learner.meta_steps(same_task, 0, 1)
    assert float(learner.optimizer.dynamic_scale) == 8
    assert_close(learner.model.get_weights(), before, rtol=0)


def test_the_metrics_and_the_meta_gradient_are_not_scaled():
    plain, scaled = learner_of("sgd"), learner_of(LossScale(SGD()))
    (a, seen), (b, also) = plain.meta_gradient(TASKS[0]), scaled.meta_gradient(TASKS[0])
    assert_close(a, b)
    np.testing.assert_allclose(seen.query_loss, also.query_loss)
    a, b = (learner.meta_steps(same_task, 0, 1).query_loss for learner in (plain, scaled))
    np.testing.assert_allclose(a, b)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.slow
def test_a_loss_scale_inside_the_compiled_loop(jit_compile):
    scaled = learner_of(LossScale(SGD(0.05)), jit_compile=jit_compile)
    plain = learner_of(SGD(0.05))
    for learner in (scaled, plain):
        learner.meta_steps(same_task, 0, 5)
    assert_close(scaled.model.get_weights(), plain.model.get_weights(), rtol=1e-4)


def test_accumulated_gradients_move_once_by_their_mean():
    learner = learner_of(SGD(0.05, gradient_accumulation_steps=2))
    before = learner.model.get_weights()
    (first, _), (second, _) = (learner.meta_gradient(task) for task in TASKS[:2])
    learner.meta_steps(ConstantTasks(TASKS[0]), 0, 1)
    assert_close(learner.model.get_weights(), before, rtol=0)
    learner.meta_steps(ConstantTasks(TASKS[1]), 1, 1)
    expected = [w - 0.05 * (a + b) / 2 for w, a, b in zip(before, first, second, strict=True)]
    assert_close(learner.model.get_weights(), expected)


@pytest.mark.parametrize("option", ["clipnorm", "global_clipnorm", "clipvalue"])
def test_keras_own_clipping(option):
    learner = learner_of(SGD(1.0, **{option: 0.01}))
    before = learner.model.get_weights()
    gradient = [g.numpy() for g in learner.meta_gradient(TASKS[0])[0]]
    learner.meta_steps(same_task, 0, 1)
    moves = [a - b for a, b in zip(before, learner.model.get_weights(), strict=True)]
    norm = np.sqrt(sum((g**2).sum() for g in gradient))
    for move, g in zip(moves, gradient, strict=True):
        expected = {
            "clipnorm": g * min(1, 0.01 / max(np.sqrt((g**2).sum()), 1e-12)),
            "global_clipnorm": g * min(1, 0.01 / norm),
            "clipvalue": np.clip(g, -0.01, 0.01),
        }[option]
        np.testing.assert_allclose(move, expected, rtol=1e-3, atol=1e-7)


@pytest.mark.slow
def test_averaged_weights_are_in_the_model_when_training_ends(tmp_path):
    options = {"iterations": 4, "progress": False, "save_every": 100, "validate_every": 100}

    def run(place, **change):
        made = learner_of(SGD(0.1, use_ema=True, ema_momentum=0.6))
        train(made, same_task, logdir=place, **options | change)
        return made

    learner = run(tmp_path / "a")
    plain = learner_of(SGD(0.1))
    average = None
    for _ in range(4):
        plain.meta_steps(same_task, 0, 1)
        now = plain.model.get_weights()
        # Keras' average begins with the weights after the first step.
        average = (
            now
            if average is None
            else [0.6 * a + 0.4 * w for a, w in zip(average, now, strict=True)]
        )
    assert_differ(average, plain.model.get_weights())
    got = learner.model.get_weights()
    assert_close(got, average)
    # A resumed run goes on from the weights themselves, to the same average.
    run(tmp_path / "b", iterations=2)
    assert_close(run(tmp_path / "b").model.get_weights(), got)
    assert_close(run(tmp_path / "a").model.get_weights(), got)  # nothing left to do


def test_an_optimizer_of_another_model_is_refused_and_of_this_one_taken():
    optimizer = Adam()
    learner = learner_of(optimizer)
    with pytest.raises(ValueError, match="built for other variables.*from_config"):
        learner_of(optimizer)
    with pytest.raises(ValueError, match="built for other variables"):
        learner_of(LossScale(optimizer))
    again = MetaLearner(learner.model, "mse", optimizer=optimizer)
    assert again.optimizer is optimizer
