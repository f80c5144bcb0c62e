"""One environment of a batch, for `gymnasium.make`.

Shape letters: O observation numbers, A action numbers, G numbers of a task.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from maml_tf.rl.envs.base import TaskVectorEnv


class TaskEnv(gymnasium.Env):
    """One environment of a `TaskVectorEnv`, for `gymnasium.make`."""

    def __init__(self, vector: TaskVectorEnv):
        """Takes a batch of one, without a limit of steps."""
        self._vector = vector
        self.metadata = {**vector.metadata}
        del self.metadata["autoreset_mode"]
        self.render_mode = vector.render_mode
        self.observation_space = vector.single_observation_space
        self.action_space = vector.single_action_space

    @property
    def task(self) -> np.ndarray:
        """The present task, [G]."""
        return self._vector.tasks[0].copy()

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws tasks [num_tasks, G]."""
        return self._vector.sample_tasks(rng, num_tasks)

    def set_task(self, task: np.ndarray | None) -> None:
        """Fixes the task, [G]; None draws a new one at each reset again."""
        self._vector.set_tasks(None if task is None else np.asarray(task)[None])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, bool]]:
        """Starts an episode; returns its observation [O], and no information."""
        super().reset(seed=seed)
        self._vector.np_random = self.np_random
        return self._vector.reset()[0][0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, bool]]:
        """Takes an action [A]; returns observation [O], reward, terminated, False, information."""
        actions = np.asarray(action)[None]
        observations, rewards, terminated, _, infos = self._vector.step(actions)
        info = {"diverged": True} if infos else {}
        return observations[0], float(rewards[0]), bool(terminated[0]), False, info

    def render(self) -> np.ndarray | None:
        """A picture, [height, width, 3] uint8, with `render_mode="rgb_array"`.

        Raises:
          OSError: MuJoCo has no OpenGL to draw a robot with.
        """
        pictures = self._vector.render()
        if pictures is None:
            gymnasium.logger.warn('render needs gymnasium.make(..., render_mode="rgb_array").')
            return None
        return pictures[0]

    def close(self) -> None:
        """Ends the batch's threads, and what draws."""
        self._vector.close()
