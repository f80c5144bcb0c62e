"""Ant with a goal velocity, direction or place (Finn et al. 2017, section 5.3)."""

from __future__ import annotations

import mujoco
import numpy as np

from maml_tf.rl.envs.mujoco_base import MujocoTasks, centre_of_mass, sum_of_squares, velocity

_CONTROL_COST = 0.005
_CONTACT_COST = 0.0005
_ALIVE = 0.05
_HEALTHY = (0.2, 1.0)

# Sensors after velocity and place of the centre of mass: three axes of the torso, then of each body
# its contacts' net force, torque and place of attack, in the world's axes.
_AXES = slice(6, 15)
_BY_ROWS = (6, 9, 12, 7, 10, 13, 8, 11, 14)
_CONTACTS = slice(15, None)
_FORCE, _TORQUE, _PLACE = slice(0, 3), slice(3, 6), slice(6, 9)
_NET_FORCE = 3


class _Ant(MujocoTasks):
    """Gymnasium's `ant.xml`; torques of +-150 are actions of +-1.

    Reward of every task: -0.005 |a|^2 - 0.0005 |contact forces clipped to +-1|^2 + 0.05. Ends when
    the torso's height is outside [0.2, 1.0] m.

    Observation of the paper's dynamics (0.02 s, one physics step an action), 125 numbers: positions
    without x and y 13, velocities 14, ...
    """


class _Bodies:
    pass
