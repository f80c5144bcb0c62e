"""Returns after every gradient step on held-out tasks (paper section 5.3: 40 tasks).

Shape letters: T tasks of the sampler, S gradient steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from maml_tf import arguments, seeds
from maml_tf.estimates import Tuning, choose_step_size, summarize
from maml_tf.rl.envs.point import STEP
from maml_tf.rl.meta_trpo import MetaTRPO, Sampler, check_sampler
from maml_tf.rl.objectives import PolicyBatch
from maml_tf.system.progress import Bar
from maml_tf.types import Estimate


class ReturnEvaluator:
    """Adapts to held-out tasks by fresh trajectories at every step, and measures the returns.

    The first step takes alpha, the later ones alpha / 2, as in the original program; learned step
    sizes are taken as they are. Calling it again measures the present weights on the same tasks.
    """

    def __init__(
        self,
        learner: MetaTRPO,
        sampler: Sampler,
        *,
        num_tasks: int = 40,
        steps: int = 3,
        step_size: float | None = None,
        split: str = "val",
    ):
        """Sets the evaluation up.

        Args:
          learner: whose weights are adapted; they stay as they are.
          sampler: of the trajectories; its tasks 0, 1, ... of `split` are met.
          num_tasks: how many tasks, rounded up to whole draws while sampling.
          steps: gradient steps, S.
          step_size: alpha; the learner's own by default.
          split: "val" or "test".

        Raises:
          ValueError: an argument is out of range.
        """
        check_learner(learner)
        check_sampler(sampler)
        seeds.check_split(split)
        num_tasks, steps = arguments.whole("num_tasks", num_tasks), arguments.whole("steps", steps)
        if step_size is not None:
            step_size = arguments.positive("step_size", step_size)
        if num_tasks < 1 or steps < 0:
            raise ValueError(
                f"Evaluation needs num_tasks >= 1 and steps >= 0, not {num_tasks} and {steps}."
            )
        self.learner, self.sampler = learner, sampler
        self.num_tasks, self.steps, self.split = num_tasks, steps, split
        self.step_sizes = schedule(learner, steps, step_size)

    def __call__(self, *, progress: bool = False) -> Estimate:
        """Returns mean, deviation and 95 % interval after each step, `[S + 1]`."""
        curves: list[np.ndarray] = []
        bar = Bar(total=self.num_tasks, desc="evaluate", unit="task", disable=not progress)
        with bar:
            while sum(map(len, curves)) < self.num_tasks:
                rollouts = self.learner.roll_out_and_adapt(
                    self.sampler, len(curves), self.step_sizes, self.split
                )
                curves.append(rollouts.returns)
                bar.update(len(rollouts.returns))
        return summarize(np.concatenate(curves)[: self.num_tasks])


def evaluate(learner: MetaTRPO, sampler: Sampler, *, progress: bool = False, **options) -> Estimate:
    """Measures a learner on held-out tasks once; the options are `ReturnEvaluator`'s."""
    return ReturnEvaluator(learner, sampler, **options)(progress=progress)


def check_learner(learner: Any) -> None:
    """Refuses what adapts to no trajectories."""
    arguments.learner(learner, ("roll_out_and_adapt", "step_sizes"), "make one: MetaTRPO(policy)")


def schedule(learner: MetaTRPO, steps: int, step_size: float | None = None) -> list[float | None]:
    """Alpha of each gradient step; None: the learner's own, where it has learned them."""
    if learner.step_sizes and step_size is None:
        return [None] * steps
    alpha = learner.step_size if step_size is None else step_size
    return [alpha if step == 0 else alpha / 2 for step in range(steps)]


def tune_step_size(
    learner: MetaTRPO, sampler: Sampler, *, progress: bool = False, **options
) -> Tuning:
    """Chooses alpha by the return after the last step; the options are `ReturnEvaluator`'s."""
    return choose_step_size(
        lambda alpha: ReturnEvaluator(learner, sampler, step_size=alpha, **options)(),
        progress=progress,
    )


def paths(
    learner: MetaTRPO,
    sampler: Sampler,
    steps: int,
    *,
    step_size: float | None = None,
    split: str = "test",
    tasks: int = 3,
    episodes: int = 5,
) -> list[dict[str, Any]]:
    """Where 2D navigation went while it adapted, on the first tasks of `split`.

    Args:
      learner: whose weights are adapted; they stay as they are.
      sampler: of 2D navigation.
      steps: gradient steps, S.
      step_size: see `ReturnEvaluator`.
      split: "val" or "test".
      tasks: at most.
      episodes: of a task and step, at most.

    Returns:
      A dictionary a task: `goal [2]`, and `paths`, for each of S + 1 steps and each episode the
      places `[..., 2]` from the start to the last.
    """
    drawn = sampler.sample_tasks(0, split)[:tasks]
    alphas = schedule(learner, steps, step_size)
    rollouts = learner.roll_out_and_adapt(sampler, 0, alphas, split)
    return [
        {
            "goal": np.round(goal, 4).tolist(),
            "paths": [_paths(b, task, rollouts.horizon, episodes) for b in rollouts.batches],
        }
        for task, goal in enumerate(drawn)
    ]


def _paths(batch: PolicyBatch, task: int, horizon: int, episodes: int) -> list[list[list[float]]]:
    """Episodes of one task and step."""
    places, actions, mask = (
        np.asarray(a[task]).reshape(-1, horizon, *a.shape[2:])[:episodes]
        for a in (batch.observations, batch.actions, batch.mask)
    )
    places = places[..., :2]  # an oracle's observation goes on with the goal
    following = places + STEP * np.clip(actions, -1.0, 1.0)
    rows = []
    for before, after, taken in zip(places, following, mask > 0, strict=True):
        row = np.concatenate([before[taken], after[taken][-1:]])
        rows.append(np.round(row.astype(float), 4).tolist())
    return rows
