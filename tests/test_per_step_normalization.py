"""Scales and offsets of each inner step: against a loop of Keras' own calls, one task at a time."""

import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import (
    assert_is_the_derivative,
    error_of,
    normal,
    random_task,
    randomize,
    resumes_bit_for_bit,
    slow,
)
from keras import layers

import maml_tf
from maml_tf import Batch, MetaLearner, Task, evaluate, losses, train
from maml_tf.cli.main import run
from maml_tf.engine.adaptation import adapt_for
from maml_tf.engine.outer_step import Norms
from maml_tf.engine.step_weights import StepWeights
from maml_tf.experiments import machine
from maml_tf.networks import conv_network, dense_network
from maml_tf.supervised.multi_step import step_weights
from maml_tf.tasks import Sinusoid

T, STEPS, ALPHA = 2, 2, 0.1


def sequential():
    normed = [layers.Dense(4), layers.BatchNormalization(), layers.Activation("tanh")]
    return keras.Sequential([keras.Input([3]), *normed, layers.Dense(2)])


def nested():
    """A model in a model, with a batch normalisation in each, and one without a scale."""
    x = keras.Input([4, 4, 1])
    h = layers.Activation("tanh")(layers.BatchNormalization()(layers.Conv2D(2, 3)(x)))
    inside = keras.Model(x, layers.Flatten()(h))
    x = keras.Input([4, 4, 1])
    h = layers.BatchNormalization(scale=False)(layers.Dense(3)(inside(x)))
    return keras.Model(x, layers.Dense(2)(layers.Activation("tanh")(h)))


def subclassed():
    """Runs through the fall-back."""

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.norm = layers.Dense(3), layers.BatchNormalization()
            self.last = layers.Dense(2)

        def call(self, x):
            return self.last(keras.ops.tanh(self.norm(self.first(x))))

    model = Own()
    model(tf.zeros([1, 3]))
    return model


MODELS = [sequential, nested, subclassed]


def learner_of(make=sequential, *, seed=0, **options):
    """A learner whose rows differ from step to step."""
    model = randomize(make(), 0.7)
    options = {"step_size": ALPHA, "inner_steps": STEPS, "meta_batch_size": T, **options}
    made = MetaLearner(model, losses.mean_squared_error, per_step_normalization=True, **options)
    for offset, rows in enumerate(made.inner.rows.values()):
        rows.assign(rows + 0.5 * normal(50 + seed + offset, *rows.shape))
    return made


def task_of(model, examples=6):
    if model.__class__.__name__ == "Own":
        sets = [Batch(normal(s, T, examples, 3), normal(s + 1, T, examples, 2)) for s in (7, 9)]
        return Task(*sets)
    return random_task(model, T, examples)


def losses_by_hand(learner, parameters, task, steps=STEPS):
    """Mean query loss after 0, 1, ... steps: Keras' own calls, variables assigned at each step."""
    model, rows = learner.model, learner.inner.rows
    theta = model.trainable_variables
    start, later = parameters[: len(theta)], parameters[len(theta) :]
    moving = [v for i, v in enumerate(theta) if i not in rows]
    kept, total = model.get_weights(), np.zeros(steps + 1)

    def loss(batch, t):
        return tf.reduce_mean((model(batch.x[t], training=True) - batch.y[t]) ** 2)

    for t in range(T):
        for variable, value in zip(theta, start, strict=True):
            variable.assign(value)
        for step in range(steps + 1):
            if step:
                for index, values in zip(rows, later, strict=True):
                    theta[index].assign(values[min(step, STEPS) - 1])
            total[step] += loss(task.query, t).numpy() / T
            with tf.GradientTape() as tape:
                support = loss(task.support, t)
            for variable, slope in zip(
                moving, tape.gradient(support, [v.value for v in moving]), strict=True
            ):
                variable.assign(variable - ALPHA * slope)
    model.set_weights(kept)
    return total


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.cases(1)
def test_each_pass_takes_its_own_and_later_ones_the_last(float64, make):
    learner = learner_of(make)
    task = task_of(learner.model)
    values, steps = learner.inner.values(), STEPS + 2
    expected = losses_by_hand(learner, values, task, steps)
    unrolled = learner.adapt_weights(task.support, steps).weights
    measured = [tf.reduce_mean(learner.task_loss(w, task.query)) for w in unrolled]
    np.testing.assert_allclose(measured, expected, rtol=1e-6)
    observe = lambda w: tf.cast(learner.task_loss(w, task.query), tf.float32)  # noqa: E731
    looped = learner.adapt_and_observe(task.support, steps, observe)
    np.testing.assert_allclose(tf.reduce_mean(looped, 1), expected, rtol=1e-5)
    for index, rows in learner.inner.rows.items():
        path = [learner.initial_weights()[index], rows[0], rows[1], rows[1], rows[1]]
        for weights, row in zip(unrolled, path, strict=True):
            np.testing.assert_array_equal(weights[index], row)
    for rows in learner.inner.rows.values():  # without differing rows they would not matter
        rows.assign(rows * 0)
    assert abs(losses_by_hand(learner, learner.inner.values(), task)[-1] - expected[STEPS]) > 1e-3


HOW = [{}, {"recompute": True}, {"pieces": 2}, {"multi_step_loss": 4}, {"jit_compile": True}]
CASES = [(nested, HOW[0]), (sequential, HOW[3]), (sequential, HOW[4])]
CASES += [slow(sequential, options) for options in HOW[:3]]
CASES += [slow(nested, options) for options in HOW[1:4]]


@pytest.mark.parametrize(("make", "options"), CASES)
@pytest.mark.cases(1)
def test_the_meta_gradient_is_the_derivative_of_the_loop_by_hand(float64, make, options):
    learner = learner_of(make, **options)
    task, index = task_of(learner.model), tf.constant(1, tf.int64)
    weights = [0.0] * (STEPS - 1) + [1.0]
    if "multi_step_loss" in options:
        weights = step_weights(index, STEPS, 4).numpy()

    def objective(parameters):
        return np.dot(weights, losses_by_hand(learner, parameters, task)[1:])

    gradient, metrics = learner.meta_gradient(task, index)
    values, names = learner.inner.values(), [v.path for v in learner.variables]
    assert_is_the_derivative(gradient, objective, values, names, rtol=1e-5, atol=1e-7)
    expected = losses_by_hand(learner, values, task)[-1]
    np.testing.assert_allclose(metrics.query_loss, expected, rtol=1e-6)
    for rows in gradient[-len(learner.inner.rows) :]:  # each step's own
        assert np.all(np.max(np.abs(rows), 1) > 1e-6)


def test_first_order_reaches_the_rows_of_query_passes_alone(float64):
    for options, counts in (({}, [False, True]), ({"multi_step_loss": 4}, [True, True])):
        learner = learner_of(first_order=True, **options)
        index = tf.constant(0, tf.int64)
        gradient, _ = learner.meta_gradient(task_of(learner.model), index)
        for i in learner.inner.rows:
            assert not np.any(gradient[i])
        for rows in gradient[-2:]:
            assert (np.max(np.abs(rows), 1) > 0).tolist() == counts


def test_they_begin_as_the_layers_own_and_then_change_nothing():
    model = randomize(sequential())
    plain, own = (
        MetaLearner(model, losses.mean_squared_error, inner_steps=3, per_step_normalization=on)
        for on in (False, True)
    )
    task = random_task(model, T, 5)
    (plain_gradient, seen), (gradient, same) = (x.meta_gradient(task) for x in (plain, own))
    np.testing.assert_array_equal(seen.query_loss, same.query_loss)
    theta = len(plain_gradient)
    sums = dict(zip(own.inner.rows, gradient[theta:], strict=True))
    for i, (whole, first) in enumerate(zip(plain_gradient, gradient, strict=False)):
        np.testing.assert_allclose(first + tf.reduce_sum(sums.get(i, [0.0]), 0), whole, atol=1e-5)


def test_the_loops_take_weights_of_the_steps():
    weights = [tf.constant([[1.0], [2.0]]), tf.constant([10.0])]
    own = StepWeights({1: tf.constant([[20.0], [30.0]])})
    loss = lambda w, batch: tf.reduce_sum(w[0] * w[1], -1)  # noqa: E731  of gradient w[1]
    how = {"step_size": 0.1, "adapts": [True, False], "next_pass": own.after}
    path, _ = maml_tf.adapt(loss, weights, [None] * 4, **how)
    np.testing.assert_allclose([w[0][0, 0] for w in path], [1, 0, -2, -5, -8], atol=1e-5)
    assert [float(w[1][0]) for w in path] == [10, 20, 30, 30, 30]
    for steps, expected in enumerate(path):
        looped, _ = adapt_for(loss, weights, (), tf.constant(steps), **how)
        for one, other in zip(looped, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_constraint_holds_each_row():
    model = sequential()
    model.layers[1].beta.constraint = keras.constraints.MaxNorm(1.0)
    learner = learner_of(lambda: model, optimizer=keras.optimizers.SGD(100.0))
    learner.meta_steps(maml_tf.tasks.ConstantTasks(task_of(model)), 0, 1)
    rows = next(v for v in learner.inner.rows.values() if "beta" in v.name)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 1], rtol=1e-4)


def test_their_gradient_counts_to_the_part_of_their_layer():
    model = conv_network((8, 8, 1), 3, filters=2)
    options = {"learn_step_size": "layer", "per_step_normalization": True}
    learner = MetaLearner(model, losses.cross_entropy, **options)
    parts = Norms.of(model, learner.inner).parts
    # Kernels and biases of 5 layers, offsets of 4; then 10 step sizes, and the rows of the offsets.
    theta, sizes, rows = list(parts[:14]), list(parts[14:24]), list(parts[24:])
    assert theta == ["body"] * 12 + ["head"] * 2
    assert sizes == ["step_sizes"] * 10 and rows == ["body"] * 4


def test_the_summary_says_so():
    said = []
    learner_of().summary(said.append)
    assert "second order, loss mean_squared_error, batch normalisations per step" in said[0]


# --- copies, files, exports ---


@pytest.mark.parametrize("steps", [0, 1, STEPS, STEPS + 2])
@pytest.mark.parametrize("make", MODELS)
@pytest.mark.cases(4)
def test_an_adapted_copy_predicts_as_the_learner(make, steps):
    learner = learner_of(make)
    support, query = task_of(learner.model)
    copy = learner.adapt(support.x[0], support.y[0], steps=steps)
    weights = learner.adapt_weights(support, steps).weights[-1]
    expected = learner.predict(weights, support, query.x, inductive=True)[0]
    np.testing.assert_allclose(copy(query.x[0], training=False), expected, atol=1e-4)


def exported(learner, path, **options):
    maml_tf.export(learner, path, **options)
    return tf.saved_model.load(str(path))


@pytest.mark.parametrize("make", [sequential, slow(nested)])
@pytest.mark.slow
def test_an_export_takes_the_rows_along(make, tmp_path):
    learner = learner_of(make)
    (support, query), model = task_of(learner.model), exported(learner, tmp_path / "it")
    for steps in (0, 1, STEPS, STEPS + 2):
        after = model.adapt(support.x[0], support.y[0], steps=steps)
        weights = learner.adapt_weights(support, steps).weights[-1]
        for inductive in (False, True):
            expected = learner.predict(weights, support, query.x, inductive=inductive)[0]
            got = model.predict(query.x[0], after, transductive=not inductive)
            np.testing.assert_allclose(got, expected, atol=1e-4)
    assert len(after) == len(learner.initial_weights()) + 2 * (1 + (make is nested))


TASKS = Sinusoid(shots=5)


def sine_learner(seed=1, **options):
    model = dense_network(1, 1, (6,), norm="batch_norm", seed=seed)
    options = {"inner_steps": 2, "meta_batch_size": 4, "per_step_normalization": True, **options}
    return MetaLearner(model, losses.mean_squared_error, **options)


@pytest.mark.parametrize("options", [slow({}), {"learn_step_size": "layer_and_step"}], ids=str)
@pytest.mark.slow
def test_they_are_learned_resumed_saved_and_loaded(options, tmp_path):
    straight = resumes_bit_for_bit(lambda: sine_learner(**options), TASKS, tmp_path)
    (rows,) = straight.inner.rows.values()
    assert rows.shape == (2, 6) and len(np.unique(np.asarray(rows), axis=0)) == 2
    straight.save(tmp_path / "it.weights.h5")
    again = sine_learner(seed=2, **options)
    again.load(tmp_path / "it.weights.h5")
    for how in ("transductive", "inductive"):
        both = [
            evaluate(x, TASKS, num_tasks=24, steps=4, batch_statistics=how).mean
            for x in (straight, again)
        ]
        np.testing.assert_array_equal(*both)
    more = sine_learner(inner_steps=3, **options)
    with pytest.raises(ValueError, match="per_step_normalization, running_statistics and inner"):
        more.load(tmp_path / "it.weights.h5")
    plain = sine_learner(per_step_normalization=False, **options)
    with pytest.raises(ValueError, match="arrays beside .* per_step_normalization and running"):
        plain.load(tmp_path / "it.weights.h5")
    with pytest.raises(ValueError, match="per_step_normalization=True, now False"):
        train(plain, TASKS, iterations=7, logdir=tmp_path / "straight")


@pytest.mark.parametrize("steps", [STEPS + 1, slow(7)])
@pytest.mark.slow
def test_a_file_for_litert_takes_the_rows_along(steps, tmp_path):
    from test_litert import interpreter_of

    learner = learner_of()
    support, query = task_of(learner.model)
    sizes = {"support_examples": 6, "query_examples": 6}
    maml_tf.export(learner, tmp_path / "it", format="litert", steps=steps, **sizes)
    assert json.loads((tmp_path / "it" / "maml_tf.json").read_text())["select"] == []
    both = interpreter_of(tmp_path / "it" / "model.tflite").get_signature_runner(
        "adapt_and_predict"
    )
    sets = {"support_x": support.x[0], "support_y": support.y[0], "query_x": query.x[0]}
    got = both(**{name: value.numpy() for name, value in sets.items()})["predictions"]
    weights = learner.adapt_weights(support, steps).weights[-1]
    np.testing.assert_allclose(got, learner.predict(weights, support, query.x)[0], atol=1e-4)


# --- the command line ---

FLAGS = ["--inner_steps=2", "--meta_batch_size=4", "--shots=3", "--jit_compile=False"]
FLAGS += ["--validation_tasks=24", "--progress=False", "--run_name=run"]
OWN = "--per_step_normalization"


@pytest.mark.slow
def test_a_run_is_trained_evaluated_released_and_begun_from(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(machine, "set_up", lambda settings: None)
    logs, release = f"--logdir={tmp_path}", tmp_path / "models" / "own"
    assert run(["train", *FLAGS, OWN, logs, "--iterations=3", "--pretrain_iterations=2"]) == 0
    measured = ["--test_tasks=24", "--split=test", "--progress=False"]
    assert run(["evaluate", str(tmp_path / "run"), *measured]) == 0
    assert run(["release", str(tmp_path / "run"), f"--to={release}"]) == 0
    learner, again = maml_tf.load(tmp_path / "run"), maml_tf.load(release)
    for one, other in zip(learner.state, again.state, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(learner.inner.rows) == 2 and learner.per_step_normalization
    begun = [*FLAGS, f"--init={release}", "--log=False", "--iterations=1"]
    assert run(["train", *begun]) == 0  # takes the weights alone
    assert run(["train", *begun, OWN]) == 0
    assert "arrays beside" in error_of(["train", *begun, OWN, "--inner_steps=3"], capsys)


def test_a_release_without_them_is_each_steps_beginning(tmp_path):
    from maml_tf.saving.weights import load_release, save_release

    plain, own = sine_learner(per_step_normalization=False), sine_learner(seed=2)
    randomize(plain.model)
    save_release(plain, tmp_path / "initial.weights.h5")
    load_release(own, tmp_path / "initial.weights.h5", begins=True)
    (index, rows), *_ = own.inner.rows.items()
    np.testing.assert_array_equal(rows, np.stack([plain.initial_weights()[index]] * 2))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--norm=none"], "--norm=none leaves no batch normalization to --per_step_normalization"),
        (["--method=pretrained"], "takes no inner step; drop --per_step_normalization"),
        (["--problem=navigation_2d"], "--per_step_normalization is for --problem=.*sinusoid"),
    ],
)
def test_flags_that_contradict_it(flags, message, capsys):
    assert re.search(message, error_of(["train", *flags, OWN], capsys))


def test_what_is_refused():
    def make(model, **options):
        return MetaLearner(model, losses.mean_squared_error, per_step_normalization=True, **options)

    with pytest.raises(ValueError, match="'dense_network' trains none; drop it, or put BatchNorm"):
        make(dense_network(1, 1, (4,)))
    frozen = sequential()
    frozen.layers[1].trainable = False
    with pytest.raises(ValueError, match="trains none"):
        make(frozen)
    with pytest.raises(ValueError, match="of each inner step, and inner_steps is 0; drop it"):
        make(sequential(), inner_steps=0)
    with pytest.raises(ValueError, match="its own .*gamma, which cannot adapt as well; let `adapt"):
        make(sequential(), adapts=lambda v: True)
    with pytest.raises(ValueError, match="per_step_normalization must be True or False, not 2"):
        MetaLearner(sequential(), "mse", per_step_normalization=2)
    learner = make(conv_network((8, 8, 1), 3, filters=2))
    with pytest.raises(ValueError, match="`per_step_normalization` cannot be changed later"):
        learner.per_step_normalization = False
