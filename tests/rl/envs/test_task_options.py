"""Environments without `set_task`: each reset finds the task in its options."""

import pytest

gymnasium = pytest.importorskip("gymnasium", reason="needs the extra rl")

import numpy as np
from gymnasium.spaces import Box

from maml_tf.rl.sampler import Sampler


class Noise:
    log_stds = np.zeros((2, 1), np.float32)

    def __call__(self, observations, noise):
        return noise, noise


class Line(gymnasium.Env):
    """x' = x + a from the task's place; an episode ends beyond it."""

    observation_space = Box(-np.inf, np.inf, (1,), np.float64)
    action_space = Box(-1.0, 1.0, (1,), np.float64)

    def sample_tasks(self, rng, n):
        return [{"place": float(place)} for place in rng.uniform(-1, 1, n)]

    def place(self, options):
        return options["task"]["place"]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.first = self.place(options)
        return np.array([self.x]), {}

    def step(self, action):
        self.x += float(action[0])
        return np.array([self.x]), 0.0, abs(self.x - self.first) > 1, False, {}


def roll(make, **options):
    sampler = Sampler(make, tasks=2, episodes=3, horizon=9, **options)
    tasks = sampler.sample_tasks(0)
    trajectories = sampler.sample(Noise(), tasks, 0)
    sampler.close()
    return tasks, trajectories


WAYS = {
    "by key": lambda self, options: options["task"]["place"],
    "by get": lambda self, options: (options or {}).get("task", {"place": 9.0})["place"],
    "if it is there": lambda self, o: o["task"]["place"] if o and "task" in o else 9.0,
    "of a copy": lambda self, options: dict(options)["task"]["place"],
    "spread out": lambda self, options: {"a": 1, **options}["task"]["place"],
    "merged": lambda self, options: ({"a": 1} | options)["task"]["place"],
    "by keywords": lambda self, options: (lambda *, task: task["place"])(**options),
    "taken out": lambda self, options: options.pop("task").pop("place"),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_reset_finds_its_task(way):
    tasks, trajectories = roll(type("Bent", (Line,), {"place": WAYS[way]}))
    assert (trajectories.mask.sum(2) < 9).any()  # so that some were reset by a step
    for task, first in zip(tasks, trajectories.observations[:, :, 0, 0], strict=True):
        np.testing.assert_allclose(first, task["place"], rtol=1e-6)


def test_a_reset_by_a_step_finds_the_task_as_well():
    class Seen(Line):
        seen = []

        def place(self, options):
            self.seen.append(options["task"]["place"])
            return self.seen[-1]

    tasks, _ = roll(Seen)
    assert len(Seen.seen) > 10 and set(Seen.seen[-20:]) <= {task["place"] for task in tasks} | {
        Seen.seen[0]
    }


def test_a_number_that_is_indexed_comes_as_a_vector():
    class Indexed(Line):
        def sample_tasks(self, rng, n):
            return rng.uniform(-1, 1, n)

        def place(self, options):
            return options["task"][0]

    tasks, trajectories = roll(Indexed)
    np.testing.assert_allclose(
        trajectories.observations[:, :, 0, 0], np.broadcast_to(tasks, (2, 3)), rtol=1e-6
    )


def test_a_wrapper_s_set_task_goes_before():
    class Setting(gymnasium.Wrapper):
        def set_task(self, task):
            self.task = task

        def reset(self, *, seed=None, options=None):
            assert not options
            return self.env.reset(seed=seed, options={"task": {"place": 7.0}})

    _, trajectories = roll(lambda: Setting(Line()))
    np.testing.assert_array_equal(trajectories.observations[:, :, 0], 7.0)


@pytest.mark.parametrize(
    "place",
    [
        lambda self, options: 0.5,
        lambda self, options: options.get("x", 0.5),
        lambda self, options: options["y"] if "y" in options else 0.5,
    ],
)
def test_a_reset_that_does_not_look_is_refused(place):
    made = type("Bent", (Line,), {"place": place})
    message = r'^Bent has no set_task, and its reset does not look at options\["task"\]; give it'
    with pytest.raises(ValueError, match=message) as raised:
        roll(made)
    assert "\n" not in str(raised.value)


def test_a_fault_there_names_the_task():
    made = type("Bent", (Line,), {"place": lambda self, options: options["task"]["palce"]})
    with pytest.raises(ValueError, match=r"KeyError \('palce'\) in reset with task {'place': "):
        roll(made)
