"""`maml-tf reproduce`: trains, evaluates, exports and draws the paper's experiments in one process.

    maml-tf reproduce quick                    the sinusoid and its baselines, trained briefly
    maml-tf reproduce NAME [--flag=value ...]  one experiment in full, such as omniglot_5way_1shot
    maml-tf reproduce all [--flag=value ...]   each of them, then the paper's figures and tables
    maml-tf reproduce list                     their names, what they fill, how long they take

Runs go to logs/NAME (quick: logs/quick/NAME) unless --logdir says otherwise. Interrupted and
started again it goes on: finished trainings and evaluations are kept, unless --resume=False starts
anew.
"""

from __future__ import annotations

import difflib
import functools
import gc
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

from maml_tf.cli import flags, original, runs, start
from maml_tf.experiments.records import SettingValue
from maml_tf.paper.numbers import fills
from maml_tf.paper.protocol import EXPERIMENTS, QUICK, Evaluation, Experiment
from maml_tf.system import bundled

_LOG = logging.getLogger(__name__)

Settings: TypeAlias = Mapping[str, SettingValue]
"""Values by flag, as commands take them."""

INTERRUPTED = 130
"""Exit status of a training that was stopped by a signal."""


class Interrupted(Exception):
    """A training was stopped by a signal."""


def run(given: Settings, words: list[str]) -> int:
    """Runs what the one word names.

    Raises:
      ValueError: there is no such experiment.
      FileNotFoundError: its data set is not there.
    """
    if len(words) != 1:
        raise ValueError(
            "reproduce takes one name: quick, all, list, or an experiment, such as sinusoid_10shot."
        )
    (name,) = words
    if name == "list":
        print(listing(), flush=True)
        return 0
    if not given.get("log", True):
        raise ValueError("reproduce evaluates what it has trained; drop --log=False.")
    try:
        if name == "all":
            return _all(given)
        _quick(given) if name == "quick" else _one(_find(name), given)
    except Interrupted:
        return INTERRUPTED
    return 0


def listing() -> str:
    """A table of all experiments: name, what each fills, and about how long it takes."""
    rows = [("NAME", "fills", "on two cores, about")]
    names = ", ".join(QUICK.experiments)
    rows.append(("quick", f"{names}, {QUICK.iterations} iterations", duration(QUICK.hours)))
    for experiment in EXPERIMENTS.values():
        filled = [", ".join(fills(experiment.name))]
        filled += [f"evaluates {experiment.trained_by}"] if experiment.trained_by else []
        what = "; ".join(filter(None, filled)) or "(not in the paper)"
        rows.append((experiment.name, what, duration(experiment.hours)))
    width = max(len(row[0]) for row in rows)
    second = max(len(row[1]) for row in rows)
    return "\n".join(f"{a:<{width}}  {b:<{second}}  {c}" for a, b, c in rows)


def duration(hours: float) -> str:
    """Rounds a time: "2 min", "13 h"."""
    return f"{hours:.0f} h" if hours >= 1.5 else f"{max(60 * hours, 1):.0f} min"


def _find(name: str) -> Experiment:
    if name in EXPERIMENTS:
        return EXPERIMENTS[name]
    close = difflib.get_close_matches(name, [*EXPERIMENTS, "quick", "all", "list"], n=1)
    meant = f" Did you mean {close[0]}?" if close else ""
    raise ValueError(
        f"There is no experiment '{name}'.{meant} `maml-tf reproduce list` shows their names."
    )


# --- what is run ---


def _quick(given: Settings) -> None:
    logs = Path(_logdir("logs/quick", given))
    for name in QUICK.experiments:
        logdir = _logdir(f"logs/quick/{name}", given)
        _train_and_evaluate(_find(name), logdir, given, [f"--iterations={QUICK.iterations}"])
    _draw([logs], logs / "figures")


def _one(experiment: Experiment, given: Settings) -> None:
    logdir = _logdir(_usual_logdir(experiment), given)
    _train_and_evaluate(experiment, logdir, given)
    _draw([Path(logdir)], Path(logdir) / "figures")


def _all(given: Settings) -> int:
    """Runs every experiment that trains a model of its own; a failure does not end the others."""
    _LOG.info("In this order; each says how long it will take:\n%s", listing())
    own = [e for e in EXPERIMENTS.values() if not (e.trained_by or e.other_flagfile)]
    failed: dict[str, str] = {}
    for experiment in own:
        _try(experiment.name, failed, functools.partial(_one, experiment, given))
    places = {Path(_logdir(_usual_logdir(experiment), given)): None for experiment in own}
    present = [place for place in places if place.is_dir() and _has_results(place)]
    if present:
        _try("figures", failed, functools.partial(_draw, present, Path("logs/figures")))
    for name, reason in failed.items():
        _LOG.error("%s failed: %s", name, reason)
    return 1 if failed else 0


def _try(name: str, failed: dict[str, str], work: Callable[[], None]) -> None:
    """Does some work, and notes why it failed if it did."""
    try:
        work()
    except Interrupted:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        if not isinstance(error, (OSError, ValueError)):  # a fault of this program
            _LOG.exception("%s failed", name)
            reason = f"{type(error).__name__}: {reason}"
        failed[name] = reason


def _has_results(place: Path) -> bool:
    from maml_tf.results import files

    try:
        return bool(files.find([place]))
    except FileNotFoundError:
        return False
    except ValueError:  # Who draws them says what is wrong.
        return True


def _usual_logdir(experiment: Experiment) -> str:
    return f"logs/{experiment.trained_by or experiment.name}"


def _logdir(usual: str, given: Settings) -> str:
    """Where runs go: where the command line says, else where they usually do."""
    return str(given.get("logdir", usual))


def _train_and_evaluate(
    experiment: Experiment, logdir: str, given: Settings, more: Iterable[str] = ()
) -> None:
    """Trains, evaluates on the test split, and exports; what is there already is kept.

    Args:
      experiment: what is run.
      logdir: where its run goes.
      given: settings of the command line, which go before all others.
      more: flags beside the flagfile's.

    Raises:
      Interrupted: the training was stopped by a signal.
    """
    from maml_tf.cli import evaluate, export, train

    _LOG.info("== %s: %s", experiment.title, logdir)
    _forget()
    for seed in experiment.seeds:
        own = [f"--flagfile={_flagfile(experiment)}", f"--logdir={logdir}", f"--seed={seed}", *more]
        if experiment.other_flagfile:
            own.append(f"--shots={experiment.shots}")
        if train.run(_settings(own, given), []) == INTERRUPTED:
            raise Interrupted
        kept = {**given, "resume": True}  # Set aside was what there was before, not this.
        for evaluation in experiment.evaluations:
            said = _settings([*own, *_flags(evaluation)], kept)
            directory, settings = runs.locate(said, [])
            if evaluate.is_done(settings, directory):
                _LOG.info("Kept the evaluation of %s.", _named(evaluation))
            else:
                evaluate.run(said, [])
        if experiment.method != "nearest_neighbour":  # which adapts nothing
            export.run(_settings(own, kept), [])


def _forget() -> None:
    """Frees what the experiment before left: its graphs and their memory."""
    start.tensorflow()
    import keras

    keras.utils.clear_session(free_memory=False)
    gc.collect()


def _draw(places: Iterable[Path], target: Path) -> None:
    from maml_tf.cli import drawing

    drawing.draw(places, target)


# --- settings ---


def _settings(own: Iterable[str], given: Settings) -> Settings:
    """An experiment's flags as settings, and before them those of the command line."""
    return {**original.translate(flags.parse([*own]).given), **given}


def _flags(evaluation: Evaluation) -> list[str]:
    """An evaluation as flags."""
    named = ("split", "inputs", "batch_statistics", "method")
    found = {name: getattr(evaluation, name) for name in named}
    found["test_shots"] = evaluation.shots
    return [f"--{name}={value}" for name, value in found.items() if value is not None]


def _named(evaluation: Evaluation) -> str:
    parts = [evaluation.split]
    parts += [f"K = {evaluation.shots}"] if evaluation.shots else []
    parts += [evaluation.method] if evaluation.method else []
    return ", ".join([*parts, *(["half range"] if evaluation.inputs == "half" else [])])


def _flagfile(experiment: Experiment) -> Path:
    """Where the flagfile lies: in the present directory's `flags/`, or with the package."""
    return bundled.find(Path("flags") / experiment.flagfile)
