import pytest

gymnasium = pytest.importorskip("gymnasium", reason="needs the extra rl")
pytest.importorskip("mujoco", reason="needs the extra rl")

import numpy as np
import tensorflow as tf
from gymnasium.spaces import Text
from lines import Line

from maml_tf import seeds
from maml_tf.rl import envs
from maml_tf.rl.policy import GaussianPolicy
from maml_tf.rl.sampler import Sampler


class Noise:
    """Mean of each task's own, deviation 1; remembers what it saw."""

    def __init__(self, tasks, action_size, scale=1.0):
        self.log_stds = np.zeros((tasks, action_size), np.float32)
        self.scale = scale
        self.seen = []

    def __call__(self, observations, noise):
        self.seen.append((observations.copy(), noise.copy()))
        means = 0.01 * np.arange(len(noise), dtype=np.float32)[:, None, None] + 0 * noise
        return means + self.scale * noise, means


def roll(environment="cheetah_velocity", index=0, stage=0, split="train", scale=1.0, **keywords):
    sampler = Sampler(environment, **{"tasks": 2, "episodes": 3, "horizon": 10, **keywords})
    policy = Noise(sampler.tasks, sampler.action_size, scale)
    tasks = sampler.sample_tasks(index, split)
    trajectories = sampler.sample(policy, tasks, index, stage, split)
    sampler.close()
    return sampler, tasks, policy, trajectories


@pytest.mark.parametrize("name", envs.ENVIRONMENTS)
def test_shapes_and_types(name):
    sampler, tasks, policy, trajectories = roll(name, horizon=None)
    horizon = 100 if name == "navigation_2d" else 200
    sizes = {"observations": (sampler.observation_size,), "rewards": (), "mask": ()}
    sizes |= {"actions": (sampler.action_size,), "outputs": (sampler.action_size,)}
    assert sampler.horizon == horizon and len(tasks) == 2
    for field, size in sizes.items():
        array = getattr(trajectories, field)
        assert array.shape == (2, 3, horizon, *size) and array.dtype == np.float32
        assert np.isfinite(array).all()
    assert trajectories.log_stds.shape == (2, sampler.action_size)
    assert sampler.diverged == 0


def test_the_policy_is_called_once_a_step_and_its_words_are_kept():
    _, _, policy, trajectories = roll()
    assert len(policy.seen) == 10
    for step, (observations, noise) in enumerate(policy.seen):
        assert observations.shape == (2, 3, 20) and noise.shape == (2, 3, 6)
        np.testing.assert_array_equal(trajectories.observations[:, :, step], observations)
        means = trajectories.outputs[:, :, step]
        np.testing.assert_array_equal(means[1], np.full((3, 6), 0.01, np.float32))
        np.testing.assert_array_equal(trajectories.actions[:, :, step], means + noise)


def test_a_walk_to_the_goal_by_arithmetic():
    sampler = Sampler("navigation_2d", tasks=2, episodes=1, horizon=4)

    class Right(Noise):
        def __call__(self, observations, noise):
            ones = np.zeros_like(noise) + np.float32([1.0, 0.0])
            return ones, ones

    goals = np.array([[0.2, 0.0], [0.3, 0.4]])
    trajectories = sampler.sample(Right(2, 2), goals, 0)
    np.testing.assert_array_equal(trajectories.mask[:, 0], [[1, 1, 0, 0], [1, 1, 1, 1]])
    rewards = [[-0.1, 0, 0, 0], -np.hypot([0.2, 0.1, 0.0, 0.1], 0.4)]
    np.testing.assert_allclose(trajectories.rewards[:, 0], rewards, atol=1e-7)
    np.testing.assert_allclose(trajectories.observations[1, 0, :, 0], [0, 0.1, 0.2, 0.3], rtol=1e-6)


def test_episodes_are_a_function_of_seed_split_index_and_stage():
    same = [roll()[3] for _ in range(2)]
    for a, b in zip(*same, strict=True):
        np.testing.assert_array_equal(a, b)
    others = [roll(index=1), roll(stage=1), roll(split="test"), roll(seed=1)]
    firsts = [same[0].observations] + [other[3].observations for other in others]
    for i in range(len(firsts)):
        for j in range(i):
            assert not np.isclose(firsts[i][:, :, 0, :17], firsts[j][:, :, 0, :17]).any()


def test_what_was_drawn_before_does_not_matter():
    sampler = Sampler("cheetah_velocity", tasks=2, episodes=3, horizon=10)
    policy = Noise(2, 6)
    sampler.sample(policy, sampler.sample_tasks(7), 7)
    again = sampler.sample(policy, sampler.sample_tasks(0), 0)
    for a, b in zip(again, roll()[3], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["cheetah_velocity", "ant_goal"])
def test_threads_do_not_change_a_number(name):
    one, two = (roll(name, episodes=20, horizon=40, threads=t)[3] for t in (1, 2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


class Shared:
    """A policy whose tasks may be shared out; remembers which were."""

    def __init__(self, act):
        self.act, self.log_stds, self.parts = act, act.log_stds, []

    def __call__(self, observations, noise):
        return self.act(observations, noise)

    def part(self, tasks):
        self.parts.append((tasks.start, tasks.stop))
        return self.act.part(tasks)


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("name", ["cheetah_velocity", "ant_goal"])
@pytest.mark.cases(2)
def test_threads_with_tasks_of_their_own_do_not_change_a_number(name, stacked):
    taken = []
    fours = [(0, 1), (1, 2), (2, 3), (3, 4)]
    for threads, parts in (1, []), (2, [(0, 2), (2, 4)]), (3, []), (4, fours), (8, []):
        sampler = Sampler(name, tasks=4, episodes=10, horizon=60, threads=threads)
        policy = GaussianPolicy(sampler.observation_size, sampler.action_size, seed=1)
        weights = [v.value for v in policy.variables]
        if stacked:
            weights = [tf.stack([w, 0.5 * w, w - 0.1, -w]) for w in weights]
        act = Shared(policy.actor(weights, 4))
        for index in range(2):
            taken.append(sampler.sample(act, sampler.sample_tasks(index), index))
        assert act.parts == 2 * parts
        sampler.close()
    if name == "ant_goal":  # some have fallen
        assert 0 < taken[0].mask.mean() < 1
    for first, others in (taken[0], taken[2::2]), (taken[1], taken[3::2]):
        for other in others:
            for a, b in zip(first, other, strict=True):
                np.testing.assert_array_equal(a, b)


def test_an_episode_after_early_ends_is_the_one_without_neighbours():
    # Environments that have ended are left out of the physics of the others.
    _, tasks, _, trajectories = roll("ant_goal", horizon=200, episodes=10)
    mask = trajectories.mask
    lengths = mask.sum(2)
    assert len(np.unique(lengths)) > 3 and (np.diff(mask, axis=2) <= 0).all()
    assert not trajectories.rewards[mask == 0].any()
    t, e = np.unravel_index(np.argmax(lengths), lengths.shape)
    env = envs.make_vector("ant_goal", 1)
    env.reset(seed=0)
    whole = envs.make_vector("ant_goal", 20)
    whole.set_tasks(np.repeat(tasks, 10, axis=0))
    whole.reset(seed=int(seed_of_first_states()))
    env._state[:] = whole._state[t * 10 + e]
    env.set_tasks(tasks[t : t + 1])
    for step in range(int(lengths[t, e])):
        reward = env.step(trajectories.actions[t, e, step][None])[1]
        assert reward[0] == pytest.approx(trajectories.rewards[t, e, step], abs=1e-5)


def seed_of_first_states():
    return seeds.generator(0, "train", "episodes of stage 0", 0).integers(2**31)


def test_a_diverged_episode_ends_and_is_counted():
    sampler = Sampler("cheetah_velocity", tasks=2, episodes=3, horizon=5)

    class Broken(Noise):
        def __call__(self, observations, noise):
            actions, means = super().__call__(observations, noise)
            if len(self.seen) == 3:
                actions[1, 2] = np.nan
            return actions, means

    trajectories = sampler.sample(Broken(2, 6), sampler.sample_tasks(0), 0)
    assert sampler.diverged == 1
    expected = np.ones((2, 3, 5))
    expected[1, 2, 2:] = 0
    np.testing.assert_array_equal(trajectories.mask, expected)
    assert np.isfinite(trajectories.rewards).all() and np.isfinite(trajectories.observations).all()
    assert np.isfinite(trajectories.actions).all()


def test_the_oracle_observes_its_task():
    sampler, tasks, _, trajectories = roll("ant_goal", oracle=True)
    assert sampler.observation_size == 127
    shown = trajectories.observations[..., 125:]
    np.testing.assert_allclose(shown[:, 0, 0], tasks, rtol=1e-6)
    assert (shown == shown[:, :1, :1]).all()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_any_gymnasium_environment_with_tasks(asynchronous):
    vector = envs.ForeignTasks(Line, 6, oracle=True, asynchronous=asynchronous)
    sampler, tasks, _, trajectories = roll(vector, scale=0.1)
    assert tasks.shape == (2, 1) and sampler.observation_size == 2
    x, goal = trajectories.observations[..., 0], trajectories.observations[..., 1]
    np.testing.assert_allclose(goal[:, :, 0], np.repeat(tasks, 3, axis=1), rtol=1e-6)
    # Actions in [-1, 1] are scaled to [0, 2]: x' = x + 2 (a + 1), and it ends beyond 3.
    after = x[:, :, 0] + 2 * (trajectories.actions[:, :, 0, 0] + 1)
    np.testing.assert_allclose(x[:, :, 1], after, rtol=1e-5)
    np.testing.assert_allclose(trajectories.rewards[:, :, 0], -abs(after - tasks), rtol=1e-5)
    np.testing.assert_array_equal(trajectories.mask[:, :, 0], 1.0)
    np.testing.assert_array_equal(trajectories.mask[:, :, 3:], 0.0)


def test_any_gymnasium_environment_that_diverges():
    class Broken(Line):
        broken_at = 2.5

    sampler, _, _, trajectories = roll(Broken, scale=0.1)
    assert sampler.diverged > 0
    assert all(np.isfinite(array).all() for array in trajectories)


@pytest.mark.parametrize("number", ["tasks", "episodes", "horizon"])
def test_numbers_below_one_are_refused(number):
    with pytest.raises(ValueError, match=f"{number} is 0; it must be at least 1"):
        roll(**{number: 0})


class Untasked(gymnasium.Env):
    observation_space, action_space = Line.observation_space, Line.action_space


class Letters(Line):
    action_space = Text(3)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ("cheetah", "'cheetah' is unknown; use one of navigation_2d"),
        ("CartPole-v1", "CartPole-v1 has no tasks; give it sample_tasks and set_task"),
        (Untasked, "Untasked has no tasks"),
        (
            Letters,
            r"Letters has actions Text.*; a policy has no distribution of such; let it be a Box",
        ),
        (lambda: gymnasium.vector.SyncVectorEnv([Line] * 6), "SyncVectorEnv has no tasks"),
        (lambda: envs.make_vector("navigation_2d", 5), "holds 5 environments"),
    ],
)
def test_environments_that_will_not_do_are_refused(environment, message):
    if not isinstance(environment, (str, type)):
        environment = environment()
    with pytest.raises(ValueError, match=message):
        roll(environment)


def test_episodes_without_end_are_refused():
    with pytest.raises(ValueError, match=r"^Line's episodes have no end; .*--horizon"):
        roll(Line, horizon=None)
    vector = envs.make_vector("navigation_2d", 6)
    with pytest.raises(ValueError, match="^Navigation2D's episodes have no end; give a horizon"):
        roll(vector, horizon=None)
    vector.max_episode_steps = 0
    with pytest.raises(ValueError, match="max_episode_steps of Navigation2D must be 1 or more"):
        roll(vector, horizon=None)


def test_tasks_of_another_number_are_refused():
    sampler = Sampler("navigation_2d", tasks=2, episodes=1)
    with pytest.raises(ValueError, match="3 tasks are given; the sampler was made for 2"):
        sampler.sample(Noise(2, 2), np.zeros((3, 2)), 0)


def test_a_task_of_each_episodes_own():
    sampler, tasks, _, mixed = roll(resample=True, oracle=True)
    assert tasks.shape == (2, 3, 1) and len(np.unique(tasks)) == 6
    seen = mixed.observations[..., -1]
    np.testing.assert_array_equal(seen, np.broadcast_to(tasks.astype(np.float32), seen.shape))
    # The same episodes as where each task of one episode is a task of its own.
    _, alone, _, apart = roll(tasks=6, episodes=1, oracle=True)
    np.testing.assert_array_equal(alone[:, 0], tasks.ravel())
    assert sampler.observation_size == apart.observations.shape[-1]
