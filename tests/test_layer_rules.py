"""Every rule against Keras' own layer, called for one task at a time, in float64."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import normal, one_task_at_a_time, own_weights, random_task, randomize
from keras import layers

from maml_tf import MetaLearner, functional, losses, stacked
from maml_tf.engine.functional import Result
from maml_tf.engine.operation_rules import ELEMENT_WISE, WITH_TWO
from maml_tf.engine.run import Run
from maml_tf.engine.task_axis import get_mask
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
        layer = layer.layer if isinstance(layer, Attending) else layer
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


def more_convolutions():
    for options in ({}, {"strides": 2}, {"padding": "same", "strides": 2}, {"dilation_rate": 2}):
        if "dilation_rate" not in options:  # which Keras refuses on a CPU
            yield Case(lambda o=options: layers.Conv1DTranspose(3, 2, **o), [5, 2])
            yield Case(lambda o=options: layers.Conv2DTranspose(3, (3, 2), **o), [4, 3, 2])
        yield Case(lambda o=options: layers.DepthwiseConv1D(2, **o), [6, 2])
        yield Case(lambda o=options: layers.DepthwiseConv2D(2, depth_multiplier=2, **o), [6, 5, 2])
        yield Case(lambda o=options: layers.SeparableConv1D(3, 2, **o), [6, 2])
        yield Case(lambda o=options: layers.SeparableConv2D(3, 2, **o), [6, 5, 2])
    yield Case(lambda: layers.Conv3DTranspose(2, 2, strides=2), [2, 3, 2, 2])
    options = {"strides": 2, "padding": "same", "output_padding": 1}
    yield Case(lambda: layers.Conv2DTranspose(3, 3, **options), [4, 3, 2])
    for groups, filters in ((4, 4), (4, 8), (2, 6)):
        yield Case(lambda g=groups, f=filters: layers.Conv2D(f, 3, groups=g), [5, 5, 4])
        yield Case(lambda g=groups, f=filters: layers.Conv1D(f, 2, groups=g), [5, 4])


def sequences():
    for kind in (layers.LSTM, layers.GRU, layers.SimpleRNN):
        yield Case(lambda k=kind: k(3), [5, 2])
        yield Case(lambda k=kind: k(3, return_sequences=True, go_backwards=True), [5, 2])
        yield Case(lambda k=kind: k(3, use_bias=False, unroll=True, dropout=0.5), [5, 2])
        yield Case(lambda k=kind: k(3, activation="relu"), [5, 2])
    yield Case(lambda: layers.GRU(3, reset_after=False), [5, 2])
    yield Case(lambda: layers.RNN(layers.LSTMCell(3)), [5, 2])
    yield Case(lambda: layers.Bidirectional(layers.GRU(2), merge_mode="sum"), [5, 2])
    yield Case(lambda: layers.TimeDistributed(layers.Dense(2)), [5, 2])
    yield Case(lambda: layers.EinsumDense("abc,cd->abd", (5, 3), bias_axes="d"), [5, 2])
    yield Case(lambda: layers.PReLU(shared_axes=[1]), [5, 2])
    for options in ({}, {"use_bias": False}, {"value_dim": 5, "output_shape": 3}):
        yield Case(lambda o=options: Attending(layers.MultiHeadAttention(2, 3, **o)), [5, 4])
    yield Case(lambda: Attending(layers.GroupQueryAttention(3, 4, 2)), [5, 4])
    yield Case(lambda: Attending(layers.Attention()), [5, 4])


class Attending:
    """An attention layer called on one sequence as query and value."""

    def __init__(self, layer):
        self.layer = layer
        self.get_config = layer.get_config

    def __call__(self, x):
        if isinstance(self.layer, layers.Attention):
            return self.layer([x, x])
        return self.layer(x, x, use_causal_mask=True)


def normalisations():
    for shape in ([5], [3, 4, 5]):
        yield Case(layers.BatchNormalization, shape, training=True)
    for center, scale in itertools.product((False, True), repeat=2):
        options = {"center": center, "scale": scale, "epsilon": 0.1}
        yield Case(lambda o=options: layers.BatchNormalization(**o), [3, 4, 5], training=True)
        yield Case(lambda o=options: layers.LayerNormalization(**o), [3, 5])
        yield Case(lambda o=options: layers.GroupNormalization(2, **o), [3, 3, 4])
    yield Case(lambda: layers.BatchNormalization(axis=1), [5], training=True)
    yield Case(lambda: layers.BatchNormalization(axis=1), [2, 4, 4], training=True)
    yield Case(lambda: layers.BatchNormalization(axis=2), [2, 4, 4], training=True)
    yield Case(lambda: layers.LayerNormalization(axis=1), [2, 4])
    yield Case(lambda: layers.LayerNormalization(axis=[1, 3]), [2, 3, 4])
    yield Case(lambda: layers.LayerNormalization(axis=[1, 2, 3]), [3, 4, 5])
    yield Case(lambda: layers.LayerNormalization(axis=[-2, -1]), [3, 4, 5])
    yield Case(lambda: layers.GroupNormalization(1), [3, 3, 4])
    yield Case(lambda: layers.GroupNormalization(-1), [3, 3, 4])


WITH_WEIGHTS = [
    Case(lambda: layers.Dense(3), [5]),
    Case(lambda: layers.Dense(3, use_bias=False, activation="relu"), [5]),
    Case(lambda: layers.Dense(3), [2, 4, 5]),
    *convolutions(),
    *more_convolutions(),
    *normalisations(),
    *sequences(),
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
    *(Case(kind, IMAGE) for kind in (layers.UnitNormalization, lambda: layers.CenterCrop(3, 3))),
    Case(lambda: layers.Normalization(mean=[1.0, 2.0], variance=[3.0, 4.0]), IMAGE),
    Case(lambda: layers.Masking(), LINE),
    Case(lambda: layers.Discretization([-0.5, 0.5]), VECTOR),
    Case(lambda: layers.SpatialDropout3D(0.5), VOLUME),
]


CASES = WITH_WEIGHTS + PLAIN


def build(case):
    inputs = [keras.Input(shape) for shape in case.shapes]
    model = keras.Model(inputs, case.make()(inputs if len(inputs) > 1 else inputs[0]))
    x = [normal(seed, T, B, *shape) for seed, shape in enumerate(case.shapes)]
    return randomize(model), x if len(x) > 1 else x[0]


def run_rule(model, weights, x):
    """The model, all of whose layers must have a rule."""
    result = functional(model).run(weights, x) if weights else without_weights(model, x)
    assert all(by_rule for _, by_rule, _ in result.calls), result.calls
    return result.outputs


def without_weights(model, x):
    run = Run({}, None)
    run.num_tasks = T
    return Result(run.call(model, x), [], None, run.calls)


@pytest.mark.parametrize("case", WITH_WEIGHTS, ids=str)
@pytest.mark.cases(50)
def test_stacked_weights_give_what_keras_gives_one_task_at_a_time(case):
    model, x = build(case)
    weights = own_weights(model, T)
    expected = one_task_at_a_time(model, weights, x, case.training)
    np.testing.assert_allclose(run_rule(model, weights, x), expected, atol=1e-10)


@pytest.mark.parametrize("case", WITH_WEIGHTS, ids=str)
@pytest.mark.cases(50)
def test_shared_weights_give_what_keras_gives_one_task_at_a_time(case):
    model, x = build(case)
    shared = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
    everyone = [tf.stack([w] * T) for w in shared]
    expected = one_task_at_a_time(model, everyone, x, case.training)
    got = run_rule(model, shared, x)
    np.testing.assert_allclose(got, expected, atol=1e-10)


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_layers_without_weights_give_what_keras_gives_one_task_at_a_time(case):
    model, x = build(case)
    np.testing.assert_allclose(run_rule(model, [], x), one_task_at_a_time(model, [], x), atol=1e-12)


WORDS = tf.constant([[["a", "b"], ["b", "c"], ["z", "a"], ["c", "c"]]] * T)
NUMBERS = tf.constant(np.random.default_rng(0).integers(0, 5, [T, B, 3]), tf.int32)
TABLES = [
    (lambda: layers.StringLookup(vocabulary=["a", "b", "c"]), WORDS),
    (lambda: layers.TextVectorization(vocabulary=["a", "b"], output_sequence_length=3), WORDS),
    (lambda: layers.IntegerLookup(vocabulary=[1, 2, 3]), NUMBERS),
    (lambda: layers.Hashing(4), NUMBERS),
    (lambda: layers.CategoryEncoding(6), NUMBERS),
    (lambda: layers.Embedding(7, 3), NUMBERS),
    (lambda: layers.Embedding(7, 3, mask_zero=True), NUMBERS),
]


@pytest.mark.parametrize(("make", "x"), TABLES)
def test_layers_that_look_up_give_what_keras_gives_one_task_at_a_time(make, x):
    layer = make()
    if isinstance(layer, layers.TextVectorization):
        x = tf.strings.join([x[..., :1], x[..., 1:]], " ")
    layer(x[0])
    randomize(layer)
    weights = own_weights(layer, T)
    run = Run(dict(zip(map(id, layer.trainable_variables), weights, strict=True)), None)
    run.num_tasks = T
    got = run.call(layer, x)
    assert run.calls == [(layer, True, None)]
    for task in range(T):
        for variable, value in zip(layer.trainable_variables, weights, strict=True):
            variable.assign(value[task])
        expected = layer(x[task])
        np.testing.assert_array_equal(got[task], expected)
        mask, own = get_mask(got), get_mask(expected)
        assert (mask is None) is (own is None)
        if mask is not None:
            np.testing.assert_array_equal(mask[task], own)


@pytest.mark.parametrize("name", ELEMENT_WISE)
def test_operations_give_what_keras_gives_one_task_at_a_time(name):
    operation = getattr(keras.ops, name)
    a, b = keras.Input([4]), keras.Input([4])
    options = {"clip": (-0.5, 0.5), "cast": ("float32",)}.get(name, ())
    y = operation(a, b) if name in WITH_TWO else operation(a, *options)
    x = [0.1 + tf.abs(normal(seed, T, B, 4)) for seed in range(2)]
    model = keras.Model([a, b] if name in WITH_TWO else a, y)
    x = x if name in WITH_TWO else x[0]
    result = without_weights(model, x)
    assert all(by_rule for _, by_rule, _ in result.calls)
    np.testing.assert_allclose(result.outputs, one_task_at_a_time(model, [], x), atol=1e-12)


def test_every_registered_layer_type_is_compared():
    made = [case.make() for case in CASES]
    compared = {type(m.layer if isinstance(m, Attending) else m) for m in made}
    compared |= {type(make()) for make, _ in TABLES}
    elsewhere = {object, keras.Sequential, keras.Function, layers.InputLayer}
    elsewhere |= {layers.UpSampling2D, layers.Resizing, layers.RNN}  # tests/conformance
    of_keras = {kind for kind in stacked.registry if kind.__module__.startswith("keras.")}
    operations = {kind for kind in of_keras if ".ops." in kind.__module__}
    assert of_keras - operations - compared - elsewhere == set()


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: layers.Conv2D(3, 2, data_format="channels_first"), [2, 4, 4]),
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
    assert (model.layers[0], False, None) in functional(model).run(weights, x).calls
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
