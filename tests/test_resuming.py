"""Whose run a directory holds, and training without one."""

import functools
import json
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import values

from maml_tf import Estimate, MetaLearner, evaluate, losses, networks, train
from maml_tf.tasks import Sinusoid
from maml_tf.training import loop as training
from maml_tf.training.checkpoints import Checkpoints
from maml_tf.training.loop import NonFiniteLoss

TASKS, HELD_OUT = Sinusoid(shots=5), Sinusoid(shots=5, split="val")
QUIET = {"progress": False, "save_every": 10, "validate_every": 10}
VALIDATION = {"validation": HELD_OUT, "validation_tasks": 24, "validation_steps": 1}


def auto_named(activation="relu", units=6, layers=1):
    """A network whose layers have the names that Keras counts up."""
    keras.utils.set_random_seed(1)
    hidden = [keras.layers.Dense(units, activation=activation) for _ in range(layers)]
    return keras.Sequential([keras.Input((1,)), *hidden, keras.layers.Dense(1)])


def make_learner(model=None, **options):
    options = {"meta_batch_size": 4, "learn_step_size": True, **options}
    return MetaLearner(model or auto_named(), losses.mean_squared_error, **options)


def assert_equal(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def run(logdir, iterations=20, learner=None, tasks=TASKS, **options):
    learner = learner or make_learner()
    result = train(learner, tasks, iterations=iterations, logdir=logdir, **{**QUIET, **options})
    return learner, result


# --- the same code again, in this process and in others ---


@pytest.mark.slow
def test_a_notebook_cell_run_twice_goes_on_where_it_was(tmp_path):
    straight, _ = run(tmp_path / "straight", 20)
    first, _ = run(tmp_path / "run", 10)
    again, result = run(tmp_path / "run", 20)  # Keras has counted up all names meanwhile
    assert first.model.layers[0].name != again.model.layers[0].name
    assert result.iteration == 20 and result.history["iteration"].tolist() == list(range(11, 21))
    assert_equal(values(again), values(straight))


def test_no_name_in_a_checkpoint_holds_a_counter(tmp_path):
    keys = []
    for name in ("one", "two"):
        run(tmp_path / name, 10)
        reader = tf.train.load_checkpoint(str(tmp_path / name / "checkpoints" / "ckpt-10"))
        keys.append({key for key in reader.get_variable_to_shape_map() if key[0] in "wo"})
    assert keys[0] == keys[1] and len(keys[0]) == 4 + 4 + 2 + 16
    end = "/.ATTRIBUTES/VARIABLE_VALUE"
    assert {f"weights/v000_kernel{end}", f"weights/v003_bias{end}"} < keys[0]
    assert f"optimizer/v000_iteration{end}" in keys[0]


def test_a_run_goes_on_in_another_process(tmp_path):
    straight, _ = run(tmp_path / "straight", 20)
    run(tmp_path / "run", 10)
    script = f"""
        import sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        import test_resuming as t
        t.run(t.pytest.importorskip("pathlib").Path({str(tmp_path / "run")!r}), 20)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)
    again = make_learner()
    Checkpoints(tmp_path / "run" / "checkpoints", again).restore_iteration(20)
    assert_equal(values(again), values(straight))


def write_as_before(directory, learner, iteration):
    """A checkpoint as versions before wrote it: with the whole names, counters and all."""

    def group(variables):
        names = {f"v{i:03d}_{v.name.split('/')[-1]}": v.value for i, v in enumerate(variables)}
        return tf.train.Checkpoint(**names)

    checkpoint = tf.train.Checkpoint(
        weights=group(learner.state),
        optimizer=group(learner.optimizer.variables),
        iteration=tf.Variable(iteration, dtype=tf.int64),
        best_score=tf.Variable(0.25),
    )
    tf.train.CheckpointManager(checkpoint, str(directory), max_to_keep=10).save(
        checkpoint_number=iteration
    )


def test_checkpoints_of_earlier_versions_are_read(tmp_path):
    straight, _ = run(None, 10)
    write_as_before(tmp_path / "checkpoints", straight, 10)
    names = tf.train.load_checkpoint(str(tmp_path / "checkpoints" / "ckpt-10"))
    assert any("dense_" in key for key in names.get_variable_to_shape_map())  # counters
    again = make_learner()
    checkpoints = Checkpoints(tmp_path / "checkpoints", again)
    assert checkpoints.restore_latest()
    assert int(checkpoints.iteration) == 10 and float(checkpoints.best_score) == 0.25
    assert_equal(values(again), values(straight))
    assert not (tmp_path / "learner.json").exists()
    _, result = run(tmp_path, 20)
    assert result.iteration == 20 and len(result.history["iteration"]) == 10
    assert json.loads((tmp_path / "learner.json").read_text())["inner_steps"] == 1


def test_a_broken_checkpoint_changes_nothing(tmp_path):
    first, _ = run(tmp_path, 10)
    data = tmp_path / "checkpoints" / "ckpt-10.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[content.find(np.asarray(first.state[-1]).tobytes())] ^= 1  # the last that is restored
    data.write_bytes(content)
    learner = make_learner()
    before = values(learner)
    with pytest.raises(ValueError, match="can be read"):
        run(tmp_path, 20, learner)
    assert_equal(values(learner), before)


# --- another learner ---


def sgd(rate=0.01):
    return keras.optimizers.SGD(rate)


@pytest.mark.parametrize(
    "options, told",
    [
        ({"step_size": 0.1}, "another learner: step_size=0.01, now 0.1"),
        ({"inner_steps": 2}, "inner_steps=1, now 2"),
        ({"meta_batch_size": 8}, "meta_batch_size=4, now 8"),
        ({"first_order": True}, "first_order=False, now True"),
        ({"clip": 1.0}, "clip=None, now 1.0"),
        ({"clip_norm": 1.0}, "clip_norm=None, now 1.0"),
        ({"optimizer": keras.optimizers.Adam(0.01)}, "optimizer.learning_rate=0.001, now 0.01"),
        ({"optimizer": sgd()}, "optimizer.class=Adam, now SGD"),
        ({"learn_step_size": False}, "learned_step_sizes=4, now 0"),
        ({"adapts": lambda v: v.name != "bias"}, r"adapts\[1\]=True, now False"),
        ({"model": auto_named("tanh")}, r"another network: layers\[1\].activation=relu, now tanh"),
        ({"model": auto_named(units=7)}, r"layers\[1\].units=6, now 7; weights\[0\].shape\[1\]=6"),
        ({"model": auto_named(layers=2)}, "layers=3 of them, now 4"),
        ({"tasks": Sinusoid(shots=5, seed=1)}, "tasks.seed=0, now 1"),
        ({"tasks": Sinusoid(shots=6)}, "tasks.shots=5, now 6"),
        ({"tasks": Sinusoid(shots=(1, 5))}, r"tasks.shots=5, now \[1, 5\]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_run_of_another_learner_is_refused_by_name(trained, options, told):
    learner = make_learner(**{k: v for k, v in options.items() if k != "tasks"})
    before = values(learner)
    with pytest.raises(ValueError, match=f"holds the run of .*{told}.*Give another logdir"):
        run(trained, 20, learner, options.get("tasks", TASKS))
    assert_equal(values(learner), before)
    assert Checkpoints(trained / "checkpoints", learner).available() == [10]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    place = tmp_path_factory.mktemp("trained")
    run(place, 10)
    return place


def another_loss(outputs, y):
    return 2.0 * losses.mean_squared_error(outputs, y)


def test_another_loss_is_refused(trained):
    learner = MetaLearner(auto_named(), another_loss, meta_batch_size=4, learn_step_size=True)
    with pytest.raises(ValueError, match="loss=mean_squared_error, now another_loss"):
        run(trained, 20, learner)


def test_what_changes_nothing_that_is_learned_may_change(tmp_path):
    run(tmp_path, 10)
    learner = make_learner(recompute=True, pieces=2)
    options = {**VALIDATION, "log_every": 3, "save_every": 5, "validate_every": 5}
    _, result = run(tmp_path, 20, learner, **options)
    assert result.iteration == 20 and np.isfinite(result.best_score)


@pytest.mark.slow
def test_deleting_the_description_goes_on_with_new_settings_and_a_new_rate(tmp_path):
    first, _ = run(tmp_path, 10)
    weights = [np.array(np.asarray(v)) for v in first.state]
    changed = make_learner(clip=1.0, optimizer=keras.optimizers.Adam(1e-30))
    with pytest.raises(ValueError, match="clip=None, now 1.0; .*delete .*learner.json"):
        run(tmp_path, 20, changed)
    (tmp_path / "learner.json").unlink()
    run(tmp_path, 20, changed)
    assert float(np.asarray(changed.optimizer.learning_rate)) == pytest.approx(1e-30)
    assert int(np.asarray(changed.optimizer.iterations)) == 20
    assert_equal([np.array(np.asarray(v)) for v in changed.state], weights)  # by steps of no size
    with pytest.raises(ValueError, match="clip=1.0, now None"):
        run(tmp_path, 30)


@pytest.mark.slow
def test_a_run_without_a_checkpoint_contradicts_nothing(tmp_path):
    def poisoned(index, num_tasks):
        task = TASKS(index, num_tasks)
        return task._replace(query=task.query._replace(y=1e30 * task.query.y))

    with pytest.raises(NonFiniteLoss, match="iteration 0; nothing was saved"):
        run(tmp_path, 5, make_learner(step_size=5.0), poisoned)
    _, result = run(tmp_path, 5)
    assert result.iteration == 5
    assert json.loads((tmp_path / "learner.json").read_text())["step_size"] == 0.01


def test_another_optimizer_in_a_directory_without_description(tmp_path):
    write_as_before(tmp_path / "checkpoints", make_learner(), 10)
    with pytest.raises(ValueError, match="another optimizer: variable 2 is momentum .* missing"):
        run(tmp_path, 20, make_learner(optimizer=sgd()))
    other = keras.optimizers.SGD(0.01, momentum=0.9)
    with pytest.raises(ValueError, match=r"another optimizer: variable 3 is velocity \(1, 6\)"):
        run(tmp_path, 20, make_learner(optimizer=other))


def test_a_damaged_description_is_named(tmp_path):
    run(tmp_path, 10)
    (tmp_path / "learner.json").write_text("garbage")
    with pytest.raises(ValueError, match="learner.json cannot be read .* delete it"):
        run(tmp_path, 20)


# --- what is said ---


def test_resuming_is_visible_without_any_logging_set_up(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger("maml_tf"), "level", logging.NOTSET)  # as at first
    logging.getLogger("maml_tf").manager._clear_cache()
    run(tmp_path, 10)
    assert "Resuming" not in capsys.readouterr().err
    run(tmp_path, 20)
    assert f"Resuming after iteration 10 of the run in {tmp_path}." in capsys.readouterr().err


@pytest.mark.slow
def test_resuming_is_logged_where_somebody_listens_and_not_said_twice(tmp_path, capsys, caplog):
    run(tmp_path, 10)
    with caplog.at_level("INFO", "maml_tf"):
        run(tmp_path, 20)
    assert [r.levelname for r in caplog.records if "Resuming after" in r.getMessage()] == ["INFO"]
    assert "Resuming" not in capsys.readouterr().err


@pytest.mark.parametrize("asked, told", [(20, "as many as asked"), (10, "more than the 10 asked")])
@pytest.mark.slow
def test_nothing_left_to_train_is_a_warning(tmp_path, caplog, asked, told):
    first, _ = run(tmp_path, 20)
    again, result = run(tmp_path, asked)
    (warning,) = [r for r in caplog.records if "Nothing to train" in r.getMessage()]
    assert warning.levelname == "WARNING"
    pattern = f"has done 20 iterations, {told}. The learner has its weights now; ask for more"
    assert re.search(pattern, warning.getMessage())
    assert result.iteration == 20 and result.history["iteration"].size == 0
    assert_equal(values(again), values(first))


# --- without a directory ---


def test_training_in_memory_takes_the_same_steps_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    alone, result = run(None, 20, **VALIDATION)
    assert not list(tmp_path.iterdir())
    written, same = run(tmp_path / "run", 20, **VALIDATION)
    assert result == same and np.isfinite(result.best_score)
    assert_equal(values(alone), values(written))


@pytest.mark.slow
def test_the_history_is_what_was_seen():
    learner = make_learner(inner_steps=2)
    result = train(learner, TASKS, iterations=25, **{**QUIET, "validate_every": 10}, **VALIDATION)
    seen = make_learner(inner_steps=2).meta_steps(TASKS, 0, 25)
    history = result.history
    np.testing.assert_array_equal(history["iteration"], np.arange(1, 26))
    assert history["support_loss"].shape == (25, 2)
    for name in ("support_loss", "query_loss", "query_metric"):
        np.testing.assert_allclose(history[name], getattr(seen, name), rtol=1e-6)
    np.testing.assert_array_equal(history["validation_iteration"], [10, 20, 25])
    assert history["validation"].shape == history["validation_ci95"].shape == (3, 2)
    last = evaluate(learner, HELD_OUT, num_tasks=24, steps=1)
    np.testing.assert_allclose(history["validation"][-1], last.mean, rtol=1e-6)
    np.testing.assert_allclose(history["validation_ci95"][-1], last.ci95, rtol=1e-6)
    assert result.best_score == pytest.approx(history["validation"][:, 1].min())


class Worsening:
    """A validation by which the weights after 20 iterations are the best."""

    steps = 0

    def __init__(self):
        self.scores, self.weights, self.learner = iter([3.0, 1.0, 2.0, 4.0]), [], None

    def __call__(self):
        self.weights.append(values(self.learner))
        return Estimate(np.array([next(self.scores)]), np.zeros(1), np.zeros(1), 1)


@pytest.mark.parametrize("restore", [True, False])
@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.slow
def test_the_best_weights_are_put_back_if_asked_for(tmp_path, recorded, restore):
    validation = Worsening()
    validation.learner = make_learner()
    options = {"validation": validation, "restore_best": restore}
    logdir = tmp_path if recorded else None
    learner, result = run(logdir, 40, validation.learner, **options)
    assert result.best_score == 1.0 and result.iteration == 40
    assert_equal(values(learner), validation.weights[1 if restore else 3])
    if recorded:  # and going on is from the last ones
        again = make_learner()
        assert Checkpoints(tmp_path / "checkpoints", again).restore_latest()
        assert_equal(values(again), validation.weights[3])


def test_the_best_weights_of_a_run_that_is_done(tmp_path):
    run(tmp_path, 20, **VALIDATION)
    best = make_learner()
    Checkpoints(tmp_path / "checkpoints", best).restore_best()
    again, _ = run(tmp_path, 20, **VALIDATION, restore_best=True)
    assert_equal(values(again), values(best))


def test_the_best_needs_a_validation():
    with pytest.raises(ValueError, match="restore_best=True needs validation tasks"):
        run(None, 5, restore_best=True)


def poisoned_at(iteration):
    def poisoned(index, num_tasks):
        task = TASKS(index, num_tasks)
        poison = tf.where(index == iteration, np.nan, 1.0)
        return task._replace(query=task.query._replace(y=task.query.y * poison))

    return poisoned


@pytest.mark.slow
def test_a_loss_that_is_not_finite_without_a_directory():
    with pytest.raises(NonFiniteLoss, match="iteration 13; nothing was saved"):
        run(None, 20, tasks=poisoned_at(13), **VALIDATION)
    learner = make_learner()
    told = "iteration 13; the learner has the best weights again, of iteration 10"
    with pytest.raises(NonFiniteLoss, match=told):
        run(None, 20, learner, poisoned_at(13), **VALIDATION, restore_best=True)
    assert_equal(values(learner), values(run(None, 10)[0]))


def test_a_signal_without_a_directory_keeps_the_weights(tmp_path):
    learner, before = make_learner(), signal.getsignal(signal.SIGINT)
    stopper = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT))
    stopper.start()
    _, result = run(None, 10_000_000, learner)
    stopper.join()
    assert result.interrupted and 0 < result.iteration < 10_000_000
    assert int(np.asarray(learner.optimizer.iterations)) == result.iteration
    assert len(result.history["query_loss"]) == result.iteration
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.slow
def test_it_learns_in_memory():
    network = networks.dense_network(1, 1, (40, 40), seed=1)
    learner = MetaLearner(network, losses.mean_squared_error, meta_batch_size=10)
    before = evaluate(learner, HELD_OUT, num_tasks=48, steps=1).mean[1]
    options = {**VALIDATION, "validate_every": 100, "restore_best": True}
    _, result = run(None, 300, learner, **options)
    after = evaluate(learner, HELD_OUT, num_tasks=24, steps=1).mean[1]
    assert after == pytest.approx(result.best_score, rel=1e-5) and after < before


@pytest.mark.slow
def test_a_source_that_fails_within_a_call_keeps_no_weights_of_its_middle(tmp_path, monkeypatch):
    """Steps of a compiled call count when it ends; weights kept before would be of no iteration."""

    def tasks(index, num_tasks, failing=()):
        if int(index) in failing:
            raise OSError(5, "Input/output error")
        return tf.nest.map_structure(np.asarray, TASKS(int(index), num_tasks))

    monkeypatch.setattr(training, "CALL_SECONDS", 1e6)  # one call of several pieces
    straight, _ = run(None, 700, tasks=tasks)
    with pytest.raises(OSError, match="Input/output error"):
        broken = functools.partial(tasks, failing=(650,))
        run(tmp_path, 700, tasks=broken, save_every=1000, validate_every=1000)
    resumed, _ = run(tmp_path, 700, tasks=tasks, save_every=1000, validate_every=1000)
    assert_equal(values(resumed), values(straight))
