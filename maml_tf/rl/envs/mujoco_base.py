"""Robots in MuJoCo: one model, P states, stepped in native threads.

Shape letters: P environments, n of them in a step, Q positions, V
velocities, A actuators, M sensor numbers.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import mujoco.rollout
import numpy as np

from maml_tf.rl.envs.base import Advance, Rows, TaskVectorEnv
from maml_tf.rl.envs.drawn_robot import DrawnRobot
from maml_tf.rl.envs.registry import check_dynamics

LIMIT = 1e4
"""A simulation diverges when a position or velocity is beyond this, or is not a number."""

_POSITION_NOISE = 0.01
_VELOCITY_NOISE = 0.1
_ROBOT = "torso"


def cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class MujocoTasks(DrawnRobot):
    """A robot of Gymnasium's with a task.

    `dynamics="paper"` is the original program's: one physics step per action, and its observation.
    `dynamics="gymnasium"` is v5's frame skip, time step, starting pose and observation. Reward and
    noise at the start (normal, 0.01 for positions, 0.1 for velocities) are the paper's in both.

    What is derived from positions and velocities by sensors (the velocity and place of the robot's
    centre of mass, the torso's rotation, contact forces) belongs to the state *before* the last
    physics step, in observation and reward alike: MuJoCo computes it on the way to the next state,
    and computing it anew would cost a second step. At a reset it belongs to the first state.
    Positions, velocities and termination do not lag. The original computed all of it anew.

    Each step starts the constraint solver from zero, so a trajectory is a function of state and
    actions alone, whatever the number of threads.
    """

    xml: str  # of Gymnasium's
    frame_skip: dict[str, int]  # by dynamics
    timestep: dict[str, float]  # seconds, by dynamics
    _pool: Any = None  # MuJoCo's, of threads
    _of_each = (*TaskVectorEnv._of_each, "_state", "_next", "_control", "_sensed", "_models")

    def __init__(
        self, num_envs: int = 1, *, dynamics: str = "paper", threads: int | None = None, **kwargs
    ):
        """Compiles the model and starts the threads.

        Args:
          num_envs: P.
          dynamics: "paper" or "gymnasium".
          threads: native threads; as many as processors if not given.
          kwargs: those of `TaskVectorEnv`.

        Raises:
          ValueError: if the dynamics are unknown or `threads` is below 1.
        """
        check_dynamics(dynamics)
        threads = cores() if threads is None else threads
        if threads < 1:
            raise ValueError(f"threads is {threads}; it must be at least 1.")
        self.dynamics = dynamics
        self.model = self._compile()
        self.action_size = self.model.nu
        self.state_size = self._observation_size()
        super().__init__(num_envs, **kwargs)
        self._start_threads(min(threads, num_envs))
        self._models = [self.model] * num_envs
        self._first_pose = self._starting_pose()
        frames = self.frame_skip[dynamics]
        size = 1 + self.model.nq + self.model.nv  # the time comes first
        self._state = np.zeros((num_envs, size))
        self._next = np.zeros((num_envs, frames, size))
        self._control = np.zeros((num_envs, frames, self.action_size))
        self._sensed = np.zeros((num_envs, frames, self.model.nsensordata))

    def _start_threads(self, threads: int) -> None:
        self.threads = threads
        # A pool of no threads steps in the calling one.
        self._pool = mujoco.rollout.Rollout(nthread=threads if threads > 1 else 0)
        self._data = [mujoco.MjData(self.model) for _ in range(threads)]

    def part(self, rows: slice, threads: int = 1) -> TaskVectorEnv:
        """See `TaskVectorEnv`; of one thread, the one that steps it also does its physics."""
        part: Any = super().part(rows)
        part._start_threads(min(threads, part.num_envs))
        return part

    @property
    def positions(self) -> np.ndarray:
        """MuJoCo's `qpos`, [P, Q]."""
        return self._state[:, 1 : 1 + self.model.nq]

    @property
    def step_seconds(self) -> float:
        """Simulated time of a step."""
        return self.frame_skip[self.dynamics] * self.timestep[self.dynamics]

    def _compile(self) -> mujoco.MjModel:
        """Gymnasium's model with this time step, these sensors and the robot's own changes."""
        assets = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
        spec = mujoco.MjSpec.from_file(str(assets / self.xml))
        spec.option.timestep = self.timestep[self.dynamics]
        for kind in ("SUBTREELINVEL", "SUBTREECOM"):
            self._add_sensor(spec, kind, _ROBOT)
        self._edit(spec)
        with warnings.catch_warnings():
            # Gymnasium's file sets the total mass in a way that MuJoCo means to give up.
            warnings.filterwarnings("ignore", message=".*settotalmass")
            model = spec.compile()
        # A state that is not finite shall be seen, not be replaced by the first one.
        model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
        return model

    @staticmethod
    def _add_sensor(spec: mujoco.MjSpec, kind: str, body: str, **kwargs) -> None:
        kwargs.setdefault("objtype", mujoco.mjtObj.mjOBJ_BODY)
        sensor = getattr(mujoco.mjtSensor, f"mjSENS_{kind}")
        spec.add_sensor(name=f"{kind} {body}", type=sensor, objname=body, **kwargs)

    def _edit(self, spec: mujoco.MjSpec) -> None:
        """Adds the robot's own sensors, after the two above, and what else sets its model apart."""

    def _observation_size(self) -> int:
        """O of these dynamics."""
        raise NotImplementedError

    def _starting_pose(self) -> np.ndarray:
        """Positions [Q] to which the noise is added."""
        return self.model.qpos0.copy()

    def _derive(self, sensed: np.ndarray) -> np.ndarray:
        """What observation and reward need, [n, D], from sensors [n, M]: the first six alike."""
        return sensed

    def _observe(
        self, positions: np.ndarray, velocities: np.ndarray, derived: np.ndarray
    ) -> list[np.ndarray]:
        """Columns of the observation, each [n, some], from [n, Q], [n, V] and [n, D]."""
        raise NotImplementedError

    def _reward(self, tasks: np.ndarray, control: np.ndarray, derived: np.ndarray) -> np.ndarray:
        """Rewards [n] from tasks [n, G], clipped actions [n, A] and [n, D]."""
        raise NotImplementedError

    def _terminated(self, positions: np.ndarray) -> np.ndarray:
        """Which episodes end, [n] bool, from positions [n, Q] after the step."""
        return np.zeros(len(positions), bool)

    def _simulate(self, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Steps state [n, 1 + Q + V] under the first n controls.

        Returns:
          The state after the last physics step, and the sensors [n, M] of the state before it;
          both are overwritten by the next call.
        """
        n = len(state)
        after, sensed = self._next[:n], self._sensed[:n]
        self._pool.rollout(
            self._models[:n],
            self._data,
            state,
            self._control[:n],
            nstep=self._control.shape[1],
            state=after,
            sensordata=sensed,
            skip_checks=True,
        )
        return after[:, -1], sensed[:, -1]

    def _columns(self, state: np.ndarray, derived: np.ndarray) -> np.ndarray:
        """Observations [n, O] float32."""
        nq = self.model.nq
        columns = self._observe(state[:, 1 : 1 + nq], state[:, 1 + nq :], derived)
        observations = np.empty((len(state), self.state_size), np.float32)
        return np.concatenate(columns, axis=1, out=observations, casting="same_kind")

    def _reset(self, rows: Rows, num: int) -> np.ndarray:
        nq, nv = self.model.nq, self.model.nv
        noise = self.np_random.standard_normal((num, nq + nv))
        state = np.zeros((num, 1 + nq + nv))
        state[:, 1 : 1 + nq] = self._first_pose + _POSITION_NOISE * noise[:, :nq]
        state[:, 1 + nq :] = _VELOCITY_NOISE * noise[:, nq:]
        self._state[rows] = state
        # A step whose result is dropped: on its way it reads the sensors of the state before it.
        self._control[:num] = 0.0
        self._simulate(state)
        return self._columns(state, self._derive(self._sensed[:num, 0]))

    def _advance(self, rows: Rows, actions: np.ndarray) -> Advance:
        n = len(actions)
        control = np.clip(actions, -1.0, 1.0, out=self._control[:n, 0], casting="same_kind")
        if self._control.shape[1] > 1:
            self._control[:n, 1:] = control[:, None]
        valid = np.ones(n, bool)
        # Sums and maxima of everything are cheap, those of rows are not; hardly ever is there a row
        # to be found. Comparison with NaN is false.
        if np.isnan(control.sum()):
            valid &= ~np.isnan(control).any(axis=1)
            control[~valid] = 0.0
        state, sensed = self._simulate(self._state[rows])
        self._state[rows] = state
        derived = self._derive(sensed)
        size = np.abs(state[:, 1:])
        if not size.max() < LIMIT:
            valid &= size.max(axis=1) < LIMIT
        rewards = self._reward(self.tasks[rows], control, derived)
        terminated = self._terminated(state[:, 1 : 1 + self.model.nq])
        return Advance(self._columns(state, derived), rewards, terminated, valid)

    def close_extras(self, **kwargs) -> None:
        """Ends the threads, and what draws."""
        super().close_extras(**kwargs)
        if self._pool is not None:  # as when making the environments failed
            self._pool.close()


def velocity(derived: np.ndarray) -> np.ndarray:
    """Velocity of the whole robot's centre of mass along x, [n], from [n, D]."""
    return derived[:, 0]


def centre_of_mass(derived: np.ndarray) -> np.ndarray:
    """Place of the whole robot's centre of mass, [n, 3], from [n, D]."""
    return derived[:, 3:6]


def sum_of_squares(x: np.ndarray) -> np.ndarray:
    """Of each row of x [n, some]."""
    return np.einsum("ij,ij->i", x, x)
