"""Heads of prototypes (Proto-MAML): against a prototypical network, and a loop of Keras' own calls.

By hand, of one task: a model cut off before its head gives the features, a class is averaged by
indexing it, the head's variables are assigned, and each inner step is Keras' call under a tape.
"""

import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_is_the_derivative, error_of, normal, randomize, slow
from keras import layers
from PIL import Image

import maml_tf
from maml_tf import Batch, ImplicitMAML, MetaLearner, Reptile, Task, evaluate, losses, train
from maml_tf.cli.main import run
from maml_tf.experiments.settings import make
from maml_tf.networks import conv_network, dense_network, part_of
from maml_tf.supervised.baselines import JointClassifier
from maml_tf.supervised.evaluation import DRAW
from maml_tf.tasks import ConstantTasks, Episodes

WAYS, ALPHA = 3, 0.2
LABELS = np.array([[0, 0, 0, 1, 1, 2], [2, 1, 1, 1, 1, 0], [1, 0, 2, 2, 2, 0]], np.int32)
"""Of three tasks: classes of 1 to 4 examples."""


def sequential(**head):
    parts = [layers.Dense(5, "tanh"), layers.Dense(4, "tanh"), layers.Dense(WAYS, **head)]
    return keras.Sequential([keras.Input([3]), *parts])


def normed():
    parts = [layers.Dense(4), layers.BatchNormalization(), layers.Activation("tanh")]
    return keras.Sequential([keras.Input([3]), *parts, layers.Dense(WAYS)])


def functional():
    """Two ways to the head, and a part of the model that is a model."""
    x = keras.Input([3])
    inside = keras.Sequential([keras.Input([3]), layers.Dense(4, "tanh")])
    h = inside(x)
    h = layers.Concatenate()([h, layers.Dense(3, "tanh")(h)])
    return keras.Model(x, layers.Dense(WAYS)(h))


def nested():
    """The head is in the model inside."""
    x, h = keras.Input([3]), keras.Input([4])
    inside = keras.Model(h, layers.Dense(WAYS)(layers.Activation("tanh")(h)))
    return keras.Model(x, inside(layers.Dense(4)(x)))


MODELS = [sequential, normed, functional, nested]


def learner_of(make=sequential, loss=losses.cross_entropy, **options):
    options = {"head_initialization": "prototypes", **options}
    model = make if isinstance(make, keras.Model) else randomize(make(), 0.7)
    return MetaLearner(model, loss, **{"step_size": ALPHA, "meta_batch_size": 2, **options})


def task_of(num_tasks=2, seed=7, width=3):
    y = LABELS[:num_tasks]
    support, query = normal(seed, num_tasks, 6, width), normal(seed + 1, num_tasks, 6, width)
    return Task(Batch(support, tf.constant(y)), Batch(query, tf.constant(y[:, ::-1].copy())))


# --- by hand ---


def body_of(model):
    """The model up to what its head is given."""
    if model.layers[-1].name.startswith("functional"):  # `nested`
        x, inside = model.inputs[0], model.layers[-1]
        return keras.Model(
            x, keras.Model(inside.inputs, inside.layers[-1].input)(model.layers[1].output)
        )
    return keras.Model(model.inputs, model.layers[-1].input)


def prototypes_of(features, y):
    """`[N, F]`: of class c the mean of its rows; zero where it has none."""
    features, y = np.asarray(features), np.asarray(y)
    rows = [features[y == c] for c in range(WAYS)]
    return np.stack([r.mean(0) if len(r) else np.zeros(features.shape[1]) for r in rows])


def loss_by_hand(learner, task, steps, frozen=None):
    """`theta -> mean query loss`, of variables assigned one task after the other.

    `frozen`, a list, is filled with the inner gradients by the first call, and later ones take them
    from it: what first-order MAML's meta-gradient is the derivative of.
    """
    model = learner.model
    theta, body = model.trainable_variables, body_of(learner.model)
    kernel, bias = theta[-2:]
    moving = [v for v, own in zip(theta, learner.adapts, strict=True) if own]

    def loss(x, y):
        return losses.cross_entropy(model(x, training=True)[None], y[None])[0]

    def of_task(t, known):
        p = prototypes_of(body(task.support.x[t], training=True), task.support.y[t])
        kernel.assign(2 * p.T), bias.assign(-np.sum(p**2, 1))
        for step in range(steps):
            with tf.GradientTape() as tape:
                support = loss(task.support.x[t], task.support.y[t])
            slopes = tape.gradient(support, [v.value for v in moving])
            if frozen is not None:
                slopes = known.setdefault((t, step), slopes)
            for variable, slope in zip(moving, slopes, strict=True):
                variable.assign(variable - ALPHA * slope)
        return float(loss(task.query.x[t], task.query.y[t]))

    def objective(parameters):
        kept, total, tasks = model.get_weights(), 0.0, task.query.y.shape[0]
        for t in range(tasks):
            for variable, value in zip(theta, parameters, strict=True):
                variable.assign(value)
            total += of_task(t, frozen) / tasks
        model.set_weights(kept)
        return total

    return objective


# --- what it computes ---


@pytest.mark.parametrize("make", MODELS)
def test_without_steps_it_is_a_prototypical_network(float64, make):
    learner, task = learner_of(make), task_of()
    weights = learner.adapt_weights(task.support, 0).weights[0]
    logits = learner.predict(weights, task.support, task.query.x)
    body = body_of(learner.model)
    for t in range(2):
        p = prototypes_of(body(task.support.x[t], training=True), LABELS[t])
        x = body(task.query.x[t], training=True).numpy()
        np.testing.assert_allclose(logits[t], 2 * x @ p.T - np.sum(p**2, 1), rtol=1e-9, atol=1e-12)
        distances = np.sum((x[:, None] - p) ** 2, -1)
        np.testing.assert_allclose(
            tf.nn.softmax(logits[t]), tf.nn.softmax(-distances), rtol=1e-9, atol=1e-12
        )
    own = learner.initial_weights()
    assert np.max(np.abs(learner.predict(own, task.support, task.query.x) - logits)) > 0.1


CASES = [(make, steps, {}) for make in (sequential, normed) for steps in (0, 1, 2)]
CASES += [(functional, 1, {}), slow(nested, 2, {}), (sequential, 1, {"pieces": 2})]
CASES += [slow(normed, 2, how) for how in ({"recompute": True}, {"jit_compile": True})]


@pytest.mark.parametrize(("make", "steps", "options"), CASES)
@pytest.mark.cases(2)
def test_the_meta_gradient_is_the_derivative_of_the_loop_by_hand(float64, make, steps, options):
    learner, task = learner_of(make, inner_steps=steps, **options), task_of()
    objective = loss_by_hand(learner, task, steps)
    theta, names = learner.initial_weights(), [v.path for v in learner.model.trainable_variables]
    gradient, seen = learner.meta_gradient(task)
    np.testing.assert_allclose(seen.query_loss, objective(theta), rtol=1e-9)
    assert_is_the_derivative(gradient, objective, theta, names, rtol=1e-5, atol=1e-8)
    for of_head in gradient[-2:]:  # the meta-learned head is of no use
        assert not np.any(of_head)
    assert np.max(np.abs(gradient[0])) > 1e-3


@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.cases(1)
def test_first_order_goes_through_the_prototypes_too(float64, steps):
    learner, task = learner_of(inner_steps=steps, first_order=True), task_of()
    objective = loss_by_hand(learner, task, steps, frozen := {})
    theta, names = learner.initial_weights(), [v.path for v in learner.model.trainable_variables]
    objective(theta)
    assert len(frozen) == 2 * steps
    gradient, _ = learner.meta_gradient(task)
    assert_is_the_derivative(gradient, objective, theta, names, rtol=1e-5, atol=1e-8)
    whole, _ = learner_of(inner_steps=steps).meta_gradient(task)
    assert np.allclose(gradient[0], whole[0], rtol=1e-6) == (steps == 0)


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.cases(1)
def test_tasks_together_are_what_each_is_alone(float64, steps):
    learner = learner_of(normed, inner_steps=steps, meta_batch_size=3)
    task = task_of(3)
    singles = [tf.nest.map_structure(lambda a, t=t: a[t : t + 1], task) for t in range(3)]
    each = [learner.meta_gradient(one) for one in singles]
    expected = tf.nest.map_structure(lambda *parts: sum(parts) / 3, *each)
    for a, b in zip(
        tf.nest.flatten(learner.meta_gradient(task)), tf.nest.flatten(expected), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    together = learner.adapt_weights(task.support, steps).weights[-1]
    alone = [learner.adapt_weights(one.support, steps).weights[-1] for one in singles]
    for index, own in enumerate(learner.adapts):
        parts = [weights[index] for weights in alone]
        expected = tf.concat(parts, 0) if own else parts[0]
        np.testing.assert_allclose(together[index], expected, rtol=1e-9, atol=1e-12)
    assert np.max(np.abs(together[-2][0] - together[-2][1])) > 0.1


def test_steps_in_a_loop_of_the_graph_begin_there_too(float64):
    learner, task = learner_of(normed, inner_steps=1), task_of()
    observe = lambda w: tf.cast(learner.task_loss(w, task.query), tf.float32)  # noqa: E731
    seen = learner.adapt_and_observe(task.support, 3, observe)
    path = learner.adapt_weights(task.support, 3).weights
    expected = [learner.task_loss(w, task.query) for w in path]
    np.testing.assert_allclose(seen, expected, rtol=1e-5)
    theta = learner.initial_weights()
    by_hand = [loss_by_hand(learner, task, steps)(theta) for steps in range(4)]
    np.testing.assert_allclose(np.mean(seen, 1), by_hand, rtol=1e-5)


# --- sets that are padded, weighed, or lack a class ---


MASK = np.array([[True] * 6 + [False] * 4, [True] * 5 + [False] * 5])


def padded(filling):
    """The support sets of `task_of`, and after them what means nothing; the last one is shorter."""
    x = np.concatenate([task_of().support.x, np.full([2, 4, 3], filling)], 1)
    y = np.concatenate([LABELS[:2], [[0, 1, 2, 0], [2, 0, 9, -1]]], 1).astype(np.int32)
    return Batch(tf.constant(x), tf.constant(y), (), tf.constant(MASK))


def cut(batch, t):
    """Of task `t`, what exists, without a mask."""
    return Batch(*(tf.constant(part[t].numpy()[MASK[t]][None]) for part in batch[:2]))


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.cases(1)
def test_what_pads_a_set_is_in_no_prototype(float64, steps):
    learner, query = learner_of(normed, inner_steps=steps), task_of().query
    support = padded(1e3)
    gradient, _ = learner.meta_gradient(Task(support, query))
    weights = learner.adapt_weights(support, steps).weights[-1]
    gradients = []
    for t in range(2):
        alone = learner.adapt_weights(cut(support, t), steps).weights[-1]
        for together, single, own in zip(weights, alone, learner.adapts, strict=True):
            if own:
                np.testing.assert_allclose(together[t], single[0], rtol=1e-9, atol=1e-12)
        asked = tf.nest.map_structure(lambda a, t=t: a[t : t + 1], query)
        gradients.append(learner.meta_gradient(Task(cut(support, t), asked))[0])
    for together, *each in zip(gradient, *gradients, strict=True):
        np.testing.assert_allclose(together, sum(each) / 2, rtol=1e-9, atol=1e-12)


def test_padding_may_be_no_number(float64):
    learner, support = learner_of(), padded(np.nan)
    weights = learner.adapt_weights(support, 0).weights[0]
    for t in range(2):
        alone = learner.adapt_weights(cut(support, t), 0).weights[0]
        for together, single in zip(weights[-2:], alone[-2:], strict=True):
            np.testing.assert_allclose(together[t], single[0], rtol=1e-9)


def test_weights_weigh_the_mean_and_a_weight_of_zero_leaves_an_example_out(float64):
    learner, support = learner_of(), task_of().support
    features = body_of(learner.model)(support.x[0]).numpy()
    share = np.array([[1, 3, 0, 1, 1, 5], [1] * 6], float)  # of labels 0 0 0 1 1 2
    weighed = support._replace(sample_weight=tf.constant(share))
    kernel, bias = learner.adapt_weights(weighed, 0).weights[0][-2:]
    first = (features[0] + 3 * features[1]) / 4
    second = (features[3] + features[4]) / 2
    expected = np.stack([first, second, features[5]])
    np.testing.assert_allclose(kernel[0], 2 * expected.T, rtol=1e-9)
    np.testing.assert_allclose(bias[0], -np.sum(expected**2, 1), rtol=1e-9)
    plain, _ = learner.adapt_weights(support, 0).weights[0][-2:]
    np.testing.assert_array_equal(kernel[1], plain[1])
    assert np.max(np.abs(kernel[0] - plain[0])) > 0.01


def test_a_class_without_examples_begins_at_zero(float64):
    learner, support = learner_of(), task_of().support
    fewer = Batch(support.x, tf.constant(np.where(LABELS[:2] == 1, 0, LABELS[:2])))
    weights = learner.adapt_weights(fewer, 0).weights[0]
    assert not np.any(weights[-2][:, :, 1]) and not np.any(weights[-1][:, 1])
    logits = learner.predict(weights, fewer, support.x)
    assert not np.any(logits[..., 1]) and np.all(np.abs(logits[..., ::2]) > 1e-6)
    gradient, seen = learner.meta_gradient(Task(fewer, fewer))
    assert np.isfinite(seen.query_loss) and all(np.isfinite(g).all() for g in gradient)


def test_tasks_of_fewer_classes_than_outputs_are_judged_by_their_own():
    """Five outputs, tasks of two classes: the other three heads begin at zero, and do not count."""
    body = [keras.Input([4]), layers.Dense(6, "tanh")]
    learner = learner_of(randomize(keras.Sequential([*body, layers.Dense(5)])), inner_steps=1)
    examples = np.random.default_rng(0).normal(size=[9, 8, 4]) + np.arange(9)[:, None, None]
    tasks = Episodes(examples, ways=2, shots=2, queries=4, split="test")
    task, hits = tasks(0, DRAW), []
    features = keras.Model(learner.model.inputs, learner.model.layers[-1].input)
    for t in range(DRAW):
        p = [features(task.support.x[t]).numpy()[task.support.y[t] == c].mean(0) for c in (0, 1)]
        far = [np.sum((features(task.query.x[t]).numpy() - one) ** 2, 1) for one in p]
        hits.append(np.argmin(far, 0) == task.query.y[t].numpy())
    estimate = evaluate(learner, tasks, num_tasks=DRAW, steps=2, ways=2)
    np.testing.assert_allclose(estimate.mean[0], np.mean(hits), rtol=1e-6)
    assert 0.5 < estimate.mean[0] < 1 and np.isfinite(estimate.mean).all()
    everything = evaluate(learner, tasks, num_tasks=DRAW, steps=2)
    assert everything.mean[0] <= estimate.mean[0]


# --- losses, and what else a learner may be told ---


@pytest.mark.slow
def test_probabilities_and_one_hot_labels_are_taken_alike(float64):
    """A softmax in the head, with the loss of it, is the same learner; so are one-hot labels."""
    task = task_of()
    hot = tf.nest.map_structure(lambda a: a, task)
    hot = Task(*(b._replace(y=tf.one_hot(b.y, WAYS, dtype="float64")) for b in hot))
    column = Task(*(b._replace(y=b.y[..., None]) for b in task))
    cases = [
        (sequential(), keras.losses.SparseCategoricalCrossentropy(from_logits=True), column),
        (sequential(activation="softmax"), "sparse_categorical_crossentropy", task),
        (sequential(), keras.losses.CategoricalCrossentropy(from_logits=True), hot),
        (sequential(activation="softmax"), "categorical_crossentropy", hot),
    ]
    expected, _ = learner_of(inner_steps=1).meta_gradient(task)
    for model, loss, given in cases:
        gradient, _ = learner_of(randomize(model, 0.7), loss, inner_steps=1).meta_gradient(given)
        for a, b in zip(gradient, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)


def test_a_class_that_the_loss_ignores_is_in_no_prototype(float64):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=1)
    learner, support = learner_of(loss=loss), task_of().support
    weights = learner.adapt_weights(support, 0).weights[0]
    assert not np.any(weights[-1][:, 1]) and np.all(weights[-1][:, ::2])


LEVERS = [
    {"learn_step_size": "layer_and_step"},
    {"inner_optimizer": "adam", "inner_clip": 0.1},
    {"multi_step_loss": 3},
    {"per_step_normalization": True},
    {"second_order_after": 1},
]


@pytest.mark.parametrize("options", [LEVERS[0], *map(slow, LEVERS[1:])], ids=str)
def test_it_goes_with_the_other_levers(options):
    learner = learner_of(normed, inner_steps=2, optimizer=keras.optimizers.SGD(0.1), **options)
    kept = [np.array(v.value) for v in learner.model.trainable_variables]
    seen = learner.meta_steps(ConstantTasks(task_of()), 0, 3)
    assert np.isfinite(seen.query_loss).all()
    first, kernel, bias = (
        np.any(kept[i] != learner.model.trainable_variables[i].numpy()) for i in (0, -2, -1)
    )
    assert first and not kernel and not bias


def test_the_head_alone_adapts():
    """ANIL from prototypes: the body stays theta."""
    model = conv_network((8, 8, 1), WAYS, filters=2)
    learner = learner_of(model, inner_steps=1, adapts=part_of(model, "head"))
    x = normal(1, 2, 6, 8, 8, 1)
    weights = learner.adapt_weights(Batch(x, tf.constant(LABELS[:2])), 1).weights[-1]
    assert weights[-2].shape == (2, 2, WAYS)
    for weight, variable in zip(weights[:-2], model.trainable_variables[:-2], strict=True):
        np.testing.assert_array_equal(weight, variable)


def test_the_summary_says_so():
    said = []
    learner_of().summary(said.append)
    assert "second order, loss cross_entropy, heads of prototypes" in said[0]


# --- copies, files, exports ---


@pytest.mark.parametrize("make", [normed, slow(functional)])
@pytest.mark.slow
def test_a_copy_and_an_export_predict_as_the_learner(make, tmp_path):
    learner, (support, query) = learner_of(make), task_of()
    maml_tf.export(learner, tmp_path / "it")
    model = tf.saved_model.load(str(tmp_path / "it"))
    for steps in (0, 2):
        weights = learner.adapt_weights(support, steps).weights[-1]
        after = model.adapt(support.x[0], support.y[0], steps=steps)
        for inductive in (False, True):
            expected = learner.predict(weights, support, query.x, inductive=inductive)[0]
            got = model.predict(query.x[0], after, transductive=not inductive)
            np.testing.assert_allclose(got, expected, atol=1e-5)
        copy = learner.adapt(support.x[0], support.y[0], steps=steps)
        np.testing.assert_allclose(copy(query.x[0], training=False), expected, atol=1e-4)
        five = np.array([True] * 5 + [False])
        cut = model.adapt(support.x[0][:5], support.y[0][:5], steps=steps)
        masked = model.adapt(support.x[0], support.y[0], steps=steps, mask=five)
        for name, value in cut.items():
            np.testing.assert_allclose(masked[name], value, atol=1e-6)
        own = learner.predict(learner.initial_weights(), support, query.x)[0]
        assert np.max(np.abs(own - expected)) > 0.01  # the meta-learned head says something else


@pytest.mark.slow
def test_a_file_for_litert_begins_there_too(tmp_path):
    from test_litert import interpreter_of

    learner, (support, query) = learner_of(normed), task_of()
    sizes = {"support_examples": 6, "query_examples": 6, "steps": 2}
    maml_tf.export(learner, tmp_path / "it", format="litert", **sizes)
    assert json.loads((tmp_path / "it" / "maml_tf.json").read_text())["select"] == []
    both = interpreter_of(tmp_path / "it" / "model.tflite").get_signature_runner(
        "adapt_and_predict"
    )
    sets = {"support_x": support.x[0], "support_y": support.y[0], "query_x": query.x[0]}
    got = both(**{name: value.numpy() for name, value in sets.items()})["predictions"]
    weights = learner.adapt_weights(support, 2).weights[-1]
    np.testing.assert_allclose(got, learner.predict(weights, support, query.x)[0], atol=1e-4)


@pytest.mark.slow
def test_it_is_saved_loaded_and_another_beginning_is_another_training(tmp_path):
    tasks = ConstantTasks(task_of())
    learner = learner_of(normed)
    train(learner, tasks, iterations=2, logdir=tmp_path / "run", progress=False)
    learner.save(tmp_path / "it.weights.h5")
    again = learner_of(normed())
    again.load(tmp_path / "it.weights.h5")
    both = [evaluate(x, tasks, num_tasks=2, steps=2).mean for x in (learner, again)]
    np.testing.assert_array_equal(*both)
    learned = learner_of(normed, head_initialization="learned")
    with pytest.raises(ValueError, match="head_initialization=prototypes, now learned"):
        train(learned, tasks, iterations=3, logdir=tmp_path / "run", progress=False)


# --- the command line ---

OWN = "--head_initialization=prototypes"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Folders of images: 20 classes of 3."""
    made = tmp_path_factory.mktemp("prototypes")
    rng = np.random.default_rng(0)
    for number in range(20):
        folder = made / "photos" / f"class_{number}"
        folder.mkdir(parents=True)
        for i in range(3):
            pixels = (12 * number + rng.integers(0, 12, [8, 8, 3])).astype("uint8")
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return made


def line_of(place, *more):
    line = ["--problem=folder", f"--data_dir={place / 'photos'}", "--image_size=8", "--ways=3"]
    line += ["--shots=1", "--queries=2", "--filters=2", "--meta_batch_size=2", "--inner_steps=1"]
    return [*line, "--validation_tasks=2", "--progress=False", f"--logdir={place / 'logs'}", *more]


def arrays(path):
    learner = maml_tf.load(path)
    return learner, [np.asarray(v) for v in learner.state]


@pytest.fixture(scope="module")
def straight(place):
    """A run of two iterations."""
    assert run(["train", *line_of(place, OWN, "--run_name=straight", "--iterations=2")]) == 0
    return place / "logs" / "straight"


@pytest.mark.slow
def test_a_run_is_resumed_bit_for_bit(place, straight, capsys):
    for iterations in (1, 2):
        again = line_of(place, OWN, "--run_name=resumed", f"--iterations={iterations}")
        assert run(["train", *again]) == 0
    learner, values = arrays(straight)
    assert learner.head_initialization == "prototypes"
    begun = conv_network((8, 8, 3), 3, filters=2).trainable_variables
    assert np.any(learner.model.trainable_variables[0].numpy() != begun[0].numpy())
    np.testing.assert_array_equal(learner.model.trainable_variables[-2], begun[-2])
    for one, other in zip(values, arrays(place / "logs" / "resumed")[1], strict=True):
        np.testing.assert_array_equal(one, other)
    line = line_of(place, "--run_name=straight", "--iterations=3")
    message = "--head_initialization=prototypes, now learned"
    assert message in error_of(["train", *line], capsys)


@pytest.mark.slow
def test_a_run_is_evaluated_and_released(place, straight):
    few = ["--test_tasks=3", "--test_steps=1", "--progress=False", "--split=test"]
    assert run(["evaluate", str(straight), *few, "--test_ways=2"]) == 0
    release = place / "release"
    assert run(["release", str(straight), f"--to={release}"]) == 0
    assert OWN in (release / "README.md").read_text()
    (learner, values), (again, released) = arrays(straight), arrays(release)
    assert again.head_initialization == "prototypes"
    for one, other in zip(values, released, strict=True):
        np.testing.assert_array_equal(one, other)
    x = np.random.default_rng(1).uniform(size=[3, 8, 8, 3]).astype("float32")
    both = [made.adapt(x, [0, 1, 2], steps=1).predict(x, verbose=0) for made in (learner, again)]
    np.testing.assert_array_equal(*both)


@pytest.mark.slow
def test_weights_of_a_release_go_with_either_beginning(place, straight):
    release = place / "begun"
    few = ["--test_tasks=3", "--test_steps=1", "--progress=False", "--split=test"]
    assert run(["evaluate", str(straight), *few]) == 0
    assert run(["release", str(straight), f"--to={release}"]) == 0
    begun = ["--log=False", "--iterations=1", f"--init={release}"]
    assert run(["train", *line_of(place, *begun, OWN)]) == 0
    assert run(["train", *line_of(place, *begun)]) == 0


def test_a_release_made_without_it_is_as_it_was():
    """One that was made before there was such a flag."""
    release = Path(maml_tf.__file__).parents[1] / "models" / "omniglot_5way_1shot"
    assert "head_initialization" not in (release / "flags.txt").read_text()
    learner = maml_tf.load(release)
    assert learner.head_initialization == "learned" and learner.inner.head is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"problem": "sinusoid"}, "--head_initialization is for --problem=omniglot.*not --prob"),
        ({"problem": "navigation_2d"}, "--head_initialization is for --problem=omniglot"),
        ({"adapt": "body"}, "--adapt=body gives all tasks one head, .*; drop one of them"),
        (
            {"method": "reptile"},
            "--method=reptile learns only what its inner steps move; drop --he",
        ),
        ({"method": "imaml"}, "--method=imaml differentiates where .*; drop --head_init"),
        ({"method": "context"}, "adapts the context vector alone; drop --head_initialization"),
        ({"method": "pretrained"}, "takes no inner step; drop --head_initialization"),
        ({"method": "random"}, "takes no inner step; drop --head_initialization"),
        ({"head_initialization": "zero"}, "must be one of learned, prototypes; got 'zero'"),
    ],
)
def test_flags_that_contradict_it(given, message):
    flags = {"problem": "omniglot", "head_initialization": "prototypes", **given}
    with pytest.raises(ValueError, match=message) as said:
        make(flags)
    assert "\n" not in str(said.value)


def test_a_pretraining_and_the_methods_of_maml_take_it():
    flags = {"problem": "omniglot", "head_initialization": "prototypes", "pretrain_iterations": 5}
    for given in ({"method": "maml"}, {"method": "fomaml"}, {"adapt": "head"}):
        made = make({**flags, **given})
        assert made.training.head_initialization == "prototypes"
        assert made.pretraining().training.head_initialization == "learned"


# --- what is refused, before anything is computed ---


def regressor():
    return learner_of(loss=losses.mean_squared_error)


def binary():
    return learner_of(loss="binary_crossentropy")


def unknown_loss():
    return learner_of(loss=lambda outputs, y: tf.reduce_mean(outputs**2, [1, 2]))


def no_dense_at_the_end():
    parts = [keras.Input([3]), layers.Dense(3), layers.Softmax()]
    return learner_of(keras.Sequential(parts), "sparse_categorical_crossentropy")


def no_bias():
    return learner_of(sequential(use_bias=False))


def relu():
    return learner_of(sequential(activation="relu"))


def frozen():
    model = sequential()
    model.layers[-1].trainable = False
    return learner_of(model)


def several_outputs():
    x = keras.Input([3])
    h = layers.Dense(4)(x)
    model = keras.Model(x, {"a": layers.Dense(3)(h), "b": layers.Dense(3)(h)})
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return learner_of(model, {"a": loss, "b": loss})


def called_twice():
    x, head = keras.Input([3]), layers.Dense(3, name="head")
    return learner_of(keras.Model(x, head(layers.Activation("tanh")(head(x)))))


def tied():
    """Another layer computes with the head's kernel."""

    class Tied(layers.Layer):
        def __init__(self, other):
            super().__init__()
            self.other = other

        def call(self, x):
            return keras.ops.tanh(x @ self.other.kernel)

    head = layers.Dense(3, name="head")
    head.build([None, 3])
    x = keras.Input([3])
    return learner_of(keras.Model(x, head(Tied(head)(x))))


def of_a_sequence():
    x = keras.Input([2, 3])
    return learner_of(keras.Model(x, layers.Dense(3)(x)))


def subclassed():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.last = layers.Dense(4), layers.Dense(3)

        def call(self, x):
            return self.last(self.first(x))

    model = Own()
    model(tf.zeros([1, 3]))
    return learner_of(model)


def own_call():
    """A functional model whose class computes something else."""

    class Twice(keras.Model):
        def call(self, x):
            return 2 * super().call(x)

    x = keras.Input([3])
    return learner_of(Twice(x, layers.Dense(3)(layers.Dense(4)(x))))


def boil():
    model = dense_network(3, WAYS, (4,))
    return learner_of(model, adapts=part_of(model, "body"))


REFUSED = [
    (regressor, "the loss 'mean_squared_error' takes values; take a cross-entropy"),
    (binary, "the loss 'binary_crossentropy' takes 0 or 1; take a cross-entropy"),
    (unknown_loss, "takes targets of any kind; take a cross-entropy"),
    (several_outputs, "'functional.*' has 2 outputs; end it in one, or drop it"),
    (no_dense_at_the_end, "'sequential.*' ends in Softmax 'softmax.*'; end it in one"),
    (no_bias, "ends in Dense 'dense.*' without a bias; end it in one"),
    (relu, "ends in Dense 'dense.*' with the activation relu; end it in one"),
    (frozen, "kernel and bias of 'dense.*' do not adapt; let `adapts` choose both"),
    (boil, "kernel and bias of 'head' do not adapt; let `adapts` choose both"),
    (called_twice, "calls 'head' more than once; end it in one"),
    (tied, "shares the weights of 'head' with 'tied.*'; end it in one"),
    (of_a_sequence, "gives an array .*; end it in one"),
    (subclassed, "'own.*' has no graph that says which layer is the last; end it in one"),
    (own_call, "'twice.*' has no graph that says which layer is the last; end it in one"),
]


@pytest.mark.parametrize(
    ("make", "message"), REFUSED, ids=lambda case: getattr(case, "__name__", "")
)
def test_what_has_no_such_head_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match="head_initialization='prototypes' .*" + message) as said:
        make()
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Reptile, "Reptile learns only what its inner steps move; drop head_initialization"),
        (ImplicitMAML, "ImplicitMAML differentiates where .*; drop head_initialization"),
        (JointClassifier, "classifies by the nearest neighbour; drop head_initialization"),
    ],
)
def test_kinds_of_learners_that_have_no_use_of_it(kind, message):
    with pytest.raises(ValueError, match=message):
        kind(sequential(), losses.cross_entropy, head_initialization="prototypes")
    kind(sequential(), losses.cross_entropy, head_initialization="learned")


def test_it_cannot_be_changed_later_nor_can_the_loss_become_a_regressions():
    learner = learner_of()
    with pytest.raises(ValueError, match="`head_initialization` cannot be changed later"):
        learner.head_initialization = "learned"
    with pytest.raises(ValueError, match="takes values; take a cross-entropy"):
        learner.loss = "mse"
    assert learner.loss.name == "cross_entropy"
    for wrong in ("zeros", True, None):
        message = f"must be one of 'learned', 'prototypes'; not {re.escape(str(wrong))}"
        with pytest.raises(ValueError, match=message.replace("not zeros", "not .?zeros")):
            learner_of(head_initialization=wrong)
