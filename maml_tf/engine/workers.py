"""The processes that train together: what they tell each other, and what if one is gone.

Each runs the same program, so that all exchange the same things in the same order. TensorFlow's
collective operations carry them, and its coordination service says who died.

Shape letters: W workers, R replicas of all workers.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from maml_tf.engine import strategies

Result = TypeVar("Result")

_WORD = np.dtype(np.int64)
"""What bytes travel as: TensorFlow's exchanges take numbers."""

_TASK = re.compile(r"/job:(chief|worker)/(?:replica:\d+/)?task:(\d+)")
_OF_A_PEER = (
    *(tf.errors.UnavailableError, tf.errors.DeadlineExceededError, tf.errors.AbortedError),
    *(tf.errors.CancelledError, tf.errors.FailedPreconditionError, tf.errors.InternalError),
    tf.errors.UnknownError,
)
"""What TensorFlow may raise where another worker does not answer."""
_SIGNS = re.compile(r"[Cc]ollective|unhealthy|heartbeat|Heartbeat|RPC|GRPC|grpc")


class WorkerLost(RuntimeError):
    """Another worker does not answer: this one cannot go on, and the same command resumes."""


class Workers:
    """All workers of a strategy, of which this process is one; without such, it is the only one."""

    def __init__(self, strategy: tf.distribute.Strategy | None = None):
        """Exchanges nothing yet.

        Args:
          strategy: of the learner; the one in force by default.
        """
        self._strategy = tf.distribute.get_strategy() if strategy is None else strategy
        self._members = strategies.members(self._strategy)
        self.count = max(len(self._members), 1)
        self.index = strategies.own_index(self._strategy)
        words = tf.TensorSpec([None], _WORD)
        self._gather = tf.function(self._gather_words, input_signature=[words], autograph=False)

    @property
    def is_chief(self) -> bool:
        """Whether this process writes what all have made; one of them does."""
        return self.index == 0

    @property
    def together(self) -> bool:
        """Whether there are others."""
        return self.count > 1

    def share(self, total: int) -> slice:
        """This worker's of `total` things in order: the shares differ by one at most."""
        return slice(total * self.index // self.count, total * (self.index + 1) // self.count)

    def gather(self, value: Any) -> np.ndarray:
        """What every worker has, `[W, *shape]`; all give the same shape and type.

        Raises:
          WorkerLost: one does not answer.
        """
        own = np.asarray(value)
        if not self.together:
            return own[None]
        written = own.tobytes()
        # One word at least: TensorFlow crashes over an exchange of nothing.
        padding = _WORD.itemsize - len(written) % _WORD.itemsize
        words = np.frombuffer(written + bytes(padding), _WORD)
        with self.named():
            each = self._gather(words).numpy()
        rows = each[:: len(each) // self.count]
        return np.stack(
            [
                np.frombuffer(row.tobytes()[: own.nbytes], own.dtype).reshape(own.shape)
                for row in rows
            ]
        )

    def _gather_words(self, words: tf.Tensor) -> tf.Tensor:
        each = self._strategy.run(lambda own: own[tf.newaxis], args=(words,))
        return self._strategy.gather(each, axis=0)  # [R, n]

    def from_chief(self, value: Any) -> np.ndarray:
        """What the chief has; all give something of one shape and type."""
        return self.gather(value)[0]

    def mean(self, structure: Result) -> Result:
        """The means over workers of a structure of arrays, in one exchange."""
        if not self.together:
            return structure
        flat = [np.asarray(leaf) for leaf in tf.nest.flatten(structure)]
        joined = np.concatenate([leaf.astype(np.float64).ravel() for leaf in flat])
        means = self.gather(joined).mean(0)
        ends = np.cumsum([leaf.size for leaf in flat])[:-1]
        parts = zip(np.split(means, ends), flat, strict=True)
        cut = [part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in parts]
        return tf.nest.pack_sequence_as(structure, cut)

    def concatenate(self, own: np.ndarray) -> np.ndarray:
        """Rows `[n, ...]` of all workers, in their order; n may differ from worker to worker."""
        if not self.together:
            return own
        lengths = self.gather(len(own))
        padded = np.zeros([int(lengths.max()), *own.shape[1:]], own.dtype)
        padded[: len(own)] = own
        every = self.gather(padded)
        return np.concatenate([rows[:n] for rows, n in zip(every, lengths, strict=True)])

    def texts(self, own: str) -> list[str]:
        """What every worker says."""
        written = np.frombuffer(f"{own}\0".encode(), np.uint8)
        return self.concatenate(written).tobytes().decode().split("\0")[:-1]

    def take_from_chief(self, variables: Sequence[Any]) -> None:
        """Gives variables the chief's values, bit for bit."""
        if not self.together:
            return
        values = [np.asarray(variable) for variable in variables]
        written = b"".join(value.tobytes() for value in values)
        read = self.from_chief(np.frombuffer(written, np.uint8)).tobytes()
        for variable, value in zip(variables, values, strict=True):
            own, read = read[: value.nbytes], read[value.nbytes :]
            variable.assign(np.frombuffer(own, value.dtype).reshape(value.shape))

    def refuse_difference(self, what: str, own: Sequence[str]) -> None:
        """Refuses workers that were started otherwise than the chief.

        Args:
          what: the things compared: "flags".
          own: this worker's, one a line.

        Raises:
          ValueError: names the first worker that differs, and what of it; on all workers.
        """
        said = [text.splitlines() for text in self.texts("\n".join(own))]
        for index, lines in enumerate(said):
            if lines != said[0]:
                here = "; ".join(line for line in lines if line not in said[0])
                chief = "; ".join(line for line in said[0] if line not in lines)
                raise ValueError(
                    f"{self._name(index)} was started with other {what} than "
                    f"worker 0: {here or 'none'}, not {chief or 'none'}. Give all the same."
                )

    def by_chief(self, function: Callable[[], Result]) -> Result | None:
        """Lets the chief alone do something, such as to write; None for the others.

        Raises:
          ValueError: the chief could not, on the others; there what the function raises.
        """
        result, failure = None, None
        if self.is_chief:
            try:
                scoped = tf.distribute.has_strategy()
                result = outside_scope(function) if scoped else function()
            except Exception as error:  # The others wait to hear of any.
                failure = error
        said = "" if failure is None else str(failure) or type(failure).__name__
        said = self.texts(said)[0] if self.together else ""
        if failure is not None:
            raise failure
        if said:
            raise ValueError(f"Worker 0 says: {said}")
        return result

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Names the worker where TensorFlow says that one does not answer.

        Raises:
          WorkerLost: one does not.
        """
        try:
            yield
        except _OF_A_PEER as error:
            if not self.together or not _SIGNS.search(str(error)):
                raise
            raise WorkerLost(
                f"{self._who(str(error))}, so that the {self.count} workers cannot go on; give the "
                "same command again on all of them, or on any other number: the run goes on from "
                "its last checkpoint."
            ) from error

    def _who(self, message: str) -> str:
        named = [(job, int(task)) for job, task in _TASK.findall(message)]
        lost = {i for i, m in enumerate(self._members) if m[:2] in named and i != self.index}
        if not lost and self.index and "Heartbeat" in message:
            lost = {0}  # The chief, whom all tell that they live, did not answer.
        if len(lost) != 1:
            return "A worker is gone"
        return f"{self._name(lost.pop())} is gone"

    def _name(self, index: int) -> str:
        return f"Worker {index} ({self._members[index].address})"


def outside_scope(function: Callable[[], Result]) -> Result:
    """Calls a function outside of any strategy's scope, which is a thread's own.

    A variable that is made inside one takes its first value from the chief: all would have to make
    it.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function).result()
