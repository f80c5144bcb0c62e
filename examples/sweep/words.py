"""What the command line of a sweep asks for: maml-tf's flags, some with several values."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable
from typing import Any

import optuna

from maml_tf.cli import flags, original, runs
from maml_tf.experiments import fields, settings
from maml_tf.experiments.identity import flag_lines
from maml_tf.results import files
from maml_tf.results.records import Curve

_OF_EVALUATION = {each.flag for each in fields.declared(settings.Evaluation)}


class Words:
    """The words of a command line.

    Attributes:
      words: flags for maml-tf; lists and ranges as they were given.
      drawn: Optuna's distribution of each flag of which every trial has a value of its own.
      measured: the values of an evaluation's flags, with each of which a trial is evaluated.
      jobs: trials at a time.
      trials: how many a search makes; None: a grid, which makes one of each combination.
      first: the settings of one trial.
    """

    def __init__(self, arguments: list[str]):
        """Reads the words, and makes the settings of every trial once, to refuse what is none.

        Args:
          arguments: what stands behind the program's name.

        Raises:
          ValueError, absl.flags.Error, OSError: no trial could use them.
        """
        self.words: list[str] = []
        self.drawn: dict[str, Any] = {}
        self.measured: dict[str, list[str]] = {}
        own = {"jobs": 1, "trials": 20}
        for word in arguments:
            name, value = flag_of(word), word.partition("=")[2]
            if not word.startswith("--"):
                raise ValueError(f"'{word}' is no flag; write --flag=value, or --flag=one,another.")
            if name in own:
                if not re.fullmatch("[1-9][0-9]{0,5}", value):
                    raise ValueError(f"{word}: write a whole number from 1 on.")
                own[name] = int(value)
                continue
            self.words.append(word)
            if ends := re.fullmatch(r"(\S+?)\.\.(\S+):(log|linear)", value):
                self.drawn[name] = _range(name, *ends.groups())
            elif "," in value and name in _OF_EVALUATION:
                self.measured[name] = list(dict.fromkeys(value.split(",")))
            elif "," in value:
                values = list(dict.fromkeys(value.split(",")))
                self.drawn[name] = optuna.distributions.CategoricalDistribution(values)
        search = any(hasattr(each, "low") for each in self.drawn.values())
        self.jobs, self.trials = own["jobs"], own["trials"] if search else None
        self.first = self._checked()

    def _checked(self) -> settings.Settings:
        """Makes the settings of every trial, of a search those of its ends; returns the first."""
        if "logdir" in self.drawn or "logdir" not in map(flag_of, self.words):
            raise ValueError("Say --logdir=DIRECTORY, one for this sweep alone.")
        if self.trials and "seed" in self.drawn:
            raise ValueError("A search would choose the luckiest seed; give --seed one value.")
        made: list[settings.Settings] = []
        seen: dict[Any, dict[str, Any]] = {}
        for values in self.points():
            made += [settings_of(words) for words in self.evaluations(values)]
            run = runs.run_directory(made[-1].trained())
            if seen.setdefault(run, values) != values:
                both = f"{said(seen[run])} and {said(values)}"
                raise ValueError(f"{both} are one run, {run.name}; list what changes the learning.")
        if self.trials and any(each.evaluation.split == "test" for each in made):
            raise ValueError("A search chooses by validation tasks; drop --split=test.")
        return made[0]

    def points(self) -> list[dict[str, Any]]:
        """All combinations of the values that trials have; of ranges, those of their ends."""
        ends = {n: getattr(d, "choices", None) or [d.low, d.high] for n, d in self.drawn.items()}
        return combinations(ends)

    def training(self, values: dict[str, Any]) -> list[str]:
        """Flags of the training of a trial.

        Args:
          values: the trial's own; "" is to be without the flag.
        """
        return self._flags(values | dict.fromkeys(self.measured, ""))

    def evaluations(self, values: dict[str, Any]) -> list[list[str]]:
        """Flags of each evaluation of a trial."""
        return [self._flags(values | point) for point in combinations(self.measured)]

    def _flags(self, values: dict[str, Any]) -> list[str]:
        cores = max(1, (os.cpu_count() or 1) // self.jobs)
        told = ["--intra_op_threads=1", f"--inter_op_threads={cores}", "--progress=False"]
        for word in self.words:
            value = values.get(flag_of(word))
            if value != "":
                told.append(word if value is None else f"--{flag_of(word)}={text(value)}")
        return told

    def curves(self, values: dict[str, Any]) -> list[Curve]:
        """Reads what a trial's evaluations left, a curve each.

        Raises:
          FileNotFoundError, ValueError: a result is not there, or damaged.
        """
        found = []
        for one in map(settings_of, self.evaluations(values)):
            run = runs.run_directory(one.trained())
            there = [r for path in files.find([run]) for r in files.read(path)]
            own = [r for r in there if isinstance(r, Curve) and r.iteration <= one.run.iterations]
            own = [r for r in own if _evaluated(r.flags) == _evaluated(flag_lines(one))]
            if not own:
                raise ValueError(f"{run} has no result of {one.run.iterations} iterations.")
            found.append(own[-1])
        return found


def flag_of(word: str) -> str:
    """The flag's name in "--name=value", as it is called today."""
    name = word.partition("=")[0].lstrip("-")
    return original.RENAMED.get(name, name)


def settings_of(words: list[str]) -> settings.Settings:
    """The settings that flags for maml-tf lead to."""
    return settings.make(original.translate(flags.parse(words).given))


def combinations(lists: dict[str, Any]) -> list[dict[str, Any]]:
    """Every choice of one value from each list; the last list's change fastest."""
    return [dict(zip(lists, chosen, strict=True)) for chosen in itertools.product(*lists.values())]


def text(value: str | int | float) -> str:
    """A value as a flag has it."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def said(values: dict[str, Any]) -> str:
    """A trial in words: "seed=0 no recipe"."""
    return " ".join(f"{n}={text(v)}" if v != "" else f"no {n}" for n, v in values.items())


def _range(name: str, low: str, high: str, how: str):
    kind = settings.SETTINGS[name].kind if name in settings.SETTINGS else None
    if kind not in (int, float):
        raise ValueError(f"--{name} takes no numbers, and so no range of them.")
    if kind is int:
        return optuna.distributions.IntDistribution(int(low), int(high), log=how == "log")
    return optuna.distributions.FloatDistribution(float(low), float(high), log=how == "log")


def _evaluated(lines: Iterable[str]) -> set[str]:
    """Of flags those of evaluations, which tell the results of a run apart."""
    return {line for line in lines if flag_of(line) in _OF_EVALUATION}
