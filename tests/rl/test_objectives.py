import numpy as np
import tensorflow as tf
from helpers import PointSampler, normal

from maml_tf.rl import advantages
from maml_tf.rl import linear_baseline as value
from maml_tf.rl.objectives import (
    PolicyBatch,
    likelihood_ratio,
    mean_kl,
    policy_batch,
    reinforce,
    surrogate,
)
from maml_tf.rl.policy import Gaussian, GaussianPolicy, kl, log_prob


def make_batch(policy, weights):
    seen = normal(0, 2, 5, 2)
    old = policy(weights, seen)
    mask = tf.constant([[1.0, 1, 1, 0, 1], [1, 0, 0, 1, 0]])
    return PolicyBatch(seen, old.means + normal(1, 2, 5, 1), normal(2, 2, 5), mask, old)


def test_each_objective_is_a_mean_over_a_task_s_taken_steps():
    policy = GaussianPolicy(2, 1, hidden=(4,))
    weights = [v.value for v in policy.variables]
    batch = make_batch(policy, weights)
    new = Gaussian(batch.old.means + 0.1, tf.constant([0.2]))
    losses = reinforce(policy)(weights, batch)
    for task in range(2):
        taken = batch.mask[task].numpy() > 0
        gains = batch.advantages[task].numpy()[taken]
        old, now = (log_prob(g, batch.actions)[task].numpy()[taken] for g in (batch.old, new))
        np.testing.assert_allclose(losses[task], -np.mean(old * gains), rtol=1e-5)
        expected = -np.mean(np.exp(now - old) * gains)
        np.testing.assert_allclose(surrogate(new, batch)[task], expected, rtol=1e-5)
        apart = kl(batch.old, new)[task].numpy()[taken]
        np.testing.assert_allclose(mean_kl(batch.old, new, batch)[task], apart.mean(), rtol=1e-5)


def test_at_the_old_policy_both_inner_losses_have_one_gradient():
    policy = GaussianPolicy(2, 1, hidden=(4,))
    weights = [tf.identity(v.value) for v in policy.variables]
    batch = make_batch(policy, weights)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(weights)
        one = reinforce(policy)(weights, batch)
        other = likelihood_ratio(policy)(weights, batch)
    for a, b in zip(tape.gradient(one, weights), tape.gradient(other, weights), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_batch_of_trajectories_and_its_first_episodes():
    policy = GaussianPolicy(2, 2, hidden=(4,))
    sampler = PointSampler(tasks=3, episodes=4, horizon=5)
    tasks = sampler.sample_tasks(0)
    taken = sampler.sample(policy.actor([v.value for v in policy.variables], 3), tasks, 0)
    batch, returns = policy_batch(taken, discount=0.9, gae_lambda=1.0)
    expected = (taken.rewards * taken.mask).sum(2).mean(1)  # not discounted
    np.testing.assert_allclose(returns, expected, rtol=1e-5)
    # With lambda 1 an advantage is the discounted return minus the baseline.
    x = value.features(tf.constant(taken.observations))
    ahead = advantages.discounted_sums(tf.constant(taken.rewards), 0.9)
    excess = ahead - value.predict(x, value.fit(x, ahead, taken.mask))
    expected = advantages.standardize(excess, taken.mask)
    np.testing.assert_allclose(batch.advantages, tf.reshape(expected, [3, 20]), atol=1e-3)
    np.testing.assert_array_equal(batch.observations[1, 7], taken.observations[1, 1, 2])
    part = batch.first(10)
    assert part.actions.shape == (3, 10, 2) and part.old.means.shape == (3, 10, 2)
    np.testing.assert_array_equal(part.mask, batch.mask[:, :10])
