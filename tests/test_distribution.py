"""One device and two see the same tasks, and take the same meta-steps."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import Batch, MetaLearner, Task, losses
from maml_tf.networks import dense_network


def sines(index, num_tasks):
    """Sine waves of random amplitude; the seed is the index."""

    def batch(offset):
        x = tf.random.stateless_uniform([num_tasks, 5, 1], [index, offset], -3, 3)
        return Batch(x, amplitude * tf.sin(x))

    amplitude = tf.random.stateless_uniform([num_tasks, 1, 1], [index, 2], 1, 5)
    return Task(batch(0), batch(1))


def in_python(index, num_tasks):
    """The same, from outside the graph."""
    return tf.nest.map_structure(np.asarray, sines(int(index), num_tasks))


def three_meta_steps(strategy, make_optimizer, source=sines, **options):
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = dense_network(1, 1, (8, 8))
        for seed, variable in enumerate(model.trainable_variables):
            variable.assign(0.5 * np.random.default_rng(seed).normal(size=variable.shape))
        learner = MetaLearner(
            model,
            losses.mean_squared_error,
            step_size=0.01,
            inner_steps=2,
            meta_batch_size=4,
            optimizer=make_optimizer(),
            **options,
        )
    start = model.get_weights()
    metrics = learner.meta_steps(source, 0, 3)
    return start, [v.numpy() for v in learner.variables], metrics


@pytest.fixture(scope="module")
def two():
    """One for all tests: a second strategy of the process would reuse the keys of the first."""
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    return strategy


def sgd():
    """Unlike Adam, it shows a gradient that is twice too large."""
    return keras.optimizers.SGD(0.01)


@pytest.mark.parametrize(
    ("make_optimizer", "options"),
    [
        (sgd, {}),
        (sgd, {"clip": 0.05}),
        (sgd, {"task_chunks": 2}),
        (sgd, {"learn_step_size": True}),
        (lambda: keras.optimizers.Adam(0.01), {"clip": 0.05}),
    ],
    ids=["SGD", "SGD, clip", "SGD, chunks", "SGD, learned step sizes", "Adam, clip"],
)
def test_two_replicas_take_the_same_steps_as_one(two, make_optimizer, options):
    start, alone, expected = three_meta_steps(None, make_optimizer, **options)
    _, together, metrics = three_meta_steps(two, make_optimizer, **options)
    assert max(np.abs(a - b).max() for a, b in zip(alone, start, strict=False)) > 1e-4
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    for a, b in zip(metrics, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_replicas_share_the_tasks_of_a_source_in_python(two):
    _, alone, expected = three_meta_steps(None, sgd)
    for strategy in (None, two):
        _, together, metrics = three_meta_steps(strategy, sgd, in_python)
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
        for a, b in zip(metrics, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)


def test_tasks_that_do_not_divide_over_the_replicas_are_refused(two):
    with two.scope():
        model = dense_network(1, 1)
        with pytest.raises(ValueError, match="5 tasks does not divide into 2 replicas x 1 chunks"):
            MetaLearner(model, losses.mean_squared_error, meta_batch_size=5)
