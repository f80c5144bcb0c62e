"""What Keras does with a model, this package does: frozen layers, penalties, noise, types."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_is_the_derivative, central_difference, meta_objective, normal, randomize
from keras import layers, ops

from maml_tf import Batch, MetaLearner, Task, functional, losses

T, B = 2, 4


def sequential(shape, *parts, dtype=None):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *parts])


def learner_of(model, **options):
    options = {"step_size": 0.1, "meta_batch_size": T} | options
    return MetaLearner(model, losses.mean_squared_error, **options)


def batch(seed, shape, outputs, tasks=T, examples=B):
    return Batch(normal(seed, tasks, examples, *shape), normal(seed + 1, tasks, examples, outputs))


def task(shape=(4,), outputs=2, seed=0):
    return Task(batch(seed, shape, outputs), batch(seed + 10, shape, outputs))


# --- frozen layers --------------------------------------------------------------------------------


def with_averages(trainable=True, **call):
    """A dense layer, a batch normalisation with averages of its own, a head."""
    norm = layers.BatchNormalization(epsilon=0.1)
    x = keras.Input([4])
    h = norm(layers.Dense(3)(x), **call)
    model = randomize(keras.Model(x, layers.Dense(2)(h)))
    norm.moving_mean.assign([1.0, -1.0, 0.5])
    norm.moving_variance.assign([2.0, 0.5, 3.0])
    norm.trainable = trainable
    return model, norm


@pytest.mark.parametrize("how", [{"trainable": False}, {"training": False}])
def test_a_frozen_batch_normalisation_uses_its_averages_and_keeps_them(how):
    model, norm = with_averages(**how)
    weights = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
    x = normal(0, 1, B, 4)
    result = functional(model).run(weights, x)
    np.testing.assert_allclose(result.outputs[0], model(x[0], training=False), rtol=1e-5)
    assert result.statistics == []
    adapted = learner_of(model).adapt(x[0], normal(1, B, 2), steps=2)
    copy = next(v for v in adapted.layers if isinstance(v, layers.BatchNormalization))
    np.testing.assert_array_equal(copy.moving_mean, norm.moving_mean)
    np.testing.assert_array_equal(copy.moving_variance, norm.moving_variance)


def test_an_unfrozen_one_is_given_the_support_sets_statistics():
    model, _ = with_averages()
    x = normal(0, B, 4)
    adapted = learner_of(model).adapt(x, normal(1, B, 2), steps=0)
    hidden = x @ model.layers[1].kernel + model.layers[1].bias
    copy = next(v for v in adapted.layers if isinstance(v, layers.BatchNormalization))
    np.testing.assert_allclose(copy.moving_mean, tf.reduce_mean(hidden, 0), rtol=1e-5)


@pytest.mark.parametrize("first", [True, False])
def test_a_layer_frozen_or_unfrozen_later_is_refused_at_the_next_call(first):
    model = randomize(sequential([4], layers.Dense(3, name="body"), layers.Dense(2)))
    model.layers[0].trainable = first
    learner = learner_of(model)
    source = sines()
    learner.meta_steps(source, 0, 1)
    model.layers[0].trainable = not first
    for call in (
        lambda: learner.meta_steps(source, 1, 1),
        lambda: learner.adapt(normal(0, B, 4), normal(1, B, 2)),
    ):
        with pytest.raises(ValueError, match="body.*frozen or unfrozen since.*another learner"):
            call()


def sines():
    def source(index, num_tasks):
        seed = tf.stack([tf.cast(index, tf.int32), 1])
        x = tf.random.stateless_normal([num_tasks, B, 4], seed)
        return Task(*[Batch(x, tf.sin(x[..., :2]))] * 2)

    return source


def test_one_batch_normalisation_called_twice_is_adapted_by_predict_alone():
    norm, x = layers.BatchNormalization(), keras.Input([3])
    model = keras.Model(x, layers.Dense(2)(norm(layers.Dense(3)(norm(x)))))
    learner = learner_of(model)
    with pytest.raises(ValueError, match="normalises twice.*learner.predict"):
        learner.adapt(normal(0, B, 3), normal(1, B, 2))


def test_an_adapted_normalization_layer_keeps_its_state():
    known = layers.Normalization()
    known.adapt(np.random.default_rng(0).normal(3.0, 2.0, [100, 4]))
    model = sequential([4], known, layers.Dense(2))
    x, y = normal(0, B, 4), normal(1, B, 2)
    adapted = learner_of(model).adapt(x, y, steps=0)
    np.testing.assert_allclose(adapted(x), model(x), rtol=1e-6)


# --- variables that are read elsewhere ------------------------------------------------------------


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("by", ["graph", "lambda", "activation"])
def test_a_kernel_read_outside_its_layer_is_adapted_and_differentiated(by):
    x, dense = keras.Input([3]), layers.Dense(3, use_bias=False)
    h = dense(x)
    if by == "graph":
        h = ops.matmul(h, dense.kernel)
    elif by == "lambda":
        h = layers.Lambda(lambda t: ops.matmul(t, dense.kernel))(h)
    else:
        h = layers.Activation(lambda t: ops.matmul(t, dense.kernel))(h)
    model = randomize(keras.Model(x, h))
    learner, tasks = learner_of(model), task((3,), 3)
    gradient, _ = learner.meta_gradient(tasks)
    objective = meta_objective(learner, tasks)
    assert_is_the_derivative(gradient, objective, learner.initial_weights(), ["kernel"])
    # By hand: f(x) = x K K, and one step on its squared error.
    support, kernel = tasks.support, tf.convert_to_tensor(dense.kernel.value)
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        error = tf.reduce_mean((support.x[0] @ kernel @ kernel - support.y[0]) ** 2)
    expected = kernel - 0.1 * tape.gradient(error, kernel)
    adapted = learner.adapt(support.x[0], support.y[0], steps=1)
    query = tasks.query.x[0]
    np.testing.assert_allclose(adapted(query), query @ expected @ expected, atol=1e-10)


@pytest.mark.usefixtures("float64")
def test_an_activation_that_is_a_layer_learns_its_weight():
    model = functional(
        sequential([4], layers.Dense(3), layers.Activation(layers.PReLU()), layers.Dense(2))
    ).model
    learner, tasks = learner_of(randomize(model)), task()
    gradient, _ = learner.meta_gradient(tasks)
    index = [v.name for v in model.trainable_variables].index("alpha")
    assert tf.norm(gradient[index]) > 0
    objective = meta_objective(learner, tasks)
    names = [v.path for v in model.trainable_variables]
    assert_is_the_derivative(gradient, objective, learner.initial_weights(), names)


def test_an_activation_with_a_mean_over_the_batch_sees_its_own_task_alone():
    model = randomize(sequential([4], layers.Dense(3, activation=lambda t: t - ops.mean(t, 0))))
    x = normal(0, T, B, 4)
    weights = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
    outputs = functional(model)(weights, x)
    for t in range(T):
        np.testing.assert_allclose(outputs[t], model(x[t]), atol=1e-5)


# --- penalties and constraints --------------------------------------------------------------------


class Cubic(keras.regularizers.Regularizer):
    def __call__(self, w):
        return 0.1 * ops.sum(ops.power(ops.abs(w), 3))


class Adding(layers.Layer):
    def call(self, x):
        self.add_loss(0.3 * ops.mean(ops.square(x)))
        return x


PENALISED = {
    "kernel regulariser": lambda: layers.Dense(2, kernel_regularizer=keras.regularizers.L2(0.125)),
    "both": lambda: layers.Dense(2, kernel_regularizer=keras.regularizers.L1L2(0.125, 0.25)),
    "own": lambda: layers.Dense(2, kernel_regularizer=Cubic()),
    "activity": lambda: layers.Dense(2, activity_regularizer=keras.regularizers.L2(0.25)),
    "activity layer": lambda: layers.ActivityRegularization(l2=0.125),
    "add_loss": Adding,
}


@pytest.mark.parametrize("name", PENALISED)
def test_penalties_are_those_of_keras(name):
    """Keras' own sum for one task's weights and examples: the loss plus `model.losses`."""
    model = randomize(sequential([4], layers.Dense(3), PENALISED[name](), layers.Dense(2)))
    learner, tasks = learner_of(model), task()
    weights = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
    stacked = [tf.stack([w, 2 * w]) for w in weights]
    got = learner.task_loss(stacked, tasks.support)
    for t in range(T):
        for variable, value in zip(model.trainable_variables, stacked, strict=True):
            variable.assign(value[t])
        outputs = model(tasks.support.x[t])
        error = tf.reduce_mean((outputs - tasks.support.y[t]) ** 2)
        expected = error + tf.add_n(model.losses)
        np.testing.assert_allclose(got[t], expected, rtol=1e-5)
        assert abs(expected - error) > 1e-3


@pytest.mark.usefixtures("float64")
def test_penalties_count_in_both_loops():
    """Of the package's own making, for Keras' regularisers are of float32 in its older versions."""
    parts = [layers.Dense(3, kernel_regularizer=Cubic(), activity_regularizer=Cubic()), Adding()]
    model = randomize(sequential([4], *parts, layers.Dense(2)))
    learner, tasks = learner_of(model), task()
    gradient, metrics = learner.meta_gradient(tasks)
    names = [v.path for v in model.trainable_variables]
    objective = meta_objective(learner, tasks)
    assert_is_the_derivative(gradient, objective, learner.initial_weights(), names)
    np.testing.assert_allclose(metrics.query_loss, objective(learner.initial_weights()))
    plain = sequential([4], layers.Dense(3), layers.Dense(2))
    plain.set_weights(model.get_weights())
    other, _ = learner_of(plain).meta_gradient(tasks)
    assert all(tf.norm(a - b) > 1e-3 for a, b in zip(gradient, other, strict=True))


def test_the_query_weight_does_not_scale_penalties():
    model = randomize(sequential([4], layers.Dense(2, kernel_regularizer="l2")))
    tasks, options = task(), {"inner_steps": 0}
    once, _ = learner_of(model, **options).meta_gradient(tasks)
    half, _ = learner_of(model, query_weight=0.5, **options).meta_gradient(tasks)
    penalty = 2 * 0.01 * model.layers[0].kernel
    np.testing.assert_allclose(half[0] - penalty, 0.5 * (once[0] - penalty), atol=1e-6)


@pytest.mark.usefixtures("float64")
def test_constraints_hold_after_every_inner_step():
    model = randomize(sequential([4], layers.Dense(2, kernel_constraint="non_neg")))
    model.layers[0].kernel.assign(tf.abs(model.layers[0].kernel))
    learner, tasks = learner_of(model, step_size=0.5, inner_steps=2), task()
    free = learner_of(randomize(sequential([4], layers.Dense(2))), step_size=0.5)
    free.model.set_weights(model.get_weights())
    x, y = tasks.support.x[0], tasks.support.y[0]
    kernel = learner.adapt(x, y, steps=1).layers[0].kernel
    expected = free.adapt(x, y, steps=1).layers[0].kernel
    assert tf.reduce_min(expected) < 0
    np.testing.assert_allclose(kernel, tf.maximum(expected, 0), atol=1e-12)
    seen = learner.adapt_and_observe(
        tasks.support, 2, lambda w: tf.cast(tf.reduce_min(w[0], [1, 2]), tf.float32)
    )
    assert tf.reduce_min(seen) >= 0
    gradient, _ = learner.meta_gradient(tasks)
    ahead = learner.adapt_weights(tasks.support, 2).weights[-1]
    assert tf.reduce_min(ahead[0]) == 0 and tf.norm(gradient[0]) > 0


# --- types ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["batch", "layer", "group"])
def test_normalisations_of_half_precision_compute_in_float32(kind):
    """Activations of some hundreds, whose squares overflow in float16."""
    norm = {
        "batch": layers.BatchNormalization,
        "layer": layers.LayerNormalization,
        "group": lambda **options: layers.GroupNormalization(1, **options),
    }[kind](dtype="mixed_float16")
    x = keras.Input([8], dtype="float16")
    model = keras.Model(x, layers.Dense(1, dtype="mixed_float16")(norm(x)))
    data = tf.constant(np.linspace(-900, 900, B * 8).reshape(1, B, 8), tf.float16)
    weights = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
    inner = keras.Model(x, norm.output)
    got = functional(model).run(weights, data)
    assert got.outputs.dtype == tf.float16 and np.isfinite(got.outputs).all()
    expected = inner(data[0], training=True)
    head = model.layers[-1](expected)
    np.testing.assert_allclose(got.outputs[0], head, rtol=2e-3, atol=2e-3)


def test_a_layers_own_type_is_honoured():
    parts = [layers.Dense(3, dtype="float64"), layers.Dense(2, dtype="mixed_float16")]
    model = sequential([4], *parts, layers.Dense(2))
    weights = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
    assert [w.dtype.name for w in weights[::2]] == ["float64", "float32", "float32"]
    x = normal(0, 1, B, 4)
    got = functional(model)(weights, x)
    assert got.dtype == tf.float32
    np.testing.assert_allclose(got[0], model(x[0]), rtol=1e-3)


def test_inputs_are_cast_to_what_the_model_takes():
    model = randomize(sequential([4], layers.Rescaling(1 / 255), layers.Dense(2)))
    weights = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
    pixels = np.random.default_rng(0).integers(0, 256, [1, B, 4])
    expected = model(pixels[0].astype("float32"))
    for dtype in ("uint8", "int64", "float64"):
        got = functional(model)(weights, pixels.astype(dtype))
        np.testing.assert_allclose(got[0], expected, rtol=1e-6)


# --- inputs by name -------------------------------------------------------------------------------


def two_inputs():
    first, second = keras.Input([2], name="zebra"), keras.Input([2], name="ant")
    y = layers.Dense(2)(layers.concatenate([first, 10.0 * second]))
    return randomize(keras.Model([first, second], y)), first, second


def test_inputs_are_matched_by_name_and_others_refused():
    model, *_ = two_inputs()
    weights = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
    zebra, ant = normal(0, 1, B, 2), normal(1, 1, B, 2)
    apply, expected = functional(model), model([zebra[0], ant[0]])
    for x in ([zebra, ant], {"ant": ant, "zebra": zebra}, {"zebra": zebra, "ant": ant}):
        np.testing.assert_allclose(apply(weights, x)[0], expected, rtol=1e-5)
    for x, message in (
        ({"ant": ant, "cat": zebra}, "has inputs 'ant', 'zebra'; got 'ant', 'cat'"),
        ([zebra], "takes 2 inputs .zebra, ant.; got 1"),
        (
            [zebra, normal(0, 1, B, 3)],
            r"Input 'ant' takes examples of shape \(2,\).*got \(1, 4, 3\)",
        ),
        ([zebra, normal(0, B, 2)], r"Input 'ant' takes examples of shape \(2,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            apply(weights, x)


# --- noise ----------------------------------------------------------------------------------------


class Blurred(layers.Layer):
    """A layer of one's own with dropout inside."""

    def __init__(self):
        super().__init__()
        self.dense, self.drop = layers.Dense(3, "tanh"), layers.Dropout(0.5, seed=1)

    def call(self, x, training=None):
        return self.drop(self.dense(x), training=training)


NOISY = {
    "dropout": lambda: [layers.Dense(3, "tanh"), layers.Dropout(0.5, seed=1)],
    "gaussian": lambda: [layers.Dense(3, "tanh"), layers.GaussianNoise(0.5, seed=1)],
    "inside": lambda: [Blurred()],
    "recurrent": lambda: [layers.Reshape([2, 2]), layers.SimpleRNN(3, dropout=0.5, seed=1)],
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "name",
    [
        *(name for name in NOISY if name != "recurrent"),
        pytest.param("recurrent", marks=pytest.mark.slow),
    ],
)
@pytest.mark.cases(1)
def test_dropout_per_step_is_one_function_of_the_weights(name):
    """The meta-gradient is the derivative of what was computed, noise and all."""
    model = randomize(sequential([4], *NOISY[name](), layers.Dense(2)))
    learner = learner_of(model, dropout="per_step", inner_steps=2)
    tasks, index = task(), tf.constant(3, tf.int64)

    def loss_and_gradient(index):
        gradient, metrics = learner.meta_gradient(tasks, index)
        return float(metrics.query_loss), gradient

    loss, gradient = loss_and_gradient(index)
    assert loss == loss_and_gradient(index)[0]
    other, quiet = loss_and_gradient(index + 1)[0], loss_and_gradient(None)[0]
    assert len({loss, other, quiet}) == 3
    variable = model.trainable_variables[0]
    value, direction = variable.numpy(), normal(7, *variable.shape).numpy()

    def objective(weights):
        variable.assign(weights[0])
        return loss_and_gradient(index)[0]

    expected = central_difference(objective, [value], 0, direction)
    np.testing.assert_allclose(np.sum(gradient[0] * direction), expected, rtol=1e-5)


def test_dropout_drops_as_many_as_it_says_and_not_the_same_in_each_pass():
    model = sequential([1000], layers.Dropout(0.25, seed=1), layers.Dense(1))
    apply = functional(model)
    weights = [tf.eye(1000)[:, :1] * 0 + 1, tf.zeros([1])]
    x = tf.ones([1, 2, 1000])
    seeds = [tf.constant([0, n]) for n in range(2)]
    a, b = (apply.run(weights, x, noise=seed).outputs[0, :, 0] for seed in seeds)
    assert len({*a.numpy(), *b.numpy()}) == 4  # examples and passes have masks of their own
    np.testing.assert_allclose(a, 1000, atol=100)  # kept ones are scaled up
    np.testing.assert_array_equal(apply.run(weights, x, noise=seeds[0]).outputs[0, :, 0], a)


def test_dropout_is_told_to_be_off_once_a_learner(caplog):
    model = sequential([4], layers.Dropout(0.5), layers.Dense(2))
    learner_of(model)
    assert "'dropout" in caplog.text and "dropout='per_step'" in caplog.text
    caplog.clear()
    learner_of(model, dropout="per_step")
    assert caplog.text == ""
    with pytest.raises(ValueError, match="dropout must be 'off' or 'per_step', not 0.5"):
        learner_of(model, dropout=0.5)


# --- padded sets ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("float64")
def test_a_padded_set_adapts_as_the_set_without_padding():
    parts = [layers.Dense(3), layers.BatchNormalization(epsilon=0.1), layers.Dense(2)]
    model = randomize(sequential([4], *parts))
    learner, tasks = learner_of(model, inner_steps=2), task()
    short = Task(*(Batch(b.x[:, :3], b.y[:, :3]) for b in tasks))
    mask = tf.constant([[True] * 3 + [False]] * T)
    padded = Task(*(Batch(b.x, b.y, mask=mask) for b in tasks))
    expected, seen = learner.meta_gradient(short)
    got, seen_padded = learner.meta_gradient(padded)
    for a, b in zip([*got, *seen_padded], [*expected, *seen], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)


# --- the summary ----------------------------------------------------------------------------------


def test_the_summary_says_what_becomes_of_each_layer():
    frozen = layers.Dense(3, name="frozen")
    parts = [frozen, layers.BatchNormalization(name="norm"), layers.Dropout(0.5, name="drop")]
    model = sequential([4], *parts, Blurred(), layers.Dense(2, name="head"))
    frozen.trainable = False
    text = []
    learner_of(model, adapts=lambda v: "head" in v.path).summary(text.append)
    lines = {line.split()[0].split("/")[-1]: line for line in text[0].splitlines() if line}
    assert "frozen" in lines["frozen"].split()[3:] and "15" in lines["frozen"]
    assert "meta-learned only" in lines["norm"] and "own statistics" in lines["norm"]
    assert "noise is off" in lines["drop"]
    blurred = next(line for name, line in lines.items() if "blurred" in name)
    assert "one task at a time" in blurred and "noise is off" in blurred
    assert "adapted" in lines["head"] and "all tasks at once" in lines["head"]
