import math

import numpy as np
import pytest
import tensorflow as tf
from helpers import normal

from maml_tf.rl.policy import LOG_STD_FLOOR, Gaussian, GaussianPolicy, kl, log_prob


def gaussian(seed, tasks=2, steps=5, actions=3):
    return Gaussian(normal(seed, tasks, steps, actions), 0.3 * normal(seed + 1, tasks, actions))


def test_the_log_probability_is_the_closed_form():
    policy, actions = gaussian(0), normal(9, 2, 5, 3)
    scaled = (actions - policy.means) / np.exp(policy.log_stds)[:, None]
    expected = -0.5 * np.sum(scaled**2, -1) - np.sum(policy.log_stds, -1)[:, None]
    expected -= 1.5 * math.log(2 * math.pi)
    np.testing.assert_allclose(log_prob(policy, actions), expected, rtol=1e-5)


def test_the_divergence_is_the_closed_form_and_zero_of_equals():
    old, new = gaussian(0), gaussian(2)
    s, t = (np.exp(2 * g.log_stds)[:, None] for g in (old, new))
    squares = (old.means - new.means).numpy() ** 2
    terms = np.log(t / s) / 2 + (s + squares) / (2 * t) - 0.5
    np.testing.assert_allclose(kl(old, new), terms.sum(-1), rtol=1e-5)
    np.testing.assert_allclose(kl(old, old), np.zeros((2, 5)), atol=1e-6)


def test_initial_weights_are_glorot_zero_and_zero_and_a_function_of_the_seed():
    policy = GaussianPolicy(20, 6, seed=3)
    shapes = [tuple(v.shape) for v in policy.variables]
    assert shapes == [(20, 100), (100,), (100, 100), (100,), (100, 6), (6,), (6,)]
    for kernel, bias in zip(policy.variables[0:6:2], policy.variables[1:6:2], strict=True):
        limit = math.sqrt(6 / sum(kernel.shape))
        values = np.asarray(kernel)
        assert 0.9 * limit < np.abs(values).max() <= limit and not np.asarray(bias).any()
    assert not np.asarray(policy.log_std).any()
    again, other = GaussianPolicy(20, 6, seed=3), GaussianPolicy(20, 6, seed=4)
    np.testing.assert_array_equal(policy.variables[0], again.variables[0])
    assert (np.asarray(policy.variables[0]) != np.asarray(other.variables[0])).any()


def test_an_actor_draws_by_the_noise_and_stacked_weights_are_each_task_s_own():
    policy = GaussianPolicy(2, 1, hidden=(4,), seed=1)
    weights = [tf.stack([v.value, v.value + 0.1 * (i + 1)]) for i, v in enumerate(policy.variables)]
    seen, noise = normal(0, 2, 3, 2).numpy(), normal(1, 2, 3, 1).numpy()
    act = policy.actor(weights, 2)
    actions, means = act(seen, noise)
    np.testing.assert_allclose(actions - means, np.exp(act.log_stds)[:, None] * noise, rtol=1e-5)
    for task in range(2):
        alone = policy.actor([w[task] for w in weights], 1)
        np.testing.assert_allclose(alone(seen[task : task + 1], noise[:1])[1][0], means[task], 1e-5)
        np.testing.assert_allclose(alone.log_stds, act.log_stds[task : task + 1])


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("stacked", [False, True])
def test_an_actor_has_the_policy_s_means(context, stacked):
    policy = GaussianPolicy(3, 2, hidden=(5, 4), context=context)
    weights = [normal(i, *v.shape) for i, v in enumerate(policy.variables)]
    if stacked:
        weights = [tf.stack([w, -w, 0.5 * w]) for w in weights]
    seen, noise = normal(8, 3, 6, 3), normal(9, 3, 6, 2).numpy()
    expected = policy(weights, seen)
    act = policy.actor(weights, 3)
    actions, means = act(seen.numpy(), noise)
    np.testing.assert_allclose(means, expected.means, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(act.log_stds, np.broadcast_to(expected.log_stds, (3, 2)))
    assert actions.dtype == means.dtype == weights[0].dtype.as_numpy_dtype


def test_the_spread_has_a_floor():
    policy = GaussianPolicy(2, 1, hidden=(4,))
    policy.log_std.assign([-100.0])
    weights = [v.value for v in policy.variables]
    assert policy(weights, normal(0, 1, 3, 2)).log_stds.numpy() == pytest.approx(LOG_STD_FLOOR)
    assert policy.actor(weights, 2).log_stds == pytest.approx(np.full((2, 1), LOG_STD_FLOOR))


def test_a_size_below_one_is_refused():
    with pytest.raises(ValueError, match="must be 1 or more"):
        GaussianPolicy(2, 0)
