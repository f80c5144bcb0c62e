"""Robots that are drawn, in a second process that stays from the first picture on."""

from __future__ import annotations

import mujoco
import numpy as np

from maml_tf.rl import offscreen
from maml_tf.rl.envs.base import PICTURE, TaskVectorEnv


class DrawnRobot(TaskVectorEnv):
    """P robots of one model, each seen by a camera that follows it."""

    model: mujoco.MjModel
    camera: tuple[float, float]  # its distance, m, and how far it looks up, degrees
    drawn = True
    _drawer: offscreen.Drawer | None = None

    def view(self, height: int, width: int) -> offscreen.View:
        """What a picture shows."""
        distance, elevation = self.camera
        return offscreen.View(height, width, distance=distance, elevation=elevation)

    def goal(self, task: np.ndarray) -> np.ndarray | None:
        """The place [2] that a task [G] names, if it names one."""
        return task if self.task_size == 2 else None

    def picture(self, row: int) -> np.ndarray:
        """Draws one robot in a second process, which the first picture starts.

        Raises:
          OSError: MuJoCo has no OpenGL to draw with.
        """
        if self._drawer is None or self._drawer.closed:
            back_end = offscreen.working_back_end()
            self._drawer = offscreen.Drawer(self.model, self.view(*PICTURE), back_end=back_end)
        return self._drawer.draw(self.positions[row], self.goal(self.tasks[row]))

    def close_extras(self, **kwargs) -> None:
        """Ends what draws."""
        if self._drawer is not None:
            self._drawer.close()
