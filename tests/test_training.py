import os
import signal
import threading

import numpy as np
import pytest
import tensorflow as tf
from helpers import slow

from maml_tf import AdaptationCurves, MetaLearner, losses, networks, train
from maml_tf.tasks import Sinusoid
from maml_tf.training import loop as training
from maml_tf.training.checkpoints import Checkpoints
from maml_tf.training.loop import NonFiniteLoss
from maml_tf.training.summaries import Summaries
from maml_tf.training.window import means


def make_learner(hidden=(6,), step_size=0.01, **options):
    network = networks.dense_network(1, 1, hidden, seed=1)
    return MetaLearner(
        network,
        losses.mean_squared_error,
        step_size=step_size,
        meta_batch_size=4,
        jit_compile=False,
        **options,
    )


def state(learner):
    return [np.asarray(v) for v in [*learner.model.variables, *learner.optimizer.variables]]


TASKS, HELD_OUT = Sinusoid(shots=5), Sinusoid(shots=5, split="val")


def run(directory, iterations, learner=None, **options):
    learner = learner or make_learner()
    options = {"progress": False, "save_every": 10, "validate_every": 10, **options}
    options = {"validation_tasks": 24, "validation_steps": 1, **options}
    result = train(
        learner, TASKS, iterations=iterations, logdir=directory, validation=HELD_OUT, **options
    )
    return learner, result


@pytest.mark.slow
def test_a_resumed_run_equals_an_undisturbed_one_bit_for_bit(tmp_path):
    straight, whole = run(tmp_path / "straight", 25)
    run(tmp_path / "resumed", 13)
    resumed, result = run(tmp_path / "resumed", 25)
    assert result == whole and result.iteration == 25
    for a, b in zip(state(straight), state(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_the_weights_move_and_the_optimizer_remembers(tmp_path):
    before = state(make_learner())
    after = state(run(tmp_path, 5)[0])
    assert any((a != b).any() for a, b in zip(before, after, strict=True))
    again = make_learner()
    Checkpoints(tmp_path / "checkpoints", again).restore_latest()
    assert int(np.asarray(again.optimizer.iterations)) == 5


@pytest.mark.parametrize("number", [signal.SIGINT, slow(signal.SIGTERM)])
def test_a_signal_saves_and_leaves_and_the_run_goes_on_as_if_nothing_was(tmp_path, number):
    straight, _ = run(tmp_path / "straight", 3000, save_every=3000, validate_every=3000)
    stopper = threading.Timer(0.1, os.kill, (os.getpid(), number))
    learner = make_learner()
    learner.meta_steps(TASKS, 0, 1)  # compile first, so that the signal meets the loop
    learner.model.set_weights(make_learner().model.get_weights())
    for variable in learner.optimizer.variables:
        if "learning_rate" not in variable.name:
            variable.assign(tf.zeros_like(variable.value))
    stopper.start()
    _, result = run(tmp_path / "stopped", 3000, learner, save_every=3000, validate_every=3000)
    stopper.join()
    assert result.interrupted and 0 < result.iteration < 3000
    kept = Checkpoints(tmp_path / "stopped" / "checkpoints", make_learner()).available()
    assert kept == [result.iteration]
    resumed, _ = run(tmp_path / "stopped", 3000, save_every=3000, validate_every=3000)
    for a, b in zip(state(straight), state(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_loss_that_is_not_finite_names_the_iteration_and_keeps_the_checkpoint(tmp_path):
    run(tmp_path, 20)
    kept = Checkpoints(tmp_path / "checkpoints", make_learner()).available()

    def poisoned(index, num_tasks):
        task = TASKS(index, num_tasks)
        poison = tf.where(index == 33, np.nan, 1.0)
        return task._replace(query=task.query._replace(y=task.query.y * poison))

    told = "iteration 33; the checkpoint of iteration 30 is intact. .* or clip the meta-gradient"
    with pytest.raises(NonFiniteLoss, match=told):
        train(
            make_learner(), poisoned, iterations=50, logdir=tmp_path, save_every=10, progress=False
        )
    after = Checkpoints(tmp_path / "checkpoints", make_learner())
    assert after.available() == [*kept, 30] and after.restore_latest()


@pytest.mark.parametrize("best_after, step", [(None, 1), slow(0, 0), (2, 2), slow(9, 2)])
@pytest.mark.cases(1)
def test_the_best_checkpoint_is_that_of_the_best_validation(best_after, step, tmp_path):
    options = {"validate_every": 10, "validation_steps": 2, "best_after": best_after}
    learner, result = run(tmp_path, 60, **options)
    checkpoints = Checkpoints(tmp_path / "checkpoints", learner)
    assert checkpoints.restore_best()
    assert float(checkpoints.best_score) == pytest.approx(result.best_score)
    best_iteration = int(checkpoints.iteration)
    from maml_tf import evaluate

    score = evaluate(learner, HELD_OUT, num_tasks=24, steps=2).mean[step]
    assert score == pytest.approx(result.best_score, rel=1e-5)
    assert best_iteration % 10 == 0


def test_a_run_that_is_done_does_nothing_more(tmp_path):
    first, _ = run(tmp_path, 10)
    again, result = run(tmp_path, 10)
    assert result.iteration == 10 and not result.interrupted
    for a, b in zip(state(first), state(again), strict=True):
        np.testing.assert_array_equal(a, b)


def test_without_record_nothing_is_written(tmp_path):
    run(tmp_path / "run", 5, record=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["log_every", "validate_every", "save_every"])
def test_intervals_are_positive(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} must be 1 or more"):
        run(tmp_path, 5, **{name: 0})


def test_the_cost_is_told_once_from_a_measured_call(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(training, "CALL_SECONDS", 1e-6)  # so that any call is long enough
    with caplog.at_level("INFO", "maml_tf"):
        run(tmp_path, 20)
    told = [record.getMessage() for record in caplog.records if "to go" in record.getMessage()]
    assert len(told) == 1  # not from the first call, which compiles
    assert told[0].startswith("18 iterations to go, about 0 s at ")


@pytest.mark.parametrize("seconds, said", [(40.2, "40 s"), (1500, "25 min"), (12600, "3.5 h")])
def test_durations(seconds, said):
    assert training.duration(seconds) == said


# --- checkpoints ---


def saved(tmp_path, *iterations):
    learner = make_learner()
    checkpoints = Checkpoints(tmp_path, learner)
    for iteration in iterations:
        learner.model.trainable_variables[0].assign_add(tf.ones([1, 6]))
        checkpoints.save(iteration)
    return learner


def test_a_broken_checkpoint_gives_way_to_the_one_before(tmp_path, caplog):
    saved(tmp_path, 10, 20)
    data = tmp_path / "ckpt-20.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:100])
    learner = make_learner()
    checkpoints = Checkpoints(tmp_path, learner)
    with caplog.at_level("WARNING", "maml_tf"):
        assert checkpoints.restore_latest()
    assert int(checkpoints.iteration) == 10 and "ckpt-20" in caplog.text
    first = make_learner().model.trainable_variables[0]
    np.testing.assert_allclose(learner.model.trainable_variables[0], first + 1.0)


def test_flipped_bits_are_noticed(tmp_path):
    saved(tmp_path, 10, 20)
    data = tmp_path / "ckpt-20.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    for place in range(0, len(content), 16):
        content[place] ^= 0xFF
    data.write_bytes(content)
    checkpoints = Checkpoints(tmp_path, make_learner())
    assert checkpoints.restore_latest() and int(checkpoints.iteration) == 10


def test_a_lost_list_of_checkpoints_loses_nothing(tmp_path):
    saved(tmp_path, 10)
    (tmp_path / "checkpoint").write_text("garbage")
    assert Checkpoints(tmp_path, make_learner()).restore_latest()


def test_only_broken_checkpoints_do_not_start_again_in_silence(tmp_path):
    saved(tmp_path, 10)
    (tmp_path / "ckpt-10.index").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="No checkpoint .* can be read"):
        Checkpoints(tmp_path, make_learner()).restore_latest()


def test_another_network_is_refused_by_the_name_of_its_weight(tmp_path):
    saved(tmp_path, 10)
    with pytest.raises(ValueError, match=r"another network: weight .*kernel .*\(1, 6\).*\(1, 7\)"):
        Checkpoints(tmp_path, make_learner(hidden=(7,))).restore_latest()


def test_only_the_newest_are_kept_and_any_of_them_can_be_restored(tmp_path):
    learner = make_learner()
    checkpoints = Checkpoints(tmp_path, learner, keep=2)
    for iteration in (1, 2, 3):
        checkpoints.save(iteration)
    assert checkpoints.available() == [2, 3]
    checkpoints.restore_iteration(2)
    assert int(checkpoints.iteration) == 2
    with pytest.raises(FileNotFoundError, match="iteration 1 .* there are: 2, 3"):
        checkpoints.restore_iteration(1)


def test_learned_step_sizes_are_restored(tmp_path):
    learner = make_learner(learn_step_size=True)
    learner.step_sizes[0].assign(tf.fill(learner.step_sizes[0].shape, 0.5))
    Checkpoints(tmp_path, learner).save(1)
    again = make_learner(learn_step_size=True)
    Checkpoints(tmp_path, again).restore_latest()
    np.testing.assert_array_equal(again.step_sizes[0], learner.step_sizes[0])


# --- TensorBoard ---


def events(directory):
    values = {}
    for file in sorted(directory.glob("events*")):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                values[value.tag, event.step] = value
    return values


def test_what_tensorboard_shows(tmp_path):
    learner = make_learner(inner_steps=2)
    options = {"validation_steps": 2, "description": "--seed=0", "callbacks": [AdaptationCurves()]}
    run(tmp_path, 20, learner, log_every=10, **options)
    names = {tag for tag, _ in events(tmp_path)}
    assert names == {
        "flags",
        "train/before_step_1_support_loss",
        "train/before_step_2_support_loss",
        "train/query_loss",
        "train/tasks_per_second",
        *(f"meta_gradient/norm{part}" for part in ("", "_body", "_head")),
        *(f"meta_update/norm{part}" for part in ("", "_body", "_head")),
        "validation/after_step_0_loss",
        "validation/after_step_1_loss",
        "validation/after_step_2_loss",
        "validation/adaptation_curve",
    }
    assert {step for tag, step in events(tmp_path) if tag == "train/query_loss"} == {10, 20}


@pytest.mark.slow
def test_a_point_is_the_mean_of_its_iterations(tmp_path):
    seen = make_learner().meta_steps(TASKS, 0, 20).query_loss.numpy()
    run(tmp_path, 20, log_every=10)
    shown = events(tmp_path)
    for end in (10, 20):
        value = tf.make_ndarray(shown["train/query_loss", end].tensor)
        assert value == pytest.approx(seen[end - 10 : end].mean(), rel=1e-5)


def test_a_disabled_writer_writes_nothing(tmp_path):
    summaries = Summaries(tmp_path / "none", disabled=True)
    summaries.scalars({"a": 1.0}, 1)
    summaries.close()
    assert not (tmp_path / "none").exists()


def test_classification_has_its_metric():
    metrics = {
        "support_loss": np.ones([3, 1]),
        "query_loss": np.ones(3),
        "query_metric": np.ones(3),
    }
    assert "query_accuracy" in means("accuracy", metrics)
    assert "query_loss" in means("loss", metrics)
