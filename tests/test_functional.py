"""Whole models on stacked weights, against Keras' own call for one task at a time, in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import (
    assert_is_the_derivative,
    meta_objective,
    normal,
    one_task_at_a_time,
    own_weights,
    random_task,
    randomize,
)
from keras import layers

from maml_tf import MetaLearner, functional, losses, stacked
from maml_tf.engine.run import Run

pytestmark = pytest.mark.usefixtures("float64")

T, B = 3, 4


class Scale(layers.Layer):
    """A layer of a user's own, with a weight and a frozen constant."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name="scale")
        self.constant = self.add_weight(shape=(), initializer="ones", trainable=False)

    def call(self, x):
        return keras.ops.tanh(x * self.scale) + 2 * self.constant


class DoubledDense(layers.Dense):
    """Not a `Dense`: the built-in rule would forget the factor."""

    def call(self, x, training=None):
        return 2 * super().call(x)


def sequential(shape, *parts, dtype=None):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *parts])


def branches():
    x = keras.Input([4])
    left, right = layers.Dense(3, "tanh")(x), layers.Dense(3)(x)
    both = layers.Concatenate()([layers.Add()([left, right]), left * right - 2 * x[:, :3]])
    return keras.Model(x, layers.Dense(2)(both))


def operations():
    x = keras.Input([4])
    h = keras.ops.relu(layers.Dense(3)(x)) + layers.Dense(3)(x)
    return keras.Model(x, keras.ops.concatenate([h, keras.ops.mean(h, axis=-1, keepdims=True)], -1))


def tensor_constants():
    """Constants of T rows: a task axis in shape, not in meaning."""
    x = keras.Input([T])
    return keras.Model(x, layers.Dense(T)(x) * tf.constant([1.0, 2.0, 300.0], tf.float64))


def nested():
    inner = sequential([3], layers.Dense(3, "tanh"), sequential([3], layers.Dense(2)))
    x = keras.Input([4])
    return keras.Model(x, layers.Dense(2)(inner(layers.Dense(3)(x))))


def shared_layer():
    dense, x = layers.Dense(4, "tanh"), keras.Input([4])
    return keras.Model(x, dense(dense(x)))


def frozen():
    middle, depthwise = layers.Dense(4), layers.DepthwiseConv2D(2)
    middle.trainable = depthwise.trainable = False
    return sequential([4, 4, 2], depthwise, layers.Flatten(), layers.Dense(4), middle)


def two_inputs():
    a, b = keras.Input([4]), keras.Input([2])
    return keras.Model([a, b], layers.Add()([layers.Dense(3)(a), layers.Dense(3)(b)]))


def attention():
    x = keras.Input([3, 4])
    return keras.Model(x, layers.MultiHeadAttention(2, 3)(x, x, use_causal_mask=True))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.second = layers.Dense(3, "tanh"), layers.Dense(2)

    def call(self, x):
        return self.second(self.first(x))


class DoubledGraph(keras.Model):
    """A functional model that computes something else than its graph."""

    def __init__(self):
        x = keras.Input([4])
        super().__init__(x, layers.Dense(2)(x))

    def call(self, x, training=None, mask=None):
        return 2 * super().call(x)


class DoubledSequential(keras.Sequential):
    def call(self, x, training=None, mask=None):
        return 2 * super().call(x)


def subclassed():
    model = Subclassed()
    model(normal(0, 1, 4))
    model.input_shape, model.output_shape = (None, 4), (None, 2)
    return model


STACKED = {
    "branches": branches,
    "operations": operations,
    "tensor constants": tensor_constants,
    "nested": nested,
    "shared layer": shared_layer,
}
FALL_BACK = {
    "frozen": frozen,
    "depthwise": lambda: sequential([4, 4, 2], layers.DepthwiseConv2D(3), layers.Flatten()),
    "separable": lambda: sequential([4, 4, 2], layers.SeparableConv2D(2, 3), layers.Flatten()),
    "transposed": lambda: sequential([2, 2, 2], layers.Conv2DTranspose(1, 2), layers.Flatten()),
    "gru": lambda: sequential([3, 2], layers.GRU(3)),
    "lstm": lambda: sequential([3, 2], layers.LSTM(2, unroll=True)),
    "attention": attention,
    "prelu": lambda: sequential([4], layers.Dense(3), layers.PReLU()),
    "custom layer": lambda: sequential([4], layers.Dense(3), Scale()),
    "subclass of a layer": lambda: sequential([4], DoubledDense(3), layers.Dense(2)),
    "subclassed model": subclassed,
    "subclass of a functional model": DoubledGraph,
    "subclass of Sequential": lambda: DoubledSequential([keras.Input([4]), layers.Dense(2)]),
}
EVERY = STACKED | FALL_BACK


@pytest.mark.parametrize("name", EVERY)
def test_each_task_gets_what_keras_gives_it_alone(name):
    model = randomize(EVERY[name]())
    weights, x = own_weights(model, T), normal(9, T, B, *model.input_shape[1:])
    expected = one_task_at_a_time(model, weights, x)
    np.testing.assert_allclose(functional(model)(weights, x), expected, atol=1e-10)


@pytest.mark.parametrize("name", EVERY)
def test_shared_weights_are_the_model_itself(name):
    model = randomize(EVERY[name]())
    weights = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
    x = normal(9, T, B, *model.input_shape[1:])
    expected = [model(x[t]) for t in range(T)]
    np.testing.assert_allclose(functional(model)(weights, x), expected, atol=1e-10)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "gru" else n for n in FALL_BACK]
)
@pytest.mark.cases(2)
def test_the_fall_back_can_be_differentiated_twice(name):
    model = randomize(FALL_BACK[name]())
    learner = MetaLearner(model, losses.mean_squared_error, step_size=0.2, meta_batch_size=2)
    task = random_task(model)
    gradient, _ = learner.meta_gradient(task)
    names = [v.path for v in model.trainable_variables]
    objective = meta_objective(learner, task)
    assert_is_the_derivative(gradient, objective, learner.initial_weights(), names)


def test_embedding_and_its_second_derivative():
    model = randomize(sequential([5], layers.Embedding(7, 3), layers.Flatten(), dtype="int32"))
    x = tf.constant(np.random.default_rng(0).integers(0, 7, [T, B, 5]), tf.int32)
    weights = own_weights(model, T)
    expected = one_task_at_a_time(model, weights, x)
    np.testing.assert_allclose(functional(model)(weights, x), expected)


def test_several_inputs():
    model = randomize(two_inputs())
    weights, x = own_weights(model, T), [normal(8, T, B, 4), normal(9, T, B, 2)]
    expected = one_task_at_a_time(model, weights, x)
    np.testing.assert_allclose(functional(model)(weights, x), expected, atol=1e-12)


def test_inputs_may_be_numpy_arrays():
    model = randomize(branches())
    weights, x = own_weights(model, T), normal(9, T, B, 4)
    apply = functional(model)
    np.testing.assert_array_equal(apply(weights, x.numpy()), apply(weights, x))


def test_some_weights_shared_and_others_stacked():
    model = randomize(branches())
    weights, x = own_weights(model, T), normal(9, T, B, 4)
    weights[0] = weights[0][0]
    everyone = [tf.stack([weights[0]] * T), *weights[1:]]
    apply = functional(model)
    np.testing.assert_allclose(apply(weights, x), apply(everyone, x), atol=1e-12)


def test_dropout_and_noise_are_off():
    parts = [layers.Dropout(0.9), layers.Dense(2), layers.GaussianNoise(1.0)]
    with_noise, without = sequential([4], *parts), sequential([4], parts[1])
    weights, x = own_weights(without, T), normal(9, T, B, 4)
    expected = functional(without)(weights, x)
    np.testing.assert_array_equal(functional(with_noise)(weights, x), expected)


def test_dropout_inside_a_layer_of_ones_own_is_off():
    class Block(layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense, self.dropout = layers.Dense(2), layers.Dropout(0.9)

        def call(self, x, training=None):
            return self.dropout(self.dense(x), training=training)

    model = sequential([4], Block())
    weights, x = own_weights(model, T), normal(9, T, B, 4)
    apply = functional(model)
    expected = one_task_at_a_time(model, weights, x)
    np.testing.assert_allclose(apply(weights, x), expected, atol=1e-12)


# --- batch statistics ---


def normalised():
    return randomize(sequential([4], layers.Dense(3), layers.BatchNormalization(epsilon=0.1)))


def test_batch_normalisation_sees_each_tasks_own_batch():
    model = normalised()
    weights, x = own_weights(model, T), normal(9, T, B, 4)
    seen = functional(model).statistics(weights, x)
    hidden = np.einsum("tbi,tij->tbj", x, weights[0]) + weights[1].numpy()[:, None]
    assert [s.layer for s in seen] == [model.layers[1]]
    np.testing.assert_allclose(seen[0].mean, hidden.mean(1), atol=1e-12)
    np.testing.assert_allclose(seen[0].variance, hidden.var(1), atol=1e-12)


def test_given_statistics_are_used_so_that_one_example_can_stand_alone():
    model = normalised()
    weights, x = own_weights(model, T), normal(9, T, B, 4)
    apply = functional(model)
    seen = apply.statistics(weights, x)
    alone = apply(weights, x[:, :1], statistics=seen)
    np.testing.assert_allclose(alone, apply(weights, x)[:, :1], atol=1e-12)
    assert not np.allclose(alone, apply(weights, x[:, :1]))


def test_moving_averages_are_neither_used_nor_changed():
    model = normalised()
    weights, x = own_weights(model, T), normal(9, T, B, 4)
    expected = functional(model)(weights, x)
    np.testing.assert_array_equal(model.layers[1].moving_mean, np.zeros(3))
    model.layers[1].moving_mean.assign([7.0, 7.0, 7.0])
    np.testing.assert_array_equal(functional(model)(weights, x), expected)


def test_a_batch_normalisation_inside_a_layer_is_one_that_stands_in_the_model():
    seen, hidden = normalised(), sequential([4], HiddenNormalization())
    hidden.set_weights(seen.get_weights())
    weights, x = own_weights(seen, T), normal(9, T, B, 4)
    expected, got = functional(seen), functional(hidden)
    np.testing.assert_allclose(got(weights, x), expected(weights, x), atol=1e-12)
    given = got.statistics(weights, x)
    assert [s.layer for s in given] == [hidden.layers[0].norm]
    for a, b in zip(given, expected.statistics(weights, x), strict=True):
        np.testing.assert_allclose(a.mean, b.mean, atol=1e-12)
        np.testing.assert_allclose(a.variance, b.variance, atol=1e-12)
    alone = got(weights, x[:, :1], statistics=given)
    np.testing.assert_allclose(alone, expected(weights, x)[:, :1], atol=1e-12)
    np.testing.assert_array_equal(hidden.layers[0].norm.moving_mean, np.zeros(3))


def test_examples_that_pad_a_set_do_not_exist():
    """A padded set gives the others what the set without padding gives them."""
    for model in (normalised(), sequential([4], HiddenNormalization())):
        weights, x = own_weights(model, T), normal(9, T, B, 4)
        mask = tf.constant([[True] * 3 + [False]] * T)
        apply = functional(model)
        expected = apply(weights, x[:, :3])
        np.testing.assert_allclose(apply(weights, x, mask=mask)[:, :3], expected, atol=1e-12)
        for a, b in zip(
            apply.statistics(weights, x, mask=mask),
            apply.statistics(weights, x[:, :3]),
            strict=True,
        ):
            np.testing.assert_allclose(a.variance, b.variance, atol=1e-12)


# --- a user's own rule ---


@pytest.fixture
def own_rule():
    calls = []

    @stacked.register(Scale)
    def _(layer, x, run):
        calls.append(layer)
        return tf.tanh(x * run.aligned(layer.scale, x)) + 2 * run.value(layer.constant)

    yield calls
    unregister(Scale)


def unregister(kind):
    """`functools.singledispatch` has no public way to forget a rule."""
    registry = stacked.register.__closure__
    cells = dict(zip(stacked.register.__code__.co_freevars, registry, strict=True))
    del cells["registry"].cell_contents[kind]
    stacked._clear_cache()


def test_a_registered_rule_is_used_and_equals_the_fall_back(own_rule):
    model = randomize(sequential([4], layers.Dense(3), Scale()))
    weights, x = own_weights(model, T), normal(9, T, B, 4)
    expected = one_task_at_a_time(model, weights, x)
    np.testing.assert_allclose(functional(model)(weights, x), expected, atol=1e-12)
    assert own_rule == [model.layers[1]]


def test_a_registered_rule_does_not_speak_for_subclasses(own_rule):
    class Negated(Scale):
        def call(self, x):
            return -super().call(x)

    model = randomize(sequential([4], Negated()))
    weights, x = own_weights(model, T), normal(9, T, B, 4)
    expected = one_task_at_a_time(model, weights, x)
    np.testing.assert_allclose(functional(model)(weights, x), expected, atol=1e-12)
    assert own_rule == []


def test_without_its_rule_a_layer_falls_back_to_the_same_numbers():
    model = randomize(sequential([4], layers.Dense(3, "tanh"), layers.Dense(2)))
    weights, x = own_weights(model, T), normal(9, T, B, 4)
    expected = functional(model)(weights, x)
    rule = stacked.registry[layers.Dense]
    unregister(layers.Dense)
    try:
        run = Run(dict(zip(map(id, model.trainable_variables), weights, strict=True)), None)
        assert stacked(model.layers[0], x, run) is NotImplemented
        np.testing.assert_allclose(functional(model)(weights, x), expected, atol=1e-12)
    finally:
        stacked.register(layers.Dense, rule)


# --- what is refused ---


class Noisy(layers.Layer):
    """Draws random numbers in every call, training or not."""

    def __init__(self):
        super().__init__()
        self.generator = keras.random.SeedGenerator(0)

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],))

    def call(self, x):
        return x * self.scale + keras.random.normal((), seed=self.generator)


class Counting(Scale):
    def call(self, x):
        self.constant.assign_add(1.0)
        return super().call(x)


class Renormalised(layers.BatchNormalization):
    """A batch normalisation with a `call` of its own, which nothing stands in for."""

    def call(self, x, training=None, mask=None):
        return super().call(x, training=True, mask=mask)


class HiddenNormalization(layers.Layer):
    def __init__(self):
        super().__init__()
        self.dense, self.norm = layers.Dense(3), layers.BatchNormalization(epsilon=0.1)

    def call(self, x):
        return self.norm(self.dense(x))


@pytest.mark.parametrize(
    ("part", "shape", "message"),
    [
        (Noisy, [4], "changes its state"),
        (Counting, [4], "changes its state"),
        (Renormalised, [4], "moving_mean"),
        (lambda: layers.BatchNormalization(renorm=True), [4], "renorm=False"),
    ],
)
def test_what_an_inner_step_cannot_differentiate_is_refused(part, shape, message):
    model = sequential(shape, part(), layers.Dense(2))
    weights, x = own_weights(model, T), normal(9, T, B, *shape)
    with pytest.raises(ValueError, match=message):
        functional(model)(weights, x)


def test_a_stateful_layer_is_refused():
    inputs = keras.Input([3, 2], batch_size=B)
    model = keras.Model(inputs, layers.GRU(2, stateful=True)(inputs))
    with pytest.raises(ValueError, match="Build it with stateful=False"):
        functional(model)(own_weights(model, T), normal(9, T, B, 3, 2))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: keras.Sequential([layers.Dense(2)]), "has no weights yet: build it first"),
        (lambda: sequential([4], layers.Flatten()), "has no trainable weights: unfreeze a layer"),
        (lambda: layers.Dense(2), "must be a built keras.Model, not Dense"),
    ],
)
def test_a_model_without_weights_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        functional(model())


def test_a_wrong_number_of_weights_is_refused():
    model = branches()
    with pytest.raises(ValueError, match="has 6 trainable weights; got 5"):
        functional(model)(own_weights(model, T)[:-1], normal(9, T, B, 4))
