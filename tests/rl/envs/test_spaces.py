"""Any space of Gymnasium's: vectors of observations, actions of the space, or a reason."""

import re

import keras
import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium", reason="needs the extra rl")

from gymnasium import spaces
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from maml_tf.rl import envs
from maml_tf.rl.envs.spaces import (
    flattened,
    for_environment,
    has_bounds,
    head_for,
    is_image,
    size_of,
    some_action,
    why_not_acted,
    why_not_observed,
)
from maml_tf.rl.heads import MultiCategoricalHead
from maml_tf.rl.meta_trpo import MetaTRPO
from maml_tf.rl.policy import policy_for
from maml_tf.rl.sampler import Sampler

LEAVES = [
    Box(-1.0, 1.0, (3,), np.float32),
    Box(-1.0, 1.0, (2, 3), np.float64),
    Box(0, 255, (4, 4, 3), np.uint8),
    Box(-5, 5, (), np.int32),
    Discrete(4),
    Discrete(3, start=-1),
    MultiDiscrete([2, 3, 4]),
    MultiDiscrete([[2, 3], [4, 2]], start=[[1, 0], [0, -5]]),
    MultiBinary(5),
    MultiBinary((2, 3)),
]
OBSERVED = [
    *LEAVES,
    spaces.Dict({"b": LEAVES[0], "a": LEAVES[4], "c": spaces.Tuple((LEAVES[7], LEAVES[9]))}),
    spaces.Tuple((LEAVES[2], spaces.Dict(x=LEAVES[5]))),
]


@pytest.mark.parametrize("space", OBSERVED, ids=str)
def test_observations_are_flattened_as_by_gymnasium_one_or_many(space):
    space.seed(3)
    assert why_not_observed(space) is None
    members = [space.sample() for _ in range(20)]
    expected = [spaces.flatten(space, member) for member in members]
    for member, vector in zip(members, expected, strict=True):
        found = flattened(space, member)
        assert found.shape == (size_of(space),)
        np.testing.assert_allclose(found, vector.astype(np.float32), rtol=1e-6)
    out = gymnasium.vector.utils.create_empty_array(space, len(members))
    together = gymnasium.vector.utils.concatenate(space, members, out)
    if isinstance(space, Discrete):
        together = np.asarray(together)
    many = flattened(space, together, (len(members),))
    np.testing.assert_allclose(many, np.stack(expected).astype(np.float32), rtol=1e-6)


@pytest.mark.parametrize(
    "space, value, said",
    [
        (Box(-1, 1, (2,)), np.zeros(3), r"of shape \(3,\) where its space has \(2,\)"),
        (Discrete(3), 3, r"returned 3, an observation outside its space Discrete\(3\)"),
        (Discrete(3, start=1), 0, "outside its space"),
        (Discrete(3), 0.5, "outside its space"),
        (Discrete(3), float("nan"), "outside its space"),
        (Discrete(3), "a", "holds no real numbers"),
        (MultiDiscrete([2, 2]), np.array([0, 2]), "outside its space"),
        (MultiBinary(2), np.array([0, 2]), "outside its space"),
        (spaces.Dict(a=Discrete(2), b=Discrete(2)), {"a": 0}, "no dictionary with a, b"),
        (spaces.Dict(a=Discrete(2)), {"a": 2}, "outside its space"),
        (spaces.Tuple((Discrete(2), Discrete(2))), (0,), "no tuple of 2"),
    ],
)
def test_what_is_no_member_is_said_in_a_few_words(space, value, said):
    assert re.search(said, flattened(space, value))


@pytest.mark.parametrize("space", [LEAVES[0], LEAVES[1], *LEAVES[4:]], ids=str)
def test_what_a_head_draws_is_of_the_space(space):
    head = head_for(space)
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(200, head.output_size)).astype(np.float32)
    actions = head.act(outputs, np.float32(1.0), head.noise(rng, (200,)))
    assert actions.shape == (200, *head.action_shape)
    taken = for_environment(space)(np.asarray(actions).astype(head.dtype))
    assert len(taken) == 200 and all(space.contains(action) for action in taken)
    assert space.contains(some_action(space))
    if not isinstance(space, Box):  # each of the choices is met
        for column in taken.reshape(200, -1).T:
            assert len(np.unique(column)) >= 2
        assert len(np.unique(taken.reshape(200, -1), axis=0)) > 2


def test_rounding_never_leaves_a_box_and_a_single_bound_holds():
    chance = np.random.default_rng(0)
    for low in np.round(chance.uniform(-3, 0, 200), 1):
        space = Box(np.float32(low), np.float32(round(low + 2.2, 1)), (1,))
        taken = for_environment(space)(np.array([[-1.0], [1.0], [-5.0], [5.0]], np.float32))
        assert all(space.contains(action) for action in taken), space
        np.testing.assert_allclose(taken[:2, 0], [space.low[0], space.high[0]], rtol=1e-6)
    half = Box(np.array([0.0, -np.inf]), np.array([np.inf, 2.0]), dtype=np.float64)
    taken = for_environment(half)(np.array([[-0.5, 3.0], [7.0, -7.0]]))
    np.testing.assert_array_equal(taken, [[0.0, 2.0], [7.0, -7.0]])
    assert not has_bounds(half) and has_bounds(Box(0, 1, (2,))) and not has_bounds(Discrete(2))


def test_many_choices_take_no_more_room_than_they_are():
    space = spaces.MultiDiscrete([3, 10**6], start=[1, -5])
    seen = flattened(space, np.array([[3, -5], [1, 10**6 - 6]]), (2,))
    assert seen.shape == (2, 10**6 + 3) and seen.dtype == np.float32
    np.testing.assert_array_equal(np.argwhere(seen), [[0, 2], [0, 3], [1, 0], [1, 10**6 + 2]])


@pytest.mark.parametrize(
    "space, said",
    [
        (spaces.Text(3), "let it be a Box, Discrete"),
        (spaces.Sequence(Discrete(2)), "let it be a Box, Discrete"),
        (spaces.Graph(Box(0, 1, (1,)), None), "let it be a Box, Discrete"),
        (Box(-1.0, 1.0, (0,)), "empty; give it at least one number"),
        (spaces.Dict(a=Discrete(2), b=spaces.Text(3)), "let it be a Box"),
        (spaces.Dict(), "empty; give it a part"),
        (None, "let it be a Box"),
    ],
    ids=str,
)
def test_other_spaces_are_refused_with_the_reason(space, said):
    assert said in why_not_observed(space)
    if not isinstance(space, spaces.Dict):
        assert why_not_acted(space)


def test_whole_numbers_in_a_box_are_no_actions():
    assert "let it be of floats, or MultiDiscrete" in why_not_acted(Box(0, 3, (2,), np.int64))


class Camera(gymnasium.Env):
    """Shows a picture; the task is which of three buttons pays."""

    observation_space = Box(0, 255, (8, 8, 3), np.uint8)
    action_space = Discrete(3, start=5)

    def sample_tasks(self, rng, n):
        return list(rng.integers(5, 8, n))

    def set_task(self, task):
        self.pays = task

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.full((8, 8, 3), 7, np.uint8), {}

    def step(self, action):
        assert action in (5, 6, 7) and isinstance(action, np.integer)
        seen = np.full((8, 8, 3), int(action), np.uint8)
        return seen, float(action == self.pays), False, False, {}


class Unbounded(Camera):
    action_space = Box(np.array([-1.0, 0.0]), np.array([1.0, np.inf]), dtype=np.float64)

    def step(self, action):
        return super().step(np.int64(5))


def test_squash_needs_two_bounds():
    sampler = Sampler(Unbounded, tasks=2, episodes=2, horizon=3)
    sampler.shows_images = False
    with pytest.raises(ValueError, match="squash keeps actions within two bounds"):
        policy_for(sampler, squash=True)


def test_images_need_a_network_and_squash_a_box():
    sampler = Sampler(Camera, tasks=2, episodes=2, horizon=3)
    assert sampler.shows_images and sampler.observation_shape == (8, 8, 3)
    with pytest.raises(ValueError, match=r"shows images of shape \(8, 8, 3\).*\(network=\)"):
        policy_for(sampler)
    assert is_image(Box(0, 255, (8, 8), np.uint8)) and not is_image(Box(0, 1, (8, 8)))
    switches = Sampler(Camera, tasks=2, episodes=2, horizon=3)
    switches.shows_images = False
    with pytest.raises(ValueError, match="squash is for a Box of actions"):
        policy_for(switches, squash=True)


@pytest.mark.parametrize("asynchronous", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_policy_of_images_learns_from_environments_of_a_user_s_own(asynchronous):
    keras.utils.set_random_seed(0)  # of the network; some have no step that gains
    made = Camera
    if asynchronous:
        made = envs.ForeignTasks(Camera, 8, asynchronous=True)
    sampler = Sampler(made, tasks=2, episodes=4, horizon=3)
    network = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Rescaling(1 / 255)])
    network.add(keras.layers.Conv2D(2, 3, strides=3, activation="relu"))
    network.add(keras.layers.Flatten())
    network.add(keras.layers.Dense(3))
    learner = MetaTRPO(policy_for(sampler, network=network), meta_batch_size=2)
    seen = learner.meta_steps(sampler, 0, 1)
    assert seen.backtracks[0] >= 0 and np.all(np.isfinite(seen.returns))
    sampler.close()


class Many(gymnasium.vector.SyncVectorEnv):
    """A vector of a user's own, with observations in parts and several choices as actions."""

    def __init__(self, num_envs):
        super().__init__([Parts] * num_envs)

    def sample_tasks(self, rng, n):
        return rng.integers(0, 2, n)

    def set_tasks(self, tasks):
        self.call("set_task", tasks)


class Parts(gymnasium.Env):
    observation_space = spaces.Dict(place=Box(-1.0, 1.0, (2,)), kind=Discrete(3, start=1))
    action_space = MultiDiscrete([2, 3], start=[0, 4])

    def set_task(self, tasks):
        pass

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {"place": np.full(2, 0.5, np.float32), "kind": 2}, {}

    def step(self, action):
        assert self.action_space.contains(action)
        return {"place": np.full(2, 0.1 * action[1], np.float32), "kind": 3}, 1.0, False, False, {}


def test_a_vector_of_a_user_s_own_has_any_space_too():
    sampler = Sampler(Many(6), tasks=2, episodes=3, horizon=4)
    assert sampler.observation_size == 5 and sampler.head == MultiCategoricalHead((2, 3))
    policy = policy_for(sampler)
    act = policy.actor([v.value for v in policy.variables], 2)
    taken = sampler.sample(act, sampler.sample_tasks(0), 0)
    assert taken.actions.shape == (2, 3, 4, 2) and taken.actions.dtype == np.int32
    first, second = taken.observations[0, 0, :2]  # place, and kind one-hot
    np.testing.assert_allclose(first, [0.5, 0.5, 0, 1, 0])
    place = 0.1 * (4 + taken.actions[0, 0, 0, 1])
    np.testing.assert_allclose(second, [place, place, 0, 0, 1], rtol=1e-6)


def test_a_policy_of_other_actions_is_refused():
    sampler = Sampler(Camera, tasks=2, episodes=2, horizon=3)
    other = Sampler("navigation_2d", tasks=2, episodes=2, horizon=3)
    policy = policy_for(other)
    act = policy.actor([v.value for v in policy.variables], 2)
    with pytest.raises(ValueError, match="GaussianHead.*CategoricalHead.*policy_for"):
        sampler.sample(act, sampler.sample_tasks(0), 0)


@pytest.mark.parametrize("squash", [False, True])
def test_a_squashed_policy_keeps_within_the_bounds(squash):
    sampler = Sampler("navigation_2d", tasks=2, episodes=20, horizon=10)
    policy = policy_for(sampler, squash=squash)
    policy.log_std.assign([1.5, 1.5])
    act = policy.actor([v.value for v in policy.variables], 2)
    taken = sampler.sample(act, sampler.sample_tasks(0), 0)
    assert (np.abs(taken.actions).max() <= 1) == squash
    np.testing.assert_array_equal(taken.outputs.shape, taken.actions.shape)
