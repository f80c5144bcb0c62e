"""Every rule against Keras' own layer, called for one task at a time, in float64."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import normal, one_task_at_a_time, own_weights, random_task, randomize
from keras import layers

from maml_tf import MetaLearner, functional, losses, stacked
from maml_tf.functional import Run
from maml_tf.networks import Context

pytestmark = pytest.mark.usefixtures("float64")

T, B = 3, 4


class Case:
    """A layer, the shape of one example, and whether Keras needs `training` to normalise."""

    def __init__(self, make, *shapes, training=False):
        self.make = make
        self.shapes = shapes
        self.training = training

    def __str__(self):
        layer = self.make()
        told = {
            key: value
            for key, value in layer.get_config().items()
            if key in ("padding", "strides", "dilation_rate", "groups", "axis", "center", "scale")
        }
        return f"{type(layer).__name__}-" + "-".join(f"{k}={v}" for k, v in told.items())


def convolutions():
    for padding, stride in itertools.product(("same", "valid"), (1, 2)):
        options = {"padding": padding, "strides": stride}
        yield Case(lambda o=options: layers.Conv1D(3, 3, **o), [7, 2])
        yield Case(lambda o=options: layers.Conv2D(3, (3, 2), **o), [7, 6, 2])
        yield Case(lambda o=options: layers.Conv3D(3, 2, **o), [4, 3, 5, 2])
    for padding in ("same", "valid"):
        options = {"padding": padding, "dilation_rate": 2}
        yield Case(lambda o=options: layers.Conv1D(3, 3, **o), [7, 2])
        yield Case(lambda o=options: layers.Conv2D(3, 3, **o), [7, 6, 2])
    for options in ({}, {"strides": 2}, {"dilation_rate": 2}):
        yield Case(lambda o=options: layers.Conv1D(3, 3, padding="causal", **o), [7, 2])
    yield Case(lambda: layers.Conv2D(3, 3, activation="tanh", use_bias=False), [5, 5, 2])
    yield Case(lambda: layers.Conv2D(6, 3, groups=2, padding="same"), [5, 5, 4])
    yield Case(lambda: layers.Conv2D(3, 3, strides=(1, 2)), [5, 6, 1])


def normalisations():
    for shape in ([5], [3, 4, 5]):
        yield Case(layers.BatchNormalization, shape, training=True)
    for center, scale in itertools.product((False, True), repeat=2):
        options = {"center": center, "scale": scale, "epsilon": 0.1}
        yield Case(lambda o=options: layers.BatchNormalization(**o), [3, 4, 5], training=True)
        yield Case(lambda o=options: layers.LayerNormalization(**o), [3, 5])
        yield Case(lambda o=options: layers.GroupNormalization(2, **o), [3, 3, 4])
    yield Case(lambda: layers.BatchNormalization(axis=1), [5], training=True)
    yield Case(lambda: layers.LayerNormalization(axis=[1, 2, 3]), [3, 4, 5])
    yield Case(lambda: layers.LayerNormalization(axis=[-2, -1]), [3, 4, 5])
    yield Case(lambda: layers.GroupNormalization(1), [3, 3, 4])
    yield Case(lambda: layers.GroupNormalization(-1), [3, 3, 4])


WITH_WEIGHTS = [
    Case(lambda: layers.Dense(3), [5]),
    Case(lambda: layers.Dense(3, use_bias=False, activation="relu"), [5]),
    Case(lambda: layers.Dense(3), [2, 4, 5]),
    *convolutions(),
    *normalisations(),
    Case(lambda: Context(2), [5]),
    Case(lambda: Context(2), [3, 4, 1]),
]

VECTOR, LINE, IMAGE, VOLUME = [5], [6, 2], [6, 7, 2], [4, 5, 6, 2]
PLAIN = [
    Case(lambda: layers.Activation("sigmoid"), IMAGE),
    *(Case(kind, IMAGE) for kind in (layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Softmax)),
    Case(lambda: layers.Softmax(axis=1), IMAGE),
    Case(lambda: layers.ReLU(max_value=1.0, negative_slope=0.1, threshold=0.2), VECTOR),
    *(Case(layers.Flatten, shape) for shape in (VECTOR, IMAGE)),
    Case(lambda: layers.Reshape([7, -1]), IMAGE),
    Case(lambda: layers.Permute([3, 1, 2]), IMAGE),
    Case(lambda: layers.RepeatVector(3), VECTOR),
    Case(lambda: layers.Rescaling(1 / 255, offset=-1.0), IMAGE),
    *(
        Case(lambda k=kind, p=padding, d=dtype: k(2, padding=p, dtype=d), shape)
        for padding in ("valid", "same")
        for kinds, shape, dtype in (
            ((layers.MaxPooling1D, layers.AveragePooling1D), LINE, None),
            ((layers.MaxPooling2D, layers.AveragePooling2D), IMAGE, None),
            # TensorFlow pools volumes in float32 only.
            ((layers.MaxPooling3D, layers.AveragePooling3D), VOLUME, "float32"),
        )
        for kind in kinds
    ),
    Case(lambda: layers.MaxPooling2D((3, 2), strides=(1, 2)), IMAGE),
    *(
        Case(kind, shape)
        for kinds, shape in (
            ((layers.GlobalMaxPooling1D, layers.GlobalAveragePooling1D), LINE),
            ((layers.GlobalMaxPooling2D, layers.GlobalAveragePooling2D), IMAGE),
            ((layers.GlobalMaxPooling3D, layers.GlobalAveragePooling3D), VOLUME),
            ((layers.ZeroPadding1D, layers.Cropping1D, layers.UpSampling1D), LINE),
            ((layers.ZeroPadding2D, layers.Cropping2D, layers.UpSampling2D), IMAGE),
            ((layers.ZeroPadding3D, layers.Cropping3D, layers.UpSampling3D), VOLUME),
        )
        for kind in kinds
    ),
    Case(lambda: layers.GlobalAveragePooling2D(keepdims=True), IMAGE),
    *(
        Case(kind, IMAGE, IMAGE)
        for kind in (
            *(layers.Add, layers.Subtract, layers.Multiply, layers.Average),
            *(layers.Maximum, layers.Minimum, layers.Concatenate),
        )
    ),
    Case(lambda: layers.Concatenate(axis=1), [2, 3], [4, 3]),
    Case(layers.Add, VECTOR, [1], VECTOR),
    Case(lambda: layers.Dot(axes=1), [4, 2], [4, 3]),
    *(
        Case(make, IMAGE)
        for make in (
            layers.Identity,
            lambda: layers.Dropout(0.5),
            lambda: layers.SpatialDropout2D(0.5),
            lambda: layers.AlphaDropout(0.5),
            lambda: layers.GaussianDropout(0.5),
            lambda: layers.GaussianNoise(0.5),
            lambda: layers.ActivityRegularization(0.5),
        )
    ),
    Case(lambda: layers.SpatialDropout1D(0.5), LINE),
    Case(lambda: layers.SpatialDropout3D(0.5), VOLUME),
]


def build(case):
    inputs = [keras.Input(shape) for shape in case.shapes]
    model = keras.Model(inputs, case.make()(inputs if len(inputs) > 1 else inputs[0]))
    x = [normal(seed, T, B, *shape) for seed, shape in enumerate(case.shapes)]
    return randomize(model), x if len(x) > 1 else x[0]


def run_rule(model, weights, x):
    """The rule itself, with no fall-back behind it."""
    run = Run(dict(zip(map(id, model.trainable_variables), weights, strict=True)), None)
    return stacked(model.layers[-1], x, run)


@pytest.mark.parametrize("case", WITH_WEIGHTS, ids=str)
def test_stacked_weights_give_what_keras_gives_one_task_at_a_time(case):
    model, x = build(case)
    weights = own_weights(model, T)
    expected = one_task_at_a_time(model, weights, x, case.training)
    np.testing.assert_allclose(run_rule(model, weights, x), expected, atol=1e-10)


@pytest.mark.parametrize("case", WITH_WEIGHTS, ids=str)
def test_shared_weights_give_what_keras_gives_one_task_at_a_time(case):
    model, x = build(case)
    shared = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
    everyone = [tf.stack([w] * T) for w in shared]
    expected = one_task_at_a_time(model, everyone, x, case.training)
    got = run_rule(model, shared, x)
    if got is NotImplemented:  # causal padding of a shared kernel
        assert model.layers[-1].padding == "causal"
        got = functional(model)(shared, x)
    np.testing.assert_allclose(got, expected, atol=1e-10)


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_layers_without_weights_give_what_keras_gives_one_task_at_a_time(case):
    model, x = build(case)
    np.testing.assert_allclose(run_rule(model, [], x), one_task_at_a_time(model, [], x), atol=1e-12)


def test_every_registered_layer_type_is_compared():
    compared = {type(case.make()) for case in WITH_WEIGHTS + PLAIN}
    elsewhere = {object, keras.Sequential, keras.Function, layers.InputLayer}
    of_keras = {kind for kind in stacked.registry if kind.__module__.startswith("keras.")}
    assert of_keras - compared - elsewhere == set()


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: layers.Conv2D(3, 2, data_format="channels_first"), [2, 4, 4]),
        (lambda: layers.BatchNormalization(axis=1), [2, 4, 4]),
        (lambda: layers.LayerNormalization(axis=1), [2, 4]),
        (lambda: layers.LayerNormalization(rms_scaling=True), [4]),
        (lambda: layers.GroupNormalization(2, axis=1), [2, 4, 4]),
    ],
)
def test_variations_that_a_rule_does_not_know_are_left_to_the_fall_back(layer, shape):
    layer = layer()
    layer.build((None, *shape))
    weights = [normal(0, T, *v.shape) for v in layer.trainable_variables]
    run = Run(dict(zip(map(id, layer.trainable_variables), weights, strict=True)), None)
    assert stacked(layer, normal(0, T, B, *shape), run) is NotImplemented


def test_dense_with_low_rank_adapters_falls_back():
    model = randomize(keras.Sequential([keras.Input([4]), layers.Dense(3)]))
    model.layers[0].enable_lora(2)
    randomize(model)
    assert len(model.trainable_variables) == 3  # bias and the two factors
    weights, x = own_weights(model, T), normal(9, T, B, 4)
    assert run_rule(model, weights, x) is NotImplemented
    expected = one_task_at_a_time(model, weights, x)
    np.testing.assert_allclose(functional(model)(weights, x), expected, atol=1e-12)


def test_a_shared_kernel_keeps_its_own_data_format():
    model, x = build(Case(lambda: layers.Conv2D(3, 2, data_format="channels_last"), [4, 4, 2]))
    shared = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
    expected = run_rule(model, shared, x)
    keras.config.set_image_data_format("channels_first")
    try:
        np.testing.assert_array_equal(run_rule(model, shared, x), expected)
    finally:
        keras.config.set_image_data_format("channels_last")


def test_a_layer_computes_in_its_own_type():
    policy = keras.DTypePolicy("mixed_bfloat16")
    options = {"dtype": policy, "padding": "same"}
    model = keras.Sequential([keras.Input([4, 4, 1]), layers.Conv2D(2, 3, **options)])
    weights = own_weights(model, T)
    assert weights[0].dtype == tf.float32
    assert functional(model)(weights, normal(0, T, B, 4, 4, 1)).dtype == tf.bfloat16


def test_the_number_of_examples_may_be_unknown_when_traced():
    model = keras.Sequential(
        [
            keras.Input([6, 6, 2]),
            layers.Conv2D(3, 3, strides=2, padding="same"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    apply, weights = functional(randomize(model)), own_weights(model, T)

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            outputs = apply(weights, x)
        return outputs, tape.gradient(outputs, weights)

    traced = tf.function(gradient, input_signature=[tf.TensorSpec([T, None, 6, 6, 2], tf.float64)])
    for examples in (3, 5):
        x = normal(0, T, examples, 6, 6, 2)
        got, expected = tf.nest.flatten(traced(x)), tf.nest.flatten(gradient(x))
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-10)
    assert traced.experimental_get_tracing_count() == 1


def test_grouped_convolution_can_be_meta_learned():
    """Keras' own grouped convolution has no gradient under the fall-back on a CPU."""
    convolution = layers.Conv2D(4, 2, groups=2)
    model = randomize(keras.Sequential([keras.Input([4, 4, 4]), convolution, layers.Flatten()]))
    learner = MetaLearner(model, losses.mean_squared_error, meta_batch_size=2)
    gradient, _ = learner.meta_gradient(random_task(model))
    assert [g.shape for g in gradient] == [(2, 2, 2, 4), (4,)]


ONE_TASK = [
    {"strides": 2, "padding": "same"},
    {"kernel_size": (2, 4), "padding": "same"},
    {"strides": (1, 2), "padding": "valid"},
    {"kernel_size": 2, "strides": 3, "padding": "same"},
    {"dilation_rate": 2},
    {"groups": 2},
]


def derivatives_to_the_third(function, x, kernel):
    """Output and derivatives of `function`, each along the one before, nonlinear between."""
    with tf.GradientTape() as third:
        third.watch([x, kernel])
        with tf.GradientTape() as second:
            second.watch([x, kernel])
            with tf.GradientTape() as first:
                first.watch([x, kernel])
                y = function(x, kernel)
                value = tf.reduce_sum(tf.tanh(y))
            once = first.gradient(value, [x, kernel])
            value = tf.reduce_sum([tf.reduce_sum(g**2) for g in once])
        twice = second.gradient(value, [x, kernel])
        value = tf.reduce_sum([tf.reduce_sum(tf.sin(g)) for g in twice])
    return [y, *once, *twice, *third.gradient(value, [x, kernel])]


@pytest.mark.parametrize("options", ONE_TASK, ids=str)
def test_one_task_alone_equals_the_same_task_in_a_stack_to_the_third_derivative(options):
    """A kernel of one task is convolved natively, those of several as patches."""
    layer = layers.Conv2D(4, **{"kernel_size": 3, "use_bias": False, **options})
    layer.build((None, 7, 6, 2))

    def convolve(tasks):
        def function(x, kernel):
            weights = {id(layer.kernel): tf.stack([kernel] * tasks)}
            return stacked(layer, tf.stack([x] * tasks), Run(weights, None))[0]

        return function

    x, kernel = normal(0, B, 7, 6, 2), normal(1, *layer.kernel.shape)
    native = options.keys() & {"dilation_rate", "groups"} == set()
    with tf.Graph().as_default() as graph:
        convolve(1)(tf.ones([B, 7, 6, 2]), tf.ones(layer.kernel.shape))
        assert any(op.type == "Conv2D" for op in graph.get_operations()) is native
    alone, together = (derivatives_to_the_third(convolve(n), x, kernel) for n in (1, 2))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
