"""The inner loop against losses whose adapted weights and meta-gradients have a closed form.

Task t's loss is a parabola, L_t(theta) = 1/2 (theta - c_t)^T H_t (theta - c_t), so that a step of
size alpha is linear and S of them are

    theta_S - c_t = M_t (theta - c_t),    M_t = (I - alpha H_t)^S.

With a query loss of the same form, H'_t and c'_t, the meta-gradient is

    sum_t M_t^T H'_t (theta_S - c'_t),    and without M_t^T to first order.
"""

import numpy as np
import pytest
import tensorflow as tf

from maml_tf import adapt, gradient_step, stack
from maml_tf.engine.adaptation import adapt_for

T, SIZE, ALPHA = 3, 4, 0.1

rng = np.random.default_rng(0)
THETA = rng.normal(size=SIZE)
SUPPORT_ROOT, QUERY_ROOT = rng.normal(size=(2, T, SIZE, SIZE))  # A_t; H_t = A_t^T A_t
SUPPORT_CENTRE, QUERY_CENTRE = rng.normal(size=(2, T, SIZE))
SUPPORT = (tf.constant(SUPPORT_ROOT), tf.constant(SUPPORT_CENTRE))
QUERY = (tf.constant(QUERY_ROOT), tf.constant(QUERY_CENTRE))
HESSIAN = SUPPORT_ROOT.transpose(0, 2, 1) @ SUPPORT_ROOT
QUERY_HESSIAN = QUERY_ROOT.transpose(0, 2, 1) @ QUERY_ROOT


def parabola(weights, batch):
    """1/2 |A_t (theta_t - c_t)|^2, one number a task."""
    root, centre = batch
    residual = tf.einsum("tij,tj->ti", root, weights[0] - centre)
    return tf.reduce_sum(residual**2, -1) / 2


def adapted_by_hand(t, steps):
    shrink = np.linalg.matrix_power(np.eye(SIZE) - ALPHA * HESSIAN[t], steps)
    return shrink, SUPPORT_CENTRE[t] + shrink @ (THETA - SUPPORT_CENTRE[t])


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_adapted_weights(steps):
    weights = stack([tf.constant(THETA)], T, None)
    path, losses = adapt(parabola, weights, [SUPPORT] * steps, step_size=ALPHA)
    assert (len(path), len(losses)) == (steps + 1, steps)
    for step, weights in enumerate(path):
        expected = np.stack([adapted_by_hand(t, step)[1] for t in range(T)])
        np.testing.assert_allclose(weights[0], expected, rtol=1e-12)
    for weights, loss in zip(path[:-1], losses, strict=True):
        np.testing.assert_allclose(loss, parabola(weights, SUPPORT), rtol=1e-12)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_meta_gradient(steps, first_order, recompute):
    theta = tf.constant(THETA)
    with tf.GradientTape() as tape:
        tape.watch(theta)
        path, _ = adapt(
            parabola,
            stack([theta], T, None),
            [SUPPORT] * steps,
            step_size=ALPHA,
            first_order=first_order,
            recompute=recompute,
        )
        objective = tf.reduce_sum(parabola(path[-1], QUERY))
    expected = np.zeros(SIZE)
    for t in range(T):
        shrink, adapted = adapted_by_hand(t, steps)
        gradient = QUERY_HESSIAN[t] @ (adapted - QUERY_CENTRE[t])
        expected += gradient if first_order else shrink.T @ gradient
    np.testing.assert_allclose(tape.gradient(objective, theta), expected, rtol=1e-10)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_gradient_of_a_step_size_for_each_number(steps, recompute):
    """With a diagonal H_t = diag(h), each number shrinks alone: (1 - alpha_i h_i)^S."""
    curvature = rng.uniform(0.5, 2.0, size=(T, SIZE))
    alphas = rng.uniform(0.1, 0.3, size=SIZE)
    centre = SUPPORT_CENTRE

    def loss_fn(weights, target):
        return tf.reduce_sum(curvature * (weights[0] - target) ** 2, -1) / 2

    alpha = tf.constant(alphas)
    with tf.GradientTape() as tape:
        tape.watch(alpha)
        path, _ = adapt(
            loss_fn,
            stack([tf.constant(THETA)], T, None),
            [tf.constant(centre)] * steps,
            step_size=[alpha],
            recompute=recompute,
        )
        objective = tf.reduce_sum(loss_fn(path[-1], tf.constant(QUERY_CENTRE)))
    shrink = 1 - alphas * curvature
    adapted = centre + shrink**steps * (THETA - centre)
    np.testing.assert_allclose(path[-1][0], adapted, rtol=1e-12)
    moved = -steps * curvature * shrink ** (steps - 1) * (THETA - centre)  # d adapted / d alpha
    expected = (curvature * (adapted - QUERY_CENTRE) * moved).sum(0)
    np.testing.assert_allclose(tape.gradient(objective, alpha), expected, rtol=1e-10)


def two_weights(weights, target):
    """1/2 (a - target)^2 + 1/2 (b - target)^2 + a b."""
    a, b = weights
    return ((a - target) ** 2 + (b - target) ** 2) / 2 + a * b


def test_a_step_size_a_weight_by_hand():
    weights = [tf.constant([1.0]), tf.constant([2.0])]
    (a, b), loss = gradient_step(two_weights, weights, 3.0, step_size=[0.1, 0.01])
    # dL/da = 1 - 3 + 2 = 0; dL/db = 2 - 3 + 1 = 0
    np.testing.assert_allclose([a, b], [[1.0], [2.0]])
    np.testing.assert_allclose(loss, [(4 + 1) / 2 + 2])
    (a, b), _ = gradient_step(two_weights, weights, 0.0, step_size=[0.1, 0.01])
    # dL/da = 1 + 2 and dL/db = 2 + 1
    np.testing.assert_allclose([a, b], [[1 - 0.3], [2 - 0.03]], rtol=1e-6)


def test_a_weight_that_does_not_adapt_stays_shared():
    shared = [tf.constant(1.0), tf.constant(2.0)]
    adapts = [True, False]
    weights = stack(shared, 2, adapts)
    assert [w.shape for w in weights] == [(2,), ()]
    (a, b), _ = gradient_step(
        two_weights, weights, tf.constant([0.0, 1.0]), step_size=0.1, adapts=adapts
    )
    # dL/da = 1 - target + 2
    np.testing.assert_allclose(a, [1 - 0.3, 1 - 0.2], rtol=1e-6)
    assert b is shared[1]


def test_another_batch_each_step():
    weights = [tf.constant([0.0])]
    path, _ = adapt(lambda w, c: (w[0] - c) ** 2 / 2, weights, [1.0, 3.0], step_size=0.5)
    # 0 -> 0 + (1 - 0) / 2 -> 0.5 + (3 - 0.5) / 2
    np.testing.assert_allclose([w[0][0] for w in path], [0.0, 0.5, 1.75])


def test_a_weight_that_the_loss_does_not_read_stays():
    weights = [tf.constant([1.0]), tf.constant([2.0])]
    (a, b), _ = gradient_step(lambda w, _: w[0] ** 2, weights, None, step_size=0.1)
    np.testing.assert_allclose([a, b], [[0.8], [2.0]])


def test_stack_takes_a_number_of_tasks_known_only_when_it_runs():
    @tf.function(autograph=False, input_signature=[tf.TensorSpec([], tf.int32)])
    def copies(num_tasks):
        return stack([tf.constant([1.0, 2.0])], num_tasks, None)[0]

    np.testing.assert_array_equal(copies(3), [[1.0, 2.0]] * 3)


def test_as_many_step_sizes_as_weights():
    with pytest.raises(ValueError, match="shorter|longer"):
        gradient_step(two_weights, [tf.zeros([1])] * 2, 0.0, step_size=[0.1])


@pytest.mark.parametrize("recompute", [False, True])
def test_recompute_runs_each_step_again_in_the_backward_pass(recompute):
    calls = []

    def loss_fn(weights, batch):
        calls.append(batch)
        return parabola(weights, SUPPORT)

    theta = tf.constant(np.tile(THETA, [T, 1]))
    with tf.GradientTape() as tape:
        tape.watch(theta)
        path, _ = adapt(loss_fn, [theta], [0, 1, 2], step_size=ALPHA, recompute=recompute)
    in_the_forward_pass = len(calls)
    tape.gradient(path[-1], theta)
    assert (len(calls) > in_the_forward_pass) == recompute


@pytest.mark.parametrize("steps", [-1, 0, 1, 3])
def test_adapting_for_a_number_of_steps_known_only_when_it_runs(steps):
    weights = stack([tf.constant(THETA)], T, None)
    traces = []

    @tf.function(autograph=False)
    def run(steps):
        traces.append(steps)

        def observe(weights, taken):
            del taken
            return tf.cast(parabola(weights, QUERY), tf.float32)

        return adapt_for(parabola, weights, SUPPORT, steps, step_size=ALPHA, observe=observe)

    run(tf.constant(2))
    (adapted,), seen = run(tf.constant(steps))
    assert len(traces) == 1
    path, _ = adapt(parabola, weights, [SUPPORT] * max(steps, 0), step_size=ALPHA)
    np.testing.assert_allclose(adapted, path[-1][0], rtol=1e-12)
    np.testing.assert_allclose(seen, [parabola(w, QUERY) for w in path], rtol=1e-6)


def test_adapting_for_a_number_of_steps_leaves_shared_weights_alone():
    adapts = [True, False]
    weights = stack([tf.constant(1.0), tf.constant(2.0)], 2, adapts)
    (a, b), seen = adapt_for(
        two_weights, weights, tf.constant([0.0, 1.0]), 1, step_size=0.1, adapts=adapts
    )
    np.testing.assert_allclose(a, [1 - 0.3, 1 - 0.2], rtol=1e-6)
    assert float(b) == 2.0 and seen is None


def test_a_step_size_keeps_its_precision():
    (weight,), _ = gradient_step(lambda w, _: w[0], [tf.zeros([1], tf.float64)], 0, step_size=0.1)
    assert float(weight[0]) == -0.1
