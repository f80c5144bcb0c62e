"""Environments with tasks, P of them in one, as a Gymnasium vector environment.

Shape letters: P environments, n of them in a step, O observation numbers, A action numbers,
G numbers of a task.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar, NamedTuple, TypeAlias

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

Infos: TypeAlias = dict[str, np.ndarray]
"""`diverged` [P] bool, if it is there; and `_diverged`, where it is said."""

PICTURE = 360, 480
"""Height and width of a picture, pixels."""

Rows = slice | np.ndarray
"""Environments of a batch: all of them, or the indices [n] of some."""


class Advance(NamedTuple):
    """What a step did to n environments."""

    observations: np.ndarray  # [n, O], without the task
    rewards: np.ndarray  # [n]
    terminated: np.ndarray  # [n] bool
    valid: np.ndarray  # [n] bool: the simulation did not diverge


class TaskVectorEnv(gymnasium.vector.VectorEnv):
    """P environments in lockstep, each with a task of its own.

    An environment draws a new task at each reset, until `set_tasks` fixes them. Actions in [-1, 1]
    are scaled to the actuators' range; beyond, they are clipped. An environment whose simulation
    diverges, or whose action is not finite, ends there: it keeps its last observation, its reward
    is 0, and `infos["diverged"]` marks it.

    With `AutoresetMode.NEXT_STEP` an ended environment is reset by the next step; with `DISABLED`
    it stands still, costs nothing and has reward 0 until `reset(options={"reset_mask": ...})`.

    A subclass sets the sizes and words below and writes `sample_tasks`, `_reset` and `_advance`;
    and, to be drawn, `picture`.
    """

    state_size: int  # O, without the task
    action_size: int  # A
    task_size: int  # G
    task_words: str  # say what a task is, with a place for each of G numbers
    threads = 1  # that it uses
    drawn = False  # whether it writes `picture`
    # What holds one row per environment, so that a part has a view of it.
    _of_each: ClassVar[tuple[str, ...]] = ("tasks", "_observations", "_steps", "_ended")

    def __init__(
        self,
        num_envs: int = 1,
        *,
        max_episode_steps: int | None = None,
        oracle: bool = False,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ):
        """Makes the spaces.

        Args:
          num_envs: P.
          max_episode_steps: steps until an episode is cut; None for no end.
          oracle: append the task to the observation.
          autoreset_mode: `NEXT_STEP` or `DISABLED`.
          render_mode: "rgb_array" for `render`, or None.

        Raises:
          ValueError: a number is below 1, or a mode is none of these.
        """
        for name, number in (("num_envs", num_envs), ("max_episode_steps", max_episode_steps)):
            if number is not None and number < 1:
                raise ValueError(f"{name} is {number}; it must be at least 1.")
        mode = AutoresetMode(autoreset_mode)
        if mode is AutoresetMode.SAME_STEP:
            raise ValueError("autoreset_mode is SAME_STEP; use NEXT_STEP or DISABLED.")
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self.oracle = oracle
        self.metadata = {"render_modes": [], "autoreset_mode": mode}
        if self.drawn:
            fps = round(1.0 / self.step_seconds)
            self.metadata |= {"render_modes": ["rgb_array"], "render_fps": fps}
        modes = self.metadata["render_modes"]
        if render_mode is not None and render_mode not in modes:
            known = " or ".join(map(repr, [*modes, None]))
            raise ValueError(f"render_mode is {render_mode!r}; use {known}.")
        self.render_mode = render_mode
        size = self.state_size + (self.task_size if oracle else 0)
        box = gymnasium.spaces.Box
        self.single_observation_space = box(-np.inf, np.inf, (size,), np.float32)
        self.single_action_space = box(-1.0, 1.0, (self.action_size,), np.float32)
        batch = gymnasium.vector.utils.batch_space
        self.observation_space = batch(self.single_observation_space, num_envs)
        self.action_space = batch(self.single_action_space, num_envs)
        self.tasks = np.zeros((num_envs, self.task_size))
        self._tasks_fixed = False
        self._observations = np.zeros((num_envs, size), np.float32)
        self._steps = np.zeros(num_envs, np.int64)
        self._ended = np.ones(num_envs, bool)

    def part(self, rows: slice, threads: int = 1) -> TaskVectorEnv:
        """Some of the environments, as a view: what it steps is stepped here.

        Parts that share no environment may be stepped at the same time, each by a thread of its
        own. Only the whole is reset.

        Args:
          rows: which.
          threads: that the part uses for its physics, where there is any.
        """
        del threads
        part = copy.copy(self)
        for name in self._of_each:
            setattr(part, name, getattr(self, name)[rows])
        part.num_envs = len(part.tasks)
        return part

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws tasks [num_tasks, G]."""
        raise NotImplementedError

    @property
    def positions(self) -> np.ndarray:
        """Where each environment's body or robot is now, [P, Q]: what is needed to draw it."""
        raise NotImplementedError

    @property
    def step_seconds(self) -> float:
        """Time that a step takes, in a moving picture of natural speed."""
        raise NotImplementedError

    def picture(self, row: int) -> np.ndarray:
        """Draws an environment, [height, width, 3] uint8."""
        raise NotImplementedError

    def render(self) -> tuple[np.ndarray, ...] | None:
        """A picture of each environment, with `render_mode="rgb_array"`."""
        if self.render_mode is None:
            return None
        return tuple(self.picture(row) for row in range(self.num_envs))

    def describe(self, task: np.ndarray) -> str:
        """A few words on a task [G]."""
        return self.task_words.format(*task)

    def _reset(self, rows: Rows, num: int) -> np.ndarray:
        """Starts episodes with `self.np_random`; returns observations [num, O]."""
        raise NotImplementedError

    def _advance(self, rows: Rows, actions: np.ndarray) -> Advance:
        """Takes a step with actions [n, A]; may return non-finite numbers."""
        raise NotImplementedError

    def set_tasks(self, tasks: np.ndarray | None) -> None:
        """Fixes each environment's task, [P, G]; None draws a new one at each reset again.

        Raises:
          ValueError: if the shape is not [P, G], or a number is not finite.
        """
        self._tasks_fixed = tasks is not None
        if tasks is not None:
            try:
                tasks = np.asarray(tasks, float)
            except (TypeError, ValueError, OverflowError) as error:
                raise ValueError(
                    f"tasks are no numbers ({error}); give {list(self.tasks.shape)} numbers, one "
                    "row per environment."
                ) from error
            if tasks.shape != self.tasks.shape:
                raise ValueError(
                    f"tasks have shape {list(tasks.shape)}; give {list(self.tasks.shape)}, one row "
                    "per environment."
                )
            if not np.isfinite(tasks).all():
                raise ValueError(
                    "tasks hold numbers that are not finite (NaN or infinite); give finite ones."
                )
            self.tasks[:] = tasks

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, Infos]:
        """Starts new episodes: all, or those of `options["reset_mask"]` [P] bool.

        Returns:
          Observations [P, O] float32, and no information.
        """
        super().reset(seed=seed)
        mask = (options or {}).get("reset_mask")
        self._start(slice(None) if mask is None else np.flatnonzero(mask))
        return self._observations.copy(), {}

    def _start(self, rows: Rows) -> None:
        num = len(self._steps[rows])
        if not self._tasks_fixed:
            self.tasks[rows] = self.sample_tasks(self.np_random, num)
        self._observations[rows, : self.state_size] = self._reset(rows, num)
        if self.oracle:
            self._observations[rows, self.state_size :] = self.tasks[rows]
        self._steps[rows] = 0
        self._ended[rows] = False

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Infos]:
        """Takes one action [A] in each environment that has not ended.

        Returns:
          Observations [P, O] float32, rewards [P], terminated [P], truncated [P] and information.
        """
        rewards = np.zeros(self.num_envs)
        terminated = np.zeros(self.num_envs, bool)
        diverged = None
        rows: Rows = slice(None)
        over = self._ended.copy() if self._ended.any() else None
        if over is not None:
            rows = np.flatnonzero(~over)
        if over is None or not over.all():
            with np.errstate(all="ignore"):
                advance = self._advance(rows, actions[rows])
                valid = advance.valid & np.isfinite(advance.rewards)
                rewards[rows] = advance.rewards
                terminated[rows] = advance.terminated
                if valid.all():
                    self._observations[rows, : self.state_size] = advance.observations
                else:
                    numbers = np.arange(self.num_envs)[rows]
                    diverged = np.zeros(self.num_envs, bool)
                    diverged[numbers[~valid]] = True
                    rewards[diverged] = 0.0
                    terminated |= diverged
                    kept = numbers[valid]
                    self._observations[kept, : self.state_size] = advance.observations[valid]
        self._steps[rows] += 1
        if self.max_episode_steps is None:
            truncated = np.zeros(self.num_envs, bool)
        else:
            truncated = (self._steps >= self.max_episode_steps) & ~terminated
        if over is not None:
            truncated &= ~over
            if self.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP:
                self._start(np.flatnonzero(over))
                over = None
        np.logical_or(terminated, truncated, out=self._ended)
        if over is not None:
            self._ended |= over
        infos = {} if diverged is None else {"diverged": diverged, "_diverged": diverged.copy()}
        return self._observations.copy(), rewards, terminated, truncated, infos
