import numpy as np
import pytest
import tensorflow as tf

from maml_tf.rl.advantages import discounted_sums, generalized_advantages, standardize


def test_returns_of_three_steps():
    got = discounted_sums(tf.constant([[1.0, 2.0, 4.0]]), 0.5)
    np.testing.assert_allclose(got, [[1 + 1 + 1, 2 + 2, 4]])


@pytest.mark.parametrize("gae_lambda", [1.0, 0.9, 0.0])
def test_advantages_are_those_of_a_loop_over_each_episode(gae_lambda):
    random = np.random.default_rng(0)
    rewards, values = random.normal(size=(2, 2, 3, 7))
    lengths = np.array([[7, 3, 1], [5, 7, 2]])
    mask = (np.arange(7) < lengths[..., None]).astype(float)
    got = generalized_advantages(rewards, values, mask, discount=0.99, gae_lambda=gae_lambda)
    for t, e in np.ndindex(2, 3):
        end, advantage, following = lengths[t, e], 0.0, 0.0
        expected = np.zeros(7)
        for step in reversed(range(end)):
            delta = rewards[t, e, step] + 0.99 * following - values[t, e, step]
            advantage = delta + 0.99 * gae_lambda * advantage
            expected[step], following = advantage, values[t, e, step]
        np.testing.assert_allclose(got[t, e], expected, rtol=1e-10)


def test_standardised_over_each_task_s_taken_steps():
    random = np.random.default_rng(1)
    values = 5 + 3 * random.normal(size=(2, 3, 4))
    mask = np.ones((2, 3, 4))
    mask[0, 1, 2:] = 0
    got = standardize(tf.constant(values), tf.constant(mask)).numpy()
    for task in range(2):
        taken = mask[task] > 0
        expected = (values[task][taken] - values[task][taken].mean()) / values[task][taken].std()
        np.testing.assert_allclose(got[task][taken], expected, rtol=1e-6)
    assert not got[mask == 0].any()


def test_equal_advantages_are_no_advantages():
    ones = tf.ones([1, 2, 3])
    assert not standardize(7 * ones, ones).numpy().any()
