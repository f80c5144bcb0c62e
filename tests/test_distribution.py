"""One device and two see the same tasks, and take the same meta-steps."""

import contextlib
import socket
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import slow

from maml_tf import Batch, MetaLearner, Task, losses, train
from maml_tf.networks import dense_network
from maml_tf.training.checkpoints import Checkpoints


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
        norm = "batch_norm" if "per_step_normalization" in options else "none"
        model = dense_network(1, 1, (8, 8), norm=norm)
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


def sgd():
    """Unlike Adam, it shows a gradient that is twice too large."""
    return keras.optimizers.SGD(0.01)


@pytest.mark.parametrize(
    ("make_optimizer", "options"),
    [
        (sgd, {}),
        slow(sgd, {"clip": 0.05}),
        slow(sgd, {"pieces": 2}),
        slow(sgd, {"learn_step_size": True}),
        slow(sgd, {"clip_norm": 0.5}),
        (sgd, {"clip": 0.5, "clip_norm": 0.5}),
        slow(sgd, {"multi_step_loss": 2}),
        # Normalised by five examples, the second derivative rounds more.
        slow(lambda: keras.optimizers.SGD(3e-4), {"per_step_normalization": True}),
        # A step size of a whole layer has the sum of its numbers' gradients.
        (lambda: keras.optimizers.SGD(3e-4), {"learn_step_size": "layer_and_step"}),
        slow(lambda: keras.optimizers.Adam(0.01), {"clip": 0.05}),
        slow(lambda: keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.02, 4)), {}),
    ],
    ids=[
        *("SGD", "SGD, clip", "SGD, pieces", "SGD, learned step sizes", "SGD, norm", "SGD, both"),
        *("SGD, multi-step loss", "SGD, normalisation per step"),
        *("SGD, step sizes of layers and steps", "Adam, clip"),
        "a schedule",
    ],
)
@pytest.mark.cases(1)
def test_two_replicas_take_the_same_steps_as_one(two, make_optimizer, options):
    start, alone, expected = three_meta_steps(None, make_optimizer, **options)
    _, together, metrics = three_meta_steps(two, make_optimizer, **options)
    assert max(np.abs(a - b).max() for a, b in zip(alone, start, strict=False)) > 1e-4
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    for a, b in zip(metrics, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4 if a.shape[1:] == (4,) else 1e-5)


@pytest.mark.slow
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
        with pytest.raises(ValueError, match="5 tasks does not divide into 2 replicas x 1 pieces"):
            MetaLearner(model, losses.mean_squared_error, meta_batch_size=5)


def made_in(strategy):
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = dense_network(1, 1, (8,), seed=1)
        options = {"optimizer": keras.optimizers.Adam(0.01), "learn_step_size": True}
        return MetaLearner(model, losses.mean_squared_error, meta_batch_size=4, **options)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_replicas(two, tmp_path):
    options = {"progress": False, "validation": sines, "validation_tasks": 24}
    straight = made_in(None)
    train(straight, sines, iterations=6, restore_best=True, **options)
    for strategy, iterations in ((None, 2), (two, 4), (None, 6)):
        learner = made_in(strategy)
        result = train(learner, sines, iterations=iterations, logdir=tmp_path, **options)
        assert result.iteration == iterations and len(result.history["iteration"]) == 2
    again = made_in(two)
    assert Checkpoints(tmp_path / "checkpoints", again).restore_latest()
    for a, b, c in zip(straight.state, learner.state, again.state, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
        np.testing.assert_array_equal(b, c)


@pytest.mark.slow
def test_the_best_weights_and_files_with_two_replicas(two, tmp_path):
    learner = made_in(two)
    options = {"validation": sines, "validation_tasks": 24, "validate_every": 2}
    train(learner, sines, iterations=4, progress=False, restore_best=True, **options)
    learner.save(tmp_path / "two.weights.h5")
    for strategy in (None, two):
        again = made_in(strategy)
        again.load(tmp_path / "two.weights.h5")
        for a, b in zip(learner.state, again.state, strict=True):
            np.testing.assert_array_equal(a, b)


def cluster(**jobs):
    return types.SimpleNamespace(cluster_spec=lambda: tf.train.ClusterSpec(jobs))


def free_port():
    with socket.socket() as place:
        place.bind(("localhost", 0))
        return place.getsockname()[1]


@pytest.mark.parametrize(
    "decides", [{"gradient_accumulation_steps": 2}, {"use_ema": True, "ema_overwrite_frequency": 2}]
)
@pytest.mark.cases(1)
def test_what_keras_decides_at_each_update_is_refused(two, decides):
    def make():
        return keras.optimizers.SGD(0.01, **decides)

    with pytest.raises(ValueError, match=f"SGD.{list(decides)[-1]}=.* decides at each update"):
        three_meta_steps(two, make)
    three_meta_steps(None, make)
