import numpy as np
import pytest
import tensorflow as tf
from helpers import normal, positive_definite

from maml_tf.engine.conjugate_gradient import flatten, unflatten
from maml_tf.rl import trust_region
from maml_tf.rl.trust_region import curvature, slope, trust_region_step

WEIGHTS = [np.array([[0.3, -0.2], [0.1, 0.4]]), np.array([0.7, -0.5])]
INPUTS = np.random.default_rng(5).normal(size=(6, 2))


def outputs(weights):
    hidden = tf.tanh(INPUTS @ weights[0])
    return {"y": tf.linalg.matvec(hidden, weights[1]), "scale": tf.exp(weights[1])}


def divergence(old, new):
    """Not a quadratic, zero with zero gradient where both agree."""
    ratio = new["scale"] / old["scale"]
    far = tf.math.cosh(new["y"] - old["y"]) - 1
    return tf.reduce_mean(far) + tf.reduce_sum(ratio - 1 - tf.math.log(ratio))


def numerical_hessian(step=1e-4):
    weights = [tf.constant(w) for w in WEIGHTS]
    start = np.concatenate([w.ravel() for w in WEIGHTS])
    old = outputs(weights)
    eye = step * np.eye(start.size)

    def value(x):
        return float(divergence(old, outputs(unflatten(tf.constant(x), weights))))

    signs = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    return np.array(
        [
            [
                sum(a * b * value(start + a * u + b * v) for a, b in signs) / (4 * step**2)
                for v in eye
            ]
            for u in eye
        ]
    )


@pytest.mark.parametrize("method", trust_region.CURVATURES)
def test_every_product_is_that_with_the_numerical_hessian(method):
    weights = [tf.constant(w) for w in WEIGHTS]
    product = curvature(outputs, divergence, weights, method)
    vector = tf.constant(np.random.default_rng(1).normal(size=6))
    expected = numerical_hessian() @ vector.numpy()
    np.testing.assert_allclose(product(vector), expected, rtol=1e-4, atol=1e-6)


def test_an_unknown_curvature_is_refused():
    with pytest.raises(ValueError, match="fisher, hessian, finite_differences; not 'exact'"):
        curvature(outputs, divergence, [], "exact")


def quadratic(center, matrix):
    """Loss |w - center|^2, and the distance w'Mw / 2 from zero."""

    def evaluate(weights):
        w = weights[0]
        return tf.reduce_sum((w - center) ** 2), 0.5 * tf.tensordot(
            w, tf.linalg.matvec(matrix, w), 1
        )

    return evaluate, lambda v: tf.linalg.matvec(matrix, v)


def test_a_full_step_ends_on_the_border_along_the_natural_gradient():
    matrix, center = positive_definite(3), np.array([5.0, -3.0, 4.0])
    evaluate, product = quadratic(center, matrix)
    start = [tf.zeros(3, tf.float64)]
    step = trust_region_step(
        evaluate, slope(evaluate, start), product, start, max_divergence=0.5, damping=1e-9
    )
    natural = np.linalg.solve(matrix, 2 * center)
    expected = natural / np.sqrt(natural @ matrix @ natural)  # w'Mw / 2 = 0.5
    got = step.weights[0].numpy()
    # Rounding decides whether k = 0 is a hair outside.
    shrink = 0.8 ** int(step.backtracks)
    assert int(step.backtracks) in (0, 1)
    np.testing.assert_allclose(got, shrink * expected, rtol=1e-6)
    assert step.divergence <= 0.5 and step.loss_after < step.loss_before
    np.testing.assert_allclose(step.loss_after, evaluate(step.weights)[0])


def test_a_step_too_long_is_shortened_until_it_fits():
    evaluate, product = quadratic(np.array([1.0, 0.0]), np.eye(2))
    start = [tf.zeros(2, tf.float64)]
    # The curvature is told 100 times too small, so the step comes out 10 times too long.
    step = trust_region_step(
        *(evaluate, slope(evaluate, start), lambda v: product(v) / 100, start),
        max_divergence=0.02,
    )
    k = int(step.backtracks)
    assert 0.8**k * 10 <= 1 < 0.8 ** (k - 1) * 10
    assert 0 < step.divergence <= 0.02


@pytest.mark.parametrize("value", [1.0, np.nan])
def test_a_search_in_vain_leaves_the_weights(value):
    start = [tf.constant([1.0, 2.0])]

    def evaluate(weights):
        away = tf.reduce_sum(tf.abs(weights[0] - start[0]))
        # The gradient says go; any other place is worse, or no number at all.
        return weights[0][0] + (1e6 * value) * tf.stop_gradient(tf.sign(away)), 0.0 * away

    step = tf.function(
        lambda: trust_region_step(evaluate, slope(evaluate, start), lambda v: v, start)
    )()
    if value == value:
        assert float(step.loss_before) == 1.0
    assert int(step.backtracks) == -1 and float(step.divergence) == 0.0
    np.testing.assert_array_equal(step.weights[0], start[0])


@pytest.mark.usefixtures("float64")
def test_flatten_and_back():
    weights = [normal(0, 2, 3), normal(1, 4), normal(2)]
    for a, b in zip(unflatten(flatten(weights), weights), weights, strict=True):
        np.testing.assert_array_equal(a, b)
