"""Keras' own callbacks in `train`: a validation is an epoch, or without one a logging window."""

import csv
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import slow

import maml_tf
from maml_tf import MetaLearner, losses, train
from maml_tf.tasks import Sinusoid
from maml_tf.training import loop as training
from maml_tf.training.checkpoints import Checkpoints

TASKS, HELD_OUT = Sinusoid(shots=5), Sinusoid(shots=5, split="val")
HOW = {"progress": False, "log_every": 5, "validate_every": 10, "save_every": 1000}
VALIDATED = {"validation": HELD_OUT, "validation_tasks": 24, "validation_steps": 2}


def sequential():
    layers = [keras.Input((1,)), keras.layers.Dense(6, "relu"), keras.layers.Dense(1)]
    return keras.Sequential(layers, name="net")


def functional():
    x = keras.Input((1,))
    return keras.Model(x, keras.layers.Dense(1)(keras.layers.Dense(6, "relu")(x)), name="net")


@pytest.fixture(params=[slow(functional), sequential], ids=["functional", "Sequential"])
def make(request):
    def learner(**options):
        keras.utils.set_random_seed(1)
        options = {"step_size": 0.01, "meta_batch_size": 4, **options}
        return MetaLearner(request.param(), losses.mean_squared_error, **options)

    return learner


class Diary(keras.callbacks.Callback):
    """Notes what it is told."""

    def __init__(self):
        super().__init__()
        self.told = []

    def on_train_begin(self, logs=None):
        self.told.append("begin")

    def on_train_end(self, logs=None):
        self.told.append("end")

    def on_epoch_begin(self, epoch, logs=None):
        self.told.append(f"epoch {epoch}")

    def on_epoch_end(self, epoch, logs=None):
        self.told.append(f"{epoch} over")
        self.logs = logs

    def on_train_batch_begin(self, batch, logs=None):
        self.told.append(f"from {batch}")

    def on_train_batch_end(self, batch, logs=None):
        self.told.append(f"to {batch}")
        assert np.isfinite(logs["query_loss"])

    def on_test_begin(self, logs=None):
        self.told.append("validation")


def weights(learner):
    return [np.asarray(v) for v in learner.variables]


def assert_equal(these, those):
    for a, b in zip(these, those, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_validation_is_an_epoch(make, monkeypatch):
    monkeypatch.setattr(training, "CALL_SECONDS", 1e6)
    diary, learner = Diary(), make()
    history = train(learner, TASKS, iterations=13, callbacks=[diary], **HOW, **VALIDATED).history
    first = ["begin", "epoch 0", "from 0", "to 0", "from 1", "to 9", "validation", "0 over"]
    assert diary.told == [*first, "epoch 1", "from 0", "to 2", "validation", "1 over", "end"]
    assert diary.params["epochs"] == 2 and diary.params["steps"] == 10
    assert diary.model is learner.model
    np.testing.assert_allclose(diary.logs["query_loss"], history["query_loss"][10:].mean())
    support = diary.logs["support_loss_before_step_1"]
    np.testing.assert_allclose(support, history["support_loss"][10:].mean())
    seen = [diary.logs[f"val_loss_after_step_{step}"] for step in range(3)]
    np.testing.assert_allclose(seen, history["validation"][-1])
    assert diary.logs["val_loss"] == seen[1]  # the training takes one step


def test_without_validation_a_logging_window_is_an_epoch(make, monkeypatch):
    monkeypatch.setattr(training, "CALL_SECONDS", 1e6)
    diary = Diary()
    train(make(), TASKS, iterations=7, callbacks=diary, **HOW)
    first = ["begin", "epoch 0", "from 0", "to 0", "from 1", "to 4", "0 over"]
    assert diary.told == [*first, "epoch 1", "from 0", "to 1", "1 over", "end"]
    assert set(diary.logs) == {"query_loss", "support_loss_before_step_1"}


@pytest.mark.slow
def test_callbacks_change_nothing_that_is_learned(make):
    alone, watched = make(), make()
    train(alone, TASKS, iterations=20, **HOW)
    train(watched, TASKS, iterations=20, callbacks=[Diary()], **HOW)
    assert_equal(weights(watched), weights(alone))
    assert not hasattr(watched.model, "optimizer")


@pytest.mark.slow
def test_early_stopping_ends_like_a_finished_training(make, tmp_path):
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=0, min_delta=1e6)
    learner = make()
    options = {"logdir": tmp_path, "callbacks": [stopping], **HOW, **VALIDATED}
    result = train(learner, TASKS, iterations=100, **options)
    assert result.iteration == 20 and not result.interrupted
    assert Checkpoints(tmp_path / "checkpoints", learner).available() == [20]
    again = make()  # goes on, and stops again at the second epoch after
    result = train(again, TASKS, iterations=100, **options)
    assert result.iteration == 40
    straight = make()
    train(straight, TASKS, iterations=40, **HOW, **VALIDATED)
    assert_equal(weights(again), weights(straight))


@pytest.mark.slow
def test_early_stopping_restores_the_best_weights(make, tmp_path):
    class Worse(keras.callbacks.Callback):
        """Spoils the weights after the second epoch."""

        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                self.kept = self.model.get_weights()
                self.model.set_weights([w + 3.0 for w in self.kept])

    worse = Worse()
    stopping = keras.callbacks.EarlyStopping(
        "query_loss", mode="min", patience=2, restore_best_weights=True
    )
    learner = make()
    result = train(
        learner, TASKS, iterations=60, callbacks=[stopping, worse], logdir=tmp_path, **HOW
    )
    assert result.iteration < 60
    best = stopping.best_epoch
    straight = make()
    train(straight, TASKS, iterations=5 * (best + 1), **HOW)
    assert best <= 1
    assert_equal(learner.model.get_weights(), straight.model.get_weights())
    # The checkpoint is of the last weights, from which a run goes on.
    last = make()
    Checkpoints(tmp_path / "checkpoints", last).restore_latest()
    assert abs(last.model.get_weights()[0] - learner.model.get_weights()[0]).max() > 1.0


def test_a_stop_within_an_epoch_validates_and_saves(make, tmp_path):
    class AtFirst(Diary):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = True

    diary, learner = AtFirst(), make()
    options = {**HOW, **VALIDATED, "callbacks": [diary]}
    result = train(learner, TASKS, iterations=50, logdir=tmp_path, **options)
    assert result.iteration == 1 and not result.interrupted
    assert diary.told[-3:] == ["validation", "0 over", "end"]
    assert Checkpoints(tmp_path / "checkpoints", learner).available() == [1]
    assert np.isfinite(result.best_score)
    # The flag of this training does not stop the next.
    diary.on_train_batch_end = types.MethodType(lambda self, batch, logs=None: None, diary)
    assert train(learner, TASKS, iterations=3, logdir=tmp_path, **HOW).iteration == 3


@pytest.mark.slow
def test_a_csv_file_goes_on_with_its_run(make, tmp_path):
    file = tmp_path / "log.csv"

    def go_on(iterations):
        logger = keras.callbacks.CSVLogger(file, append=True)
        options = {"logdir": tmp_path / "run", "callbacks": [logger], **HOW, **VALIDATED}
        return train(make(), TASKS, iterations=iterations, **options)

    go_on(20)
    go_on(40)
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2, 3]
    assert {"query_loss", "val_loss", "val_loss_after_step_0"} <= rows[0].keys()
    assert all(np.isfinite(float(row["val_loss"])) for row in rows)


def test_functions_of_ones_own(make):
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append((epoch, logs["val_loss"])),
        on_train_end=lambda logs: seen.append(logs["val_loss"]),
    )
    train(make(), TASKS, iterations=20, callbacks=[watch], **HOW, **VALIDATED)
    assert [epoch for epoch, _ in seen[:-1]] == [0, 1] and seen[-1] == seen[-2][1]


def test_learning_rates_of_the_learners_own_optimizer(make):
    rates = []
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.01 / (epoch + 1))
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: rates.append(logs["learning_rate"])
    )
    learner = make()
    train(learner, TASKS, iterations=10, callbacks=[schedule, note], **HOW)
    np.testing.assert_allclose(rates, [0.01, 0.005])
    np.testing.assert_allclose(learner.optimizer.learning_rate, 0.005)


def test_trackers_like_tensorboard_and_saved_models(make, tmp_path):
    board = keras.callbacks.TensorBoard(tmp_path / "board", write_graph=False)
    saver = keras.callbacks.ModelCheckpoint(
        tmp_path / "best.weights.h5", "val_loss", save_best_only=True, save_weights_only=True
    )
    learner = make()
    train(learner, TASKS, iterations=20, callbacks=[board, saver], **HOW, **VALIDATED)
    tags = set()
    for file in (tmp_path / "board").rglob("events*"):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            tags |= {value.tag for value in event.summary.value}
    assert {"epoch_query_loss", "epoch_learning_rate"} <= tags
    make().model.load_weights(tmp_path / "best.weights.h5")


def test_the_picture_of_a_validation_in_a_file_of_its_own(make, tmp_path):
    curves = maml_tf.AdaptationCurves(tmp_path / "curves")
    train(make(), TASKS, iterations=10, callbacks=[curves], **HOW, **VALIDATED)
    (file,) = (tmp_path / "curves").glob("events*")
    events = [tf.compat.v1.Event.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(file))]
    drawn = [(v.tag, e.step) for e in events for v in e.summary.value]
    assert drawn == [("validation/adaptation_curve", 10)]


def test_a_ready_evaluator_validates(make):
    learner = make()
    evaluator = learner.evaluator(HELD_OUT, num_tasks=24, steps=2)
    given = train(learner, TASKS, iterations=10, validation=evaluator, **HOW)
    tasks = train(make(), TASKS, iterations=10, **HOW, **VALIDATED)
    assert_equal(given.history["validation"], tasks.history["validation"])


class Bare:
    """A learner without a Keras model."""

    metric_name, remedy, meta_batch_size, inner_steps = "loss", "Wait.", 1, 0
    lower_is_better, optimizer = True, None

    def __init__(self):
        self.state = self.variables = [keras.Variable(0.0, name="x")]

    def check_tasks(self, tasks):
        pass

    def meta_steps(self, tasks, start, count):
        return maml_tf.MetaMetrics(
            np.zeros((count, 0)), np.arange(count, dtype=float), np.ones(count)
        )


def test_a_learner_without_a_model_can_be_stopped():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 2

    assert train(Bare(), None, iterations=50, callbacks=[Stop()], **HOW).iteration == 15


@pytest.mark.parametrize("wrong", [3, [keras.Variable(1.0)], keras.callbacks.EarlyStopping])
def test_what_is_no_callback_is_refused(wrong):
    with pytest.raises(ValueError, match="callbacks has .*; give keras.callbacks.Callback"):
        train(Bare(), None, iterations=1, callbacks=wrong)
