"""Any Gymnasium environment with tasks, in Gymnasium's own vector environments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium.spaces import flatdim


class _Numbered(gymnasium.Wrapper):
    """An environment that knows which row of the tasks is its own."""

    def __init__(self, env: gymnasium.Env, number: int):
        super().__init__(env)
        self._number = number

    def take_task(self, tasks: np.ndarray) -> None:
        env: Any = self.unwrapped
        env.set_task(tasks[self._number])


class ForeignTasks(gymnasium.vector.VectorWrapper):
    """B environments that have `sample_tasks(rng, n)` and `set_task(task)`, each with a task.

    Actions in [-1, 1] are scaled to the action space and clipped, where it has bounds. An
    environment that returns numbers that are not finite ends there: it keeps its last observation,
    its reward is 0, and `infos["diverged"]` marks it. The next step resets ended environments.
    """

    def __init__(
        self,
        make: Callable[[], gymnasium.Env],
        num_envs: int,
        *,
        oracle: bool = False,
        asynchronous: bool = False,
    ):
        """Makes the environments.

        Args:
            make: makes one environment.
            num_envs: B.
            oracle: append the task to the observation.
            asynchronous: step each in a process of its own.

        Raises:
            ValueError: if the environment has no tasks, no vectors of real numbers as actions, or
                none as observations.
        """
        self._one = make()
        _check(self._one)
        vector = gymnasium.vector.AsyncVectorEnv if asynchronous else gymnasium.vector.SyncVectorEnv
        self._vector = vector([_maker(make, number) for number in range(num_envs)])
        super().__init__(self._vector)
        self.oracle = oracle
        self._tasks = self.sample_tasks(np.random.default_rng(0), num_envs)
        self.max_episode_steps = self._one.spec.max_episode_steps if self._one.spec else None
        size = flatdim(self._one.observation_space)
        size += self._tasks.shape[1] if oracle else 0
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        box = cast(gymnasium.spaces.Box, self._one.action_space)
        self._low, self._high = box.low, box.high
        self._last = np.zeros((num_envs, size), np.float32)

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws tasks [num_tasks, G], as the environment does."""
        env: Any = self._one.unwrapped
        tasks = np.asarray(env.sample_tasks(rng, num_tasks), np.float64)
        return tasks.reshape(num_tasks, -1)

    def set_tasks(self, tasks: np.ndarray) -> None:
        """Sets each environment's task, [B, G]."""
        self._tasks = np.asarray(tasks, np.float64)
        self._vector.call("take_task", self._tasks)

    def reset(self, **kwargs) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts new episodes; returns observations [B, O] float32."""
        observations, infos = self.env.reset(**kwargs)
        self._last = self._with_tasks(observations)
        return self._last, infos

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Takes one action [A] in each environment, as `TaskVectorEnv.step`."""
        bounded = np.isfinite(self._low) & np.isfinite(self._high)
        span = np.where(bounded, self._high - self._low, 2.0)
        low = np.where(bounded, self._low, -1.0)
        clipped = np.where(bounded, np.clip(actions, -1.0, 1.0), actions)
        scaled = (low + 0.5 * (clipped + 1.0) * span).astype(self._low.dtype)
        observations, rewards, terminated, truncated, infos = self.env.step(scaled)
        observations = self._with_tasks(observations)
        diverged = ~(np.isfinite(observations).all(axis=1) & np.isfinite(rewards))
        observations[diverged] = self._last[diverged]
        rewards[diverged] = 0.0
        self._last = observations
        infos = {**infos, "diverged": diverged}
        return observations, rewards, terminated | diverged, truncated, infos

    def _with_tasks(self, observations: np.ndarray) -> np.ndarray:
        blocks = [observations, self._tasks] if self.oracle else [observations]
        return np.concatenate(blocks, axis=1, dtype=np.float32)


def _maker(make: Callable[[], gymnasium.Env], number: int) -> Callable[[], gymnasium.Env]:
    return lambda: _Numbered(make(), number)


def _check(env: gymnasium.Env) -> None:
    """Refuses an environment that has no tasks or other spaces than vectors of real numbers."""
    name = env.spec.id if env.spec else type(env.unwrapped).__name__
    missing = [m for m in ("sample_tasks", "set_task") if not hasattr(env.unwrapped, m)]
    if missing:
        raise ValueError(
            f"{name} has no tasks; give it {' and '.join(missing)} (sample_tasks(rng, n), "
            "set_task(task))."
        )
    check_spaces(name, env.observation_space, env.action_space)


def check_spaces(name: str, observations: gymnasium.Space, actions: gymnasium.Space) -> None:
    """Refuses spaces other than vectors of real numbers.

    Raises:
        ValueError: naming the environment and the space.
    """
    for kind, space in (("observations", observations), ("actions", actions)):
        real = isinstance(space, gymnasium.spaces.Box) and np.issubdtype(space.dtype, np.floating)
        if not real or len(space.shape or ()) != 1:
            raise ValueError(
                f"{name} has {kind} {space}; a Gaussian policy needs a Box of real numbers with "
                "one axis."
            )
