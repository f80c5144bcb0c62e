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
import gc
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import maml_tf
from maml_tf.cli import flags, original, runs
from maml_tf.experiments.records import SettingValue
from maml_tf.paper.numbers import fills
from maml_tf.paper.protocol import EXPERIMENTS, QUICK, Evaluation, Experiment

_LOG = logging.getLogger(__name__)

INTERRUPTED = 130
"""Exit status of a training that was stopped by a signal."""


class Interrupted(Exception):
    """A training was stopped by a signal."""


def run(given: Mapping[str, SettingValue], words: list[str]) -> int:
    """Runs what the one word names.

    Raises:
      ValueError: there is no such experiment.
      FileNotFoundError: its flagfile, or its data set, is not there.
    """
    if len(words) != 1:
        raise ValueError(
            "reproduce takes one name: quick, all, list, or an experiment, such as sinusoid_10shot."
        )
    (name,) = words
    if name == "list":
        print(listing(), flush=True)
        return 0
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


def _quick(given: Mapping[str, SettingValue]) -> None:
    logs = Path(str(given.get("logdir", "logs/quick")))
    for name in QUICK.experiments:
        logdir = str(given.get("logdir", logs / name))
        _train_and_evaluate(_find(name), logdir, given, [f"--iterations={QUICK.iterations}"])
    _draw([logs], logs / "figures")


def _one(experiment: Experiment, given: Mapping[str, SettingValue]) -> None:
    logdir = _logdir(experiment, given)
    _train_and_evaluate(experiment, logdir, given)
    _draw([Path(logdir)], Path(logdir) / "figures")


def _all(given: Mapping[str, SettingValue]) -> int:
    """Runs every experiment that trains a model of its own; a failure does not end the others."""
    _LOG.info("In this order; each says how long it will take:\n%s", listing())
    failed: dict[str, str] = {}
    for experiment in EXPERIMENTS.values():
        if experiment.trained_by or experiment.other_flagfile:
            continue
        try:
            _one(experiment, given)
        except (OSError, ValueError) as error:
            failed[experiment.name] = " ".join(str(error).split())
        except Interrupted:
            raise
        except Exception as error:
            _LOG.exception("%s failed", experiment.name)
            failed[experiment.name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
    places = {Path(_logdir(experiment, given)) for experiment in EXPERIMENTS.values()}
    present = sorted(place for place in places if any(place.rglob("results/*.json")))
    if present:
        _draw(present, Path("logs/figures"))
    for name, reason in failed.items():
        _LOG.error("%s failed: %s", name, reason)
    return 1 if failed else 0


def _logdir(experiment: Experiment, given: Mapping[str, SettingValue]) -> str:
    return str(given.get("logdir", f"logs/{experiment.trained_by or experiment.name}"))


def _train_and_evaluate(
    experiment: Experiment, logdir: str, given: Mapping[str, SettingValue], more: Iterable[str] = ()
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
            said = _settings([*own, *_flags(experiment, evaluation)], kept)
            directory, settings = runs.locate(said, [])
            if evaluate.is_done(settings, directory):
                _LOG.info("Kept the evaluation of %s.", _named(evaluation))
            else:
                evaluate.run(said, [])
        if experiment.method != "nearest_neighbour":  # which adapts nothing
            export.run(_settings(own, kept), [])


def _forget() -> None:
    """Frees what the experiment before left: its graphs and their memory."""
    import keras

    keras.utils.clear_session(free_memory=False)
    gc.collect()


def _draw(places: Iterable[Path], target: Path) -> None:
    from maml_tf.cli.drawing import draw

    draw(places, target)


# --- settings ---


def _settings(own: Iterable[str], given: Mapping[str, SettingValue]) -> Mapping[str, SettingValue]:
    """An experiment's flags as settings, and before them those of the command line."""
    return {**original.translate(flags.parse([*own]).given), **given}


def _flags(experiment: Experiment, evaluation: Evaluation) -> list[str]:
    """An evaluation as flags."""
    found = [f"--split={evaluation.split}"]
    if evaluation.shots:
        found += [f"--shots={experiment.shots}", f"--test_shots={evaluation.shots}"]
    if evaluation.method:
        found.append(f"--method={evaluation.method}")
    return [
        *found,
        f"--inputs={evaluation.inputs}",
        f"--batch_statistics={evaluation.batch_statistics}",
    ]


def _named(evaluation: Evaluation) -> str:
    parts = [evaluation.split]
    parts += [f"K = {evaluation.shots}"] if evaluation.shots else []
    parts += [evaluation.method] if evaluation.method else []
    return ", ".join([*parts, *(["half range"] if evaluation.inputs == "half" else [])])


def _flagfile(experiment: Experiment) -> Path:
    """Where the flagfile lies: in the present directory's `flags/`, or in the repository's.

    Raises:
      FileNotFoundError: in neither.
    """
    folders = (Path("flags"), Path(maml_tf.__file__).parents[1] / "flags")
    for folder in folders:
        if (folder / experiment.flagfile).is_file():
            return folder / experiment.flagfile
    raise FileNotFoundError(
        f"There is no flags/{experiment.flagfile} here; run this in a copy of the repository."
    )
