"""Ant with a goal velocity, direction or place (Finn et al. 2017, section 5.3)."""

from __future__ import annotations

import mujoco
import numpy as np

from maml_tf.rl.envs.mujoco_base import MujocoTasks, centre_of_mass, sum_of_squares, velocity

_CONTROL_COST = 0.005
_CONTACT_COST = 0.0005
_ALIVE = 0.05
_HEALTHY = (0.2, 1.0)
SOFT_CONTACTS = (0.8, 0.8, 0.01)
"""The original's contacts: MuJoCo's `solimp`, its first three numbers. Gymnasium's are harder."""

# Sensors after velocity and place of the centre of mass: the torso's three axes, then of each body
# the net force of its contacts, their torque and where they attack, along the world's axes.
_AXES = ("FRAMEXAXIS", "FRAMEYAXIS", "FRAMEZAXIS")
_ROTATION = [6, 9, 12, 7, 10, 13, 8, 11, 14]  # the axes are the columns of the matrix
_CONTACTS = 15
# Derived of them, in the same place: the rotation matrix, and the clipped forces.
_TURN, _FORCES = slice(6, 15), slice(15, None)
_FIELDS = ("FORCE", "TORQUE", "POS")
_NET_FORCE = 3  # how the contact sensor makes one of many


class _Ant(MujocoTasks):
    """Gymnasium's `ant.xml`; actions of +-1 are torques of +-150.

    The paper's dynamics have the time step and the softness of contacts of the original's file, in
    which Gymnasium's differs from it.

    Reward of a step, beside the task's: 0.05 - 0.005 |a|^2 - 0.0005 |c|^2, where c are the contact
    forces clipped to +-1. Ends where the torso's height is outside [0.2, 1] m.

    Contact forces are those that MuJoCo calls `cfrc_ext`: torque about the centre of mass of the
    robot and force on each body, made of contact sensors, for a roll-out does not return them.

    Observation of the paper's dynamics (0.02 s), 125 numbers: positions 15, velocities 14, contact
    forces 84 (the first six are the world's, always 0), torso rotation matrix 9, centre of mass 3;
    the last three are a step behind. Of Gymnasium's (five steps of 0.01 s), 105: positions without
    x and y 13, velocities 14, contact forces 78. Nothing of the original's is left out. An
    episode of the paper's dynamics starts from the model's `init_qpos`, one of Gymnasium's from the
    model's default pose.
    """

    xml = "ant.xml"
    frame_skip = {"paper": 1, "gymnasium": 5}
    timestep = {"paper": 0.02, "gymnasium": 0.01}
    camera = 5.0, -30.0

    def _observation_size(self) -> int:
        return 125 if self.dynamics == "paper" else 105

    def _starting_pose(self) -> np.ndarray:
        if self.dynamics == "gymnasium":
            return super()._starting_pose()
        return self.model.numeric("init_qpos").data.copy()

    def _edit(self, spec: mujoco.MjSpec) -> None:
        if self.dynamics == "paper":
            for geom in spec.geoms:
                geom.solimp[:3] = SOFT_CONTACTS
        for kind in _AXES:
            self._add_sensor(spec, kind, "torso", objtype=mujoco.mjtObj.mjOBJ_XBODY)
        fields = sum(1 << int(getattr(mujoco.mjtConDataField, f"mjCONDATA_{f}")) for f in _FIELDS)
        for number, body in enumerate(spec.bodies[1:]):
            body.name = body.name or f"body {number}"
            self._add_sensor(spec, "CONTACT", body.name, intprm=[fields, _NET_FORCE, 1])

    def _derive(self, sensed: np.ndarray) -> np.ndarray:
        blocks = [sensed[:, :6], sensed[:, _ROTATION], self._contact_forces(sensed)]
        return np.concatenate(blocks, axis=1)

    def _contact_forces(self, sensed: np.ndarray) -> np.ndarray:
        """Torque and force on each body but the world, clipped to +-1: [n, 78]."""
        n = len(sensed)
        contacts = sensed[:, _CONTACTS:].reshape(n, -1, 9)
        forces = np.zeros((n, contacts.shape[1], 6))
        # Few bodies touch the floor, and those that do push it down.
        rows, bodies = np.nonzero(contacts[:, :, 2])
        force, torque, place = np.split(contacts[rows, bodies], 3, axis=1)
        arm = place - centre_of_mass(sensed)[rows]
        # The sensor measures what the body does to the floor; wanted is what the floor does to it.
        wrench = -np.concatenate([torque + _cross(arm, force), force], axis=1)
        forces[rows, bodies] = np.clip(wrench, -1.0, 1.0)
        return forces.reshape(n, -1)

    def _observe(
        self, positions: np.ndarray, velocities: np.ndarray, derived: np.ndarray
    ) -> list[np.ndarray]:
        rotation, forces = derived[:, _TURN], derived[:, _FORCES]
        if self.dynamics == "gymnasium":
            return [positions[:, 2:], velocities, forces]
        world = np.zeros((len(forces), 6))
        return [positions, velocities, world, forces, rotation, centre_of_mass(derived)]

    def _reward(self, tasks: np.ndarray, control: np.ndarray, derived: np.ndarray) -> np.ndarray:
        cost = _CONTROL_COST * sum_of_squares(control)
        cost += _CONTACT_COST * sum_of_squares(derived[:, _FORCES])
        return self._progress(tasks, derived) + _ALIVE - cost

    def _progress(self, tasks: np.ndarray, derived: np.ndarray) -> np.ndarray:
        """The task's part of the reward, [n]."""
        raise NotImplementedError

    def _terminated(self, positions: np.ndarray) -> np.ndarray:
        height = positions[:, 2]
        return ~((height >= _HEALTHY[0]) & (height <= _HEALTHY[1]))


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cross product of rows, [n, 3]; `np.cross` takes several times as long."""
    return a[:, [1, 2, 0]] * b[:, [2, 0, 1]] - a[:, [2, 0, 1]] * b[:, [1, 2, 0]]


class AntVelocity(_Ant):
    """Task: velocity g ~ U[0, 3] m/s. Reward: -|v - g| + 1 and the common part."""

    task_size = 1
    task_words = "goal velocity {:.2f} m/s"

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws velocities [num_tasks, 1]."""
        return rng.uniform(0.0, 3.0, (num_tasks, 1))

    def _progress(self, tasks: np.ndarray, derived: np.ndarray) -> np.ndarray:
        return 1.0 - np.abs(velocity(derived) - tasks[:, 0])


class AntDirection(_Ant):
    """Task: direction d, 1 or -1. Reward: d v and the common part."""

    task_size = 1
    task_words = "direction {:+.0f}"

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws directions [num_tasks, 1]."""
        return rng.choice([-1.0, 1.0], (num_tasks, 1))

    def _progress(self, tasks: np.ndarray, derived: np.ndarray) -> np.ndarray:
        return tasks[:, 0] * velocity(derived)


class AntGoal(_Ant):
    """Task: goal g ~ U[-3, 3]^2 m. Reward: -|xy - g|_1 + 4 and the common part.

    xy is the place of the robot's centre of mass, a step behind. The paper does not have it.
    """

    task_size = 2
    task_words = "goal ({:.2f}, {:.2f}) m"
    camera = 8.0, -30.0  # for the goal to be in the picture too

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws goals [num_tasks, 2]."""
        return rng.uniform(-3.0, 3.0, (num_tasks, 2))

    def _progress(self, tasks: np.ndarray, derived: np.ndarray) -> np.ndarray:
        return 4.0 - np.abs(centre_of_mass(derived)[:, :2] - tasks).sum(axis=1)
