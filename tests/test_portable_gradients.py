"""First derivatives without kernels of their own: TensorFlow's numbers, and none of its kernels."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import normal

from maml_tf.engine.portable import _RULES, portable_gradients

IMAGES = normal(0, 3, 7, 6, 4)
KERNEL = 0.3 * normal(1, 3, 2, 4, 5)
DEPTHWISE = 0.3 * normal(2, 3, 3, 4, 2)


def pooled(pool, padding, stride=2):
    return lambda x: pool(x, [2, 3], stride, padding)


def spread(w):
    """The kernel with zeros between its taps, which dilates it by two."""
    rows, columns, *channels = w.shape
    w = tf.reshape(w, [rows, 1, columns, 1, *channels])
    w = tf.pad(w, [[0, 0], [0, 1], [0, 0], [0, 1], [0, 0], [0, 0]])
    return tf.reshape(w, [2 * rows, 2 * columns, *channels])[:-1, :-1]


CASES = {
    "Relu": (tf.nn.relu, [IMAGES]),
    "Relu6": (lambda x: tf.nn.relu6(6 * x), [IMAGES]),
    "LeakyRelu": (lambda x: tf.nn.leaky_relu(x, 0.3), [IMAGES]),
    "Elu": (tf.nn.elu, [IMAGES]),
    "Selu": (tf.nn.selu, [IMAGES]),
    "Softsign": (tf.nn.softsign, [IMAGES]),
    "Sigmoid": (tf.sigmoid, [IMAGES]),
    "Tanh": (tf.tanh, [IMAGES]),
    "Sqrt": (lambda x: tf.sqrt(1 + tf.square(x)), [IMAGES]),
    "Rsqrt": (lambda x: tf.math.rsqrt(1 + tf.square(x)), [IMAGES]),
    "Reciprocal": (lambda x: tf.math.reciprocal(2 + tf.abs(x)), [IMAGES]),
    "Inv": (lambda x: tf.raw_ops.Inv(x=2 + tf.abs(x)), [IMAGES]),
    "BiasAdd": (tf.nn.bias_add, [IMAGES, normal(3, 4)]),
    "StridedSlice": (lambda x: x[1:, ::-2, None, 3, ..., 1:3], [IMAGES]),
    "StridedSlice, backwards": (lambda x: x[-1, 5:1:-1], [IMAGES]),
    "Conv2D": (lambda x, w: tf.nn.conv2d(x, w, 1, "SAME"), [IMAGES, KERNEL]),
    "Conv2D, stride": (lambda x, w: tf.nn.conv2d(x, w, [2, 1], "VALID"), [IMAGES, KERNEL]),
    "Conv2D, dilated": (
        lambda x, w: tf.nn.conv2d(x, w, 1, "SAME", dilations=2),
        [IMAGES, KERNEL],
    ),
    "DepthwiseConv2dNative": (
        lambda x, w: tf.nn.depthwise_conv2d(x, w, [1, 2, 2, 1], "SAME"),
        [IMAGES, DEPTHWISE],
    ),
    "MaxPool": (pooled(tf.nn.max_pool2d, "SAME"), [IMAGES]),
    "MaxPool, ties": (pooled(tf.nn.max_pool2d, "VALID", 1), [tf.round(IMAGES)]),
    "MaxPool, negative": (pooled(tf.nn.max_pool2d, "SAME"), [-9 - tf.abs(IMAGES)]),
    "AvgPool": (pooled(tf.nn.avg_pool2d, "SAME"), [IMAGES]),
    "AvgPool, stride 1": (pooled(tf.nn.avg_pool2d, "VALID", 1), [IMAGES]),
}


# Without oneDNN, a processor's kernels have no derivative of a dilated convolution.
SAME_ELSEWHERE = {"Conv2D, dilated": lambda x, w: tf.nn.conv2d(x, spread(w), 1, "SAME")}


def operations(graph):
    nodes = graph.as_graph_def()
    return {n.op for n in nodes.node} | {n.op for f in nodes.library.function for n in f.node_def}


def gradients(function, inputs):
    @tf.function(autograph=False)
    def compute(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = function(*inputs)
            weights = tf.reshape(tf.sin(tf.range(tf.size(y), dtype=y.dtype)), tf.shape(y))
            total = tf.reduce_sum(weights * tf.square(y))
        return tape.gradient(total, inputs)

    traced = compute.get_concrete_function(inputs)
    return traced(*inputs), operations(traced.graph)


def test_every_rule_is_compared():
    assert {name.partition(",")[0] for name in CASES} == set(_RULES)


@pytest.mark.parametrize("name", CASES)
def test_the_derivative_is_tensorflows(name):
    function, inputs = CASES[name]
    usual, kernels = gradients(SAME_ELSEWHERE.get(name, function), inputs)
    with portable_gradients():
        ours, operations_of_ours = gradients(function, inputs)
    for one, other in zip(ours, usual, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-5)
    assert not [op for op in operations_of_ours if "Grad" in op or "Backprop" in op]
    assert any("Grad" in op or "Backprop" in op for op in kernels) or name in ("Inv", "BiasAdd")


def test_variations_without_a_rule_are_tensorflows_own():
    pads = [[0, 0], [1, 1], [2, 0], [0, 0]]
    case = (lambda x, w: tf.nn.conv2d(x, w, 1, pads), [IMAGES, KERNEL])
    usual, _ = gradients(*case)
    with portable_gradients():
        ours, kernels = gradients(*case)
    assert "Conv2DBackpropFilter" in kernels
    for one, other in zip(ours, usual, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_a_compiled_function_inside_is_differentiated_so_too():
    inside = tf.function(lambda x: tf.nn.relu(x) ** 2, autograph=False)
    with portable_gradients():
        ours, kernels = gradients(inside, [IMAGES])
    assert "ReluGrad" not in kernels
    np.testing.assert_allclose(ours[0], gradients(inside, [IMAGES])[0][0], rtol=1e-6)


def test_outside_nothing_has_changed():
    with portable_gradients():
        tf.RegisterGradient("PortableGradientTest")(lambda op, gradient: gradient)
    _, kernels = gradients(*CASES["Relu"])
    assert "ReluGrad" in kernels
    assert keras.backend.backend() == "tensorflow"
