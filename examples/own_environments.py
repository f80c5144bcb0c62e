"""Environments of one's own, a class of ten lines and a registration each; see the README.

    PYTHONPATH=examples maml-tf train --problem=gymnasium --meta_batch_size=10 --shots=10 \
        --environment=own_environments:own/Poles-v0 --step_size=0.1 --iterations=20

A class has `sample_tasks` and `set_task` beside Gymnasium's methods. Its spaces decide the policy.
"""

import gymnasium
import numpy as np
from gymnasium import spaces


class Poles(gymnasium.Wrapper):
    """CartPole with poles of any length: two buttons (`Discrete`)."""

    def __init__(self):
        super().__init__(gymnasium.make("CartPole-v1"))

    def sample_tasks(self, rng, n):
        return rng.uniform(0.25, 1.5, n)  # half lengths, in metres

    def set_task(self, task):
        cart = self.unwrapped
        cart.length, cart.polemass_length = task, cart.masspole * task


class Planets(gymnasium.Wrapper):
    """Pendulum under any gravity, upwards too: a torque (`Box`)."""

    def __init__(self):
        super().__init__(gymnasium.make("Pendulum-v1"))

    def sample_tasks(self, rng, n):
        return rng.uniform(-10.0, 10.0, n)

    def set_task(self, task):
        self.unwrapped.g = task


class Reacher(gymnasium.Env):
    """An arm of two links, to be led to a place that it is not shown: observations in parts."""

    observation_space = spaces.Dict(
        tip=spaces.Box(-1.0, 1.0, (2,)),
        joints=spaces.Box(-1.0, 1.0, (2, 2)),
        left=spaces.Discrete(2),
    )
    action_space = spaces.Box(-1.0, 1.0, (2,))

    def sample_tasks(self, rng, n):
        angles = rng.uniform(-np.pi, np.pi, n)
        return 0.8 * np.stack([np.cos(angles), np.sin(angles)], 1)

    def set_task(self, task):
        self.place = task

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.angles = self.np_random.uniform(-0.1, 0.1, 2)
        return self.seen(), {}

    def step(self, action):
        self.angles += 0.2 * action
        seen = self.seen()
        return seen, -float(np.linalg.norm(seen["tip"] - self.place)), False, False, {}

    def seen(self):
        joints = np.stack([np.cos(self.angles), np.sin(self.angles)], 1)
        both = self.angles.sum()
        tip = 0.5 * (joints[0] + [np.cos(both), np.sin(both)])
        return {"tip": tip, "joints": joints, "left": int(tip[0] < 0)}


class Switches(gymnasium.Env):
    """A bandit of six switches (`MultiBinary`), each of which is worth 1 in its hidden position."""

    observation_space = spaces.Discrete(1)  # there is nothing to see
    action_space = spaces.MultiBinary(6)

    def sample_tasks(self, rng, n):
        return [rng.integers(0, 2, 6) for _ in range(n)]

    def set_task(self, task):
        self.positions = task

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}

    def step(self, action):
        return 0, float(np.sum(action == self.positions)), False, False, {}


for environment, steps in {Poles: 200, Planets: 50, Reacher: 20, Switches: 5}.items():
    gymnasium.register(f"own/{environment.__name__}-v0", environment, max_episode_steps=steps)
