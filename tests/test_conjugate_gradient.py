"""Conjugate gradients beside dense solvers, of one system and of one a task."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import normal, positive_definite

from maml_tf.engine.conjugate_gradient import conjugate_gradient, flatten, unflatten


def test_conjugate_gradients_solve_what_a_dense_solver_solves():
    matrix, target = positive_definite(8), np.arange(8.0)
    solve = tf.function(lambda b: conjugate_gradient(lambda v: tf.linalg.matvec(matrix, v), b, 20))
    got, image = solve(tf.constant(target))
    np.testing.assert_allclose(got, np.linalg.solve(matrix, target), rtol=1e-6)
    np.testing.assert_allclose(image, target, rtol=1e-6, atol=1e-9)


def test_few_conjugate_gradients_tell_the_product_of_what_they_found():
    matrix, target = positive_definite(8), np.arange(8.0)
    got, image = conjugate_gradient(lambda v: tf.linalg.matvec(matrix, v), tf.constant(target), 3)
    assert not np.allclose(image, target, rtol=1e-3)
    np.testing.assert_allclose(image, matrix @ got.numpy(), rtol=1e-9)


def test_conjugate_gradients_of_zero_are_zero():
    assert not np.any(conjugate_gradient(lambda v: 2 * v, tf.zeros(3)))


def stacked_products():
    """Matrices of three tasks, of which the last is solved in one step."""
    matrices = np.stack([positive_definite(6, 1), positive_definite(6, 2), 3 * np.eye(6)])
    return matrices, lambda v: tf.linalg.matvec(matrices, v)


def test_every_task_has_a_system_of_its_own():
    matrices, product = stacked_products()
    targets = np.random.default_rng(3).normal(size=(3, 6))
    targets[1] = 0
    for iterations in (1, 3, 6):
        got, images = conjugate_gradient(product, tf.constant(targets), iterations, 0.0)
        for t, matrix in enumerate(matrices):
            alone, image = conjugate_gradient(
                lambda v, m=matrix: tf.linalg.matvec(m, v), tf.constant(targets[t]), iterations, 0.0
            )
            np.testing.assert_allclose(got[t], alone, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(images[t], image, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(got, np.linalg.solve(matrices, targets[..., None])[..., 0])


def test_more_iterations_than_numbers_stay_at_the_solution():
    matrices, product = stacked_products()
    targets = normal(3, 3, 6)
    matrices = matrices.astype("float32")
    product = lambda v: tf.linalg.matvec(matrices, v)  # noqa: E731
    got, _ = conjugate_gradient(product, targets, 60, 0.0)
    expected = np.linalg.solve(matrices, targets.numpy()[..., None])[..., 0]
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


def test_a_direction_without_positive_curvature_is_not_taken():
    matrix = np.diag([1.0, -2.0])
    target = tf.constant([[1.0, 0.0], [0.0, 1.0]], tf.float64)
    got, _ = conjugate_gradient(lambda v: tf.linalg.matvec(matrix, v), target, 5)
    np.testing.assert_allclose(got, [[1.0, 0.0], [0.0, 0.0]])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_target_that_is_not_finite_has_no_finite_solution(bad):
    matrices, product = stacked_products()
    targets = np.ones([3, 6])
    targets[0, 2] = bad
    got, _ = conjugate_gradient(product, tf.constant(targets), 6)
    assert not np.isfinite(got[0]).all()
    expected = np.linalg.solve(matrices[1:], targets[1:, :, None])[..., 0]
    np.testing.assert_allclose(got[1:], expected, rtol=1e-6)
    alone, _ = conjugate_gradient(lambda v: 2 * v, tf.constant(targets[0]), 6)
    assert not np.isfinite(alone).all()


def test_vectors_are_the_numbers_of_some_tensors_in_order():
    weights = [normal(1, 2, 3), normal(2, 2), normal(3, 2, 1, 2)]
    whole, stacked = flatten(weights), flatten(weights, stacked=True)
    assert whole.shape == (12,) and stacked.shape == (2, 6)
    np.testing.assert_array_equal(whole, np.concatenate([np.ravel(w) for w in weights]))
    for t in range(2):
        np.testing.assert_array_equal(stacked[t], flatten([w[t] for w in weights]))
    for back in unflatten(whole, weights), unflatten(stacked, weights, stacked=True):
        for one, other in zip(back, weights, strict=True):
            np.testing.assert_array_equal(one, other)
