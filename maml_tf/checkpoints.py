"""Crash recovery: everything a resumed run needs, and the best weights so far.

A checkpoint holds the learner's state (model and whatever else it learns), the optimizer's
variables, the iteration and the best score. Random numbers need no state: they are functions of
(seed, split, index).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from maml_tf.types import Learner

_LOG = logging.getLogger(__name__)

# What TensorFlow raises for a truncated or damaged file, depending on where the damage is.
_BROKEN = (tf.errors.OpError, IndexError, RuntimeError, UnicodeDecodeError, AssertionError)


class Checkpoints:
    """`<directory>/ckpt-<iteration>`, the newest few, and `<directory>/best/ckpt-<iteration>`."""

    def __init__(
        self,
        directory: str | Path,
        learner: Learner,
        *,
        keep: int = 10,
        without: Sequence[keras.Variable] = (),
    ):
        """Reads nothing yet; makes the directory.

        Args:
          directory: where checkpoints live.
          learner: whose state is saved and restored.
          keep: how many of the newest to keep.
          without: only to restore: weights that stay as they are, whatever the checkpoint has in
            their place, such as those of another head; the optimizer stays, too.
        """
        self.directory = Path(directory)
        self.iteration = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.best_score = tf.Variable(float("nan"), dtype=tf.float32, trainable=False)
        named, left = _named(learner.state), {id(v.value) for v in without}
        self._weights = {name: value for name, value in named.items() if id(value) not in left}
        self._left_alone = named.keys() - self._weights.keys()
        optimizer = None if without else learner.optimizer
        remembered = optimizer.variables if optimizer is not None else []
        self._all = tf.train.Checkpoint(
            weights=_Group(self._weights),
            optimizer=_Group(_named(remembered)),
            iteration=self.iteration,
            best_score=self.best_score,
        )
        self._latest = tf.train.CheckpointManager(self._all, str(self.directory), max_to_keep=keep)
        self._best = tf.train.CheckpointManager(
            self._all, str(self.directory / "best"), max_to_keep=1
        )

    def save(self, iteration: int) -> None:
        """Writes the newest checkpoint; a crash on the way leaves the ones before intact."""
        self.iteration.assign(iteration)
        self._latest.save(checkpoint_number=iteration)

    def save_best(self, iteration: int, score: float) -> None:
        """Writes the best checkpoint, and remembers its score for the next `save`."""
        self.best_score.assign(score)
        self.iteration.assign(iteration)
        self._best.save(checkpoint_number=iteration)

    def restore_latest(self) -> bool:
        """Restores the newest readable checkpoint; a broken one gives way to the one before.

        Returns:
          Whether there was one; `iteration` then says which.

        Raises:
          ValueError: the checkpoints are all broken, or belong to another network.
        """
        return self._restore_first_readable(reversed(self.available()), self.directory)

    def restore_best(self) -> bool:
        """Restores the best checkpoint; errors and result as for `restore_latest`."""
        best = self.directory / "best"
        return self._restore_first_readable(reversed(_saved_iterations(best)), best)

    def restore_iteration(self, iteration: int) -> None:
        """Restores one checkpoint.

        Raises:
          FileNotFoundError: it is not there; the message lists those that are.
          ValueError: it is broken, or belongs to another network.
        """
        if iteration not in self.available():
            there = ", ".join(map(str, self.available())) or "none"
            raise FileNotFoundError(
                f"No checkpoint of iteration {iteration} in {self.directory}; there are: {there}."
            )
        self._restore_first_readable([iteration], self.directory)

    def available(self) -> list[int]:
        """Iterations that have a checkpoint, ascending."""
        return _saved_iterations(self.directory)

    def _restore_first_readable(self, iterations: Iterable[int], directory: Path) -> bool:
        iterations = list(iterations)
        for iteration in iterations:
            path = str(directory / f"ckpt-{iteration}")
            try:
                self._refuse_another_network(path)
                status = self._all.read(path).assert_existing_objects_matched()
                status.expect_partial()  # the save counter, which is the manager's own
                return True
            except _BROKEN as error:
                _LOG.warning(
                    "Checkpoint %s cannot be read (%s); trying the one before.",
                    path,
                    str(error).splitlines()[0],
                )
        if iterations:
            raise ValueError(
                f"No checkpoint in {directory} can be read (tried {len(iterations)}); "
                "move the directory away to start again."
            )
        return False

    def _refuse_another_network(self, path: str) -> None:
        shapes = tf.train.load_checkpoint(path).get_variable_to_shape_map()
        saved = {
            key.split("/")[1]: tuple(shape)
            for key, shape in shapes.items()
            if key.startswith("weights/")
        }
        mine = {name: tuple(variable.shape) for name, variable in self._weights.items()}
        for name in sorted({*saved, *mine} - self._left_alone):
            if saved.get(name) != mine.get(name):
                raise ValueError(
                    f"{path} holds another network: weight {name} has shape {saved.get(name)} "
                    f"there and {mine.get(name)} here. Use the network's own flags, or another "
                    "log directory."
                )


class _Group(tf.train.Checkpoint):
    """Variables by name."""

    def __init__(self, variables: dict[str, tf.Variable]):
        super().__init__(**variables)


def _named(variables: list[keras.Variable]) -> dict[str, tf.Variable]:
    # Not the path: Keras counts up the names of the models of one process.
    return {f"v{i:03d}_{_word(v.name)}": v.value for i, v in enumerate(variables)}


def _word(name: str) -> str:
    return re.sub(r"\W", "_", name.split("/")[-1])


def _saved_iterations(directory: Path) -> list[int]:
    # The index file is written last. TensorFlow's own list file may be the one that is broken.
    return sorted(int(p.stem.removeprefix("ckpt-")) for p in directory.glob("ckpt-*.index"))
