"""2D navigation (Finn et al. 2017, section 5.3)."""

from __future__ import annotations

import numpy as np

from maml_tf.rl.envs.base import PICTURE, Advance, Rows, TaskVectorEnv

STEP = 0.1
"""The longest step along an axis: what an action of 1 moves."""
CLOSE = 0.01
"""An episode ends within this distance of the goal."""


class Navigation2D(TaskVectorEnv):
    """A point on a plane, s' = s + 0.1 clip(a, -1, 1), that starts at the origin.

    Task: the goal g ~ U[-0.5, 0.5]^2. Reward: -|s' - g|; with `squared` the paper's text, its
    square. Ends within 0.01 of the goal. Observation: s, 2 numbers.
    """

    state_size = 2
    action_size = 2
    task_size = 2
    task_words = "goal ({:.2f}, {:.2f})"
    step_seconds = 0.04  # it has no time of its own
    drawn = True
    _of_each = (*TaskVectorEnv._of_each, "_position")

    def __init__(self, num_envs: int = 1, *, squared: bool = False, **kwargs):
        """Takes `squared` and what `TaskVectorEnv` takes."""
        super().__init__(num_envs, **kwargs)
        self.squared = squared
        self._position = np.zeros((num_envs, 2))

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws goals [num_tasks, 2]."""
        return rng.uniform(-0.5, 0.5, (num_tasks, 2))

    @property
    def positions(self) -> np.ndarray:
        """Where the points are, [P, 2]."""
        return self._position

    def picture(self, row: int) -> np.ndarray:
        """Draws one point and its goal."""
        from maml_tf.rl.envs import plane  # needs Pillow, which a roll-out does not

        return plane.picture(self._position[row], self.tasks[row], PICTURE)

    def _reset(self, rows: Rows, num: int) -> np.ndarray:
        self._position[rows] = 0.0
        return self._position[rows]

    def _advance(self, rows: Rows, actions: np.ndarray) -> Advance:
        self._position[rows] += STEP * np.clip(actions, -1.0, 1.0)
        position = self._position[rows]
        distance = np.linalg.norm(position - self.tasks[rows], axis=1)
        rewards = -np.square(distance) if self.squared else -distance
        return Advance(position, rewards, distance < CLOSE, np.isfinite(rewards))
