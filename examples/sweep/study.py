"""The trials of a sweep in a file that several processes and machines share."""

from __future__ import annotations

import contextlib
import fcntl
import math
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from words import Words, flag_of

from maml_tf.experiments.records import Kind

_ERROR = "error"
"""What Optuna keeps of a trial that failed; one that was interrupted has none."""


class Trials:
    """The trials of a sweep, of which every process that shares its directory takes some.

    Attributes:
      count: how many there are to be.
      lower_is_better: whether a trial is better for a lower score.
      place: the directory of the study and of the trials' logs.
      study: Optuna's.
    """

    def __init__(self, words: Words):
        """Opens the study in the sweep's directory, and lines up the trials of a grid.

        Args:
          words: what was asked for.

        Raises:
          ValueError: the directory has another sweep's.
          OSError: it cannot be written, or its file system has no locks.
        """
        self.words, self.count = words, words.trials or len(words.points())
        self.lower_is_better = words.first.problem.kind is Kind.REGRESSION
        self.place = Path(words.first.run.logdir) / "sweep"
        self.place.mkdir(parents=True, exist_ok=True)
        with self._alone():
            self.study = self._opened()
            for values in [] if words.trials else words.points():
                self.study.enqueue_trial(values, skip_if_exists=True)

    def ended(self) -> list[optuna.trial.FrozenTrial]:
        """Trials that came to an end, be it an error; those that were interrupted did not."""
        return self._with(TrialState.COMPLETE) + self._failed()

    def complete(self) -> list[dict[str, Any]]:
        """The values of each trial that has results."""
        return [each.params for each in self._with(TrialState.COMPLETE)]

    def errors(self) -> list[tuple[dict[str, Any], str]]:
        """The values of each trial that failed, and the line that says why."""
        return [(each.params, each.user_attrs[_ERROR]) for each in self._failed()]

    def tell(self, trial: optuna.Trial, score: float) -> None:
        """Says how good a trial is; one that is not finite is the worst."""
        worst = math.inf if self.lower_is_better else -math.inf
        with self._alone():  # else who looks for trials left behind may meet it half told
            self.study.tell(trial, score if math.isfinite(score) else worst)

    def tell_error(self, trial: optuna.Trial, line: str) -> None:
        """Says why a trial failed; it is not made again."""
        with self._alone():
            trial.set_user_attr(_ERROR, line)
            self.study.tell(trial, state=TrialState.FAIL)

    def take(self) -> tuple[optuna.Trial, IO[bytes]] | None:
        """Takes a trial that nobody has, also one that a process left behind when it died.

        Returns:
          The trial and its log, locked, to be closed when the trial has ended; None: none is free.
        """
        with self._alone():
            for left in self._with(TrialState.RUNNING):
                if log := self._log(left.number):
                    log.close()
                    self.study.tell(left.number, state=TrialState.FAIL)
                    self.study.enqueue_trial(left.system_attrs.get("fixed_params", left.params))
            begun = len(self._with(TrialState.RUNNING)) + len(self.ended())
            if self._with(TrialState.WAITING) or (self.words.trials and begun < self.count):
                trial = self.study.ask(self.words.drawn)
                log = self._log(trial.number)
                assert log is not None  # Nobody else knows of it yet.
                return trial, log
        return None

    def all_ended(self) -> bool:
        """Whether nothing is left to wait for, here or elsewhere."""
        return not self._with(TrialState.RUNNING, TrialState.WAITING)

    def _opened(self) -> optuna.Study:
        backend = JournalFileBackend(str(self.place / "journal.log"))
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name="sweep",
            sampler=optuna.samplers.TPESampler(constant_liar=True),
            direction="minimize" if self.lower_is_better else "maximize",
            load_if_exists=True,
        )
        asked = " ".join(w for w in self.words.words if flag_of(w) not in ("logdir", "data_dir"))
        there = study.user_attrs.get("words", asked)
        if there != asked:
            raise ValueError(
                f"{self.place} is of another sweep, {there}; choose another --logdir, or remove "
                f"{self.place}: no run is in it, and none will be trained again."
            )
        study.set_user_attr("words", asked)
        return study

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Holds the study for this thread, against those of all machines."""
        with open(self.place / "lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _log(self, number: int) -> IO[bytes] | None:
        """Opens a trial's log, locked; None: a process that works on the trial has it.

        The trial's commands write to the same open file, and so the lock lives as long as they.
        """
        log = open(self.place / f"trial_{number:04}.txt", "ab+")
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.close()
            return None
        return log

    def _failed(self) -> list[optuna.trial.FrozenTrial]:
        return [each for each in self._with(TrialState.FAIL) if _ERROR in each.user_attrs]

    def _with(self, *states: TrialState) -> list[optuna.trial.FrozenTrial]:
        return self.study.get_trials(states=states)
