"""The closed derivatives of standardisation against automatic differentiation."""

import pytest
import tensorflow as tf
from helpers import normal

from maml_tf.engine.normalization import _plain, standardize

AXES = {"batch": [1, 2], "last": [3], "between": [2]}


def derivatives(function):
    """Output and derivatives to the third, along fixed random cotangents."""
    x, g, c, e = (normal(seed, 2, 5, 3, 4) for seed in range(4))
    with tf.GradientTape() as third:
        third.watch([x, g, c])
        with tf.GradientTape() as second:
            second.watch([x, g])
            with tf.GradientTape() as first:
                first.watch(x)
                y = function(x) * tf.exp(0.3 * x)
            h = first.gradient(y, x, g)
        of_x, of_g = second.gradient(h, [x, g], c)
        total = tf.reduce_sum(of_x * e) + tf.reduce_sum(of_g * e**2)
    return [y, h, of_x, of_g, *third.gradient(total, [x, g, c])]


@pytest.mark.parametrize("axes", AXES.values(), ids=AXES)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "graph"])
@pytest.mark.cases(3)
def test_closed_derivatives_equal_automatic_ones_to_the_third(float64, axes, compiled):
    # A large epsilon: an error in its place must show.
    def run(function):
        call = lambda: derivatives(function)  # noqa: E731
        return tf.function(call)() if compiled else call()

    got = run(lambda x: standardize(x, axes, 0.3))
    want = run(lambda x: _plain(x, axes, 0.3)[0])
    for one, other in zip(got, want, strict=True):
        tf.debugging.assert_near(one, other, rtol=1e-10, atol=1e-10)
        assert tf.reduce_max(tf.abs(other)) > 1e-3


def test_the_closed_forms_are_the_ones_in_use(float64):
    """Automatic differentiation would leave a derivative of the reciprocal square root."""
    x = normal(0, 2, 5, 4)

    def gradient(function):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return tape.gradient(y, x, x)

    def operations(function):
        graph = tf.function(lambda: gradient(function)).get_concrete_function().graph
        return {op.type for op in graph.get_operations()}

    assert "RsqrtGrad" in operations(lambda x: _plain(x, [1], 1e-3)[0])
    assert "RsqrtGrad" not in operations(lambda x: standardize(x, [1], 1e-3))
