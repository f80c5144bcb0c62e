"""`learner.adapt`: what it takes, and that its result is an ordinary Keras model of its own."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from maml_tf import MetaLearner, losses

RNG = np.random.default_rng(0)


def _two_inputs():
    """Sorts of inputs that a mix-up would show: the second counts a hundredfold."""
    b, a = keras.Input([3], name="b"), keras.Input([3], name="a")
    h = layers.Dense(4, "tanh")(a * 100.0 + b)
    return keras.Model([b, a], layers.Dense(2)(h))


def _data(*shape, examples=6):
    return RNG.normal(size=[examples, *shape])


def _learner(model, loss=losses.mean_squared_error, **options):
    return MetaLearner(model, loss, step_size=0.1, inner_steps=2, **options)


def _one_step_by_hand(model, x, y, step_size=0.1, steps=2):
    """Plain gradient descent on a model without batch normalisation, in Keras alone."""
    before = model.get_weights()
    for _ in range(steps):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x) - tf.cast(y, "float32")))
        variables = model.trainable_variables
        for v, g in zip(variables, tape.gradient(loss, [v.value for v in variables]), strict=True):
            v.assign(v - step_size * g)
    outputs = model(x)
    model.set_weights(before)
    return outputs


def test_inputs_go_by_name_in_any_order_and_float64_is_cast():
    model = _two_inputs()
    a, b, y = _data(3), _data(3), _data(2)
    learner = _learner(model)
    expected = _one_step_by_hand(model, [tf.constant(b, "float32"), tf.constant(a, "float32")], y)
    for x in ({"a": a, "b": b}, {"b": b, "a": a}, [b, a], (b, a), {"a": a.tolist(), "b": b}):
        adapted = learner.adapt(x, y)
        np.testing.assert_allclose(adapted({"b": b, "a": a}), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (lambda a: {"a": a, "c": a}, "has inputs 'a', 'b'; got 'a', 'c'"),
        (lambda a: {"a": a}, "has inputs 'a', 'b'; got 'a'"),
        (lambda a: [a], "takes 2 inputs"),
        (lambda a: {"a": a, "b": a[:, :2]}, r"Input 'b' takes examples of shape \(3,\)"),
        (lambda a: {"a": a, "b": a[:4]}, "lengths differ"),
    ],
)
def test_other_inputs_are_refused_in_one_sentence(x, message):
    with pytest.raises(ValueError, match=message) as error:
        _learner(_two_inputs()).adapt(x(_data(3)), _data(2))
    assert str(error.value).count("\n") == 0


def test_bytes_go_in_as_they_are():
    images = RNG.integers(0, 256, [6, 4, 4, 1]).astype("uint8")
    inputs = keras.Input([4, 4, 1])
    h = layers.Flatten()(layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, layers.Dense(2)(h))
    y = _data(2)
    expected = _one_step_by_hand(model, tf.cast(images, "float32"), y)
    for x in (images, tf.constant(images), images.astype("float64")):
        np.testing.assert_allclose(_learner(model).adapt(x, y)(images), expected, atol=1e-5)


@pytest.mark.parametrize("named", [False, True])
def test_targets_of_several_outputs(named):
    x = keras.Input([3])
    heads = [layers.Dense(2, name="kind")(x), layers.Dense(1, name="size")(x)]
    structure = dict(zip(("kind", "size"), heads, strict=True)) if named else heads
    loss = {"kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "size": "mse"}
    model = keras.Model(x, structure)
    learner = _learner(model, loss)
    inputs, kind, size = _data(3), RNG.integers(0, 2, 6), _data(1)
    expected = None
    givens = [{"kind": kind, "size": size}, {"size": size, "kind": kind}]
    for y in givens if named else [*givens, [kind, size], (kind, size)]:
        outputs = learner.adapt(inputs, y)(inputs)
        expected = outputs if expected is None else expected
        tf.nest.map_structure(np.testing.assert_allclose, outputs, expected)
    before = model(inputs)
    moved = tf.nest.map_structure(lambda a, b: float(tf.norm(a - b)), before, expected)
    assert min(tf.nest.flatten(moved)) > 1e-3
    with pytest.raises(ValueError, match="names 'other'"):
        learner.adapt(inputs, {"kind": kind, "other": size})


def test_text_as_strings_of_python():
    inputs = keras.Input([1], dtype="string")
    words = layers.TextVectorization(vocabulary=["good", "bad"], output_sequence_length=2)
    h = layers.Flatten()(layers.Embedding(4, 3)(words(inputs)))
    model = keras.Model(inputs, layers.Dense(2)(h))
    texts, labels = ["good good", "bad", "good", "bad bad"], [1, 0, 1, 0]
    learner = _learner(model, losses.cross_entropy)
    adapted = learner.adapt([[t] for t in texts], labels, steps=60, step_size=1.0)
    logits = adapted(tf.constant([[t] for t in texts]))
    assert tf.argmax(logits, -1).numpy().tolist() == labels
    flat = learner.adapt(texts, labels, steps=60, step_size=1.0)  # Keras adds the last axis, too
    np.testing.assert_allclose(flat(tf.constant([[t] for t in texts])), logits, atol=1e-5)


def test_an_adapted_normalization_keeps_its_state():
    norm = layers.Normalization()
    norm.adapt(RNG.normal(5.0, 3.0, [50, 3]))
    model = keras.Sequential([keras.Input([3]), norm, layers.Dense(2)])
    x, y = RNG.normal(5.0, 3.0, [6, 3]), _data(2)
    expected = _one_step_by_hand(model, tf.constant(x, "float32"), y)
    adapted = _learner(model).adapt(x, y)
    np.testing.assert_allclose(adapted(x), expected, atol=1e-5)
    np.testing.assert_allclose(adapted.layers[0].mean, norm.mean)


def _subclassed():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden, self.head = layers.Dense(4, "tanh"), layers.Dense(2)

        def call(self, x):
            return self.head(self.hidden(x))

    made = Model()
    made(np.zeros([1, 3]))
    return made


@pytest.mark.parametrize(
    "make", [_subclassed, lambda: keras.Sequential([keras.Input([3]), layers.Dense(2)])]
)
def test_a_copy_is_independent_of_its_original(make):
    model = make()
    x, y = _data(3), _data(2)
    adapted = _learner(model).adapt(x, y)
    before, original = adapted(x), model(x)
    for variable in model.variables:
        variable.assign_add(tf.ones_like(variable))
    np.testing.assert_array_equal(adapted(x), before)
    kept = model(x)
    for variable in adapted.trainable_variables:
        variable.assign_add(tf.ones_like(variable))
    np.testing.assert_array_equal(model(x), kept)
    assert float(tf.norm(original - kept)) > 1e-3


def test_a_clone_is_an_ordinary_model(tmp_path, capsys):
    inputs = keras.Input([6, 6, 1])
    h = layers.BatchNormalization()(layers.Conv2D(3, 3)(inputs))
    h = layers.Dropout(0.5)(layers.Flatten()(layers.ReLU()(h)))
    model = keras.Model(inputs, layers.Dense(2)(h))
    x, y = _data(6, 6, 1), RNG.integers(0, 2, 6)
    adapted = _learner(model, losses.cross_entropy).adapt(x, y)
    expected = adapted(x)
    np.testing.assert_allclose(adapted.predict(x, verbose=0), expected, atol=1e-5)
    # One example alone: the statistics are those of the support set.
    np.testing.assert_allclose(adapted.predict(x[:1], verbose=0), expected[:1], atol=1e-5)
    adapted.summary()
    assert "conv2d" in capsys.readouterr().out
    adapted.save(tmp_path / "it.keras")
    loaded = keras.models.load_model(tmp_path / "it.keras")
    np.testing.assert_allclose(loaded(x), expected, atol=1e-6)
    # It can be trained on by Keras' own means.
    adapted.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    adapted.fit(x, y, epochs=1, verbose=0)


def test_a_wrapper_predicts_and_summarises(capsys):
    x = _data(3)
    adapted = _learner(_subclassed()).adapt(x, _data(2))
    np.testing.assert_allclose(adapted.predict(x, verbose=0), adapted(x), atol=1e-6)
    adapted.summary()
    assert "26" in capsys.readouterr().out  # 3 * 4 + 4 + 4 * 2 + 2 weights
