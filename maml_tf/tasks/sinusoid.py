"""Regression on sine waves, the paper's first experiment (Finn et al. 2017, section 5.1).

Shape letters: T tasks, K shots (support points), Q query points.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow as tf

from maml_tf import arguments, seeds
from maml_tf.tasks.sizes import drawn, span
from maml_tf.types import Batch, Task

AMPLITUDE_RANGE = (0.1, 5.0)
PHASE_RANGE = (0.0, math.pi)
INPUT_RANGE = (-5.0, 5.0)


class SineParameters(NamedTuple):
    """The curves of a stack of tasks."""

    amplitude: tf.Tensor  # [T]
    phase: tf.Tensor  # [T], radians


class Sinusoid:
    """Sine waves of random amplitude and phase: a `TaskSource`.

        y = A sin(x - phase),  A ~ U[0.1, 5],  phase ~ U[0, pi],  x ~ U[-5, 5]

    Source: Finn, Abbeel & Levine 2017, section 5.1, https://arxiv.org/abs/1703.03400. The paper
    does not print the sign of the phase; this is the published code's.
    """

    draws_by_index = True
    """Known to `sources.tracing`, which need not find it out for every evaluation."""

    def __init__(
        self,
        *,
        shots: int | tuple[int, int],
        queries: int | None = None,
        seed: int = 0,
        split: str = "train",
        oracle: bool = False,
        half: bool = False,
        fixed: bool = False,
    ):
        """Describes the tasks; draws nothing yet.

        Args:
          shots: K, support points per task. With (low, high) each task draws its own K, uniformly,
            both ends included; sets are padded to `high`, and the mask says so.
          queries: Q, query points per task. If not given, K, or its upper end.
          seed: the run's seed.
          split: "train", "val" or "test": independent streams of tasks.
          oracle: show the model the task: x becomes [x, amplitude, phase].
          half: support points lie in the positive half of the range; query points everywhere.
          fixed: the curves are those of meta-batch 0 in every meta-batch; points are fresh.

        Raises:
          ValueError: if a count is not a positive whole number, or the split is unknown.
        """
        self._shots = span("shots", shots)
        queries = self._shots[1] if queries is None else queries
        for name, count in (("shots", self._shots[0]), ("queries", queries)):
            if arguments.whole(name, count) < 1:
                raise ValueError(f"{name} is {count}; a sinusoid task needs at least 1.")
        for name, flag in (("oracle", oracle), ("half", half), ("fixed", fixed)):
            arguments.boolean(name, flag)
        self.shots = shots
        self.queries = queries
        self.seed = arguments.whole("seed", seed)
        self.split = seeds.check_split(split)
        self.oracle = oracle
        self.half = half
        self.fixed = fixed

    def __call__(self, index: tf.Tensor | int, num_tasks: int) -> Task:
        """Draws meta-batch `index`.

        Args:
          index: meta-batch number, int64 scalar.
          num_tasks: T, a Python integer.

        Returns:
          Task with support x and y [T, K, 1] and query x and y [T, Q, 1], float32; with `oracle`
          x is [T, K, 3] and [T, Q, 3]. A support set whose size is drawn has a mask [T, K]; where
          that is False a point does not exist.
        """
        num_tasks = arguments.count("num_tasks", num_tasks, 1)
        fewest, most = self._shots
        seed = seeds.stream(self.seed, self.split, "sinusoid inputs", index)
        x = seeds.uniform(seed, (num_tasks, most + self.queries, 1), *INPUT_RANGE)
        support, query = x[:, :most], x[:, most:]
        if self.half:
            support = tf.abs(support)  # U[-5, 5] becomes U[0, 5]
        curves = self.parameters(index, num_tasks)
        task = Task(support=self.examples(curves, support), query=self.examples(curves, query))
        if fewest == most:
            return task
        seed = seeds.stream(self.seed, self.split, "sinusoid shots", index)
        mask = drawn(seeds.uniform(seed, (num_tasks,)), self._shots)
        return task._replace(support=task.support._replace(mask=mask))

    def examples(self, curves: SineParameters, x: tf.Tensor) -> Batch:
        """Points x [T, B, 1] of curves: what the model sees, [T, B, 1 or 3], and y [T, B, 1]."""
        amplitude, phase = (p[:, None, None] for p in curves)
        y = amplitude * tf.sin(x - phase)
        if self.oracle:
            x = tf.concat([x, *(tf.broadcast_to(p, x.shape) for p in (amplitude, phase))], axis=-1)
        return Batch(x, y)

    def parameters(self, index: tf.Tensor | int, num_tasks: int) -> SineParameters:
        """The true curves of meta-batch `index`, to draw them or to show an oracle.

        Args:
          index: meta-batch number, int64 scalar.
          num_tasks: T, a Python integer.

        Returns:
          Amplitude [T] and phase [T], float32.
        """
        index = 0 if self.fixed else index
        amplitude_seed = seeds.stream(self.seed, self.split, "sinusoid amplitude", index)
        phase_seed = seeds.stream(self.seed, self.split, "sinusoid phase", index)
        return SineParameters(
            seeds.uniform(amplitude_seed, (num_tasks,), *AMPLITUDE_RANGE),
            seeds.uniform(phase_seed, (num_tasks,), *PHASE_RANGE),
        )
