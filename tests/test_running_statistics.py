"""Running statistics of each inner step: against a loop of Keras' own calls, one task at a time."""

import contextlib
import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import error_of, normal, randomize, resumes_bit_for_bit, slow
from keras import layers
from test_per_step_normalization import nested, sequential, subclassed, task_of

import maml_tf
from maml_tf import ImplicitMAML, MetaLearner, Reptile, evaluate, losses, train
from maml_tf.cli.main import run
from maml_tf.experiments import machine
from maml_tf.networks import conv_network, dense_network
from maml_tf.supervised.baselines import JointClassifier
from maml_tf.supervised.evaluation import predictions_while_adapting
from maml_tf.tasks import ConstantTasks, Sinusoid

T, STEPS, ALPHA = 2, 2, 0.1
MOMENTA = 0.75, 0.875


def normalizations(model):
    return [x for x in model._flatten_layers() if isinstance(x, layers.BatchNormalization)]


def learner_of(make=sequential, *, kind=MetaLearner, **options):
    """A learner whose layers have averages, and momenta, that differ."""
    model = randomize(make(), 0.7)
    for place, layer in enumerate(normalizations(model)):
        layer.momentum = MOMENTA[place]
        layer.moving_mean.assign(normal(60 + place, *layer.moving_mean.shape))
        layer.moving_variance.assign(1 + normal(70 + place, *layer.moving_variance.shape) ** 2)
    options = {"step_size": ALPHA, "inner_steps": STEPS, "meta_batch_size": T, **options}
    made = kind(model, losses.mean_squared_error, running_statistics=True, **options)
    for offset, variable in enumerate(made.inner.beside):  # each step's own
        variable.assign(variable * (1 + 0.3 * normal(50 + offset, *variable.shape)))
    return made


def padded(task):
    """The same with sets of which the last example does not exist, another one for each task."""
    mask = np.ones([T, task.support.x.shape[1]], bool)
    mask[0, -1] = mask[1, :2] = False
    return task._replace(support=task.support._replace(mask=tf.constant(mask)))


def statistics_by_hand(learner, task):
    """`[S + 1, C]` of each of the running variables, a mean over tasks, by Keras' own layers.

    With a momentum of 0 their moving averages are what the batch of the last call had.
    """
    model, rows = learner.model, learner.inner.rows
    theta, before = model.trainable_variables, model.get_weights()
    own = learner.running.layers
    alphas = dict(zip(np.flatnonzero(learner.adapts), learner.step_sizes, strict=False))
    total = [np.zeros(v.shape) for v in learner.running.variables]
    for layer in own:
        layer.momentum = 0.0

    def note(step):
        seen = [np.asarray(v) for x in own for v in (x.moving_mean, x.moving_variance)]
        for sums, values in zip(total, seen, strict=True):
            sums[step] += values / T

    for t in range(T):
        model.set_weights(before)
        there = task.support.mask[t] if len(task.support.mask) else slice(None)
        x, y = (np.asarray(v[t])[there] for v in (task.support.x, task.support.y))
        for step in range(STEPS):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
            note(step)
            slopes = tape.gradient(loss, [v.value for v in theta])
            for i, (variable, slope) in enumerate(zip(theta, slopes, strict=True)):
                if learner.adapts[i]:
                    alpha = alphas[i][step] if i in alphas else ALPHA
                    variable.assign(variable - alpha * slope)
                if i in rows:
                    variable.assign(rows[i][step])
        model(task.query.x[t], training=True)
        note(STEPS)
    model.set_weights(before)
    for layer, momentum in zip(own, MOMENTA, strict=False):
        layer.momentum = momentum
    return total


ALL = {"multi_step_loss": 4, "learn_step_size": "layer_and_step", "per_step_normalization": True}
CASES = [
    (sequential, {}),
    (nested, ALL),
    slow(subclassed, {}),
    slow(subclassed, ALL),
    slow(sequential, {"recompute": True}),
    slow(nested, {"recompute": True, **ALL}),
    (sequential, {"pieces": 2, "second_order_after": 3}),
    slow(sequential, {"jit_compile": True}),
    slow(nested, {"jit_compile": True, **ALL}),
    slow(sequential, {"first_order": True}),
    slow(sequential, {"kind": Reptile}),
    slow(sequential, {"dropout": "per_step"}),  # there is none: the same passes, under noise
]


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize(("make", "options"), CASES, ids=lambda v: getattr(v, "__name__", str(v)))
@pytest.mark.cases(1)
def test_a_meta_step_moves_each_row_towards_what_its_pass_saw(float64, make, options, cut):
    learner = learner_of(make, **options)
    task = task_of(learner.model)
    task = padded(task) if cut else task
    seen = statistics_by_hand(learner, task)
    before = [np.array(np.asarray(v)) for v in learner.running.variables]
    learner.meta_steps(ConstantTasks(task), 0, 1)
    momenta = [m for m in MOMENTA[: len(before) // 2] for _ in range(2)]
    for old, new, mean, momentum in zip(
        before, learner.running.variables, seen, momenta, strict=True
    ):
        assert new.shape == (STEPS + 1, mean.shape[1])
        np.testing.assert_array_equal(old, np.stack([old[0]] * (STEPS + 1)))
        np.testing.assert_allclose(new, momentum * old + (1 - momentum) * mean, rtol=1e-6)
        assert np.all(np.abs(mean[1:] - mean[:-1]) > 1e-6)  # rows that were mixed up would show
    for layer, (place, *_) in zip(learner.running.layers, [(0,), (2,)], strict=False):
        np.testing.assert_array_equal(layer.moving_mean, before[place][0])  # Keras' own stay


@pytest.mark.slow
def test_the_summary_says_that_they_are_kept():
    lines = []
    learner_of().summary(lines.append)
    MetaLearner(sequential(), losses.mean_squared_error).summary(lines.append)
    assert [line.split("\n")[0].endswith(", running statistics kept") for line in lines] == [
        True,
        False,
    ]


def test_they_change_nothing_that_is_learned():
    learned = []
    for on in (False, True):
        learner = sine_learner(running_statistics=on)
        seen = learner.meta_steps(TASKS, 0, 3)
        learned.append([*learner.model.get_weights(), *map(np.asarray, seen)])
    for one, other in zip(*learned, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def trained_learner(make=sequential, **options):
    """A learner whose rows differ."""
    learner = learner_of(make, **options)
    for offset, variable in enumerate(learner.running.variables):
        shift = normal(30 + offset, *variable.shape)
        variable.assign(variable + (shift if offset % 2 == 0 else shift**2))
    return learner


def by_averages(learner, support, steps, row, x):
    """Keras' own call at the weights of the first task, with one row as the layers' averages."""
    model, running = learner.model, learner.running.variables
    before, weights = model.get_weights(), learner.adapt_weights(support, steps).weights[-1]
    for variable, value, own in zip(
        model.trainable_variables, weights, learner.adapts, strict=True
    ):
        variable.assign(value[0] if own else value)
    for layer, mean, variance in zip(
        learner.running.layers, running[::2], running[1::2], strict=True
    ):
        layer.moving_mean.assign(mean[row])
        layer.moving_variance.assign(variance[row])
    outputs = np.asarray(model(x, training=False))
    model.set_weights(before)
    return outputs


@pytest.mark.parametrize("steps", [0, 1, STEPS, STEPS + 2])
@pytest.mark.parametrize("make", [sequential, nested, slow(subclassed)])
@pytest.mark.cases(3)
def test_each_query_is_predicted_alone_by_the_row_of_its_step(float64, make, steps):
    learner = trained_learner(make, per_step_normalization=True)
    support, query = task_of(learner.model)
    by_hand = by_averages(learner, support, steps, min(steps, STEPS), query.x[0])
    path = learner.adapt_weights(support, steps).weights
    predicted = learner.predict(path[-1], support, query.x, running_after=steps)
    np.testing.assert_allclose(predicted[0], by_hand, rtol=1e-7)
    alone = [
        learner.predict(path[-1], support, query.x[:, q : q + 1], running_after=steps)
        for q in range(query.x.shape[1])
    ]
    np.testing.assert_allclose(tf.concat(alone, 1), predicted, rtol=1e-7)
    copy = learner.adapt(support.x[0], support.y[0], steps=steps, batch_statistics="running")
    np.testing.assert_allclose(copy(query.x[0], training=False), by_hand, rtol=1e-7)
    seen = predictions_while_adapting(learner, support, query.x, steps, batch_statistics="running")
    np.testing.assert_allclose(seen[-1, 0], by_hand, rtol=1e-5)
    other = learner.predict(path[-1], support, query.x, running_after=max(steps - 1, 1 - steps))
    assert (np.abs(other - predicted).max() > 1e-3) == (steps <= STEPS)  # rows differ


TASKS = Sinusoid(shots=5)


def sine_learner(seed=1, **options):
    model = dense_network(1, 1, (6,), norm="batch_norm", seed=seed)
    options = {"inner_steps": 2, "meta_batch_size": 4, "running_statistics": True, **options}
    return MetaLearner(model, losses.mean_squared_error, **options)


def test_an_evaluation_is_the_mean_over_tasks_by_hand():
    learner = sine_learner()
    randomize(learner.model)
    for variable in learner.running.variables:
        variable.assign(variable + normal(3, *variable.shape) ** 2)
    tasks = TASKS(tf.constant(0, tf.int64), 24)
    expected = np.zeros(5)
    for t in range(4):
        support, query = tf.nest.map_structure(lambda a, t=t: a[t : t + 1], tasks)
        for steps in range(5):
            made = by_averages(learner, support, steps, min(steps, 2), query.x[0])
            expected[steps] += np.mean((made - query.y[0]) ** 2) / 4
    got, other = (
        evaluate(learner, TASKS, num_tasks=4, steps=4, batch_statistics=how).mean
        for how in ("running", "inductive")
    )
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    assert np.all(np.abs(got - other) > 1e-2 * other)


@pytest.mark.parametrize("options", [{}, slow({"recompute": True})], ids=str)
@pytest.mark.slow
def test_two_replicas_keep_what_one_keeps(two, options):
    kept = []
    for strategy in (None, two):
        with strategy.scope() if strategy else contextlib.nullcontext():
            sgd = keras.optimizers.SGD(3e-4)
            learner = sine_learner(optimizer=sgd, **options)
        learner.meta_steps(TASKS, 0, 3)
        kept.append([np.asarray(v) for v in learner.running.variables])
    begun = [np.asarray(v) for v in sine_learner().running.variables]
    for alone, together, start in zip(*kept, begun, strict=True):
        np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-6)
        assert np.abs(alone - start).max() > 1e-4
    halves = sine_learner(meta_batch_size=2)  # half of the tasks alone keeps something else
    halves.meta_steps(TASKS, 0, 3)
    assert np.abs(np.asarray(halves.running.variables[1]) - kept[0][1]).max() > 1e-5


# --- files and exports ---


@pytest.mark.parametrize("options", [{}, slow(ALL)], ids=str)
@pytest.mark.slow
def test_they_are_resumed_saved_and_loaded(options, tmp_path):
    straight = resumes_bit_for_bit(lambda: sine_learner(**options), TASKS, tmp_path)
    assert len(straight.state) == len(straight.model.variables) + len(straight.inner.beside) + 2
    straight.save(tmp_path / "it.weights.h5")
    again = sine_learner(seed=2, **options)
    again.load(tmp_path / "it.weights.h5")
    for one, other in zip(straight.running.variables, again.running.variables, strict=True):
        np.testing.assert_array_equal(one, other)
    both = [
        evaluate(x, TASKS, num_tasks=24, steps=4, batch_statistics="running").mean
        for x in (straight, again)
    ]
    np.testing.assert_array_equal(*both)
    plain = sine_learner(**{**options, "running_statistics": False})
    with pytest.raises(ValueError, match="arrays beside .* and running_statistics"):
        plain.load(tmp_path / "it.weights.h5")
    with pytest.raises(ValueError, match="running_statistics=True, now False"):
        train(plain, TASKS, iterations=7, logdir=tmp_path / "straight")


def test_a_release_without_them_is_their_beginning(tmp_path):
    from maml_tf.saving.weights import load_release, save_release

    plain, own = sine_learner(running_statistics=False), sine_learner(seed=2)
    (layer,) = normalizations(plain.model)
    layer.moving_mean.assign(normal(3, 6))
    save_release(plain, tmp_path / "initial.weights.h5")
    load_release(own, tmp_path / "initial.weights.h5", begins=True)
    mean, variance = map(np.asarray, own.running.variables)
    np.testing.assert_array_equal(mean, np.stack([normal(3, 6)] * 3))
    np.testing.assert_array_equal(variance, np.ones([3, 6]))


def expected_of(learner, support, query, steps):
    weights = learner.adapt_weights(support, steps).weights[-1]
    return learner.predict(weights, support, query.x, running_after=steps)[0]


@pytest.mark.parametrize("make", [sequential, slow(nested)])
@pytest.mark.slow
def test_a_saved_model_predicts_each_alone(make, tmp_path):
    learner = trained_learner(make, per_step_normalization=True)
    support, query = task_of(learner.model)
    maml_tf.export(learner, tmp_path / "it", running=True)
    model = tf.saved_model.load(str(tmp_path / "it"))
    for steps in (0, 1, STEPS, STEPS + 2):
        expected = expected_of(learner, support, query, steps)
        after = model.adapt(support.x[0], support.y[0], steps=steps)
        np.testing.assert_allclose(model.predict(query.x[0], after), expected, atol=1e-4)
        np.testing.assert_allclose(model.predict(query.x[0, :1], after), expected[:1], atol=1e-4)
        both = model.adapt_and_predict(support.x[0], support.y[0], query.x[0], steps=steps)
        np.testing.assert_allclose(both, expected, atol=1e-4)
    before = model.predict(query.x[0], model.initial_weights())
    np.testing.assert_allclose(before, expected_of(learner, support, query, 0), atol=1e-4)
    weights = learner.adapt_weights(support, STEPS + 2).weights[-1]
    batch = model.predict(query.x[0], after, transductive=True)
    np.testing.assert_allclose(batch, learner.predict(weights, support, query.x)[0], atol=1e-4)
    about = json.loads((tmp_path / "it" / "maml_tf.json").read_text())
    assert about["running_statistics"] and about["defaults"]["transductive"] is False
    learner.running.variables[0].assign(learner.running.variables[0] + 1)  # a copy was exported
    np.testing.assert_array_equal(model.predict(query.x[0], model.initial_weights()), before)


@pytest.mark.slow
def test_a_file_for_litert_predicts_each_alone(tmp_path):
    from test_litert import interpreter_of

    learner = trained_learner()
    support, query = task_of(learner.model)
    sizes = {"support_examples": 6, "query_examples": 1}
    maml_tf.export(learner, tmp_path / "it", format="litert", running=True, **sizes)
    signature = interpreter_of(tmp_path / "it" / "model.tflite").get_signature_runner
    sets = {"support_x": support.x[0], "support_y": support.y[0], "query_x": query.x[0, :1]}
    got = signature("adapt_and_predict")(**{n: v.numpy() for n, v in sets.items()})["predictions"]
    expected = expected_of(learner, support, query, STEPS)[:1]
    np.testing.assert_allclose(got, expected, atol=1e-4)


# --- the command line ---

FLAGS = ["--inner_steps=2", "--meta_batch_size=4", "--shots=3", "--jit_compile=False"]
FLAGS += ["--validation_tasks=24", "--progress=False", "--run_name=run"]
OWN, BY = "--running_statistics", "--batch_statistics=running"


@pytest.mark.slow
def test_a_run_is_trained_evaluated_released_and_exported(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(machine, "set_up", lambda settings: None)
    logs, release = f"--logdir={tmp_path}", tmp_path / "models" / "own"
    assert run(["train", *FLAGS, OWN, logs, "--iterations=3", "--pretrain_iterations=2"]) == 0
    measured = [BY, "--test_tasks=24", "--split=test", "--progress=False"]
    assert run(["evaluate", str(tmp_path / "run"), *measured]) == 0
    (kept,) = (tmp_path / "run" / "results").glob("test_3shot*_running.json")
    said = json.loads(kept.read_text())
    assert said["batch_statistics"] == "running"
    assert run(["release", str(tmp_path / "run"), f"--to={release}"]) == 0
    learner, again = maml_tf.load(tmp_path / "run"), maml_tf.load(release)
    assert learner.running_statistics and np.any(np.asarray(learner.running.variables[0]))
    for one, other in zip(learner.state, again.state, strict=True):
        np.testing.assert_array_equal(one, other)
    test = Sinusoid(shots=3, split="test")
    both = [
        evaluate(x, test, num_tasks=24, steps=10, batch_statistics="running").mean
        for x in (learner, again)
    ]
    np.testing.assert_array_equal(*both)
    np.testing.assert_allclose(both[0], said["mean"], rtol=1e-4)
    assert run(["export", str(tmp_path / "run"), BY, f"--to={tmp_path / 'it'}"]) == 0
    assert json.loads((tmp_path / "it" / "maml_tf.json").read_text())["running_statistics"]
    capsys.readouterr()
    plain = ["train", *FLAGS, logs, "--iterations=1", "--run_name=plain"]
    assert run(plain) == 0
    said = error_of(["evaluate", str(tmp_path / "plain"), *measured], capsys)
    assert "takes what a training with --running_statistics keeps" in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([OWN, "--norm=none"], "--norm=none leaves no batch normalization to --running_statistics"),
        ([OWN, "--method=pretrained"], "takes no inner step; drop --running_statistics"),
        ([OWN, "--method=imaml"], "notes nothing of its inner steps; drop --running_statistics"),
        ([OWN, "--problem=navigation_2d"], "--running_statistics is for --problem=.*sinusoid"),
        ([BY], "takes what a training with --running_statistics keeps; train so, or choose"),
    ],
)
def test_flags_that_contradict_it(flags, message, capsys):
    assert re.search(message, error_of(["train", *flags], capsys))


def shared():
    """A model that normalises twice by one layer."""
    x, layer = keras.Input([3]), layers.BatchNormalization(name="both")
    return keras.Model(x, layers.Dense(2)(layer(layers.Dense(3)(layer(x)))))


def test_what_is_refused(tmp_path):
    def make(model, kind=MetaLearner, **options):
        return kind(model, losses.mean_squared_error, running_statistics=True, **options)

    frozen = sequential()
    frozen.layers[1].trainable = False
    for model in (dense_network(1, 1, (4,)), frozen):
        with pytest.raises(ValueError, match="has none; drop them, or put BatchNormalization"):
            make(model)
    with pytest.raises(ValueError, match="of each inner step, and inner_steps is 0; drop them"):
        make(sequential(), inner_steps=0)
    with pytest.raises(ValueError, match="'both' normalises by its batch 2 times in one pass"):
        make(shared())
    with pytest.raises(ValueError, match="notes nothing of its inner steps; drop running_stat"):
        make(sequential(), ImplicitMAML)
    with pytest.raises(ValueError, match="inner_steps is 0; drop them"):
        make(conv_network((8, 8, 1), 3, filters=2), JointClassifier)
    with pytest.raises(ValueError, match="running_statistics must be True or False, not 2"):
        MetaLearner(sequential(), "mse", running_statistics=2)
    learner = make(sequential())
    with pytest.raises(ValueError, match="`running_statistics` cannot be changed later"):
        learner.running_statistics = False
    with pytest.raises(ValueError, match="of 1 inner steps, and inner_steps is 3; make another"):
        learner.inner_steps = 3
    plain = sine_learner(running_statistics=False)
    (support, query), none = TASKS(0, 2), "This learner has no running statistics: train one"
    for refused in (
        lambda: evaluate(plain, TASKS, num_tasks=24, batch_statistics="running"),
        lambda: plain.predict(plain.initial_weights(), support, query.x, running_after=0),
        lambda: plain.adapt(support.x[0], support.y[0], batch_statistics="running"),
        lambda: maml_tf.export(plain, tmp_path / "it", running=True),
    ):
        with pytest.raises(ValueError, match=none) as caught:
            refused()
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="must be inductive or running, not 'transductive'"):
        learner.adapt(support.x[0], support.y[0], batch_statistics="transductive")
    sizes = {"support_examples": 5, "running": True, "transductive": True}
    with pytest.raises(ValueError, match="normalise no query set by itself; drop transductive"):
        maml_tf.export(learner, tmp_path / "it", format="litert", **sizes)
