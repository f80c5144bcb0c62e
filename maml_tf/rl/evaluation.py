"""Returns after every gradient step on held-out tasks (paper section 5.3: 40 tasks).

Shape letters: T tasks of the sampler, S gradient steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from maml_tf import arguments, seeds
from maml_tf.estimates import summarize
from maml_tf.rl.rollouts import TrajectorySource, check_source
from maml_tf.system.progress import Bar
from maml_tf.types import Estimate

if TYPE_CHECKING:
    from maml_tf.rl.meta_policy import MetaPolicy


class ReturnEvaluator:
    """Adapts to held-out tasks by fresh trajectories at every step, and measures the returns.

    The first step takes alpha, the later ones alpha / 2, as in the original program; learned step
    sizes are taken as they are. Calling it again measures the present weights on the same tasks.

    Attributes:
      steps: S of the estimate.
      step_size: alpha; None for the learner's own. It may be assigned between two calls.
    """

    def __init__(
        self,
        learner: MetaPolicy,
        sampler: TrajectorySource,
        *,
        num_tasks: int = 40,
        steps: int = 3,
        step_size: float | None = None,
        split: str = "val",
    ):
        """Sets the evaluation up.

        Args:
          learner: whose weights are adapted; they stay as they are.
          sampler: of the trajectories; its tasks 0, 1, ... of `split` are met. It need not draw as
            many at a time as the learner's meta-batch has.
          num_tasks: how many tasks, rounded up to whole draws while sampling.
          steps: gradient steps, S.
          step_size: alpha; the learner's own by default.
          split: "val" or "test".

        Raises:
          ValueError: an argument is out of range.
        """
        arguments.learner(learner, ("roll_out_and_adapt", "step_sizes"), LEARNER)
        check_source(sampler)
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
        self.step_size = step_size

    def __call__(self, *, progress: bool = False) -> Estimate:
        """Returns mean, deviation and 95 % interval after each step, `[S + 1]`."""
        curves: list[np.ndarray] = []
        step_sizes = schedule(self.learner, self.steps, self.step_size)
        bar = Bar(
            total=self.num_tasks,
            desc="evaluate",
            unit="task",
            until_first="compiling",
            disable=not progress,
        )
        with bar:
            while sum(map(len, curves)) < self.num_tasks:
                rollouts = self.learner.roll_out_and_adapt(
                    self.sampler, len(curves), step_sizes, self.split
                )
                curves.append(rollouts.returns)
                bar.update(len(rollouts.returns))
        return summarize(np.concatenate(curves)[: self.num_tasks])


LEARNER = "make one: MetaTRPO(policy, meta_batch_size=...)"
"""What to give where a learner of a policy is asked for."""


def schedule(learner: MetaPolicy, steps: int, step_size: float | None = None) -> list[float | None]:
    """Alpha of each gradient step; None: the learner's own, where it has learned them."""
    if learner.step_sizes and step_size is None:
        return [None] * steps
    alpha = learner.step_size if step_size is None else step_size
    return [alpha if step == 0 else alpha / 2 for step in range(steps)]
