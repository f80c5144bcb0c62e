"""Where a training keeps its weights: a directory that it may go on in, or this process' memory."""

from __future__ import annotations

import json
import logging
import math
import re
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from maml_tf.saving.descriptions import contradictions, describe, of_the_network
from maml_tf.system import progress
from maml_tf.system.files import staging, sweep, write_atomically
from maml_tf.training.checkpoints import Checkpoints
from maml_tf.types import Learner

_LOG = logging.getLogger(__name__)

TasksT = TypeVar("TasksT")

LEARNER_FILE = "learner.json"
"""What the learner of a run's directory is; it stands beside the checkpoints."""

SHOWN = 4
"""Contradictions that a message names."""


class Store(Protocol):
    """What the training loop asks of the place where weights are kept."""

    @property
    def best_score(self) -> Any:
        """The best validation score so far, or nan: a number or a scalar variable."""
        ...

    @property
    def since_best(self) -> int:
        """Validations in a row, up to the newest, whose score was not the best."""
        ...

    def available(self) -> list[int]:
        """Iterations whose weights can be had again, ascending."""
        ...

    def save(self, iteration: int) -> None:
        """Keeps the present weights."""
        ...

    def save_best(self, iteration: int, score: float) -> None:
        """Keeps the present weights as the best."""
        ...

    def save_lesser(self, iteration: int, score: float) -> None:
        """Counts a validation that was not the best, and may keep the present weights."""
        ...

    def restore_best(self) -> bool:
        """Puts the best weights back; whether there are any."""
        ...


class Memory:
    """Keeps the best weights of one training, if any, in this process: nothing is written."""

    def __init__(self, learner: Learner, *, keep_best: bool):
        """Begins empty; without `keep_best` only the best score is known, and no weights."""
        self._variables = all_variables(learner)
        self._keep_best = keep_best
        self._best: list[np.ndarray] = []
        self.best_score = math.nan
        self.best_iteration = self.since_best = 0

    def available(self) -> list[int]:
        """None: there are no checkpoints."""
        return []

    def save(self, iteration: int) -> None:
        """Keeps nothing: the newest weights are the learner's own."""

    def save_best(self, iteration: int, score: float) -> None:
        """Copies the weights and the optimizer's variables."""
        # As a checkpoint would have it, so that both find the same weights the best.
        self.best_score, self.best_iteration = float(np.float32(score)), iteration
        self.since_best = 0
        if self._keep_best:
            self._best = [np.array(np.asarray(variable)) for variable in self._variables]

    def save_lesser(self, iteration: int, score: float) -> None:
        """Counts; the best weights alone are kept."""
        self.since_best += 1

    def restore_best(self) -> bool:
        """Puts the copies back; whether there are any."""
        if not self._best:
            return False
        for variable, value in zip(self._variables, self._best, strict=True):
            variable.assign(value)
        return True


def all_variables(learner: Learner) -> list[Any]:
    """All that a learner goes on from: its state, and the optimizer's."""
    return [*learner.state, *(learner.optimizer.variables if learner.optimizer else [])]


def open_run(
    directory: Path, learner: Learner[TasksT], tasks: TasksT, *, keep_best: int = 1
) -> tuple[Checkpoints, int]:
    """Restores the newest checkpoint of a run's directory, if it is this learner's run.

    The caller holds the directory: what killed processes left in it is removed.

    A directory without `learner.json`, of an earlier version or made by deleting that file, is
    taken for this learner's as long as its weights fit, and the learning rate stays the learner's.

    Args:
      directory: of the run; made if it is not there.
      learner: whose weights are restored.
      tasks: its source of tasks.
      keep_best: how many of the best checkpoints to keep.

    Returns:
      The checkpoints, and the iteration that the learner is at: 0 for a new run.

    Raises:
      ValueError: the directory holds the run of another learner; names the settings. The learner
        is as it was.
    """
    checkpoints = Checkpoints(directory / "checkpoints", learner, keep_best=keep_best)
    _sweep(directory)
    checkpoints.sweep()
    with staging(checkpoints.directory / "ckpt"):
        pass  # It can be written; better known now than at the first checkpoint.
    file, described = directory / LEARNER_FILE, describe(learner, tasks)
    # A run that has not come to its first checkpoint holds nothing to contradict.
    saved = _read(file) if file.is_file() and checkpoints.available() else None
    if saved is not None:
        _refuse_another(directory, saved, described)
    rate = _learning_rate(learner)
    start = int(checkpoints.iteration.numpy()) if checkpoints.restore_latest() else 0
    if saved is None:
        if rate is not None:
            learner.optimizer.learning_rate.assign(rate)  # type: ignore[union-attr]
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(described, indent=1) + "\n")
    return checkpoints, start


def _sweep(directory: Path) -> None:
    """Removes what killed processes left; checkpoints have their own way."""
    for place in (directory, directory / "results", directory / "figures"):
        sweep(place)
        for left in place.glob("tmp????????"):  # as earlier versions called it
            if left.is_file() and re.fullmatch(r"tmp[a-z0-9_]{8}", left.name):
                left.unlink()


def tell_start(start: int, iterations: int, directory: Path | None) -> None:
    """Says visibly that a run goes on, or that nothing is left to do in it."""
    if directory is None:
        return
    if start >= iterations:
        asked = "as many as asked" if start == iterations else f"more than the {iterations} asked"
        _LOG.warning(
            "Nothing to train: %s has done %d iterations, %s. The learner has its weights now; ask "
            "for more iterations, or give another logdir to start again.",
            *(directory, start, asked),
        )
    elif start:
        tell(f"Resuming after iteration {start} of the run in {directory}.")


def tell(sentence: str) -> None:
    """Logs a sentence where somebody listens to the log, and else writes it beside the bar."""
    if _LOG.isEnabledFor(logging.INFO) and _LOG.hasHandlers():
        _LOG.info("%s", sentence)
    else:
        progress.tell(sentence)


def _refuse_another(directory: Path, saved: dict[str, Any], described: dict[str, Any]) -> None:
    others = contradictions(saved, described)
    if not others:
        return
    network = any(map(of_the_network, others))
    named = "; ".join(others[:SHOWN])
    named += f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
    remedy = "Give another logdir, or the settings of that run"
    if not network:
        file = directory / LEARNER_FILE
        remedy += f"; to go on from its weights with the new ones, delete {file}"
    raise ValueError(
        f"{directory} holds the run of another {'network' if network else 'learner'}: {named}. "
        f"{remedy}."
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(read, dict) or not read:
            raise ValueError("it describes nothing")
        return read
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file} cannot be read ({error}); delete it if this is the learner of that run."
        ) from error


def _learning_rate(learner: Learner) -> np.ndarray | None:
    """The optimizer's rate, where it is a variable and no schedule."""
    rate = getattr(learner.optimizer, "learning_rate", None)
    return np.array(np.asarray(rate)) if hasattr(rate, "assign") else None
