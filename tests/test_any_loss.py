"""Learners with Keras' losses and metrics: every step is a task's own, and the best is the best."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import (
    assert_is_the_derivative,
    meta_objective,
    normal,
    random_task,
    randomize,
    slow,
)
from keras import layers

from maml_tf import Batch, MetaLearner, Task, evaluate, export, losses, train, tune_step_size
from maml_tf.networks import dense_network
from maml_tf.tasks import Sinusoid
from maml_tf.training.checkpoints import Checkpoints

K = keras.losses
T, B, N = 3, 4, 2


def small(outputs=N, activation=None):
    inputs = keras.Input([3])
    hidden = layers.Dense(4, activation="tanh")(inputs)
    return randomize(keras.Model(inputs, layers.Dense(outputs, activation)(hidden)))


def classes(seed=0, one_hot=False):
    labels = np.random.default_rng(seed).integers(0, N, (T, B))
    return tf.constant(np.eye(N)[labels] if one_hot else labels)


def task_of(y):
    return Task(Batch(normal(1, T, B, 3), y), Batch(normal(2, T, B, 3), y))


def by_hand(model, loss, task, alpha):
    """Plain Keras and a plain tape: one task at a time, one inner step, both derivatives."""
    variables = model.trainable_variables
    total = [np.zeros(v.shape) for v in variables]
    for t in range(T):
        weights = [tf.convert_to_tensor(v.value) for v in variables]
        with tf.GradientTape() as outer:
            outer.watch(weights)
            with tf.GradientTape() as inner:
                inner.watch(weights)
                value = loss(task.support.y[t], stateless(model, weights, task.support.x[t]))
            steps = inner.gradient(value, weights)
            moved = [w - alpha * g for w, g in zip(weights, steps, strict=True)]
            query = loss(task.query.y[t], stateless(model, moved, task.query.x[t]))
        gradient = outer.gradient(query, weights)
        total = [a + g.numpy() / T for a, g in zip(total, gradient, strict=True)]
    return total


def stateless(model, weights, x):
    """`model(x)` of these weights."""
    w1, b1, w2, b2 = weights
    return model.layers[-1].activation(tf.tanh(x @ w1 + b1) @ w2 + b2)


CASES = {
    "mse": (None, K.MeanSquaredError(), lambda: normal(3, T, B, N)),
    "sum": (None, K.MeanSquaredError(reduction="sum"), lambda: normal(3, T, B, N)),
    "binary": (None, K.BinaryCrossentropy(from_logits=True), lambda: classes(one_hot=True)),
    "shares": ("sigmoid", K.BinaryCrossentropy(), lambda: classes(one_hot=True)),
    "sparse": (None, K.SparseCategoricalCrossentropy(from_logits=True), classes),
    "softmax": ("softmax", K.SparseCategoricalCrossentropy(), classes),
    "dice": ("sigmoid", K.Dice(), lambda: classes(one_hot=True)),
    "huber": (None, K.Huber(0.5), lambda: normal(3, T, B, N)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.cases(4)
def test_the_meta_gradient_is_that_of_plain_keras_on_each_task(float64, name):
    activation, make, y = CASES[name]
    loss = type(make)(**{**make.get_config(), "dtype": "float64"})
    learner = MetaLearner(small(activation=activation), loss, step_size=0.3, meta_batch_size=T)
    task = task_of(y())
    gradient, _ = learner.meta_gradient(task)
    for got, expected in zip(gradient, by_hand(learner.model, loss, task, 0.3), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)
        assert np.abs(expected).max() > 1e-4


def two_outputs(as_dict):
    inputs = keras.Input([3], name="x")
    hidden = layers.Dense(4, activation="tanh")(inputs)
    kind, size = layers.Dense(N, name="kind")(hidden), layers.Dense(1, name="size")(hidden)
    return randomize(keras.Model(inputs, {"kind": kind, "size": size} if as_dict else [kind, size]))


@pytest.mark.parametrize("as_dict", [True, False])
@pytest.mark.slow
def test_two_outputs_with_weights_of_examples_and_padding(float64, as_dict):
    sparse = K.SparseCategoricalCrossentropy(from_logits=True)
    learner = MetaLearner(
        two_outputs(as_dict),
        {"size": "mse", "kind": sparse},
        loss_weights={"size": 0.3, "kind": 2.0},
        metric={"kind": "accuracy"},
        meta_batch_size=T,
        step_size=0.2,
    )
    rng = np.random.default_rng(5)
    extra = tf.constant(rng.uniform(size=(T, B))), tf.constant([[True] * 3 + [False]] * T)
    y = {"kind": classes(), "size": normal(4, T, B, 1)}
    task = Task(Batch(normal(1, T, B, 3), y, *extra), Batch(normal(2, T, B, 3), y, *extra))
    gradient, metrics = learner.meta_gradient(task)
    weights = learner.initial_weights()
    names = [v.path for v in learner.model.trainable_variables]
    assert_is_the_derivative(gradient, meta_objective(learner, task), weights, names)
    cut = tf.nest.map_structure(lambda t: t[:, :3], task)
    cut = Task(*(b._replace(mask=()) for b in cut))
    for a, b in zip(gradient, learner.meta_gradient(cut)[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)
    assert learner.metric_name == "accuracy" and 0 <= metrics.query_metric <= 1
    value = learner.task_loss(weights, cut.support)
    outputs = learner.apply(weights, cut.support.x)
    kind, size = (outputs["kind"], outputs["size"]) if as_dict else outputs
    for t in range(T):
        w = cut.support.sample_weight[t]
        expected = 2 * sparse(cut.support.y["kind"][t], kind[t], w)
        expected += 0.3 * K.MeanSquaredError()(cut.support.y["size"][t], size[t], w)
        np.testing.assert_allclose(value[t], expected, rtol=1e-6)


def test_a_metric_has_no_sample_weights_and_the_loss_reported_has():
    batch = Batch(normal(1, T, B, 3), classes(), tf.constant([[1.0, 0, 0, 0]] * T))
    learner = MetaLearner(small(), losses.cross_entropy)
    outputs = learner.apply(learner.initial_weights(), batch.x)
    np.testing.assert_allclose(learner.measure(outputs, batch), losses.accuracy(outputs, batch.y))
    learner.metric = None
    assert learner.metric_name == "accuracy"
    learner = MetaLearner(small(), "mse")
    batch = batch._replace(y=outputs + 1)
    np.testing.assert_allclose(learner.measure(outputs, batch), [1 / B] * T, rtol=1e-5)


def test_replicas_do_not_change_a_keras_loss(two):
    """Keras' own reduction divides by their number."""
    moved = []
    for strategy in (tf.distribute.get_strategy(), two):
        with strategy.scope():
            model = dense_network(1, 1, (4,), seed=2)
            learner = MetaLearner(model, K.MeanSquaredError(), optimizer="sgd", meta_batch_size=4)
        learner.meta_steps(Sinusoid(shots=3), 0, 2)
        moved.append([np.asarray(w) for w in learner.model.weights])
    for a, b in zip(*moved, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


# --- which way is better ---

TASKS, HELD_OUT = Sinusoid(shots=5), Sinusoid(shots=5, split="val")


def regressor(metric, **options):
    return MetaLearner(
        dense_network(1, 1, (6,), seed=1),
        losses.mean_squared_error,
        metric=metric,
        meta_batch_size=4,
        **options,
    )


def own_error(outputs, y):
    return tf.reduce_mean(tf.abs(outputs - y), [1, 2])


ERRORS = {
    "mae": {},
    keras.metrics.RootMeanSquaredError: {},
    keras.losses.mean_absolute_error: {},
    own_error: {"lower_is_better": True},
}


@pytest.mark.parametrize("metric", ERRORS)
@pytest.mark.slow
def test_the_step_size_of_an_error_is_that_of_the_lowest(metric):
    learner = regressor(metric, **ERRORS[metric])
    sizes, options = (0.003, 0.3, 0.03), {"num_tasks": 24, "steps": 2}
    scores = [evaluate(learner, HELD_OUT, step_size=a, **options).mean[-1] for a in sizes]
    tuning = tune_step_size(learner, HELD_OUT, step_sizes=sizes, **options)
    assert tuning.step_size == sizes[int(np.argmin(scores))] != sizes[int(np.argmax(scores))]


@pytest.mark.parametrize("metric", [slow("mae"), own_error])
@pytest.mark.slow
def test_the_best_checkpoint_of_an_error_is_that_of_the_lowest(metric, tmp_path):
    learner = regressor(metric, **ERRORS[metric], optimizer=keras.optimizers.SGD(5.0))
    estimates = []
    learner.clip = 0.01
    options = {"progress": False, "validate_every": 1, "validation_tasks": 24}
    for iterations in (1, 2, 3, 4):
        train(
            *(learner, TASKS),
            iterations=iterations,
            logdir=tmp_path,
            validation=HELD_OUT,
            validation_steps=1,
            **options,
        )
        estimates.append(evaluate(learner, HELD_OUT, num_tasks=24, steps=1).mean[1])
    checkpoints = Checkpoints(tmp_path / "checkpoints", learner)
    checkpoints.restore_best()
    assert int(checkpoints.iteration.numpy()) == 1 + int(np.argmin(estimates))
    np.testing.assert_allclose(checkpoints.best_score.numpy(), min(estimates), rtol=1e-5)
    assert np.argmin(estimates) != np.argmax(estimates)


def test_a_metric_whose_direction_nobody_knows_is_asked_about_before_any_work(tmp_path):
    learner = regressor(own_error)
    with pytest.raises(ValueError, match="Is the metric 'own_error' better lower"):
        tune_step_size(learner, HELD_OUT)
    with pytest.raises(ValueError, match="lower_is_better=True or False"):
        train(learner, TASKS, iterations=1, logdir=tmp_path, validation=HELD_OUT)
    assert not any(tmp_path.iterdir())
    # Where nothing is compared, nothing is asked.
    train(learner, TASKS, iterations=1, logdir=tmp_path, progress=False)
    assert evaluate(learner, HELD_OUT, num_tasks=1, steps=1).mean.shape == (2,)


def test_the_loss_itself_is_better_lower():
    assert regressor(None).lower_is_better is True
    with pytest.raises(ValueError, match="better lower"):
        regressor(None, lower_is_better=False)


def test_random_task_is_what_a_loss_by_name_takes():
    learner = MetaLearner(small(), "mse", meta_batch_size=T)
    assert learner.loss.name == "mse"
    task = random_task(learner.model, T)
    np.testing.assert_allclose(
        learner.task_loss(learner.initial_weights(), task.support),
        losses.mean_squared_error(
            learner.apply(learner.initial_weights(), task.support.x), task.support.y
        ),
        rtol=1e-5,
    )


@pytest.mark.slow
def test_an_export_of_a_keras_loss_takes_class_indices_of_any_type_of_numpy(tmp_path):
    learner = MetaLearner(small(), K.SparseCategoricalCrossentropy(from_logits=True), step_size=0.5)
    export(learner, tmp_path / "it")
    model = tf.saved_model.load(str(tmp_path / "it"))
    x, y = normal(1, B, 3).numpy(), np.array([0, 1, 1, 0])
    expected = learner.adapt(x, y)(x)
    assert np.abs(expected - learner.model(x)).max() > 1e-3
    for labels in (y, y.astype("float64"), y.astype("float32"), y.astype("uint8"), y.tolist()):
        np.testing.assert_allclose(model.adapt_and_predict(x, labels, x), expected, atol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"class indices 0 \.\.\. 1"):
        model.adapt(x, y + 1)
