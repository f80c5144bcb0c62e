"""Crash recovery: everything a resumed run needs, and the best weights so far.

A checkpoint holds the learner's state (model and whatever else it learns), the optimizer's
variables, the iteration, the best score, the newest, and how many validations ago the best was.
Random numbers need no state: they are functions of (seed, split, index).

The files of a checkpoint come from a directory beside them, the index last, so that one is there
whole or not at all; `ckpt-<iteration>.sha256` holds their checksums, which a restore compares.

A variable is known by its position, its kind (the last word of its name) and its shape. The rest of
a name is Keras' own and counts up within a process: the same code gives other ones the second time.
"""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from maml_tf.estimates import direction
from maml_tf.saving.descriptions import kind
from maml_tf.system import checksums
from maml_tf.system.files import refuse_pattern, staging, sweep, unwritable
from maml_tf.types import Learner

_LOG = logging.getLogger(__name__)

# What TensorFlow raises for a truncated or damaged file, depending on where the damage is.
_BROKEN = (
    *(checksums.Damaged, tf.errors.OpError, IndexError, RuntimeError),
    *(UnicodeDecodeError, KeyError, OSError),
)

_INDEX = re.compile(r"ckpt-(\d+)\.index")
_FILE = re.compile(r"(ckpt-\d+)\.(index|sha256|data-\d{5}-of-\d{5})")
_OF_EARLIER_VERSIONS = ("ckpt-*_temp", "checkpoint", "checkpoint.tmp*")
"""What TensorFlow's own manager of checkpoints wrote, or left behind when it was killed."""

_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_POSITION = re.compile(rf"(weights|optimizer)/v(\d+)_(\w*){_VALUE}")


class _Variable(NamedTuple):
    """What tells one variable of a group from another, beside its position."""

    kind: str
    shape: tuple[int, ...]
    dtype: str
    key: str = ""  # in the file

    def __str__(self) -> str:
        return f"{self.kind} {self.shape} {self.dtype}"


class Checkpoints:
    """`<directory>/ckpt-<iteration>`, the newest few, and those of `<directory>/best`."""

    def __init__(
        self,
        directory: str | Path,
        learner: Learner,
        *,
        keep: int = 10,
        keep_best: int = 1,
        without: Sequence[keras.Variable] = (),
    ):
        """Reads and writes nothing yet.

        Args:
          directory: where checkpoints live.
          learner: whose state is saved and restored.
          keep: how many of the newest to keep.
          keep_best: how many of those that validated best to keep.
          without: only to restore: weights that stay as they are, whatever the checkpoint has in
            their place, such as those of another head; the optimizer stays, too.

        Raises:
          ValueError: TensorFlow could not read what it writes in this directory.
        """
        self.directory = Path(directory)
        refuse_pattern(self.directory)
        self._learner, self._keep, self._keep_best = learner, keep, keep_best
        self.iteration = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.best_score = tf.Variable(float("nan"), dtype=tf.float32, trainable=False)
        self._score = tf.Variable(float("nan"), dtype=tf.float32, trainable=False)
        self._since_best = tf.Variable(0, dtype=tf.int64, trainable=False)
        optimizer = None if without else learner.optimizer
        left = {id(v.value) for v in without}
        self._groups = {"weights": dict(enumerate(learner.state))}
        self._left_alone = {i for i, v in enumerate(learner.state) if id(v.value) in left}
        if optimizer is not None:
            self._groups["optimizer"] = dict(enumerate(optimizer.variables))
        counters = getattr(learner, "counters", {})
        # What checkpoints of earlier versions may lack.
        self._added = {f"count_{name}": variable.value for name, variable in counters.items()}
        self._added |= {"score": self._score, "since_best": self._since_best}
        self._all = tf.train.Checkpoint(
            **{name: _Group(variables) for name, variables in self._groups.items()},
            iteration=self.iteration,
            best_score=self.best_score,
            **self._added,
        )

    def save(self, iteration: int) -> None:
        """Writes the newest checkpoint; a crash on the way leaves the ones before intact.

        Raises:
          OSError: it cannot be written; nothing of it is left.
        """
        self._write(self.directory, iteration)
        others = [i for i in self.available() if i != iteration]
        _remove_all_but(self.directory, [*others[len(others) - self._keep + 1 :], iteration])

    @property
    def since_best(self) -> int:
        """Validations in a row, up to the newest, whose score was not the best."""
        return int(self._since_best.numpy())

    def save_best(self, iteration: int, score: float) -> None:
        """Writes the best checkpoint, and remembers its score for the next `save`.

        Raises:
          OSError: it cannot be written; nothing of it is left, and the score is the one before.
        """
        before = self.best_score.numpy(), self._since_best.numpy()
        self.best_score.assign(score)
        self._since_best.assign(0)
        self._score.assign(score)
        try:
            self._write_best(iteration)
        except OSError:
            self.best_score.assign(before[0])
            self._since_best.assign(before[1])
            raise

    def save_lesser(self, iteration: int, score: float) -> None:
        """Counts a validation that was not the best; writes it if it is among the best few.

        Raises:
          OSError: it cannot be written; nothing of it is left.
        """
        self._since_best.assign_add(1)
        self._score.assign(score)
        if self._keep_best == 1 or math.isnan(score):
            return
        others = [i for i in self.ranked() if i != iteration][: self._keep_best]
        least = _score(self._best(others[-1])) if len(others) == self._keep_best else math.nan
        lower = direction(self._learner)
        if math.isnan(least) or (np.float32(score) < least if lower else np.float32(score) > least):
            self._write_best(iteration)

    def _write_best(self, iteration: int) -> None:
        self._write(self.directory / "best", iteration)
        others = [i for i in self.ranked() if i != iteration]
        _remove_all_but(self.directory / "best", [*others[: self._keep_best - 1], iteration])

    def ranked(self) -> list[int]:
        """Iterations of the checkpoints that validated best, the best first, of equals the earlier.

        Raises:
          ValueError: nobody knows which of several scores is better.
        """
        iterations = saved_iterations(self.directory / "best")
        if len(iterations) < 2:
            return iterations
        sign = 1 if direction(self._learner) else -1
        scores = {i: sign * _score(self._best(i)) for i in iterations}
        return sorted(iterations, key=lambda i: (math.isnan(scores[i]), scores[i], i))

    def _best(self, iteration: int) -> Path:
        return self.directory / "best" / f"ckpt-{iteration}"

    def sweep(self) -> None:
        """Removes what killed processes and earlier versions left beside the checkpoints."""
        for directory in (self.directory, self.directory / "best"):
            sweep(directory)
            for pattern in _OF_EARLIER_VERSIONS:
                for left in directory.glob(pattern):
                    is_link = left.is_symlink() or not left.is_dir()
                    left.unlink() if is_link else shutil.rmtree(left)
            _remove_all_but(directory, saved_iterations(directory))

    def _write(self, directory: Path, iteration: int) -> None:
        self.iteration.assign(iteration)
        name = f"ckpt-{iteration}"
        with staging(directory / name) as place:
            try:
                self._all.write(str(place / name))
                sums = checksums.text(place)
                (place / f"{name}.sha256").write_text(sums, encoding="utf-8")
                files = [p.name for p in place.iterdir() if _FILE.fullmatch(p.name)]
                for file in sorted(files, key=lambda file: file.endswith(".index")):
                    os.replace(place / file, directory / file)
            except (tf.errors.OpError, OSError) as error:
                raise unwritable(directory / name, error) from error

    def restore_latest(self) -> bool:
        """Restores the newest readable checkpoint; a broken one gives way to the one before.

        Returns:
          Whether there was one; `iteration` then says which.

        Raises:
          ValueError: the checkpoints are all broken, or belong to another network or optimizer.
        """
        return self._restore_first_readable(reversed(self.available()), self.directory)

    def restore_best(self, place: int = 0) -> bool:
        """Restores the best checkpoint; errors and result as for `restore_latest`.

        Args:
          place: 1 for the second best, and so on; where one cannot be read the next takes its
            place only for 0.
        """
        ranked = self.ranked()
        ranked = ranked[place : place + 1] if place else ranked
        return self._restore_first_readable(ranked, self.directory / "best")

    def restore_iteration(self, iteration: int) -> None:
        """Restores one checkpoint.

        Raises:
          FileNotFoundError: it is not there; the message lists those that are.
          ValueError: it is broken, or belongs to another network or optimizer.
        """
        if iteration not in self.available():
            there = ", ".join(map(str, self.available())) or "none"
            raise FileNotFoundError(
                f"No checkpoint of iteration {iteration} in {self.directory}; there are: {there}."
            )
        self._restore_first_readable([iteration], self.directory)

    def available(self) -> list[int]:
        """Iterations that have a checkpoint, ascending."""
        return saved_iterations(self.directory)

    def _restore_first_readable(self, iterations: Iterable[int], directory: Path) -> bool:
        iterations = list(iterations)
        for iteration in iterations:
            path = str(directory / f"ckpt-{iteration}")
            try:
                self._restore(path)
                return True
            except _BROKEN as error:
                _LOG.warning(
                    "Checkpoint %s cannot be read (%s); trying the one before.",
                    path,
                    (str(error).splitlines() or [type(error).__name__])[0],
                )
        if iterations:
            raise ValueError(
                f"No checkpoint in {directory} can be read (tried {len(iterations)}); "
                "move it away to start again."
            )
        return False

    def _restore(self, path: str) -> None:
        """Reads all of a checkpoint, then assigns: a broken one changes nothing."""
        checksums.verify(Path(f"{path}.sha256"), [f"{Path(path).name}.index"])
        reader = tf.train.load_checkpoint(path)
        stored = _stored(reader)
        values: list[tuple[Any, np.ndarray]] = [
            (own, reader.get_tensor(name + _VALUE))
            for name, own in (("iteration", self.iteration), ("best_score", self.best_score))
        ]
        values += [
            (variable, reader.get_tensor(name + _VALUE))
            for name, variable in self._added.items()
            if reader.has_tensor(name + _VALUE)
        ]
        for group, variables in self._groups.items():
            skipped = self._left_alone if group == "weights" else set()
            _refuse_others(path, group, stored[group], variables, skipped)
            values += [
                (variable, reader.get_tensor(stored[group][position].key))
                for position, variable in variables.items()
                if position not in skipped
            ]
        for variable, value in values:
            variable.assign(value)


class _Group(tf.train.Checkpoint):
    """Variables by position; the words behind it are for people, and the last one for a check."""

    def __init__(self, variables: dict[int, keras.Variable]):
        super().__init__(**{f"v{i:03d}_{_words(v.name)}": v.value for i, v in variables.items()})


def _words(name: str) -> str:
    """A variable's own name, without Keras' counters."""
    return re.sub(r"_\d+(?=_|$)", "", re.sub(r"\W", "_", name.split("/")[-1]))


def _stored(reader: Any) -> dict[str, dict[int, _Variable]]:
    """What a checkpoint holds of each group, by position."""
    groups: dict[str, dict[int, _Variable]] = {"weights": {}, "optimizer": {}}
    types = reader.get_variable_to_dtype_map()
    for key, shape in reader.get_variable_to_shape_map().items():
        if match := _POSITION.fullmatch(key):
            group, position, word = match.groups()
            found = _Variable(kind(word), tuple(shape), types[key].name, key)
            groups[group][int(position)] = found
    return groups


def _refuse_others(
    path: str,
    group: str,
    stored: dict[int, _Variable],
    variables: dict[int, keras.Variable],
    skipped: set[int],
) -> None:
    """Refuses a group of other variables than the learner's; those skipped may be any.

    Raises:
      ValueError: names the first that differs.
    """
    for position in sorted({*stored, *variables} - skipped):
        there, here = stored.get(position), None
        if (own := variables.get(position)) is not None:
            dtype = keras.backend.standardize_dtype(own.dtype)
            here = _Variable(kind(own.name), tuple(own.shape), dtype)
        if there is None or here is None or there[:3] != here[:3]:
            what, one = ("network", "weight") if group == "weights" else ("optimizer", "variable")
            raise ValueError(
                f"{path} holds another {what}: {one} {position} is {there or 'missing'} there and "
                f"{here or 'missing'} here. Use the settings of that run, or another log directory."
            )


def saved_iterations(directory: Path) -> list[int]:
    """Iterations that have a checkpoint in a directory, ascending; the directory need not be."""
    # The index file is written last, and removed first.
    names = os.listdir(directory) if directory.is_dir() else []
    found = (_INDEX.fullmatch(name) for name in names if (directory / name).is_file())
    return sorted(int(match[1]) for match in found if match)


def best_score(directory: Path) -> float | None:
    """The best score of a run's validations, from its best checkpoint; None where there is none."""
    saved = saved_iterations(directory / "best")
    if not saved:
        return None
    try:
        reader = tf.train.load_checkpoint(str(directory / "best" / f"ckpt-{saved[-1]}"))
        return float(reader.get_tensor(f"best_score{_VALUE}"))
    except _BROKEN:
        return None


def _score(path: Path) -> float:
    """What one of the best checkpoints scored itself; NaN where it cannot be read."""
    try:
        reader = tf.train.load_checkpoint(str(path))
        own = reader.has_tensor(f"score{_VALUE}")  # in earlier versions each was the best
        return float(reader.get_tensor(f"{'score' if own else 'best_score'}{_VALUE}"))
    except _BROKEN:
        return math.nan


def _remove_all_but(directory: Path, iterations: list[int]) -> None:
    """Removes the checkpoints of other iterations, and what is left of half of one."""
    kept = {f"ckpt-{iteration}" for iteration in iterations}
    names = os.listdir(directory) if directory.is_dir() else []
    for name in sorted(names, key=lambda name: not name.endswith(".index")):
        match = _FILE.fullmatch(name)
        if match and match[1] not in kept:
            (directory / name).unlink(missing_ok=True)
