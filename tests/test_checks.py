"""What comes in from users: converted where it is unambiguous, or refused in one sentence."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import randomize
from keras import layers

from maml_tf import Batch, MetaLearner, Task, evaluate, losses
from maml_tf.networks import dense_network
from maml_tf.objectives import labels
from maml_tf.tasks import ConstantTasks

X = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
Y = np.array([0, 1, 2, 2, 1, 0])
CE, SCCE = losses.cross_entropy, keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def learner_of(loss=CE, outputs=3, **options):
    model = randomize(dense_network(4, outputs, (5,)))
    return MetaLearner(model, loss, step_size=0.3, meta_batch_size=2, **options)


def adapted(loss, y, outputs=3, **how):
    return learner_of(loss, outputs).adapt(X, y, **how).predict(X, verbose=0)


@pytest.mark.parametrize("loss", [CE, SCCE, "sparse_categorical_crossentropy"])
@pytest.mark.parametrize(
    "y",
    [
        Y.astype("float64"),
        Y.astype("uint8"),
        Y[:, None],
        Y.tolist(),
        tf.constant(Y),
        [float(v) for v in Y],
        Y[:, None].astype("float32"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*takes probabilities")
@pytest.mark.cases(4)
def test_labels_that_mean_the_same_adapt_to_the_same(loss, y):
    expected = adapted(loss, Y)
    np.testing.assert_allclose(adapted(loss, y), expected, rtol=1e-6)
    assert np.abs(expected - learner_of(loss).model.predict(X, verbose=0)).max() > 1e-3


ONE_HOT = np.eye(3)[Y]
WRONG = [
    (CE, ONE_HOT, "one-hot labels.*np.argmax"),
    (CE, Y + 1, "holds 3, and the model has 3 outputs.*subtract 1"),
    (CE, Y - 1, "holds -1, and .*class indices 0 ... 2"),
    (CE, Y * 10, r"holds 10, 20, and the model has 3 outputs: give class indices 0 \.\.\. 2"),
    (CE, Y + 0.5, "holds 0.5, 1.5, 2.5, and .* whole numbers"),
    (CE, np.where(Y == 1, np.nan, Y), "not finite"),
    (CE, np.array(["cat", "dog", "eel"])[Y], "holds no numbers .'cat', 'dog', 'eel'"),
    (CE, np.array(["cat", "dog", "eel"], object)[Y], "holds no numbers"),
    (CE, np.stack([Y, Y], -1), r"shape \(6, 2\) and the outputs"),
    ("categorical_crossentropy", Y, "to_categorical"),
    ("binary_crossentropy", 2 * ONE_HOT - 1, "holds -1, and 'binary_crossentropy' takes 0 or 1"),
    ("mse", ONE_HOT[:, :1], r"shape \(6, 1\) and the outputs \(6, 3\)"),
    ("mse", np.full([6, 3], np.nan), "not finite"),
]


@pytest.mark.parametrize(("loss", "y", "message"), WRONG)
@pytest.mark.filterwarnings("ignore:.*takes probabilities")
def test_labels_that_do_not_fit_are_refused_by_adapt(loss, y, message):
    with pytest.raises(ValueError, match=message):
        adapted(loss, y)


@pytest.mark.parametrize("where", ["support", "query"])
@pytest.mark.parametrize("kind", ["evaluate", "train"])
def test_and_by_the_first_meta_batch_and_evaluation(kind, where):
    def source(index, num_tasks):
        wrong = Batch(
            tf.zeros([num_tasks, 6, 4]), tf.tile(tf.constant(Y + 1)[None], [num_tasks, 1])
        )
        right = wrong._replace(y=wrong.y - 1)
        pair = {"support": right, "query": right} | {where: wrong}
        return Task(**pair)

    source.constant_tasks = True
    with pytest.raises(ValueError, match=f"The {where} set's y holds 3, and the model has 3"):
        if kind == "train":
            learner_of().meta_steps(source, 0, 1)
        else:
            evaluate(learner_of(), source, num_tasks=1, steps=1)


def test_labels_of_padding_may_be_anything():
    y = tf.constant([[0, 1, 2, -1]] * 2)
    mask = tf.constant([[True, True, True, False]] * 2)
    x = tf.random.stateless_normal([2, 4, 4], [0, 0])
    batch = Batch(x, y, (), mask)
    padded = learner_of()
    padded.meta_steps(ConstantTasks(Task(batch, batch)), 0, 2)
    cut = Batch(x[:, :3], y[:, :3])
    plain = learner_of()
    plain.meta_steps(ConstantTasks(Task(cut, cut)), 0, 2)
    for a, b in zip(padded.model.weights, plain.model.weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    with pytest.raises(ValueError, match="holds -1"):
        learner_of().meta_steps(ConstantTasks(Task(batch._replace(mask=()), batch)), 0, 1)


def test_each_of_several_outputs_has_its_labels_checked():
    inputs = keras.Input([4])
    outputs = {"kind": layers.Dense(3)(inputs), "size": layers.Dense(1)(inputs)}
    learner = MetaLearner(keras.Model(inputs, outputs), {"kind": SCCE, "size": "mse"})
    shapes = {"kind": tf.TensorShape([None, None, 3]), "size": tf.TensorShape([None, None, 1])}
    y = {"kind": Y[None].astype("float32"), "size": X[None, :, :1]}
    assert labels.targets(learner.loss, y, shapes, "y")["kind"].dtype == np.int32
    with pytest.raises(ValueError, match="y of output 'kind' holds 3"):
        labels.targets(learner.loss, y | {"kind": Y[None] + 1}, shapes, "y")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": -1}, "steps must be 0 or more, not -1"),
        ({"steps": 1.5}, "steps must be a whole number, not 1.5"),
        ({"steps": True}, "steps must be a whole number"),
        ({"step_size": 0}, "step_size must be positive, not 0"),
        ({"step_size": -0.1}, "step_size must be positive"),
        ({"step_size": float("nan")}, "step_size must be positive, not nan"),
        ({"step_size": float("inf")}, "finite"),
        ({"step_size": [0.1, 0.2]}, "step_size must be one number"),
        ({"x": X[:0], "y": Y[:0]}, "is empty"),
        ({"x": X[:5]}, "x 5 and y 6"),
        ({"x": np.where(X > 1, np.nan, X)}, "x holds numbers that are not finite"),
        ({"x": X[0], "y": Y[:1]}, r"x of shape \(4,\) is one example.*x\[None\]"),
        ({"x": [[1.0, 2.0, 3.0, 4.0], [1.0]]}, "no array"),
    ],
)
def test_what_cannot_be_adapted_to_is_refused(change, message):
    how = {"x": X, "y": Y} | change
    with pytest.raises(ValueError, match=message):
        learner_of().adapt(how.pop("x"), how.pop("y"), **how)


def test_numbers_of_python_are_a_set_as_well():
    learner = learner_of()
    got = learner.adapt(X.tolist(), Y.tolist()).get_weights()
    for a, b in zip(got, learner.adapt(X, Y).get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


# --- activations ---


def ending_in(activation, outputs=3, own_layer=False):
    last = layers.Dense(outputs, None if own_layer else activation)
    more = [layers.Activation(activation)] if own_layer else []
    return keras.Sequential([keras.Input([4]), last, *more])


@pytest.mark.parametrize("own_layer", [False, True])
@pytest.mark.parametrize(
    ("activation", "loss"),
    [
        ("softmax", CE),
        ("softmax", losses.summed_cross_entropy),
        ("softmax", SCCE),
        ("sigmoid", keras.losses.BinaryCrossentropy(from_logits=True)),
    ],
)
def test_probabilities_where_logits_are_meant_are_refused(activation, loss, own_layer):
    with pytest.raises(ValueError, match=f"ends in a {activation}, and .* takes logits"):
        MetaLearner(ending_in(activation, own_layer=own_layer), loss)


@pytest.mark.parametrize("loss", ["sparse_categorical_crossentropy", "bce", "crossentropy"])
def test_no_activation_where_probabilities_are_meant_warns(loss):
    with pytest.warns(UserWarning, match="takes probabilities.*from_logits=True"):
        MetaLearner(ending_in(None), loss)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("activation", "loss"),
    [("softmax", "sparse_categorical_crossentropy"), ("sigmoid", "bce"), (None, CE), (None, SCCE)],
)
def test_what_fits_says_nothing(activation, loss):
    MetaLearner(ending_in(activation), loss)


def test_a_threshold_for_probabilities_beside_logits_warns():
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    with pytest.warns(UserWarning, match="threshold=0"):
        MetaLearner(ending_in(None, 1), loss, metric="accuracy")
