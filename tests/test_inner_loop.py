"""What every meta-learner has: theta, what adapts, alpha; and three ways to take the same steps."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf.engine.adaptation import adapt
from maml_tf.engine.inner_loop import InnerLoop, learned_step_sizes, which_adapt

THETA = [
    keras.Variable([1.0, 2.0], name="kernel"),
    keras.Variable([0.5, -0.5], name="bias"),
]
TARGET = tf.constant([[3.0, 0.0], [0.0, 1.0]])  # [T, 2]


def loss(weights, batch):
    kernel, bias = weights
    return tf.reduce_sum(tf.square(kernel * bias - batch), -1)


def make(**options):
    return InnerLoop(THETA, [True, False], 0.1, **options)


def learned(inner):
    step_sizes = learned_step_sizes(THETA, inner.adapts, 0.2)
    return InnerLoop(THETA, inner.adapts, 0.2, step_sizes)


def test_unrolled_looped_and_differentiable_steps_are_the_same():
    inner = make()
    unrolled = inner.steps(loss, inner.stacked(2), [TARGET] * 3)
    looped, seen = inner.loop(
        loss, inner.stacked(2), TARGET, tf.constant(3), observe=lambda w, _: loss(w, TARGET)
    )
    through = inner.differentiable(loss, inner.values(), [TARGET] * 3, 2)
    assert unrolled.weights[-1][0].shape == [2, 2] and unrolled.weights[-1][1].shape == [2]
    np.testing.assert_allclose(looped[0], unrolled.weights[-1][0], rtol=1e-6)
    np.testing.assert_allclose(through.weights[-1][0], looped[0], rtol=1e-6)
    np.testing.assert_allclose(seen[:3], tf.stack(unrolled.losses), rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"first_order": True}, {"recompute": True}], ids=str)
def test_the_gradient_through_the_steps_is_that_of_adapt(options):
    inner = make(**options)
    how = {"step_size": 0.1, "adapts": inner.adapts, "first_order": inner.first_order}

    def gradient(adapted):
        with tf.GradientTape() as tape:
            values = inner.values()
            tape.watch(values)
            outer = tf.reduce_sum(loss(adapted(values), 1.0))
        return tape.gradient(outer, values)

    got = gradient(lambda v: inner.differentiable(loss, v, [TARGET] * 2, 2).weights[-1])
    stacked = gradient(
        lambda v: adapt(loss, [tf.stack([v[0]] * 2), v[1]], [TARGET] * 2, **how).weights[-1]
    )
    for a, b in zip(got, stacked, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_learned_step_sizes_stand_behind_theta():
    inner = learned(make())
    assert [tuple(v.shape) for v in inner.parameters] == [(2,), (2,), (2,)]
    weights, alphas, own = inner.split([2 * v for v in inner.values()])
    assert own is None  # no weights of each step's own
    np.testing.assert_array_equal(weights[1], 2 * THETA[1].value)
    np.testing.assert_allclose(alphas[0], [0.4, 0.4])
    assert float(alphas[1]) == 0.0  # it does not adapt
    np.testing.assert_allclose(inner.alphas()[0], [0.2, 0.2])
    assert inner.alphas(0.3) == 0.3


def test_one_alpha_per_weight_for_compiled_functions():
    assert [float(alpha) for alpha in make().alphas_by_weight()] == pytest.approx([0.1, 0.1])
    assert [float(alpha) for alpha in make().alphas_by_weight(0.5)] == [0.5, 0.5]
    assert learned(make()).alphas_by_weight()[0].shape == [2]
    assert [float(alpha) for alpha in learned(make()).alphas_by_weight(0.5)] == [0.5, 0.5]


def test_names_and_the_least_of_learned_step_sizes():
    made = learned_step_sizes(THETA, [True, True], 0.2, positive=True, names=["a", "b"])
    assert [v.name for v in made] == ["a", "b"]
    np.testing.assert_allclose(made[1].constraint(tf.constant([-1.0, 1.0])), [2e-4, 1.0])
    assert learned_step_sizes(THETA, [False, True], 0.2)[0].name == "step_size_bias"


def test_what_adapts():
    assert which_adapt(THETA, None) == [True, True]
    assert which_adapt(THETA, None, default=lambda v: v.name == "bias") == [False, True]
    assert which_adapt(THETA, lambda v: v.name == "kernel") == [True, False]
    with pytest.raises(ValueError, match="No variable adapts; .* one of kernel, bias"):
        which_adapt(THETA, lambda v: False)
    with pytest.raises(ValueError, match="adapts must be a function"):
        which_adapt(THETA, ["kernel"])


def test_constraints_hold_after_each_step():
    kernel = keras.Variable([1.0, 2.0], name="kernel")
    kernel.constraint = keras.constraints.MaxNorm(0.5, axis=None)
    inner = InnerLoop([kernel, THETA[1]], [True, False], 0.1)
    assert make().constrain is None
    for weights in inner.steps(loss, inner.stacked(2), [TARGET] * 2).weights[1:]:
        norms = np.linalg.norm(np.asarray(weights[0]).reshape(2, -1), axis=1)
        assert (norms <= 0.5 + 1e-6).all()
