"""Meta-batches made in Python, one by one: from a function, from items, from an iterator."""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, cast

import keras
import numpy as np
import tensorflow as tf

from maml_tf.sources.tracing import python_function
from maml_tf.types import Task, TaskSource

_LOCKS: weakref.WeakKeyDictionary[Any, threading.Lock] = weakref.WeakKeyDictionary()
"""A generator that two threads ask at once raises; two learners may share one."""

_KINDS = (
    "A task source is a function (index, num_tasks) -> Task, an iterator, a list, a "
    "tf.data.Dataset or a keras.utils.PyDataset of Tasks."
)


Tasks: TypeAlias = (
    TaskSource | Iterable[Task] | Callable[[], Iterable[Task]] | keras.utils.PyDataset
)
"""Where a supervised learner's meta-batches come from, in any form that `sources.prepare` takes."""


class SourceEnded(ValueError):
    """There are no more meta-batches."""


class Supply(Protocol):
    """Meta-batches by their number."""

    rewinds: bool
    """Whether a meta-batch can be had again."""

    def pull(self, index: int) -> Any:
        """Makes meta-batch `index`, as the user's code gives it.

        Raises:
          SourceEnded: there is none.
        """
        ...


class Function:
    """A function `(index, num_tasks)`, called with a Python integer."""

    rewinds = True

    def __init__(self, function: Callable, num_tasks: int):
        """Takes a function and T."""
        self._function, self._num_tasks = python_function(function), num_tasks
        self._as_tensor: bool | None = None

    def pull(self, index: int) -> Any:
        """Calls the function; with a tensor if it does not take an integer (`index.numpy()`)."""
        if self._as_tensor is None:
            try:
                drawn = self._function(index, self._num_tasks)
                self._as_tensor = False
                return drawn
            except Exception as error:
                try:
                    drawn = self._function(tf.constant(index, tf.int64), self._num_tasks)
                except Exception:
                    raise error from None
                self._as_tensor = True
                return drawn
        given = tf.constant(index, tf.int64) if self._as_tensor else index
        return self._function(given, self._num_tasks)


class Items:
    """A list or a `keras.utils.PyDataset`: item i is meta-batch i; after the last, the first."""

    rewinds = True

    def __init__(self, items: Sequence[Any] | keras.utils.PyDataset, *, cycle: bool = True):
        """Takes the items.

        Args:
          items: a sequence, or a PyDataset, whose `on_epoch_end` is called as Keras does.
          cycle: begin again after the last item.
        """
        self._items, self._cycle, self._epoch = items, cycle, 0
        if isinstance(items, keras.utils.PyDataset):
            self._length = items.num_batches
        else:
            self._length = len(items)
        if self._length == 0:
            raise SourceEnded("The task source is empty; it has no meta-batch at all.")

    def pull(self, index: int) -> Any:
        """Takes item `index` modulo their number."""
        if self._length is None:
            return self._items[index]
        epoch, place = divmod(index, self._length)
        if epoch and not self._cycle:
            raise SourceEnded(f"The task source has {self._length} meta-batches.")
        # A resumed run passes the ends that the first one passed.
        while self._epoch < epoch and isinstance(self._items, keras.utils.PyDataset):
            self._items.on_epoch_end()
            self._epoch += 1
        return self._items[place]


class Stream:
    """An iterable, one element per meta-batch, in order. What was passed over is drawn and dropped.

    One that can be iterated again begins anew at its end; an iterator ends.
    """

    def __init__(self, elements: Iterable | Callable[[], Iterable], *, cycle: bool = True):
        """Takes an iterable, or a function that makes one.

        Args:
          elements: an iterator is taken as far as it goes, anything else as often as needed.
          cycle: begin again at the end, if that is possible.
        """
        self.rewinds = not isinstance(elements, Iterator)
        self._elements, self._cycle = elements, cycle
        self._iterator: Iterator | None = None
        self._position = self._given = 0
        self._lock = _lock_of(elements)

    def pull(self, index: int) -> Any:
        """Takes the next element, after those up to `index`; an iterator never goes back."""
        if index < self._position:
            self._position = 0 if self.rewinds else index
            self._iterator = None if self.rewinds else self._iterator
        while self._position < index:
            self._next()
        return self._next()

    def _next(self) -> Any:
        with self._lock:
            for _ in range(2):
                if self._iterator is None:
                    made = self._elements() if callable(self._elements) else self._elements
                    self._iterator, self._given = iter(made), 0
                for element in self._iterator:
                    self._position += 1
                    self._given += 1
                    return element
                if not (self.rewinds and self._cycle and self._given):
                    break
                self._iterator = None
        raise SourceEnded(
            f"The task source ended after {self._position} meta-batches. Give an iterator that "
            "goes on, or ask for fewer."
        )


def supply_of(
    tasks: Tasks, num_tasks: int, *, cycle: bool = True
) -> tuple[Supply, Callable | None]:
    """What makes the meta-batches of a task source; also the source, if it takes an index.

    Raises:
      ValueError: `tasks` is no task source.
    """
    if isinstance(tasks, keras.utils.PyDataset):
        return Items(tasks, cycle=cycle), None
    if callable(tasks) and not isinstance(tasks, (type, keras.Layer)):
        if _takes(tasks, 0, num_tasks):
            if inspect.isgeneratorfunction(tasks):
                raise ValueError(
                    "The task source is a generator function of (index, num_tasks); return one "
                    "Task instead of yielding it, or pass the generator that it makes."
                )
            return Function(tasks, num_tasks), tasks
        if _takes(tasks):
            made = cast(Callable[[], Iterable[Task]], tasks)
            return Stream(made, cycle=cycle), None
        raise ValueError(f"The task source {tasks!r} takes other arguments. {_KINDS}")
    kinds = (tuple, Mapping, str, bytes, np.ndarray, type, keras.Layer)
    given = isinstance(tasks, kinds) or tf.is_tensor(tasks)
    if given or not isinstance(tasks, Iterable):
        alone = " One and the same Task at every step is ConstantTasks(task)."
        name = tasks.__name__ if isinstance(tasks, type) else f"a {type(tasks).__name__}"
        raise ValueError(
            f"The tasks given are {name}. {_KINDS}{alone if isinstance(tasks, tuple) else ''}"
        )
    if isinstance(tasks, Sequence):
        return Items(tasks, cycle=cycle), None
    return Stream(tasks, cycle=cycle), None


def _takes(function: Callable, *arguments: Any) -> bool:
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # a builtin, which does not tell
        return bool(arguments)
    return True


def _lock_of(elements: Any) -> threading.Lock:
    try:
        return _LOCKS.setdefault(elements, threading.Lock())
    except TypeError:  # neither hashable nor weakly referable
        return threading.Lock()
