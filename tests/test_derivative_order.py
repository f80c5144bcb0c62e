"""First-order meta-steps before second-order ones, beside learners of either order alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import random_task, slow, values
from test_meta_learner import T, linear_learner, meta_gradient_by_hand

from maml_tf import MetaLearner, MultitaskLearner, losses, train
from maml_tf.experiments.settings import make
from maml_tf.networks import dense_network
from maml_tf.tasks import Sinusoid

STEPS, BOUNDARY = 2, 5
TASKS = Sinusoid(shots=5)


@pytest.mark.parametrize("options", [{}, {"recompute": True}, {"pieces": 3}], ids=str)
@pytest.mark.parametrize(
    ("index", "first_order"), [(0, True), (4, True), (5, False), (10**12, False), (None, False)]
)
@pytest.mark.cases(8)
def test_the_gradient_is_of_the_order_of_its_meta_step(float64, index, first_order, options):
    learner = linear_learner(inner_steps=STEPS, second_order_after=BOUNDARY, **options)
    task = random_task(learner.model, T, 5)
    w = learner.initial_weights()[0].numpy()[:, 0]
    expected, _ = meta_gradient_by_hand(w, task, STEPS, first_order)
    other, _ = meta_gradient_by_hand(w, task, STEPS, not first_order)
    given = None if index is None else tf.constant(index, tf.int64)
    (gradient,), _ = learner.meta_gradient(task, given)
    np.testing.assert_allclose(gradient[:, 0], expected, rtol=1e-9)
    assert not np.allclose(expected, other, rtol=1e-3)


def learner_of(**options):
    model = dense_network(1, 1, (6,), seed=1)
    options = {"inner_steps": STEPS, "meta_batch_size": 4, **options}
    optimizer = keras.optimizers.Adam(0.01)
    return MetaLearner(model, losses.mean_squared_error, optimizer=optimizer, **options)


def assert_same(one, other, **tolerance):
    for a, b in zip(values(one), values(other), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


@pytest.mark.parametrize(
    "options",
    [slow({}), {"multi_step_loss": 4}, {"learn_step_size": "layer", "pieces": 2}],
    ids=["plain", "MAML++", "step sizes"],
)
@pytest.mark.cases(1)
def test_steps_are_those_of_a_first_order_learner_and_then_of_a_second_order_one(options):
    annealed = learner_of(second_order_after=BOUNDARY, **options)
    first, second = learner_of(first_order=True, **options), learner_of(**options)
    annealed.meta_steps(TASKS, 0, BOUNDARY)
    first.meta_steps(TASKS, 0, BOUNDARY)
    assert_same(annealed, first, rtol=1e-6, atol=1e-7)
    for variable, value in zip(
        [*second.state, *second.optimizer.variables], values(first), strict=True
    ):
        variable.assign(value)
    for learner in (annealed, first, second):
        learner.meta_steps(TASKS, BOUNDARY, 3)
    assert_same(annealed, second, rtol=1e-5, atol=1e-6)
    apart = [np.abs(a - b).max() for a, b in zip(values(annealed), values(first), strict=True)]
    assert max(apart) > 1e-4


@pytest.mark.slow
def test_one_call_may_go_over_the_boundary_and_xla_says_the_same():
    plain, compiled = (
        learner_of(second_order_after=BOUNDARY, jit_compile=jit) for jit in (False, True)
    )
    for learner in (plain, compiled):
        learner.meta_steps(TASKS, 0, 8)
    assert_same(compiled, plain, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_run_resumes_bit_for_bit_over_the_boundary(tmp_path):
    def run(place, iterations):
        learner = learner_of(second_order_after=BOUNDARY)
        quiet = {"progress": False, "save_every": 3}
        train(learner, TASKS, iterations=iterations, logdir=tmp_path / place, **quiet)
        return learner

    straight = run("straight", 9)
    run("resumed", 3)
    run("resumed", 6)
    assert_same(run("resumed", 9), straight, rtol=0)


def test_another_boundary_is_another_run(tmp_path):
    train(learner_of(second_order_after=4), TASKS, iterations=2, logdir=tmp_path, progress=False)
    with pytest.raises(ValueError, match="second_order_after=4, now 0"):
        train(learner_of(), TASKS, iterations=4, logdir=tmp_path, progress=False)


@pytest.mark.slow
def test_it_may_be_changed_later():
    changed, made = learner_of(), learner_of(second_order_after=BOUNDARY)
    changed.second_order_after = BOUNDARY
    for learner in (changed, made):
        learner.meta_steps(TASKS, 0, 2)
    assert_same(changed, made, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"second_order_after": -1}, "second_order_after must be 0 or more, not -1"),
        ({"second_order_after": 0.5}, "second_order_after must be a whole number, not 0.5"),
        ({"first_order": True}, "Nothing becomes of second order, for first_order is True; drop"),
        ({"inner_steps": 0}, "Nothing becomes of second order, for inner_steps is 0; drop"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        learner_of(**{"second_order_after": 3} | options)
    with pytest.raises(ValueError, match="inner_steps is 0"):
        MultitaskLearner(dense_network(1, 1, (4,)), "mse", second_order_after=3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "fomaml"}, "--method=fomaml has no second derivatives; drop --second_order"),
        ({"method": "pretrained"}, "--method=pretrained takes no inner step; drop --second_order"),
        (
            {"problem": "navigation_2d"},
            "--second_order_after is for --problem=sinusoid, .*, not --p",
        ),
        ({"second_order_after": -1}, "--second_order_after must be from 0 to"),
    ],
)
def test_what_the_command_line_refuses(given, message):
    with pytest.raises(ValueError, match=message):
        make({"second_order_after": 10} | given)
