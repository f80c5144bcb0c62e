"""Support sets of classes of unequal size, padded: each task as its unpadded set would be alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import randomize
from keras import layers

from maml_tf import Batch, MetaLearner, MultitaskLearner, Task, evaluate, export, losses
from maml_tf.networks import dense_network
from maml_tf.supervised import evaluation
from maml_tf.supervised.baselines import JointClassifier
from maml_tf.tasks import ConstantTasks, Sinusoid

WAYS, MOST, TASKS, QUERIES = 3, 4, 5, 6
EPSILON = 0.1


def draw(index, num_tasks):
    """Classes of 1 to 4 examples, padded to 4 with numbers and labels that mean nothing."""
    rng = np.random.default_rng([7, index])
    sizes = rng.integers(1, MOST + 1, [num_tasks, WAYS])
    mask = (np.arange(MOST) < sizes[..., None]).reshape(num_tasks, -1)
    y = np.tile(np.repeat(np.arange(WAYS), MOST), [num_tasks, 1])
    x = rng.normal(size=[num_tasks, WAYS * MOST, 4]) + y[..., None]
    # So that each class weighs as much as another, however many examples it has: B / (N n).
    weight = mask.sum(1)[:, None] / (WAYS * np.repeat(sizes, MOST, 1))
    support = Batch(
        np.where(mask[..., None], x, 1e3), np.where(mask, y, rng.permuted(y)), weight, mask
    )
    asked = np.tile(np.arange(WAYS).repeat(QUERIES // WAYS), [num_tasks, 1])
    return Task(support, Batch(rng.normal(size=[*asked.shape, 4]) + asked[..., None], asked))


def model_of(normalization=True):
    parts = [layers.BatchNormalization(epsilon=EPSILON)] if normalization else []
    parts = [layers.Dense(5), *parts, layers.Activation("tanh"), layers.Dense(WAYS)]
    return randomize(keras.Sequential([keras.Input([4]), *parts]))


def learner_of(**options):
    options = {"step_size": 0.3, "meta_batch_size": TASKS} | options
    return MetaLearner(model_of(), losses.cross_entropy, **options)


def alone(task, t):
    """x, y and weights of the support set of task `t` that exist."""
    there = task.support.mask[t]
    return tuple(part[t][there] for part in task.support[:3])


# --- by hand: one task, no mask, plain tapes ---


def logits(weights, x):
    w1, b1, gamma, beta, w2, b2 = weights
    h = x @ w1 + b1
    mean = tf.reduce_mean(h, 0)
    variance = tf.reduce_mean((h - mean) ** 2, 0)
    return tf.tanh(gamma * (h - mean) / tf.sqrt(variance + EPSILON) + beta) @ w2 + b2


def mean_loss(weights, x, y, factors):
    """The sum of the weighted losses over the number of examples, as in Keras."""
    each = tf.nn.log_softmax(logits(weights, x)) * tf.one_hot(y, WAYS, dtype=x.dtype)
    return -tf.reduce_sum(factors[:, None] * each) / len(x)


def meta_gradient_by_hand(theta, task, alpha):
    total = [np.zeros(w.shape) for w in theta]
    for t in range(TASKS):
        weights = [tf.identity(w) for w in theta]
        with tf.GradientTape() as outer:
            outer.watch(weights)
            with tf.GradientTape() as inner:
                inner.watch(weights)
                loss = mean_loss(weights, *alone(task, t))
            steps = inner.gradient(loss, weights)
            adapts = [True, True, False, False, True, True]  # all but the normalisation
            moved = [
                w - alpha * g if own else w
                for w, g, own in zip(weights, steps, adapts, strict=True)
            ]
            query = mean_loss(moved, task.query.x[t], task.query.y[t], np.ones(QUERIES))
        gradient = outer.gradient(query, weights)
        total = [a + g / TASKS for a, g in zip(total, gradient, strict=True)]
    return total


def test_a_meta_step_is_that_of_each_task_alone_by_hand(float64):
    """From a source of NumPy, through both derivatives, batch normalisation and weights."""
    learner = learner_of(optimizer=keras.optimizers.SGD(1.0))
    before = [np.array(np.asarray(w)) for w in learner.model.trainable_variables]
    learner.meta_steps(draw, 3, 1)
    task = draw(3, TASKS)
    assert len(set(task.support.mask.sum(1))) > 2
    expected = meta_gradient_by_hand(before, task, 0.3)
    for old, new, g in zip(before, learner.model.trainable_variables, expected, strict=True):
        np.testing.assert_allclose(old - np.asarray(new), g, rtol=1e-8, atol=1e-12)
    assert max(np.abs(g).max() for g in expected) > 1e-2


def test_weights_that_balance_the_classes_are_the_mean_of_their_means(float64):
    """B / (N n) for each of a class's n examples: (1 / N) times the sum of the classes' means."""
    learner, task = learner_of(), draw(0, TASKS)
    value = learner.task_loss(learner.initial_weights(), task.support)
    outputs = learner.apply(learner.initial_weights(), task.support.x, mask=task.support.mask)
    for t in range(TASKS):
        there = task.support.mask[t]
        y, lost = task.support.y[t][there], -tf.nn.log_softmax(outputs[t]).numpy()[there]
        means = [lost[y == n, n].mean() for n in range(WAYS)]
        np.testing.assert_allclose(value[t], np.mean(means), rtol=1e-12)


@pytest.mark.parametrize("inductive", [True, False])
@pytest.mark.cases(1)
def test_an_evaluation_is_that_of_each_task_alone(float64, inductive, monkeypatch):
    monkeypatch.setattr(evaluation, "DRAW", 6)
    learner, hits = learner_of(), []
    statistics = "inductive" if inductive else "transductive"
    estimate = evaluate(learner, draw, num_tasks=6, steps=2, batch_statistics=statistics)
    task = draw(0, 6)
    for t in range(6):
        x, y, weights = (tf.constant(part[None]) for part in alone(task, t))
        support = Batch(x, y, weights)
        adapted = learner.adapt_weights(support, 2).weights
        query = task.query.x[t : t + 1]
        outputs = [learner.predict(w, support, query, inductive=inductive) for w in adapted]
        hits.append([np.mean(np.argmax(o[0], -1) == task.query.y[t]) for o in outputs])
    np.testing.assert_allclose(estimate.mean, np.mean(hits, 0), rtol=1e-6)
    assert estimate.std.min() > 0


def test_one_task_adapts_as_its_unpadded_set(float64):
    learner, task = learner_of(inner_steps=2), draw(0, TASKS)
    for t in range(TASKS):
        x, y, weight, mask = (part[t] for part in task.support)
        x = np.where(mask[:, None], x, np.nan)  # not even looked at
        got = learner.adapt(x, y, sample_weight=weight, mask=mask)
        expected = learner.adapt(x[mask], y[mask], sample_weight=weight[mask])
        for a, b in zip(got.get_weights(), expected.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    plain = learner.adapt(x[mask], y[mask]).get_weights()
    assert any((a != b).any() for a, b in zip(got.get_weights(), plain, strict=True))


@pytest.mark.slow
def test_an_exported_model_adapts_as_to_the_unpadded_set(tmp_path):
    learner, task = learner_of(), draw(0, TASKS)
    export(learner, tmp_path / "model")
    model = tf.saved_model.load(str(tmp_path / "model"))
    x, y, _, mask = (part[0] for part in task.support)
    for support in ((x, y), (x.astype("float32"), y.astype("int32")), (x.tolist(), y)):
        cut = [np.asarray(part)[mask] for part in support]
        got, expected = model.adapt(*support, mask=mask), model.adapt(*cut)
        for name in expected:
            np.testing.assert_array_equal(got[name], expected[name])
        query = task.query.x[0]
        np.testing.assert_array_equal(
            model.adapt_and_predict(*support, query, transductive=False, mask=mask),
            model.predict(query, expected, transductive=False),
        )
    for wrong in (mask[:3], np.zeros_like(mask)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="mask takes one boolean for each"):
            model.adapt(x, y, mask=wrong)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"mask": [True, False]}, r"mask has shape \(2,\) for 3 examples; give one number an exam"),
        ({"mask": [1, 0, 1]}, "mask is int64; give booleans: mask != 0"),
        ({"mask": [False] * 3}, "The support set is empty; give at least one example"),
        ({"sample_weight": [1.0]}, r"sample_weight has shape \(1,\) for 3 examples"),
        ({"sample_weight": [1, np.nan, 1]}, "sample_weight holds what is no finite number"),
        ({"sample_weight": ["a", "b", "c"]}, "sample_weight holds what is no finite number"),
        ({"mask": [True] * 3, "sample_weight": [[1.0] * 3]}, r"sample_weight has shape \(1, 3\)"),
    ],
)
def test_factors_that_do_not_fit_are_refused(factors, message):
    with pytest.raises(ValueError, match=message):
        learner_of().adapt(np.zeros([3, 4]), [0, 1, 2], **factors)


# --- the baselines ---


@pytest.mark.parametrize("inductive", [True, False])
def test_the_nearest_neighbour_is_one_that_exists(inductive):
    learner, task = JointClassifier(model_of(), losses.cross_entropy), draw(0, TASKS)
    task = tf.nest.map_structure(
        lambda a: a.astype("float32") if a.dtype == float else a.astype("int32"),
        task._replace(support=task.support._replace(mask=(), sample_weight=())),
    )
    masked = task.support._replace(mask=tf.constant(draw(0, TASKS).support.mask))
    body = learner.initial_weights()
    got = learner.predict(body, masked, task.query.x, inductive=inductive)
    for t in range(TASKS):
        there = masked.mask[t].numpy()
        support = Batch(task.support.x[t : t + 1, there], task.support.y[t : t + 1, there])
        query = task.query.x[t : t + 1]
        expected = learner.predict(body, support, query, inductive=inductive)
        np.testing.assert_array_equal(got[t], expected[0])


def test_regressors_learn_from_what_exists_of_both_sets(float64):
    """The multi-task baseline joins a support set that is padded and a query set that is whole."""
    options = {"meta_batch_size": 3, "optimizer": keras.optimizers.SGD(1.0)}
    learner = MultitaskLearner(dense_network(1, 1, (4,)), losses.mean_squared_error, **options)
    task = tf.nest.map_structure(
        lambda a: tf.cast(a, tf.float64) if a.dtype.is_floating else a,
        Sinusoid(shots=(1, 4), queries=2)(1, 3),
    )
    gradient, _ = learner.meta_gradient(task)
    for t in range(3):
        there = task.support.mask[t]
        support, query = ([part[t] for part in batch[:2]] for batch in task)
        pairs = zip(support, query, strict=True)
        x, y = (tf.concat([own[there], asked], 0) for own, asked in pairs)
        weights = [tf.convert_to_tensor(v.value[t]) for v in learner.regressors]
        with tf.GradientTape() as tape:
            tape.watch(weights)
            error = tf.reduce_mean(
                (tf.nn.relu(x @ weights[0] + weights[1]) @ weights[2] + weights[3] - y) ** 2
            )
        for got, expected in zip(gradient, tape.gradient(error, weights), strict=True):
            np.testing.assert_allclose(got[t], expected, rtol=1e-9, atol=1e-12)


# --- what a model adds to its loss ---


def regularized(regularizer):
    parts = [layers.Dense(3, activity_regularizer=regularizer), layers.Dense(WAYS)]
    return randomize(keras.Sequential([keras.Input([4]), *parts]))


@pytest.mark.parametrize("regularizer", ["l1", keras.regularizers.L2(0.3)])
def test_outputs_of_padding_are_not_regularized(float64, regularizer):
    learner = MetaLearner(regularized(regularizer), losses.cross_entropy)
    task = draw(0, TASKS)
    weights = learner.initial_weights()
    got = learner.task_loss(weights, Batch(*map(tf.constant, task.support)))
    for t in range(TASKS):
        x, y, factors = (tf.constant(part[None]) for part in alone(task, t))
        expected = learner.task_loss(weights, Batch(x, y, factors))
        np.testing.assert_allclose(got[t], expected[0], rtol=1e-10)


class Largest(keras.regularizers.Regularizer):
    def __call__(self, x):
        return tf.exp(tf.reduce_max(x))


class Adding(layers.Layer):
    def call(self, x):
        self.add_loss(tf.reduce_sum(x))
        return x


@pytest.mark.parametrize("what", ["regularizer", "layer"])
def test_a_loss_that_may_count_padding_is_refused(what):
    model = regularized(Largest())
    if what == "layer":
        model = keras.Sequential([keras.Input([4]), Adding(name="adding"), layers.Dense(WAYS)])
    learner = MetaLearner(model, losses.cross_entropy, meta_batch_size=TASKS)
    task = draw(0, TASKS)
    with pytest.raises(ValueError, match="adds a loss of its own, which would count examples that"):
        learner.meta_steps(ConstantTasks(task), 0, 1)
    whole = ConstantTasks(task._replace(support=task.support._replace(mask=())))
    learner.meta_steps(whole, 0, 1)
