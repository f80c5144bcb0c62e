"""Tasks of different numbers of shots in one meta-batch: each is what it would be alone."""

import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import error_of, randomize
from keras import layers

from maml_tf import Batch, MetaLearner, Task, losses, train
from maml_tf.cli.main import run
from maml_tf.networks import dense_network
from maml_tf.results import rows
from maml_tf.tasks import Episodes, Sinusoid

WAYS, SHOTS, QUERIES, TASKS = 3, (1, 4), 2, 6


def classifier():
    parts = [layers.Conv2D(3, 3), layers.BatchNormalization(), layers.ReLU(), layers.Flatten()]
    return randomize(keras.Sequential([keras.Input([5, 5, 1]), *parts, layers.Dense(WAYS)]))


def classification():
    images = np.random.default_rng(0).uniform(size=[8, 7, 5, 5, 1])
    return Episodes(images, WAYS, SHOTS, QUERIES, seed=1)


def wide(task):
    """The task with its real numbers in float64."""
    return tf.nest.map_structure(
        lambda a: tf.cast(a, tf.float64) if a.dtype.is_floating else a, task
    )


def alone(task, t):
    """Task `t` by itself, and of its support set what exists: there is no mask."""
    there = np.flatnonzero(task.support.mask[t])
    support, query = (tf.nest.map_structure(lambda a: a[t : t + 1], batch) for batch in task)
    cut = tf.nest.map_structure(lambda a: tf.gather(a, there, axis=1), support)
    return Task(cut._replace(mask=()), query)


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.summed_cross_entropy])
@pytest.mark.cases(1)
def test_the_meta_gradient_is_the_mean_of_the_tasks_alone(float64, loss):
    """With both derivatives through batch normalisations that see no padding."""
    learner = MetaLearner(classifier(), loss, step_size=0.3, inner_steps=2, meta_batch_size=TASKS)
    task = wide(classification()(3, TASKS))
    assert len(set(task.support.mask.numpy().sum(1))) > 2
    each = [learner.meta_gradient(alone(task, t)) for t in range(TASKS)]
    expected = tf.nest.map_structure(lambda *parts: sum(parts) / TASKS, *each)
    got = learner.meta_gradient(task)
    for a, b in zip(tf.nest.flatten(got), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    assert max(np.abs(g).max() for g in got[0]) > 1e-2


def test_the_meta_gradient_of_a_regression_is_the_mean_of_the_tasks_alone(float64):
    model = randomize(dense_network(1, 1, (5,)))
    learner = MetaLearner(model, losses.mean_squared_error, step_size=0.1, meta_batch_size=TASKS)
    task = wide(Sinusoid(shots=SHOTS, seed=1)(3, TASKS))
    assert len(set(task.support.mask.numpy().sum(1))) > 2
    each = [learner.meta_gradient(alone(task, t)) for t in range(TASKS)]
    expected = tf.nest.map_structure(lambda *parts: sum(parts) / TASKS, *each)
    for a, b in zip(*map(tf.nest.flatten, (learner.meta_gradient(task), expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_what_is_padded_changes_nothing(float64):
    learner = MetaLearner(classifier(), losses.cross_entropy, meta_batch_size=TASKS)
    task = wide(classification()(3, TASKS))
    mask = task.support.mask.numpy()
    other = task.support.x.numpy()
    other[~mask] = 9.0
    labels = np.where(mask, task.support.y, 2)
    spoilt = task._replace(support=Batch(tf.constant(other), tf.constant(labels), mask=mask))
    for a, b in zip(*map(tf.nest.flatten, map(learner.meta_gradient, (task, spoilt))), strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_trace_serves_every_number_of_shots():
    learner = MetaLearner(classifier(), losses.cross_entropy, meta_batch_size=TASKS)
    tasks = classification()
    for start in range(0, 6, 2):
        learner.meta_steps(tasks, start, 2)
    assert learner._gradient.piece.experimental_get_tracing_count() == 1


def weights_of(learner):
    return [np.asarray(variable) for variable in [*learner.state, *learner.optimizer.variables]]


@pytest.mark.parametrize("tasks", [classification(), Sinusoid(shots=SHOTS)], ids=["N-way", "sine"])
@pytest.mark.slow
def test_a_resumed_run_equals_an_undisturbed_one_bit_for_bit(tasks, tmp_path):
    def learner():
        if isinstance(tasks, Sinusoid):
            return MetaLearner(dense_network(1, 1, (5,), seed=1), "mse", meta_batch_size=TASKS)
        return MetaLearner(classifier(), losses.cross_entropy, meta_batch_size=TASKS)

    options = {"save_every": 3, "progress": False}
    whole, before, after = learner(), learner(), learner()
    train(whole, tasks, iterations=6, logdir=tmp_path / "whole", **options)
    train(before, tasks, iterations=3, logdir=tmp_path / "cut", **options)
    train(after, tasks, iterations=6, logdir=tmp_path / "cut", **options)
    for a, b in zip(weights_of(whole), weights_of(after), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (weights_of(before)[0] != weights_of(after)[0]).any()


# --- the command line ---


def flags(logs, *more):
    few = ["--validation_tasks=4", "--meta_batch_size=4", "--progress=False", "--jit_compile=False"]
    return ["--shots=1..4", f"--logdir={logs}", *few, *more]


@pytest.mark.slow
def test_a_run_of_a_range_is_named_resumed_evaluated_at_any_k_and_released(tmp_path, capsys):
    logs, release = tmp_path / "logs", tmp_path / "release"
    for iterations in (2, 4):
        assert run(["train", *flags(logs, f"--iterations={iterations}")]) == 0
    (directory,) = logs.iterdir()
    assert directory.name.startswith("sinusoid_1..4shot.maml.")
    assert "--shots=1..4\n" in (directory / "flags.txt").read_text()
    assert json.loads((directory / "learner.json").read_text())["tasks"]["shots"] == [1, 4]
    few = ["--test_tasks=4", "--test_steps=1", "--split=test", "--progress=False"]
    for more in ("--shots=7", "--shots=1..4"):  # another K; the training's own, once more
        assert run(["evaluate", str(directory), *few, more]) == 0
    assert "sinusoid_1..4shot, maml, iteration 4, test split, K = 7" in capsys.readouterr().out
    measured = {(row["shots"], row["train_shots"], row["queries"]) for row in rows(directory)}
    assert measured == {(4, "1..4", 4), (7, "1..4", 7)}
    assert run(["release", str(directory), f"--to={release}"]) == 0
    assert "--shots=1..4" in (release / "README.md").read_text()
    assert {row["train_shots"] for row in rows(release)} == {"1..4"}
    assert run(["runs", str(logs)]) == 0
    assert re.search("4 tasks, test, [47]-shot", capsys.readouterr().out)


@pytest.mark.slow
def test_runs_of_other_ranges_are_other_runs(tmp_path, capsys):
    assert run(["train", *flags(tmp_path, "--iterations=1", "--run_name=x")]) == 0
    line = ["train", *flags(tmp_path, "--iterations=1", "--run_name=x", "--shots=1..3")]
    assert "x was trained with --shots=1..4, now 1..3" in error_of(line, capsys)
    line = ["evaluate", str(tmp_path / "x"), "--shots=1..3"]
    assert "--test_shots must be a whole number, not 1..3" in error_of(line, capsys)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("5..1", "write the smaller number of a range first, 1..5"),
        ("1..", "write a range as LOW..HIGH, such as 1..5"),
        ("0..3", "--shots must be from 1 to 1000000; got 0..3"),
    ],
)
def test_what_is_no_range_is_one_line_before_any_work(said, message, tmp_path, capsys):
    line = ["train", f"--shots={said}", f"--logdir={tmp_path / 'logs'}"]
    assert message in error_of(line, capsys)
    assert not (tmp_path / "logs").exists()


def test_more_shots_than_a_class_has_is_one_line_before_any_work(tmp_path, capsys):
    from PIL import Image

    for name in "abcdefghij":
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (8, 8)).save(tmp_path / "photos" / name / f"{i}.png")
    line = ["train", "--problem=folder", f"--data_dir={tmp_path / 'photos'}", "--image_size=8"]
    line += ["--ways=2", "--shots=1..4", "--queries=1", f"--logdir={tmp_path / 'logs'}"]
    assert "4 support and 1 query examples need 5 examples a class" in error_of(line, capsys)
    assert not (tmp_path / "logs").exists()
