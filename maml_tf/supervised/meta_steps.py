"""Meta-steps in compiled loops, on as many replicas as the strategy has.

Shape letters: T tasks of a meta-batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from maml_tf.engine.compilation import compile_fed_loop, compile_loop
from maml_tf.engine.outer_step import PARTS
from maml_tf.engine.workers import Workers
from maml_tf.sources.read_ahead import ReadAhead
from maml_tf.sources.resolve import InGraph, prepare
from maml_tf.sources.supplies import Tasks
from maml_tf.supervised.meta_gradient import MetaMetrics
from maml_tf.types import Task, TaskSource


class StepMetrics(NamedTuple):
    """What one meta-step saw before its update, as `MetaMetrics`, and what the update was."""

    support_loss: tf.Tensor  # [S]
    query_loss: tf.Tensor  # []
    query_metric: tf.Tensor  # []
    gradient_norms: tf.Tensor  # [4]: of the meta-gradient, before it is clipped; see `Norms`
    update_norms: tf.Tensor  # [4]: of what the weights moved by
    meta_step_size: tf.Tensor  # []: of the optimizer's schedule; NaN where it has none

    def progress(self, metric: str) -> str:
        """A few words for the progress bar, about arrays with a leading axis `[count]`."""
        return MetaMetrics(*self[:3]).progress(metric)


_OF_TASKS = ("support_loss", "query_loss", "query_metric")
"""What is a mean over tasks. All else is of the whole meta-gradient, and alike on every replica."""

Step = Callable[[TaskSource, tf.Tensor], StepMetrics]


class MetaSteps:
    """The compiled loop of each source of tasks that is met."""

    def __init__(
        self,
        step: Step,
        check: Callable[[Task], None],
        *,
        meta_batch_size: int,
        inner_steps: int,
        strategy: tf.distribute.Strategy,
        jit_compile: bool,
    ):
        """Nothing is traced yet.

        Args:
          step: one meta-step, `(source, index) -> StepMetrics`, in a replica's context.
          check: looks at the values of the first meta-batch of a source.
          meta_batch_size: T, over all replicas.
          inner_steps: S.
          strategy: whose replicas take a share of the tasks each.
          jit_compile: compile the whole loop with XLA, where there is one replica.
        """
        self._step, self._check, self._size = step, check, meta_batch_size
        self._strategy, self._workers = strategy, Workers(strategy)
        self._jit = jit_compile and strategy.num_replicas_in_sync == 1
        number, norms = tf.TensorSpec([]), tf.TensorSpec([len(PARTS)])
        self.spec = StepMetrics(tf.TensorSpec([inner_steps]), number, number, norms, norms, number)
        # A source is kept beside what was made of it, so that its id stays its own.
        self._sources: dict[int, tuple[Tasks, InGraph | ReadAhead]] = {}
        self._loops: dict[int, Callable[[int, int], StepMetrics]] = {}

    def with_sources_of(self, before: MetaSteps | None) -> MetaSteps:
        """Takes the prepared sources of another: of the learner before a setting was changed."""
        if before is not None and before._size == self._size:
            self._sources = before._sources
        return self

    def __call__(self, tasks: Tasks, start: int, count: int) -> StepMetrics:
        """Runs meta-steps `start` ... `start + count - 1`; see `MetaLearner.meta_steps`."""
        if id(tasks) not in self._loops:
            if id(tasks) not in self._sources:
                source = prepare(tasks, self._size, start=start)
                self._look_at_first(source, start)
                self._sources[id(tasks)] = (tasks, source)
            self._loops[id(tasks)] = self._compile(self._sources[id(tasks)][1])
        seen = self._loops[id(tasks)](start, count)
        return seen._replace(**self._workers.mean({n: getattr(seen, n) for n in _OF_TASKS}))

    def _look_at_first(self, source: InGraph | ReadAhead, index: int) -> None:
        """Draws one meta-batch to look at its values: once per source, never in a step."""
        if isinstance(source, InGraph):
            self._check(source(tf.constant(index, tf.int64), self._size))
        else:
            self._check(source.peek(index))

    def _compile(self, source: InGraph | ReadAhead) -> Callable[[int, int], StepMetrics]:
        def step(index: tf.Tensor, draw: TaskSource) -> StepMetrics:
            metrics = self._strategy.run(self._step, args=(draw, index))
            # Over this process' replicas; those of other workers are asked once a call.
            each = map(self._strategy.experimental_local_results, metrics)
            return StepMetrics(*(tf.add_n(own) / len(own) for own in each))

        if isinstance(source, InGraph):
            return compile_loop(lambda index: step(index, source), self.spec, jit_compile=self._jit)
        return compile_fed_loop(
            lambda index, task: step(index, lambda *_: task),
            self.spec,
            source.draw,
            capacity=source.capacity,
            jit_compile=self._jit,
        )
