"""Schedules of the meta step size: their values, where a run goes on, and what is shown of them."""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import make_settings
from keras.optimizers import SGD, Adam
from keras.optimizers.schedules import CosineDecay, PiecewiseConstantDecay

from maml_tf import MetaLearner, losses, train
from maml_tf.cli.main import run as maml_tf_command
from maml_tf.experiments.schedules import WarmUpAndHold, learning_rate
from maml_tf.networks import dense_network
from maml_tf.tasks import Sinusoid

TASKS = Sinusoid(shots=5)


def schedule(updates=1, **given):
    given = {"meta_step_size": 0.5, "iterations": 100, **given}
    return learning_rate(make_settings(**given).training, updates)


def values(rate, *steps):
    return [float(rate(tf.constant(step, tf.int64))) for step in steps]


# --- values that a reader can compute ---


def test_a_constant_step_size_is_a_number():
    assert schedule() == 0.5


def test_a_warm_up_rises_in_a_straight_line_and_stays():
    rate = schedule(warmup_iterations=10)
    expected = [0, 0.05, 0.25, 0.5, 0.5]
    np.testing.assert_allclose(values(rate, 0, 1, 5, 10, 99), expected, rtol=1e-6)


def test_a_cosine():
    rate = schedule(meta_lr_schedule="cosine", final_meta_step_size=0.1)
    # A quarter of the way: 0.1 + 0.4 (1 + cos(pi / 4)) / 2.
    quarter = 0.1 + 0.2 * (1 + math.sqrt(0.5))
    np.testing.assert_allclose(values(rate, 0, 25, 50, 100, 250), [0.5, quarter, 0.3, 0.1, 0.1])
    keras_own = CosineDecay(0.5, 100, alpha=0.2)
    assert values(rate, *range(0, 120, 7)) == values(keras_own, *range(0, 120, 7))


def test_a_cosine_with_warm_up_ends_with_the_run():
    rate = schedule(meta_lr_schedule="cosine", warmup_iterations=20)
    expected = [0, 0.25, 0.5, 0.25, 0]
    np.testing.assert_allclose(values(rate, 0, 10, 20, 60, 100), expected, atol=1e-7)


def test_an_exponential_falls_by_one_factor_and_holds_its_last_value():
    rate = schedule(meta_lr_schedule="exponential", final_meta_step_size=0.005)
    expected = [0.5, 0.05, 0.005, 0.005]
    np.testing.assert_allclose(values(rate, 0, 50, 100, 1000), expected, rtol=1e-5)
    rate = schedule(
        meta_lr_schedule="exponential", final_meta_step_size=0.005, warmup_iterations=20
    )
    expected = [0, 0.125, 0.5, 0.05, 0.005, 0.005]
    np.testing.assert_allclose(values(rate, 0, 5, 20, 60, 100, 1000), expected, rtol=1e-5)


@pytest.mark.parametrize("shape", ["cosine", "exponential"])
def test_a_schedule_counts_all_updates_of_an_iteration(shape):
    given = {"meta_lr_schedule": shape, "final_meta_step_size": 0.1, "warmup_iterations": 10}
    once, ten = schedule(**given), schedule(10, **given)
    steps = [0, 3, 10, 40, 100, 130]
    np.testing.assert_allclose(
        values(ten, *(10 * s for s in steps)), values(once, *steps), rtol=1e-5
    )


def test_the_schedule_of_a_run_that_goes_on_beyond_it():
    given = {"meta_lr_schedule": "cosine", "final_meta_step_size": 0.1, "iterations": 1000}
    rate = schedule(**given, schedule_iterations=100)
    np.testing.assert_allclose(values(rate, 50, 100, 999), [0.3, 0.1, 0.1], rtol=1e-6)


def test_a_composed_schedule_is_made_anew_from_its_configuration():
    rate = schedule(meta_lr_schedule="exponential", warmup_iterations=20)
    optimizer = Adam.from_config(Adam(rate).get_config())
    assert isinstance(optimizer._learning_rate, WarmUpAndHold)
    assert values(optimizer._learning_rate, 0, 7, 33) == values(rate, 0, 7, 33)


# --- in a training ---


def learner_of(rate, optimizer=Adam, **options):
    model = dense_network(1, 1, (6,), seed=1)
    options = {"meta_batch_size": 4, "optimizer": optimizer(rate), **options}
    return MetaLearner(model, losses.mean_squared_error, **options)


def trained(logdir, iterations, rate=None, **options):
    rate = rate or schedule(
        meta_lr_schedule="exponential", warmup_iterations=8, iterations=20, meta_step_size=0.01
    )
    learner = learner_of(rate)
    options = {"progress": False, "save_every": 100, "log_every": 5, **options}
    return learner, train(learner, TASKS, iterations=iterations, logdir=logdir, **options)


@pytest.mark.slow
def test_a_run_that_stopped_in_the_middle_of_its_warm_up_goes_on_bit_for_bit(tmp_path):
    straight, all_of_it = trained(tmp_path / "straight", 20)
    trained(tmp_path / "run", 5)
    again, rest = trained(tmp_path / "run", 20)
    state = [[*one.state, *one.optimizer.variables] for one in (straight, again)]
    for a, b in zip(*state, strict=True):
        np.testing.assert_array_equal(a, b)
    rates = all_of_it.history["meta_step_size"]
    np.testing.assert_allclose(rates[:9], 0.01 * np.arange(9) / 8, rtol=1e-5)
    np.testing.assert_array_equal(rest.history["meta_step_size"], rates[5:])


def test_another_length_is_refused_by_name(tmp_path):
    trained(tmp_path, 5, CosineDecay(0.01, 20))
    with pytest.raises(ValueError, match=r"learning_rate.decay_steps=20, now 40[^\n]*$"):
        trained(tmp_path, 40, CosineDecay(0.01, 40))


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.cases(1)
def test_any_schedule_of_keras_moves_the_weights(jit_compile):
    learner = learner_of(PiecewiseConstantDecay([1], [0.1, 0.0]), SGD, jit_compile=jit_compile)
    metrics = learner.meta_steps(TASKS, 0, 4)
    np.testing.assert_allclose(metrics.meta_step_size, [0.1, 0.1, 0, 0])
    assert (metrics.update_norms[:2, 0].numpy() > 0).all()
    np.testing.assert_array_equal(metrics.update_norms[2:, 0], [0, 0])


def shown(directory, tag):
    points = {}
    for file in sorted(directory.glob("events*")):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                if value.tag == tag:
                    points[event.step] = float(tf.make_ndarray(value.tensor))
    return points


def test_tensorboard_shows_a_step_size_that_is_not_constant(tmp_path):
    trained(tmp_path / "falls", 20, CosineDecay(0.02, 20))
    keras_own = np.array(values(CosineDecay(0.02, 20), *range(20))).reshape(4, 5).mean(1)
    points = shown(tmp_path / "falls", "train/meta_step_size")
    assert list(points) == [5, 10, 15, 20]
    np.testing.assert_allclose(list(points.values()), keras_own, rtol=1e-5)
    _, result = trained(tmp_path / "stays", 5, 0.02)
    assert not shown(tmp_path / "stays", "train/meta_step_size")
    assert np.isnan(result.history["meta_step_size"]).all()


def test_a_callback_of_learning_rates_contradicts_a_schedule():
    callback = keras.callbacks.ReduceLROnPlateau()
    with pytest.raises(ValueError, match="ReduceLROnPlateau changes .* follows a schedule; leave"):
        trained(None, 5, callbacks=[callback])


# --- on the command line ---

COMMAND = (
    "train --shots=3 --meta_batch_size=2 --validation_tasks=2 --test_steps=1 --progress=False "
    "--jit_compile=False "
    "--meta_lr_schedule=cosine --warmup_iterations=2"
).split()


@pytest.mark.slow
def test_a_command_line_with_a_schedule_goes_on_and_tells_of_another_length(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert maml_tf_command([*COMMAND, "--iterations=6"]) == 0
    (first,) = (tmp_path / "logs").iterdir()
    rate = json.loads((first / "learner.json").read_text())["optimizer"]["learning_rate"]
    assert (rate["class"], rate["warmup_steps"], rate["decay_steps"]) == ("CosineDecay", 2, 4)
    beyond = ["--iterations=8", "--schedule_iterations=6"]
    assert maml_tf_command([*COMMAND, *beyond]) == 0
    assert list((tmp_path / "logs").iterdir()) == [first]
    assert (first / "checkpoints" / "ckpt-8.index").exists()
    capsys.readouterr()
    assert maml_tf_command([*COMMAND, "--iterations=9"]) == 0
    told = f"than in logs/{first.name}; to go on there, add --schedule_iterations=6."
    assert told in capsys.readouterr().err
