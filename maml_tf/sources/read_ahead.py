"""Draws the next meta-batches in a thread while the present ones are learned from."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections import deque
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from maml_tf.engine.compilation import CAPACITY
from maml_tf.sources.checks import as_task
from maml_tf.sources.supplies import Supply
from maml_tf.types import Task

STACK_BYTES = 64 * 2**20
"""Of meta-batches that enter one compiled call together; as many again are drawn ahead."""

_THREADS: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
_LEAVING = threading.Event()


@atexit.register
def _leave() -> None:
    # A thread inside TensorFlow while the interpreter is taken down would crash it.
    _LEAVING.set()
    for thread in list(_THREADS):
        thread.join(timeout=5.0)


class ReadAhead:
    """Checked meta-batches of a `Supply`, as NumPy arrays, in any order; fastest one after another.

    `draw` is for one thread at a time.
    """

    def __init__(
        self,
        supply: Supply,
        num_tasks: int | None,
        start: int = 0,
        *,
        drawn: Iterable[Task] = (),
    ):
        """Draws the first meta-batch, which shows that the source is one.

        Args:
          supply: makes meta-batches.
          num_tasks: T that each must have; any if None.
          start: index of the first.
          drawn: the first ones, if they have been made and checked already.

        Raises:
          ValueError: the supply gives no task.
        """
        self._supply, self._num_tasks = supply, num_tasks
        self._ready: deque[Task] = deque()  # of indices _next, _next + 1, ...
        self._next = start
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._ready.extend(tf.nest.map_structure(np.asarray, task) for task in drawn)
        if not self._ready:
            self._ready.append(self._pull(start))
        size = sum(array.nbytes for array in tf.nest.flatten(self._ready[0]))
        self.capacity = int(np.clip(STACK_BYTES // max(size, 1), 1, CAPACITY))

    def draw(self, start: int, count: int) -> list[Task]:
        """Meta-batches `start` ... `start + count - 1`; the thread then draws as many after them.

        Raises:
          SourceEnded: there are not so many.
          ValueError: one of them is no task, or not the T tasks asked for.
        """
        self._seek(start)
        drawn = self._take(count)
        missing = count - len(self._ready)
        if missing > 0:
            self._thread = threading.Thread(
                target=self._fill, args=(missing,), daemon=True, name="read ahead"
            )
            _THREADS.add(self._thread)
            self._thread.start()
        return drawn

    def peek(self, index: int) -> Task:
        """One meta-batch, which is drawn but stays to be drawn; its neighbours are not lost."""
        self._wait()
        if not 0 <= index - self._next <= len(self._ready):
            self._seek(index)
        while len(self._ready) <= index - self._next:
            self._ready.append(self._pull(self._next + len(self._ready)))
        return self._ready[index - self._next]

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _seek(self, start: int) -> None:
        self._wait()
        ahead = start - self._next
        if ahead > len(self._ready):
            self._error = None  # of one that is passed over
        if ahead >= 0:
            for _ in range(min(ahead, len(self._ready))):
                self._ready.popleft()
        elif self._supply.rewinds:
            self._ready.clear()
            self._error = None
        # An iterator does not go back: it goes on, under other numbers.
        self._next = start

    def _take(self, count: int) -> list[Task]:
        while len(self._ready) < count:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            self._ready.append(self._pull(self._next + len(self._ready)))
        self._next += count
        return [self._ready.popleft() for _ in range(count)]

    def _fill(self, count: int) -> None:
        try:
            for _ in range(count):
                if _LEAVING.is_set():
                    return
                self._ready.append(self._pull(self._next + len(self._ready)))
        except Exception as error:  # told to whoever asks for this meta-batch
            self._error = error

    def _pull(self, index: int) -> Task:
        task = as_task(self._supply.pull(index), self._num_tasks)
        # A copy: the source may fill the same arrays again while these wait.
        return tf.nest.map_structure(np.array, task)
