"""Max-pooling with TensorFlow's numbers and exact derivatives, with XLA and without."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_is_the_derivative, meta_objective, normal, random_task, randomize, slow
from keras import layers

from maml_tf import Batch, MetaLearner, Task, functional, losses
from maml_tf.engine.pooling import exact_pooling, under_xla
from maml_tf.networks import conv_network

# A pooling of one, two and three axes, windows that overlap, leave gaps, or are padded.
GEOMETRIES = [
    ("max_pool1d", (2, 7, 3), 2, 2, "VALID"),
    ("max_pool1d", (2, 7, 3), 3, 1, "SAME"),
    ("max_pool2d", (2, 6, 6, 3), 2, 2, "VALID"),
    ("max_pool2d", (2, 7, 6, 3), 3, 2, "SAME"),
    ("max_pool2d", (2, 6, 5, 3), 3, 1, "SAME"),
    ("max_pool2d", (2, 6, 5, 3), 2, 1, "VALID"),
    ("max_pool2d", (2, 7, 7, 3), 2, 3, "VALID"),
    ("max_pool2d", (2, 6, 6, 3), [1, 2, 3, 1], [1, 3, 2, 1], "SAME"),
    ("max_pool2d", (2, 6, 6, 3), 3, 2, [[0, 0], [1, 1], [0, 2], [0, 0]]),
    ("max_pool2d", (2, 1, 1, 3), 2, 2, "SAME"),
    ("max_pool2d", (2, 4, 4, 3), 1, 1, "VALID"),
    ("max_pool3d", (1, 4, 5, 4, 2), 2, 2, "VALID"),
    ("max_pool3d", (1, 4, 3, 4, 2), 2, 1, "SAME"),
    ("max_pool", (2, 6, 6, 3), (3, 2), (2, 2), "SAME"),
]


def derivatives(pool, x, v, u):
    """The value at `x`, its product `J' v`, and the derivative of `2 u' J' v` by `v`: `2 J u`."""
    with tf.GradientTape() as outer:
        outer.watch(v)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = pool(x)
        first = inner.gradient(y, x, output_gradients=v)
        along = tf.reduce_sum(first * (2 * u))  # computed here, so that its memory is free
    return y, first, outer.gradient(along, v)


def exactly(name, *geometry):
    def pool(x):
        with exact_pooling():
            return getattr(tf.nn, name)(x, *geometry)

    return pool


def chosen_by_hand(x, u, name, size, stride, padding):
    """`J u`, with no gradient of TensorFlow's: the number of `u` where `x` is largest."""
    axes = len(x.shape) - 2
    (sizes, strides) = (
        [n] * axes if isinstance(n, int) else list(n)[-axes - 1 : -1] if len(n) > axes else list(n)
        for n in (size, stride)
    )
    pairs = [[0, 0]] * (axes + 2) if isinstance(padding, str) else padding
    if padding == "SAME":
        missing = [
            max((-(-n // s) - 1) * s + k - n, 0)
            for n, s, k in zip(x.shape[1:-1], strides, sizes, strict=True)
        ]
        pairs = [[0, 0], *([m // 2, m - m // 2] for m in missing), [0, 0]]
    x, u = np.pad(x, pairs, constant_values=-np.inf), np.pad(u, pairs)
    outputs = [(n - k) // s + 1 for n, k, s in zip(x.shape[1:-1], sizes, strides, strict=True)]
    chosen = np.zeros([x.shape[0], *outputs, x.shape[-1]])
    for place in np.ndindex(*chosen.shape):
        window = tuple(
            slice(p * s, p * s + k) for p, s, k in zip(place[1:-1], strides, sizes, strict=True)
        )
        at = (place[0], *window, place[-1])
        chosen[place] = u[at].ravel()[np.argmax(x[at])]  # the first of equal ones
    return chosen


@pytest.mark.parametrize("numbers", ["distinct", "close", "equal"])
@pytest.mark.parametrize("jit_compile", [True, False])
@pytest.mark.parametrize(
    "geometry", GEOMETRIES, ids=lambda g: "-".join(str(part) for part in g if part is not g[1])
)
@pytest.mark.cases(14)
def test_a_window_gives_its_first_largest_number_and_takes_the_gradient(
    geometry, jit_compile, numbers
):
    name, shape, *options = geometry
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    if numbers == "close":  # alike in their first 16 bits
        x = 1 + 1e-4 * x
    elif numbers == "equal":
        x = np.round(x)
    pool = exactly(name, *options)
    v, u = normal(1, *pool(tf.constant(x)).shape), normal(2, *shape)
    got = tf.function(
        lambda x, v, u: derivatives(pool, x, v, u), jit_compile=jit_compile, autograph=False
    )(x, v, u)
    y, first, second = (np.array(a) for a in got)
    np.testing.assert_array_equal(y, getattr(tf.nn, name)(x, *options))
    np.testing.assert_allclose(second, 2 * chosen_by_hand(x, u, name, *options), rtol=1e-6)
    # J' is the adjoint of J.
    np.testing.assert_allclose(np.sum(first * u), np.sum(second * v) / 2, rtol=1e-4)
    assert got[1].dtype == tf.float32


@pytest.mark.parametrize(("size", "stride", "jit_compile"), [(2, 2, True), (3, 1, False)])
def test_tensorflow_still_needs_the_mend(size, stride, jit_compile):
    """Of numbers alike in their first 16 bits XLA takes the wrong one; "same" gives zeros."""
    x, u = 1 + 1e-4 * normal(0, 2, 8, 8, 3), normal(2, 2, 8, 8, 3)
    right = 2 * chosen_by_hand(x.numpy(), u.numpy(), "max_pool2d", size, stride, "SAME")
    pool = functools.partial(tf.nn.max_pool2d, ksize=size, strides=stride, padding="SAME")
    compiled = tf.function(
        lambda x, v, u: derivatives(pool, x, v, u), jit_compile=jit_compile, autograph=False
    )
    second = compiled(x, normal(1, *right.shape), u)[2]
    assert np.mean(np.abs(second - right) > 1e-6) > 0.1


def test_channels_first_and_half_precision():
    x = tf.cast(normal(0, 2, 3, 6, 5), "bfloat16")
    pool = exactly("max_pool2d", 2, 2, "SAME", "NCHW")
    y = tf.function(pool, jit_compile=True)(x)
    expected = tf.nn.max_pool2d(tf.transpose(tf.cast(x, "float32"), [0, 2, 3, 1]), 2, 2, "SAME")
    assert y.dtype == tf.bfloat16
    np.testing.assert_array_equal(tf.cast(y, "float32"), tf.transpose(expected, [0, 3, 1, 2]))


def test_sequences_of_unknown_length():
    spec = tf.TensorSpec([2, None, 3])
    pool = tf.function(exactly("max_pool1d", 3, 1, "SAME"), input_signature=[spec])
    x = normal(0, 2, 7, 3)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            loss = tf.reduce_sum(tf.square(pool(x)))
        first = inner.gradient(loss, x)
        loss = tf.reduce_sum(tf.square(first))
    # The gradient is linear in x while no other number becomes the largest, so H x = g.
    np.testing.assert_allclose(outer.gradient(loss, x)[0, 0, 0] != 0, first[0, 0, 0] != 0)
    assert np.any(first)


def test_who_traces_for_xla_knows():
    seen = []

    def note(x):
        seen.append(under_xla())
        return x

    tf.function(note)(1.0)
    tf.function(note, jit_compile=True)(1.0)
    tf.function(
        lambda x: tf.while_loop(lambda i, _: i < 2, lambda i, x: (i + 1, note(x)), [0, x]),
        jit_compile=True,
    )(1.0)
    tf.function(lambda x: tf.vectorized_map(note, x), jit_compile=True)(tf.ones([2]))
    assert seen == [False, True, True, True]
    assert not under_xla()


# --- networks -------------------------------------------------------------------------------------


class Pools(layers.Layer):
    """Pools by TensorFlow's function, in code of its own."""

    def call(self, x):
        return tf.nn.max_pool2d(x, 2, 2, "VALID")


POOLINGS = {
    "line": (lambda: layers.MaxPooling1D(2), [7, 2]),
    "line, same": (lambda: layers.MaxPooling1D(3, 1, padding="same"), [7, 2]),
    "image": (lambda: layers.MaxPooling2D(2), [6, 6, 2]),
    "image, same": (lambda: layers.MaxPooling2D(3, 2, padding="same"), [6, 6, 2]),
    "image, same, one by one": (lambda: layers.MaxPooling2D(3, 1, padding="same"), [6, 6, 2]),
    "all of a line": (layers.GlobalMaxPooling1D, [7, 2]),
    "all of an image": (layers.GlobalMaxPooling2D, [6, 6, 2]),
    "average": (lambda: layers.AveragePooling2D(2, padding="same"), [5, 5, 2]),
    "a layer of one's own": (Pools, [6, 6, 2]),
    "an operation": (
        lambda: layers.Lambda(lambda x: keras.ops.max_pool(x, 3, 2, "same")),
        [6, 6, 2],
    ),
}


def pooled_network(name):
    pooling, shape = POOLINGS[name]
    convolution = {2: layers.Conv1D, 3: layers.Conv2D, 4: layers.Conv3D}[len(shape)]
    parts = [convolution(3, 2, activation="tanh", padding="same"), pooling(), layers.Flatten()]
    return randomize(keras.Sequential([keras.Input(shape), *parts, layers.Dense(2)]))


def squared_error(outputs, y):
    return tf.reduce_mean(tf.square(outputs - y), [1, 2])


@pytest.mark.parametrize("jit_compile", [True, False])
@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.usefixtures("float64")
@pytest.mark.cases(3)
def test_the_meta_gradient_of_each_pooling_is_the_derivative(name, jit_compile):
    model = pooled_network(name)
    learner = MetaLearner(
        model, squared_error, step_size=0.1, meta_batch_size=2, jit_compile=jit_compile
    )
    task = random_task(model)
    gradient, _ = learner.meta_gradient(task)
    names = [v.path for v in model.trainable_variables]
    assert_is_the_derivative(
        gradient, meta_objective(learner, task), learner.initial_weights(), names, atol=5e-8
    )


@pytest.mark.parametrize("options", [slow({}), {"strides": 1, "padding": "same"}])
@pytest.mark.slow
def test_a_volumes_meta_gradient_is_the_same_under_xla(options):
    """TensorFlow has no MaxPooling3D in float64 to take differences of."""
    convolution = layers.Conv3D(2, 2, activation="tanh")
    parts = [convolution, layers.MaxPooling3D(2, **options), layers.Flatten(), layers.Dense(2)]
    model = randomize(keras.Sequential([keras.Input([4, 4, 4, 1]), *parts]))
    task = random_task(model)
    gradients = [
        MetaLearner(
            model, squared_error, step_size=0.1, meta_batch_size=2, jit_compile=jit_compile
        ).meta_gradient(task)[0]
        for jit_compile in (False, True)
    ]
    for plain, compiled in zip(*gradients, strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=1e-4, atol=1e-5)


def image_task(model, tasks=2, examples=3):
    def batch(seed):
        labels = tf.tile(tf.range(examples)[None], [tasks, 1])
        return Batch(normal(seed, tasks, examples, *model.input_shape[1:]), labels)

    return Task(batch(0), batch(1))


@pytest.mark.parametrize("blocks", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_the_papers_pooling_network_is_the_same_under_xla(blocks):
    """Behind ReLU many windows hold nothing but zeros; without the mend 0.4 % and more differ."""
    model = conv_network((16, 16, 3), 3, filters=4, max_pool=True)
    if blocks < 4:  # half of it compiles in half the time
        until = model.get_layer(f"pool_{blocks}").output
        model = keras.Model(model.inputs, layers.Dense(3)(layers.Flatten()(until)))
    task = image_task(model)
    gradients = [
        MetaLearner(
            model, losses.cross_entropy, step_size=0.1, meta_batch_size=2, jit_compile=jit_compile
        ).meta_gradient(task)[0]
        for jit_compile in (False, True)
    ]
    for plain, compiled in zip(*gradients, strict=True):
        scale = float(tf.norm(plain))
        if scale > 1e-4:  # a bias before a normalisation has no gradient
            assert float(tf.norm(compiled - plain)) < 1e-3 * scale


@pytest.mark.slow
def test_the_compiled_loop_moves_the_weights_alike():
    moved = []
    for jit_compile in (False, True):
        model = pooled_network("image")
        task = random_task(model)

        def source(index, num_tasks, task=task):
            return tf.nest.map_structure(lambda a: a + 0.1 * tf.cast(index, a.dtype), task)

        learner = MetaLearner(
            model,
            squared_error,
            step_size=0.1,
            meta_batch_size=2,
            optimizer=keras.optimizers.SGD(0.1),
            jit_compile=jit_compile,
        )
        learner.meta_steps(source, 0, 3)
        moved.append(model.get_weights())
    for plain, compiled in zip(*moved, strict=True):
        np.testing.assert_allclose(compiled, plain, atol=1e-4)


@pytest.mark.slow
def test_a_trace_without_xla_does_not_serve_within_it():
    model = pooled_network("image")
    learner = MetaLearner(model, squared_error, meta_batch_size=2)
    task = random_task(model)
    plain = learner.meta_gradient(task)[0]
    compiled = tf.function(learner.meta_gradient, jit_compile=True, autograph=False)
    operations = compiled.get_concrete_function(task).graph.as_graph_def()
    called = [node for function in operations.library.function for node in function.node_def]
    assert "MaxPoolGradGrad" not in {node.op for node in [*operations.node, *called]}
    for a, b in zip(plain, compiled(task)[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_pooling_in_a_loss_is_refused_where_it_would_be_wrong():
    def of_largest(outputs, y):
        largest = tf.nn.max_pool1d(tf.square(outputs - y), 2, 2, "SAME")
        return tf.reduce_mean(largest, [1, 2])

    model = pooled_network("line")
    task = random_task(model)
    MetaLearner(model, of_largest, meta_batch_size=2).meta_gradient(task)
    with pytest.raises(ValueError, match="second derivative of max-pooling"):
        MetaLearner(model, of_largest, meta_batch_size=2, jit_compile=True).meta_gradient(task)
    first_order = MetaLearner(
        model, of_largest, meta_batch_size=2, jit_compile=True, first_order=True
    )
    first_order.meta_gradient(task)


def test_the_model_computes_what_keras_computes():
    model = pooled_network("image, same, one by one")
    x, weights = normal(0, 1, 3, 6, 6, 2), [w.value for w in model.trainable_variables]
    np.testing.assert_allclose(functional(model)(weights, x)[0], model(x[0]), atol=1e-6)
