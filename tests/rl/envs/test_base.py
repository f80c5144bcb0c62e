import pytest

gymnasium = pytest.importorskip("gymnasium", reason="needs the extra rl")
pytest.importorskip("mujoco", reason="needs the extra rl")

import warnings

import numpy as np
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from maml_tf.rl import envs

NAMES = list(envs.ENVIRONMENTS)
RANGES = {
    "navigation_2d": (2, -0.5, 0.5),
    "cheetah_velocity": (1, 0.0, 2.0),
    "ant_velocity": (1, 0.0, 3.0),
    "ant_goal": (2, -3.0, 3.0),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.cases(3)
def test_gymnasium_s_own_checks_pass(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*Box observation space m.*infinity")
        check_env(gymnasium.make(envs.ENVIRONMENTS[name].id).unwrapped)


@pytest.mark.parametrize("name", NAMES)
def test_many_in_one_are_made_by_gymnasium(name):
    vector = gymnasium.make_vec(
        envs.ENVIRONMENTS[name].id, num_envs=3, vectorization_mode="vector_entry_point"
    )
    observations, _ = vector.reset(seed=0)
    assert observations in vector.observation_space
    assert vector.max_episode_steps == (100 if name == "navigation_2d" else 200)
    observations, rewards, *_ = vector.step(vector.action_space.sample())
    assert observations in vector.observation_space and rewards.shape == (3,)
    vector.close()


@pytest.mark.parametrize("name", RANGES)
def test_tasks_fill_their_range(name):
    size, low, high = RANGES[name]
    tasks = envs.make_vector(name).sample_tasks(np.random.default_rng(0), 2000)
    assert tasks.shape == (2000, size)
    margin = 0.01 * (high - low)
    assert (low <= tasks.min(0)).all() and (tasks.min(0) < low + margin).all()
    assert (tasks.max(0) <= high).all() and (tasks.max(0) > high - margin).all()
    np.testing.assert_allclose(tasks.mean(0), (low + high) / 2, atol=3 * margin)


@pytest.mark.parametrize("name", ["cheetah_direction", "ant_direction"])
def test_directions_are_both_and_nothing_else(name):
    tasks = envs.make_vector(name).sample_tasks(np.random.default_rng(0), 200)
    assert tasks.shape == (200, 1)
    assert set(np.unique(tasks)) == {-1.0, 1.0} and abs(tasks.mean()) < 0.3


@pytest.mark.parametrize("name", NAMES)
def test_the_oracle_sees_its_task_behind_the_observation(name):
    plain, oracle = (envs.make_vector(name, 2, oracle=o) for o in (False, True))
    tasks = plain.sample_tasks(np.random.default_rng(0), 2)
    shown = []
    for env in (plain, oracle):
        env.set_tasks(tasks)
        first, _ = env.reset(seed=1)
        shown.append((first, env.step(np.full((2, env.action_size), 0.3))[0]))
    for without, with_task in zip(*shown, strict=True):
        np.testing.assert_array_equal(with_task[:, : -tasks.shape[1]], without)
        np.testing.assert_allclose(with_task[:, -tasks.shape[1] :], tasks, rtol=1e-6)


def test_a_task_is_drawn_at_each_reset_until_it_is_set():
    env = gymnasium.make("maml_tf/HalfCheetahVelocity-v0").unwrapped
    drawn = [env.reset(seed=0) and float(env.task[0])]
    drawn += [env.reset() and float(env.task[0]) for _ in range(3)]
    assert len(set(drawn)) == 4
    env.set_task([0.7])
    for _ in range(2):
        env.reset()
        assert env.task == 0.7


def test_ended_episodes_start_anew_with_the_next_step():
    env = envs.make_vector("navigation_2d", 2)
    env.set_tasks([[0.1, 0.0], [0.5, 0.5]])
    env.reset(seed=0)
    right = np.array([[1.0, 0.0]] * 2)
    _, _, terminated, *_ = env.step(right)
    assert terminated.tolist() == [True, False]
    observations, rewards, terminated, *_ = env.step(right)
    np.testing.assert_allclose(observations, [[0.0, 0.0], [0.2, 0.0]], rtol=1e-6)
    assert rewards[0] == 0.0 and not terminated.any()
    np.testing.assert_allclose(env.step(right)[0][:, 0], [0.1, 0.3], rtol=1e-6)


def test_without_automatic_resets_ended_episodes_stand_still():
    env = envs.make_vector("navigation_2d", 2, autoreset_mode=AutoresetMode.DISABLED)
    env.set_tasks([[0.1, 0.0], [0.5, 0.5]])
    env.reset(seed=0)
    right = np.array([[1.0, 0.0]] * 2)
    env.step(right)
    for x in (0.2, 0.3):
        observations, rewards, terminated, *_ = env.step(right)
        np.testing.assert_allclose(observations, [[0.1, 0.0], [x, 0.0]], rtol=1e-6)
        assert rewards[0] == 0.0 and not terminated.any()
    observations, _ = env.reset(options={"reset_mask": np.array([True, False])})
    np.testing.assert_allclose(observations, [[0.0, 0.0], [0.3, 0.0]], rtol=1e-6)


def test_episodes_are_cut_at_the_limit_of_steps():
    env = envs.make_vector("navigation_2d", 1, max_episode_steps=3)
    env.set_tasks([[0.5, 0.5]])
    env.reset(seed=0)
    cut = [bool(env.step(np.zeros((1, 2)))[3][0]) for _ in range(7)]
    assert cut == [False, False, True, False, False, False, True]


@pytest.mark.parametrize("autoreset_mode", [AutoresetMode.DISABLED, AutoresetMode.NEXT_STEP])
@pytest.mark.parametrize("name", ["navigation_2d", "cheetah_velocity", "ant_goal"])
def test_an_action_that_is_no_number_ends_its_own_episode_alone(name, autoreset_mode):
    def roll(broken):
        env = envs.make_vector(name, 3, autoreset_mode=autoreset_mode)
        env.reset(seed=3)
        env.set_tasks(env.tasks.copy())
        for step in range(3):
            actions = np.full((3, env.action_size), 0.1)
            if broken and step == 1:
                actions[1, 0] = np.nan
            yield env.step(actions)

    before = None
    for step, (whole, broken) in enumerate(zip(roll(False), roll(True), strict=True)):
        for a, b in zip(whole[:3], broken[:3], strict=True):
            np.testing.assert_array_equal(np.delete(a, 1, 0), np.delete(b, 1, 0))
        observations, rewards, terminated, _, infos = broken
        assert np.isfinite(observations).all() and np.isfinite(rewards).all()
        assert ("diverged" in infos) == (step == 1)
        if step == 1:
            assert infos["diverged"].tolist() == [False, True, False]
            assert terminated[1] and rewards[1] == 0.0
            np.testing.assert_array_equal(observations[1], before[1])
        before = observations


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"num_envs": 0}, "num_envs is 0"),
        ({"max_episode_steps": 0}, "max_episode_steps is 0"),
        ({"autoreset_mode": AutoresetMode.SAME_STEP}, "use NEXT_STEP or DISABLED"),
        ({"dynamics": "real"}, "use 'paper' or 'gymnasium'"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_bad_input_is_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        envs.make_vector("cheetah_velocity", **keywords)


def test_tasks_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"shape \[3\]; give \[3, 1\]"):
        envs.make_vector("cheetah_velocity", 3).set_tasks(np.zeros(3))


@pytest.mark.parametrize("name", envs.ENVIRONMENTS)
def test_parts_are_views_that_step_as_the_whole_does(name):
    options = {"autoreset_mode": AutoresetMode.DISABLED, "oracle": True, "max_episode_steps": 3}
    whole, cut = (envs.make_vector(name, 5, **options) for _ in range(2))
    parts = [cut.part(slice(0, 2)), cut.part(slice(2, 5))]
    tasks = whole.sample_tasks(np.random.default_rng(0), 5)
    for env in whole, cut:
        env.set_tasks(tasks)
        env.reset(seed=3)
    for step in range(4):
        actions = np.random.default_rng(step).uniform(-1, 1, (5, whole.action_size))
        together = whole.step(actions)[:4]
        apart = [p.step(a)[:4] for p, a in zip(parts, (actions[:2], actions[2:]), strict=True)]
        for one, many in zip(together, zip(*apart, strict=True), strict=True):
            np.testing.assert_array_equal(one, np.concatenate(many))
    np.testing.assert_array_equal(whole.positions, cut.positions)
