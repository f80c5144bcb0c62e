"""A vector environment of a user's, watched: its faults are one sentence each."""

from __future__ import annotations

from typing import Any, cast

import gymnasium
import numpy as np

from maml_tf.rl.envs import faults, spaces
from maml_tf.rl.envs.base import Infos
from maml_tf.rl.envs.faults import EnvironmentFault
from maml_tf.rl.envs.task_draws import TaskDraws
from maml_tf.rl.envs.task_forms import own_copies, rows


class ForeignVector(gymnasium.vector.VectorWrapper):
    """P environments in one, with `sample_tasks(rng, n)` and `set_tasks(tasks)` of their own.

    Environments that return numbers to learn nothing from end there, as in `ForeignTasks`.
    """

    def __init__(self, env: gymnasium.vector.VectorEnv):
        """Takes the environments.

        Raises:
          ValueError: `sample_tasks` takes other things than a generator and a number of tasks, or
            the same seed does not draw the same tasks.
        """
        super().__init__(env)
        self._own = cast(Any, env)
        self.name = type(env).__name__
        self.max_episode_steps = getattr(env, "max_episode_steps", None)
        self._draws = TaskDraws(self.name, self._own.sample_tasks, env)
        self._draws.refuse_other_chance(self.num_envs, lambda task: None)
        self.own_observation_space = env.single_observation_space
        self.single_observation_space = spaces.vectors(self.own_observation_space)
        # A box of a user's own vector is not scaled: it is made for the policy.
        box = isinstance(env.single_action_space, gymnasium.spaces.Box)
        self._for_environment = None if box else spaces.for_environment(env.single_action_space)
        self._tasks: Any = None
        self._last = np.zeros((self.num_envs, *self.single_observation_space.shape), np.float32)
        self._steps = 0
        self._divergences = faults.Divergences(self.name)

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws tasks: an array [num_tasks, ...] as it is, or [num_tasks] objects."""
        drawn = self._draws(rng, num_tasks)
        return np.array(drawn) if isinstance(drawn, np.ndarray) and drawn.ndim > 1 else rows(drawn)

    def set_tasks(self, tasks: np.ndarray) -> None:
        """Sets each environment's task, a copy of its own."""
        self._tasks = tasks
        self._run("set_tasks", own_copies(tasks))

    def reset(self, **kwargs) -> tuple[np.ndarray, Infos]:
        """Starts new episodes; returns observations [P, O]."""
        result = self._run("reset", **kwargs)
        if not isinstance(result, tuple) or len(result) != 2:
            raise self._wrong("reset", f"returned {faults.brief(result)}")
        observations = self._checked("reset", result[0])
        finite = faults.is_finite(observations)
        if not finite.all():
            raise self._wrong(
                "reset", "returned an observation that is not finite", int(np.argmin(finite))
            )
        self._steps, self._last = 0, observations
        self._divergences.clear()
        return observations, {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Infos]:
        """Takes one action of the policy's in each environment, as `TaskVectorEnv.step`."""
        self._steps += 1
        taken = actions if self._for_environment is None else self._for_environment(actions)
        result = self._run("step", taken)
        if not isinstance(result, tuple) or len(result) != 5:
            many = f"{len(result)} values" if isinstance(result, tuple) else faults.brief(result)
            raise self._wrong("step", f"returned {many}")
        observations = np.array(self._checked("step", result[0]))
        rewards = np.array(self._column("rewards", result[1], "fiub"), float)
        terminated, truncated = (
            self._column(name, values, "b")
            for name, values in zip(("terminated", "truncated"), result[2:4], strict=True)
        )
        diverged = ~faults.can_be_learned(observations, rewards)
        reported = result[4].get("diverged") if isinstance(result[4], dict) else None
        if diverged.any():
            self._divergences.note(diverged, self._steps, actions, rewards)
            observations[diverged] = self._last[diverged]
            rewards[diverged] = 0.0
        self._last = observations
        diverged |= False if reported is None else np.asarray(reported, bool)
        infos = {"diverged": diverged} if diverged.any() else {}
        return observations, rewards, terminated | diverged, truncated, infos

    def refuse_divergence(self, rows: np.ndarray) -> None:
        """As `ForeignTasks.refuse_divergence`."""
        self._divergences.refuse(rows, self._tasks)

    def warn_of_divergence(self) -> None:
        """As `ForeignTasks.warn_of_divergence`."""
        self._divergences.warn(self._tasks)

    def _run(self, method: str, *args, **kwargs) -> Any:
        try:
            return getattr(self._own, method)(*args, **kwargs)
        except (Exception, SystemExit) as error:
            where = faults.place(method, self._steps)
            raise faults.raised(self.name, method, error, where) from error

    def _checked(self, method: str, value: Any) -> np.ndarray:
        found = spaces.flattened(self.own_observation_space, value, (self.num_envs,))
        if isinstance(found, str):
            raise self._wrong(method, found)
        return found

    def _column(self, name: str, values: Any, kinds: str) -> np.ndarray:
        """One value per environment, [P]."""
        try:
            array = np.asarray(values)
        except Exception:
            array = np.zeros(0, object)
        if array.shape != (self.num_envs,) or array.dtype.kind not in kinds:
            raise self._wrong(
                "step",
                f"returned {name} that are not one {'bool' if kinds == 'b' else 'number'} an"
                " environment",
            )
        return array

    def _wrong(self, method: str, what: str, row: int | None = None) -> EnvironmentFault:
        task = f" with task {faults.brief(self._tasks[row])}" if row is not None else ""
        where = faults.place(method, self._steps) + task
        return faults.wrong(self.name, method, what, where)
