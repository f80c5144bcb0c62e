"""Where a meta-RL learner's trajectories come from, and what sampling and adapting in turns gave.

Shape letters: T tasks, E episodes a task.
"""

from __future__ import annotations

import time
from typing import NamedTuple, Protocol

import numpy as np

from maml_tf.rl.objectives import PolicyBatch
from maml_tf.rl.policy import Actor
from maml_tf.types import Trajectories


class Sampler(Protocol):
    """Where trajectories come from; for `training.train`, in the place of tasks."""

    def sample_tasks(self, index: int, split: str = "train") -> np.ndarray:
        """Draws T tasks `[T, ...]`, a function of (seed, split, index)."""
        ...

    def sample(
        self, act: Actor, tasks: np.ndarray, index: int, stage: int = 0, split: str = "train"
    ) -> Trajectories:
        """Runs E episodes in each task, a function of (seed, split, index, stage) and `act`."""
        ...


class Rollouts(NamedTuple):
    """What sampling and adapting in turns gave."""

    batches: list[PolicyBatch]  # one a stage
    returns: np.ndarray  # [T, stages], undiscounted
    horizon: int
    sampling_seconds: float
    inner_seconds: float

    def share(self, share: float) -> list[PolicyBatch]:
        """The first episodes of every task, `share` of them and at least one."""
        if share == 1:
            return self.batches
        episodes = self.batches[0].mask.shape[1] // self.horizon
        steps = max(round(share * episodes), 1) * self.horizon
        return [batch.first(steps) for batch in self.batches]


class Clock:
    """Adds up seconds by name."""

    def __init__(self):
        """Starts now."""
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def stop(self, name: str) -> None:
        """Counts the time since the last stop for `name`."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now
