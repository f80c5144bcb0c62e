import math

import numpy as np
import pytest
import tensorflow as tf

from maml_tf.tasks import Sinusoid


def arrays(task):
    return [part.numpy() for part in tf.nest.flatten(task)]


def test_shapes():
    task = Sinusoid(shots=5, queries=7)(0, 3)
    assert [a.shape for a in arrays(task)] == [(3, 5, 1), (3, 5, 1), (3, 7, 1), (3, 7, 1)]
    assert {a.dtype for a in arrays(task)} == {np.dtype("float32")}


def test_as_many_queries_as_shots_unless_told():
    assert Sinusoid(shots=5)(0, 3).query.x.shape == (3, 5, 1)


def test_each_task_draws_its_own_number_of_points():
    task = Sinusoid(shots=(2, 5), queries=4, seed=2)(3, 4000)
    whole = Sinusoid(shots=5, queries=4, seed=2)(3, 4000)
    assert task.support.mask.dtype == tf.bool and task.query.mask == ()
    shots = task.support.mask.numpy().sum(1)
    np.testing.assert_array_equal(task.support.mask, np.arange(5) < shots[:, None])
    # 1000 tasks of each of 2, 3, 4 and 5 points; standard deviation 27.
    values, counts = np.unique(shots, return_counts=True)
    assert values.tolist() == [2, 3, 4, 5] and abs(counts - 1000).max() < 120
    for own, full in zip(task, whole, strict=True):  # the same tasks, of which some are cut
        np.testing.assert_array_equal(own.x, full.x)
        np.testing.assert_array_equal(own.y, full.y)


def test_a_range_of_one_number_is_that_number():
    assert Sinusoid(shots=(3, 3))(0, 2).support.mask == ()
    assert Sinusoid(shots=(1, 3))(0, 2).query.x.shape == (2, 3, 1)


def test_sizes_depend_on_seed_split_and_index_alone():
    def sizes(index, **options):
        return Sinusoid(shots=(1, 10), **options)(index, 30).support.mask.numpy().sum(1)

    np.testing.assert_array_equal(sizes(5, seed=1), sizes(tf.constant(5, tf.int64), seed=1))
    others = [sizes(6, seed=1), sizes(5, seed=2), sizes(5, seed=1, split="val")]
    assert all((sizes(5, seed=1) != other).any() for other in others)


def test_y_is_the_sine_of_the_drawn_parameters():
    tasks = Sinusoid(shots=5, queries=7)
    amplitude, phase = tasks.parameters(4, 3)
    for x, y, *_ in tasks(4, 3):
        for t in range(3):
            expected = amplitude[t] * np.sin(x[t].numpy() - phase[t])
            np.testing.assert_allclose(y[t], expected, atol=1e-6)


def test_oracle_sees_the_parameters_of_the_same_tasks():
    oracle = Sinusoid(shots=5, oracle=True)
    plain = Sinusoid(shots=5)
    amplitude, phase = oracle.parameters(4, 3)
    for (x, y, *_), (plain_x, plain_y, *_) in zip(oracle(4, 3), plain(4, 3), strict=True):
        assert x.shape == (3, 5, 3)
        np.testing.assert_array_equal(x[..., :1], plain_x)
        np.testing.assert_array_equal(x[..., 1], np.tile(amplitude[:, None], 5))
        np.testing.assert_array_equal(x[..., 2], np.tile(phase[:, None], 5))
        np.testing.assert_array_equal(y, plain_y)


def test_half_shows_the_same_tasks_from_the_positive_half_and_asks_everywhere():
    half, plain = Sinusoid(shots=500, half=True)(4, 3), Sinusoid(shots=500)(4, 3)
    x = half.support.x.numpy()
    assert x.min() >= 0 and x.max() <= 5
    counts, _ = np.histogram(x, bins=5, range=(0, 5))  # 300 each, standard deviation 15
    assert abs(counts - 300).max() < 75
    np.testing.assert_array_equal(half.query.x, plain.query.x)
    np.testing.assert_array_equal(half.query.y, plain.query.y)
    assert half.query.x.numpy().min() < -4
    amplitude, phase = Sinusoid(shots=500).parameters(4, 3)
    expected = amplitude[:, None, None] * np.sin(x - phase[:, None, None])
    np.testing.assert_allclose(half.support.y, expected, atol=1e-6)


def test_fixed_tasks_have_the_curves_of_the_first_meta_batch_and_fresh_points():
    tasks = Sinusoid(shots=5, fixed=True)
    for first, later in zip(tasks.parameters(0, 3), tasks.parameters(7, 3), strict=True):
        np.testing.assert_array_equal(first, later)
    assert not np.isin(tasks(0, 3).support.x, tasks(7, 3).support.x).any()
    np.testing.assert_array_equal(tasks(7, 3).support.x, Sinusoid(shots=5)(7, 3).support.x)


def test_draws_are_uniform_and_independent():
    tasks = Sinusoid(shots=1)
    amplitude, phase = (p.numpy() for p in tasks.parameters(0, 10_000))
    support, query = (batch.x.numpy()[:, 0, 0] for batch in tasks(0, 10_000))
    draws = [(amplitude, 0.1, 5), (phase, 0, math.pi), (support, -5, 5), (query, -5, 5)]
    for values, low, high in draws:
        # A tenth of the draws falls in each tenth of the range: 1000, standard deviation 30.
        counts, _ = np.histogram(values, bins=10, range=(low, high))
        assert counts.sum() == 10_000
        assert abs(counts - 1000).max() < 150
    # Correlations of independent draws: 0, standard deviation 0.01.
    correlations = np.corrcoef([values for values, _, _ in draws]) - np.eye(4)
    assert abs(correlations).max() < 0.05


def test_a_meta_batch_depends_on_seed_split_and_index_alone():
    first = arrays(Sinusoid(shots=5, seed=1, split="val")(7, 3))
    tasks = Sinusoid(shots=5, seed=1, split="val")
    tasks(0, 3)
    for a, b in zip(first, arrays(tasks(tf.constant(7, tf.int64), 3)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("seed", "split", "index"), [(2, "val", 7), (1, "train", 7), (1, "test", 7), (1, "val", 8)]
)
def test_other_seeds_splits_and_indices_are_other_tasks(seed, split, index):
    tasks, others = (
        Sinusoid(shots=5, seed=1, split="val"),
        Sinusoid(shots=5, seed=seed, split=split),
    )
    assert not np.isin(tasks.parameters(7, 3), others.parameters(index, 3)).any()
    for a, b in zip(arrays(tasks(7, 3)), arrays(others(index, 3)), strict=True):
        assert not np.isin(a, b).any()


@pytest.mark.parametrize("oracle", [False, True])
@pytest.mark.cases(1)
def test_xla_draws_the_same(oracle):
    tasks = Sinusoid(shots=5, oracle=oracle)
    index = tf.constant(3, tf.int64)
    plain = tf.function(lambda i: tasks(i, 4))(index)
    compiled = tf.function(lambda i: tasks(i, 4), jit_compile=True)(index)
    for a, b in zip(arrays(plain), arrays(compiled), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_traced_once_with_static_shapes():
    tasks, shapes = Sinusoid(shots=5), []

    @tf.function(autograph=False)
    def draw(index):
        task = tasks(index, 4)
        shapes.append(task.support.x.shape)
        return task

    draw(tf.constant(0, tf.int64))
    draw(tf.constant(1, tf.int64))
    assert shapes == [(4, 5, 1)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shots": 0}, "shots is 0; a sinusoid task needs at least 1"),
        ({"shots": (0, 3)}, "shots is 0; a sinusoid task needs at least 1"),
        ({"shots": (5, 1)}, r"shots is \(5, 1\); give \(low, high\) with low <= high"),
        ({"shots": 1.5}, "shots must be a whole number, or two as"),
        ({"queries": -1}, "queries is -1; a sinusoid task needs at least 1"),
        ({"split": "dev"}, "split is 'dev'; use one of 'train', 'val', 'test'"),
    ],
)
def test_errors(wrong, message):
    with pytest.raises(ValueError, match=message):
        Sinusoid(**{"shots": 5} | wrong)
