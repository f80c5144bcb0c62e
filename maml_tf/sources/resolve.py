"""Any source of tasks: functions of TensorFlow or NumPy, iterators, data sets.

A function that can be traced runs inside the compiled loop. Everything else runs in Python, in a
thread that draws the next meta-batches while the present ones are learned from.

Shape letters: T tasks, B examples in a set.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from maml_tf.sources.checks import as_task
from maml_tf.sources.read_ahead import ReadAhead
from maml_tf.sources.supplies import SourceEnded, Tasks, supply_of
from maml_tf.sources.tracing import Verdict, is_constant, same_values, try_tracing
from maml_tf.tasks.constant import ConstantTasks
from maml_tf.tasks.shares import share_of
from maml_tf.types import Task

_LOG = logging.getLogger(__name__)

_REMEDY = (
    "Draw fresh data at every call, as by np.random.default_rng(index) or maml_tf.seeds.uniform"
)


class InGraph:
    """A function that is traced into the compiled loop; a `TaskSource` that checks itself."""

    def __init__(self, source: Callable):
        """Takes the function."""
        self.source = source

    def __call__(self, index: tf.Tensor, num_tasks: int) -> Task:
        """Draws meta-batch `index`, while tracing."""
        return _in_graph(self.source(index, num_tasks), num_tasks)

    def share(self, index: tf.Tensor, num_tasks: int, mine: Any, replicas: int) -> Task:
        """Draws share number `mine` of it, while tracing; no more than that where it can be."""
        if hasattr(self.source, "share"):
            drawn = self.source.share(index, num_tasks, mine, replicas)
            return _in_graph(drawn, num_tasks // replicas)
        return share_of(self(index, num_tasks), mine, replicas)


def _in_graph(drawn: Any, num_tasks: int) -> Task:
    return tf.nest.map_structure(tf.convert_to_tensor, as_task(drawn, num_tasks))


class Piece(NamedTuple):
    """Held-out tasks of one compiled call."""

    task: Task
    tasks: int  # how many of the first are meant; the rest fill it up


def prepare(tasks: Tasks, num_tasks: int, *, start: int = 0) -> InGraph | ReadAhead:
    """Finds out what kind of task source `tasks` is.

    Args:
      tasks: a function `(index, num_tasks) -> Task` of TensorFlow, NumPy or Python; an iterator,
        iterable, list, `tf.data.Dataset` or `keras.utils.PyDataset` of meta-batches.
      num_tasks: T of a meta-batch.
      start: index of the first meta-batch that will be asked for.

    Returns:
      What gives checked meta-batches, in a graph or from a thread.

    Raises:
      ValueError: it is no task source, what it gives is no task, or it gives one meta-batch for
        every index and does not say so by an attribute `constant_tasks = True`.
    """
    with tf.init_scope():
        supply, function = supply_of(tasks, num_tasks)
        if function is None:
            if start:
                _LOG.info("Passing over the %d meta-batches before this run's first.", start)
            return ReadAhead(supply, num_tasks, start)
        meant = getattr(tasks, "constant_tasks", False)
        check = functools.partial(as_task, num_tasks=num_tasks)
        verdict = try_tracing(function, num_tasks, start, check, constant=meant)
        if verdict.in_graph:
            return InGraph(function)
        reader = ReadAhead(supply, num_tasks, start, drawn=verdict.drawn)
        if not (meant or verdict.drawn) and is_constant(reader.peek, start):
            raise ValueError(
                "The task source gives the same meta-batch for every index: training would see "
                f"no other. {_REMEDY}; if you mean it, pass maml_tf.tasks.ConstantTasks(task)."
            )
        _LOG.info("The task source runs in Python, beside the compiled steps.")
        return reader


def held_out(tasks: Tasks, num_tasks: int, size: int) -> InGraph | list[Piece]:
    """The tasks of an evaluation, the same whenever they are met.

    Args:
      tasks: as for `prepare`. Of data that come in meta-batches T is theirs.
      num_tasks: how many are met.
      size: T of one compiled call.

    Returns:
      A source whose meta-batches of `size` tasks are to be drawn; or, of one that runs in Python,
      all tasks, drawn here and kept in memory.

    Raises:
      ValueError: it is no task source, has too few tasks, or gives the same ones again and again.
    """
    with tf.init_scope():
        if isinstance(tasks, ConstantTasks):
            tasks = [tasks.task]
        supply, function = supply_of(tasks, size, cycle=False)
        check = functools.partial(as_task, num_tasks=size)
        verdict = try_tracing(function, size, 0, check) if function else Verdict(False, [])
        if function and verdict.in_graph:
            return InGraph(function)
        reader = ReadAhead(supply, size if function else None, drawn=verdict.drawn)
        drawn: list[Task] = []
        there = 0
        while there < num_tasks:
            try:
                drawn.append(reader.peek(len(drawn)))
            except SourceEnded as error:
                raise ValueError(
                    f"The source has {there} held-out tasks, and num_tasks is {num_tasks}; ask "
                    "for no more than there are."
                ) from error
            there += _count(drawn[-1])
        if len(drawn) > 1 and same_values(drawn[0], drawn[1]):
            raise ValueError(
                "The task source gives the same held-out tasks again and again, so that an "
                f"interval over {num_tasks} would be false. {_REMEDY}, or set num_tasks to "
                f"{_count(drawn[0])}."
            )
        return _cut(drawn, num_tasks, size)


def _count(task: Task) -> int:
    return tf.nest.flatten(task)[0].shape[0]


def _form(task: Task) -> str:
    return repr(tf.nest.map_structure(lambda array: (array.dtype.str, array.shape[1:]), task))


def _cut(drawn: list[Task], num_tasks: int, size: int) -> list[Piece]:
    """Pieces of `size` tasks, for one compiled call takes no other."""
    pieces, left = [], num_tasks
    for _, group in itertools.groupby(drawn, _form):
        whole = tf.nest.map_structure(lambda *arrays: np.concatenate(arrays), *group)
        there = min(_count(whole), left)
        for begin in range(0, there, size):
            count = min(size, there - begin)
            rows = begin + np.arange(size) % count
            pieces.append(Piece(tf.nest.map_structure(lambda a, r=rows: a[r], whole), count))
        left -= there
    return pieces
