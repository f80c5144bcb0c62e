import pytest

pytest.importorskip("gymnasium", reason="needs the extra rl")

import numpy as np

from maml_tf.rl import envs


def walk(actions, goal, **keywords):
    env = envs.make_vector("navigation_2d", 1, **keywords)
    env.set_tasks([goal])
    env.reset(seed=0)
    steps = [env.step(np.array([action])) for action in actions]
    return [(*s[0][0].tolist(), float(s[1][0]), bool(s[2][0])) for s in steps]


def test_a_walk_is_arithmetic():
    # An action of 1 moves 0.1; beyond, it is clipped.
    steps = walk([[1.0, -0.5], [7.0, 2.0], [-1.0, 0.0]], [0.4, -0.35])
    expected = [
        (0.1, -0.05, -np.hypot(0.3, 0.3), False),
        (0.2, 0.05, -np.hypot(0.2, 0.4), False),
        (0.1, 0.05, -np.hypot(0.3, 0.4), False),
    ]
    np.testing.assert_allclose(steps, expected, rtol=1e-6)


def test_the_squared_distance_on_request():
    assert walk([[1.0, 0.0]], [0.4, 0.4], squared=True)[0][2] == pytest.approx(-0.25)


def test_it_ends_within_a_hundredth_of_the_goal():
    ends = [walk([[1.0, 0.0]], [0.1 + away, 0.0])[0][3] for away in (0.0099, 0.0101, -0.0099)]
    assert ends == [True, False, True]
