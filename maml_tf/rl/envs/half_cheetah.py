"""Half-cheetah with a goal velocity or direction (Finn et al. 2017, section 5.3)."""

from __future__ import annotations

import numpy as np

from maml_tf.rl.envs.mujoco_base import MujocoTasks, centre_of_mass, sum_of_squares, velocity

_CONTROL_COST = 0.05


class _HalfCheetah(MujocoTasks):
    """Gymnasium's `half_cheetah.xml`, whose physics are the original's.

    Observation of the paper's dynamics, 20 numbers: positions without x 8, velocities 9, centre of
    mass 3 (a step behind). Of Gymnasium's, 17: without the last. Nothing of the original's is left
    out. Never ends.
    """

    xml = "half_cheetah.xml"
    frame_skip = {"paper": 1, "gymnasium": 5}
    timestep = {"paper": 0.01, "gymnasium": 0.01}
    camera = 2.8, -12.0
    task_size = 1

    def _observation_size(self) -> int:
        return 20 if self.dynamics == "paper" else 17

    def _observe(
        self, positions: np.ndarray, velocities: np.ndarray, derived: np.ndarray
    ) -> list[np.ndarray]:
        columns = [positions[:, 1:], velocities]
        return [*columns, centre_of_mass(derived)] if self.dynamics == "paper" else columns


class HalfCheetahVelocity(_HalfCheetah):
    """Task: velocity g ~ U[0, 2] m/s. Reward: -|v - g| - 0.05 |a|^2; v is a step behind."""

    task_words = "goal velocity {:.2f} m/s"

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws velocities [num_tasks, 1]."""
        return rng.uniform(0.0, 2.0, (num_tasks, 1))

    def _reward(self, tasks: np.ndarray, control: np.ndarray, derived: np.ndarray) -> np.ndarray:
        return -np.abs(velocity(derived) - tasks[:, 0]) - _CONTROL_COST * sum_of_squares(control)


class HalfCheetahDirection(_HalfCheetah):
    """Task: direction d, 1 or -1. Reward: d v - 0.05 |a|^2; v is a step behind."""

    task_words = "direction {:+.0f}"

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws directions [num_tasks, 1]."""
        return rng.choice([-1.0, 1.0], (num_tasks, 1))

    def _reward(self, tasks: np.ndarray, control: np.ndarray, derived: np.ndarray) -> np.ndarray:
        return tasks[:, 0] * velocity(derived) - _CONTROL_COST * sum_of_squares(control)
