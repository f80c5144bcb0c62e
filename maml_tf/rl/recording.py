"""Where an environment's robot or point went while a policy adapted, as an evaluation meets it.

Shape letters: T tasks, E episodes per task, S gradient steps, Q position and G task numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from maml_tf.rl.actor import Act
from maml_tf.rl.envs.base import TaskVectorEnv
from maml_tf.rl.evaluation import schedule
from maml_tf.rl.meta_policy import MetaPolicy
from maml_tf.rl.sampler import Sampler
from maml_tf.types import Trajectories


class Episode(NamedTuple):
    """What happened in one episode."""

    positions: np.ndarray  # [n + 1, Q]: before each of n steps, and after the last
    reward: float  # the sum over its steps


Paths: TypeAlias = dict[str, list]
"""One task as plain data: its `goal` [G], and its `paths` [S + 1][E][n + 1][Q]."""


def record(
    learner: MetaPolicy,
    sampler: Sampler,
    task: int,
    step_sizes: Sequence[float | None],
    split: str = "test",
) -> tuple[np.ndarray, list[Episode]]:
    """Adapts as an evaluation does, and keeps what one task looked like.

    Args:
      learner: whose weights are adapted; they stay as they are.
      sampler: of this package's environments, as for an evaluation.
      task: its number among those of an evaluation.
      step_sizes: alpha of each gradient step; None: the learner's own.
      split: "val" or "test".

    Returns:
      The task `[G]`, and its first episode before the first and after the last gradient step.
    """
    batch, row = divmod(task, sampler.tasks)
    recorder = _Recorder(sampler, slice(row, row + 1), 1)
    learner.roll_out_and_adapt(recorder, batch, step_sizes, split)
    first, last = (recorder.stages[stage][0][0] for stage in (0, -1))
    return recorder.drawn[0], [first, last]


def paths(
    learner: MetaPolicy,
    sampler: Sampler,
    steps: int,
    *,
    step_size: float | None = None,
    split: str = "test",
    tasks: int = 3,
    episodes: int = 5,
) -> list[Paths]:
    """Where a point on the plane went while its policy adapted, on the first tasks of `split`.

    Args:
      learner: whose weights are adapted; they stay as they are.
      sampler: of 2D navigation.
      steps: gradient steps, S.
      step_size: see `ReturnEvaluator`.
      split: "val" or "test".
      tasks: how many at most.
      episodes: how many per task and step, at most.

    Returns:
      Of each task its goal, and for each of S + 1 steps and each episode the places from the start
      to the last, all rounded to four decimals.
    """
    recorder = _Recorder(sampler, slice(0, tasks), episodes)
    learner.roll_out_and_adapt(recorder, 0, schedule(learner, steps, step_size), split)
    return [
        {
            "goal": goal,
            "paths": [
                [_rounded(episode.positions) for episode in stage[task]]
                for stage in recorder.stages
            ],
        }
        for task, goal in enumerate(np.round(recorder.drawn, 4).tolist())
    ]


def _rounded(positions: np.ndarray) -> list[list[float]]:
    # As the policy observes them.
    return np.round(positions.astype(np.float32).astype(float), 4).tolist()


class _Recorder:
    """A sampler that notes where the first episodes of some of its tasks went."""

    def __init__(self, sampler: Sampler, rows: slice, episodes: int):
        self.tasks = sampler.tasks
        self.stages: list[list[list[Episode]]] = []  # of each stage, task and episode
        self.drawn = np.zeros(0)  # the tasks that are watched
        self._sampler, self._rows, self._episodes = sampler, rows, episodes

    def sample_tasks(self, index: int, split: str = "train") -> np.ndarray:
        tasks = self._sampler.sample_tasks(index, split)
        self.drawn = tasks[self._rows]
        return tasks

    def sample(
        self, act: Act, tasks: np.ndarray, index: int, stage: int = 0, split: str = "train"
    ) -> Trajectories:
        watched = _Watched(act, self._positions)
        taken = self._sampler.sample(watched, tasks, index, stage, split)
        places = np.stack([*watched.places, self._positions()], 2)
        lengths = taken.mask[self._rows, : self._episodes].sum(2).astype(int)
        rewards = taken.rewards[self._rows, : self._episodes].sum(2)
        self.stages.append(
            [
                [_episode(*one) for one in zip(*of_a_task, strict=True)]
                for of_a_task in zip(places, lengths, rewards, strict=True)
            ]
        )
        return taken

    def _positions(self) -> np.ndarray:
        """Where those that are watched are now, a copy `[tasks, episodes, Q]`."""
        env = self._sampler.env
        assert isinstance(env, TaskVectorEnv)
        each = env.positions.reshape(self._sampler.tasks, self._sampler.episodes, -1)
        return each[self._rows, : self._episodes].copy()


class _Watched:
    """A policy that notes where the robots are whenever it acts."""

    def __init__(self, act: Act, positions: Callable[[], np.ndarray]):
        self.log_stds, self._act, self._positions = act.log_stds, act, positions
        self.places: list[np.ndarray] = []

    def __call__(
        self, observations: np.ndarray, noise: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        self.places.append(self._positions())
        return self._act(observations, noise)


def _episode(places: np.ndarray, taken: int, reward: float) -> Episode:
    """Of places `[steps + 1, Q]`, those of the steps that were taken, and one more."""
    positions = places[: taken + 1]
    return Episode(positions[np.isfinite(positions).all(1)], float(reward))
