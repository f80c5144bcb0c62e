"""An environment of a user's, in a module that a process of its own imports without TensorFlow."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box


class Line(gymnasium.Env):
    """x' = x + 2 a for a in [0, 2]; the task is where reward is 0; it ends beyond 3."""

    observation_space = Box(-np.inf, np.inf, (1,), np.float64)
    action_space = Box(0.0, 2.0, (1,), np.float64)
    broken_at = np.inf

    def sample_tasks(self, rng, num_tasks):
        return rng.uniform(-1, 1, num_tasks)

    def set_task(self, task):
        self.goal = float(task[0])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(0, 0.1)
        return np.array([self.x]), {}

    def step(self, action):
        self.x += 2 * action[0]
        seen = np.nan if self.x > self.broken_at else self.x
        return np.array([seen]), -abs(self.x - self.goal), self.x > 3, False, {}
