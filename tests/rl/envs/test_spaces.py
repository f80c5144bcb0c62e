"""Any space of Gymnasium's: vectors of observations, actions of the space, or a reason."""

import re

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium", reason="needs the extra rl")

from gymnasium import spaces
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from maml_tf.rl.envs.spaces import (
    flattened,
    for_environment,
    head_for,
    is_image,
    size_of,
    some_action,
    why_not_acted,
    why_not_observed,
)
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
