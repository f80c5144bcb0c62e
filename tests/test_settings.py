"""Settings assigned after the first call are honoured as in a new learner, or refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import random_task

from maml_tf import MetaLearner, losses
from maml_tf.networks import dense_network
from maml_tf.supervised.evaluation import MetricEvaluator
from maml_tf.tasks import ConstantTasks


def learner_of(**options):
    options = {"step_size": 0.1, "meta_batch_size": 2, "optimizer": "sgd"} | options
    return MetaLearner(dense_network(2, 1, (4,), seed=3), losses.mean_squared_error, **options)


TASK = random_task(dense_network(2, 1), 2, 3)


source = ConstantTasks(TASK)


def moved(learner):
    before = learner.model.get_weights()
    learner.meta_steps(source, 0, 1)
    after = learner.model.get_weights()
    learner.model.set_weights(before)
    return np.concatenate([(a - b).ravel() for a, b in zip(after, before, strict=True)])


CHANGES = {
    "step_size": 0.5,
    "inner_steps": 3,
    "first_order": True,
    "query_weight": 2.0,
    "clip": 1e-3,
    "clip_norm": 1e-3,
    "loss": "mae",
    "optimizer": keras.optimizers.SGD(0.1),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.cases(2)
def test_a_change_after_the_first_call_is_honoured(name):
    learner = learner_of()
    before = moved(learner)
    setattr(learner, name, CHANGES[name])
    got = moved(learner)
    options = {name: CHANGES[name]}
    if name == "optimizer":
        options[name] = keras.optimizers.SGD(0.1)
    if name == "loss":
        model = dense_network(2, 1, (4,), seed=3)
        fresh = MetaLearner(model, "mae", step_size=0.1, meta_batch_size=2, optimizer="sgd")
    else:
        fresh = learner_of(**options)
    np.testing.assert_allclose(got, moved(fresh), rtol=1e-5, atol=1e-8)
    assert np.abs(got - before).max() > 1e-6


def test_an_evaluation_made_before_sees_it():
    def drawn(index, num_tasks):
        return tf.nest.map_structure(
            lambda t: tf.tile(t, [num_tasks // 2, *[1] * (len(t.shape) - 1)]), TASK
        )

    drawn.constant_tasks = True
    learner = learner_of()
    evaluator = MetricEvaluator(learner, drawn, num_tasks=2, steps=1)
    before = evaluator().mean
    learner.step_size = 0.4
    after = evaluator().mean
    np.testing.assert_allclose(after, MetricEvaluator(learner, drawn, num_tasks=2, steps=1)().mean)
    assert after[0] == before[0] and abs(after[1] - before[1]) > 1e-3


def test_the_metric_follows_the_loss_where_it_is_the_loss():
    learner = learner_of()
    learner.loss = "mae"
    assert learner.metric is learner.loss and learner.metric_name == "loss"
    learner.metric = "mse"
    assert learner.metric_name == "mse" and learner.lower_is_better


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("step_size", -1.0, "step_size must be positive"),
        ("step_size", [0.1], "step_size must be one number"),
        ("inner_steps", 1.5, "inner_steps must be a whole number"),
        ("inner_steps", -1, "inner_steps must be 0 or more"),
        ("clip", 0, "clip must be positive"),
        ("query_weight", float("nan"), "query_weight must be a finite number"),
        ("meta_batch_size", 0, "meta_batch_size must be 1 or more"),
        ("pieces", 3, "does not divide"),
        ("optimizer", "nonsense", "no optimizer"),
        ("loss", "nonsense", "no loss"),
        ("model", None, "make another learner"),
        ("adapts", [], "make another learner"),
    ],
)
@pytest.mark.cases(2)
def test_what_is_out_of_range_is_refused_and_the_former_stays(name, value, message):
    learner = learner_of()
    before, weights = getattr(learner, name), moved(learner)
    with pytest.raises(ValueError, match=message):
        setattr(learner, name, value)
    assert getattr(learner, name) is before
    np.testing.assert_array_equal(moved(learner), weights)


def test_a_step_size_that_is_learned_is_not_a_setting():
    with pytest.raises(ValueError, match="Step sizes are learned"):
        learner_of(learn_step_size=True).step_size = 0.5


def test_a_setting_that_is_not_changed_does_not_compile_again():
    learner = learner_of()
    moved(learner)
    revision = learner.revision
    moved(learner)
    assert learner.revision == revision


def test_learned_step_sizes_stay_positive_by_choice():
    # The query set wants the opposite of what the support set does: step sizes fall below zero.
    task = TASK._replace(query=TASK.support._replace(y=-5 * TASK.support.y))
    found = {}
    for positive in (False, True):
        learner = learner_of(
            learn_step_size=True, positive_step_size=positive, optimizer=keras.optimizers.SGD(0.5)
        )
        assert all(np.all(v.numpy() == np.float32(0.1)) for v in learner.step_sizes)
        learner.meta_steps(ConstantTasks(task), 0, 3)
        found[positive] = min(np.min(v.numpy()) for v in learner.step_sizes)
    assert found[False] < 0
    np.testing.assert_allclose(found[True], 1e-4, rtol=1e-5)
