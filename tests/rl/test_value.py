import numpy as np
import tensorflow as tf
from helpers import normal

from maml_tf.rl import linear_baseline as value


def random_episodes(tasks=2, episodes=4, horizon=6, size=2):
    seen = 6 * normal(0, tasks, episodes, horizon, size)  # some beyond the clip
    mask = (np.arange(horizon) < np.array([6, 2, 5, 3])[:, None]).astype(np.float32)
    return seen, normal(1, tasks, episodes, horizon), tf.stack([mask] * tasks)


def test_features_are_those_of_the_original():
    seen = tf.constant([[[[1.0, -20.0], [2.0, 3.0], [0.0, 30.0]]]])
    expected = [2.0, 3.0, 4.0, 9.0, 0.01, 0.0001, 1e-6, 1.0]
    got = value.features(seen).numpy()[0, 0]
    np.testing.assert_allclose(got[1], expected, rtol=1e-5)
    np.testing.assert_allclose(got[0, :4], [1, -10, 1, 100])
    assert got[2, 1] == 10 and got[2, 3] == 100


def test_the_fit_is_each_task_s_own_regularised_least_squares_over_its_taken_steps():
    seen, returns, mask = random_episodes()
    x = value.features(seen)
    got = value.fit(x, returns, mask).numpy()
    for task in range(2):
        taken = mask[task].numpy() > 0
        a, b = x[task].numpy()[taken].astype(float), returns[task].numpy()[taken].astype(float)
        rows = np.vstack([a, np.sqrt(value.RIDGE) * np.eye(a.shape[1])])
        expected = np.linalg.lstsq(rows, np.append(b, np.zeros(a.shape[1])), rcond=None)[0]
        np.testing.assert_allclose(got[task], expected, rtol=1e-5, atol=1e-7)
    fitted = value.predict(x, tf.constant(got))
    np.testing.assert_allclose(fitted[0, 0], x[0, 0].numpy() @ got[0], rtol=1e-4)


def test_a_task_that_needs_more_ridge_gets_it_alone():
    x = tf.constant(np.stack([np.eye(4), 1e8 * np.ones((4, 4))])[:, None], tf.float64)
    y = tf.ones([2, 1, 4], tf.float64)
    got = tf.function(value.fit, autograph=False)(x, y, tf.ones([2, 1, 4], tf.float64)).numpy()
    np.testing.assert_allclose(got[0], np.full(4, 1 / (1 + value.RIDGE)))
    assert np.isfinite(got).all()


def test_unsolvable_equations_give_no_baseline():
    x = tf.constant(np.full((1, 1, 3, 2), np.inf))
    y = tf.ones([1, 1, 3], tf.float64)
    assert not value.fit(x, y, y).numpy().any()
