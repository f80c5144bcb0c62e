"""Run directories: naming them, finding them, and putting a learner back as it was."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maml_tf.cli import original
from maml_tf.experiments.identity import contradictions, directory_name, to_flags
from maml_tf.experiments.methods import METHODS
from maml_tf.experiments.records import Kind, SettingValue
from maml_tf.experiments.settings import SETTINGS, Settings, make
from maml_tf.ranges import Span
from maml_tf.saving.names import WEIGHTS_FILE
from maml_tf.system import bundled, checksums, texts
from maml_tf.system.files import refuse_pattern, write_atomically
from maml_tf.system.locks import run_lock

if TYPE_CHECKING:
    from maml_tf.engine.workers import Workers

_LOG = logging.getLogger(__name__)

FLAGS_FILE = "flags.txt"
_CHECKSUM = "# SHA-256 of the lines above: "
RESULT_FILE = "result.json"
"""A release: the flags, the weights before adaptation, and what was measured with them."""

_LENGTH = ".schedule_iterations_"
"""In the name of a run, before its value."""

_ALWAYS_WRITTEN = ("problem|datasource", "step_size|update_lr", "distribute")
"""Flags of every version by which a damaged file is known."""


def run_directory(settings: Settings) -> Path:
    """Where the run of these settings lives.

    Raises:
      ValueError: TensorFlow could not read what it writes there, or its name is none.
    """
    directory = Path(settings.run.logdir) / directory_name(settings)
    refuse_pattern(directory)
    return directory


@contextlib.contextmanager
def opened(settings: Settings) -> Iterator[Path]:
    """Makes the run's directory ready to train in, and holds it for this process.

    Raises:
      ValueError: it holds a run with other settings, or another process trains there; names them.
      OSError: it cannot be written.
    """
    directory = run_directory(settings)
    there = (directory / FLAGS_FILE).is_file() or (directory / "checkpoints").is_dir()
    if there and not settings.run.resume:
        with run_lock(directory):
            set_aside(directory)
    with run_lock(directory):
        if (directory / FLAGS_FILE).is_file():
            others = contradictions(read_flags(directory), settings)
            if others:
                raise ValueError(
                    f"{directory} was trained with {'; '.join(others)}. Use its own flags, another "
                    "--run_name or --logdir, or --resume=False to set it aside."
                )
        if not there:
            _tell_of_other_lengths(directory)
        write_flags(directory, settings)
        yield directory


def _tell_of_other_lengths(directory: Path) -> None:
    """Says how a run goes on whose schedule was shorter or longer, if there is one beside this."""
    before, found, after = directory.name.partition(_LENGTH)
    after = after.lstrip("0123456789")
    for other in sorted(directory.parent.glob("*")) if found else []:
        length = other.name[len(before + found) : len(other.name) - len(after)]
        if other != directory and other.name == f"{before}{found}{length}{after}":
            if length.isdigit() and (other / FLAGS_FILE).is_file():
                _LOG.info(
                    "A new run, for its meta step size falls otherwise than in %s; to go on there, "
                    "add --schedule_iterations=%s.",
                    *(other, length),
                )


def write_flags(directory: Path, settings: Settings, heading: str = "") -> None:
    """Writes the flags of a run or a release, with a checksum in the last line."""
    text = heading + to_flags(settings)
    write_atomically(directory / FLAGS_FILE, text + _CHECKSUM + _digest(text) + "\n")


def read_flags(directory: Path) -> Settings:
    """Reads the flags of a run or a release.

    Raises:
      ValueError: they are not as they were written.
    """
    file = directory / FLAGS_FILE
    text = texts.decode(file.read_bytes(), str(file)).replace("\r\n", "\n")
    flags, found, digest = text.rpartition(_CHECKSUM)
    if found and digest.strip() != _digest(flags):
        raise ValueError(
            f"{file} is not as it was written; put it back, or remove its last line if you meant "
            "to change it."
        )
    # Earlier versions wrote no checksum.
    if any(not re.search(rf"^--({names})=", text, re.M) for names in _ALWAYS_WRITTEN):
        raise ValueError(f"{file} is damaged: flags are missing; put it back, or train again.")
    try:
        return original.from_flags(flags if found else text)
    except ValueError as error:
        raise ValueError(f"{file} cannot be used: {error}") from error


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def set_aside(directory: Path) -> None:
    """Renames a run's directory: `<name>.old1`, or the next number."""
    number = 1
    while (aside := directory.with_name(f"{directory.name}.old{number}")).exists():
        number += 1
    directory.rename(aside)
    _LOG.info("Set the run there was aside, as %s.", aside)


def find(paths: list[str]) -> list[Path]:
    """Returns the runs in `paths`, each a run's directory or a directory of runs.

    Raises:
      FileNotFoundError: there is none in one of them.
    """
    found = []
    for path in map(Path, paths):
        runs = [path] if (path / FLAGS_FILE).is_file() else []
        runs = runs or sorted(f.parent for f in path.glob(f"*/{FLAGS_FILE}") if f.is_file())
        if not runs:
            raise FileNotFoundError(f"No run in {path}: no {FLAGS_FILE} there or one level below.")
        found += runs
    return found


def locate(given: Mapping[str, SettingValue], paths: list[str]) -> tuple[Path, Settings]:
    """Returns the one trained run that a command is about, and the settings in force.

    Imports no TensorFlow: a run that is not there is known at once.

    Args:
      given: settings of the command line, by flag; they go before a run's own.
      paths: a run's directory, or nothing: then the settings say which.

    Raises:
      FileNotFoundError: there is no such run.
      ValueError: the path holds several.
    """
    if given.get("init") and not _was_started_from_it(given, paths):
        return _locate_release(given, paths)
    if not paths:
        settings = make(given)
        directory = run_directory(settings.trained())
        settings = settings.replace(init=None)
        # What is not trained has no run before its evaluation.
        if settings.method.trained and not (directory / FLAGS_FILE).is_file():
            raise FileNotFoundError(
                f"No trained run in {directory}; train it with the same flags first, or name a "
                "run's directory."
            )
        return directory, settings
    runs = find(paths)
    if len(runs) > 1:
        names = ", ".join(run.name for run in runs)
        raise ValueError(f"Several runs in {' '.join(paths)}; name one: {names}.")
    return runs[0], _in_force(runs[0], given).replace(init=None)


def _was_started_from_it(given: Mapping[str, SettingValue], paths: list[str]) -> bool:
    """Whether a run of these very flags was started from the release that they name."""
    if paths:
        return False
    try:
        settings = make(given).trained()
        flags_file = run_directory(settings) / FLAGS_FILE
    except ValueError:  # They are fit for the release's own flags alone.
        return False
    if not flags_file.is_file() or contradictions(read_flags(flags_file.parent), settings):
        return False
    _LOG.info("Using %s, which was started from %s.", flags_file.parent, settings.training.init)
    return True


def _in_force(place: Path, given: Mapping[str, SettingValue]) -> Settings:
    """The settings of a run or a release, and before them those of the command line.

    Its training is over: another N, K or step size is the evaluation's.
    """
    own = read_flags(place)
    changes = dict(given)
    if changes.get("method") is None:  # as earlier versions' --method=auto is read
        changes["method"] = own.method.name
    if isinstance(changes.get("shots"), Span) and changes["shots"] == own.training.shots:
        del changes["shots"]  # said again
    evaluations = [("shots", "test_shots"), ("step_size", "test_step_size")]
    if own.problem.kind is Kind.CLASSIFICATION and not own.joint:  # whose head is made anew
        evaluations.append(("ways", "test_ways"))
    for name, of_the_evaluation in evaluations:
        if name in changes:
            changes.setdefault(of_the_evaluation, changes.pop(name))
    _refuse_other_model(place, own, {**own.given, **changes})
    method = changes["method"]
    evaluated = METHODS[method].evaluates if method in METHODS else None
    if method != own.method.name and not (evaluated == own.method.name and own.joint):
        raise ValueError(f"{place} was made by --method={own.method.name}; drop --method.")
    return own.replace(**changes)


_OF_THE_MODEL = ("squash", "standardize")
"""Settings that change what weights mean, and not always their shapes."""


def _refuse_other_model(place: Path, own: Settings, given: Mapping[str, SettingValue]) -> None:
    for name in _OF_THE_MODEL:
        trained = getattr(own.training, name)
        if given.get(name, SETTINGS[name].default) != trained:
            raise ValueError(
                f"{place} was trained with --{name}={trained}; say so, or nothing of --{name}."
            )


def restore(directory: Path, settings: Settings, workers: Workers | None = None) -> tuple[Any, int]:
    """Makes the learner of a run, with its trained weights; also returns their iteration.

    The random baseline has none: its run is made here, and its weights are fresh. Of several
    workers the chief reads, and tells the others.

    Raises:
      FileNotFoundError: there is no checkpoint.
      ValueError: it cannot be read, or belongs to another network.
    """
    from maml_tf.experiments.build import make_learner

    learner: Any = make_learner(settings)
    if workers is None:
        return learner, _restored(directory, settings, learner)
    iteration = workers.by_chief(lambda: _restored(directory, settings, learner))
    workers.take_from_chief(learner.state)
    return learner, int(workers.from_chief(iteration or 0))


def _restored(directory: Path, settings: Settings, learner: Any) -> int:
    has_weights = settings.training.init or settings.method.trained
    if not has_weights and not (directory / FLAGS_FILE).is_file():
        with opened(settings.trained()):
            pass
    iteration = _load(directory, settings, learner)
    if settings.training.init:  # A release that does not fit leaves no directory.
        directory.mkdir(parents=True, exist_ok=True)
    return iteration


def with_weights(directory: Path, settings: Settings) -> tuple[Any, int]:
    """As `restore`, but writes nothing."""
    from maml_tf.experiments.build import make_learner

    learner: Any = make_learner(settings)
    return learner, _load(directory, settings, learner)


def _load(directory: Path, settings: Settings, learner: Any) -> int:
    """Puts a run's weights, or a release's, into a learner; returns their iteration."""
    evaluation = settings.evaluation
    if settings.training.init:
        return _load_release(_release(settings.training.init), learner)
    if not settings.method.trained:
        return 0
    if is_release(directory):
        raise ValueError(f"{directory} is a release, not a run; name it by --init={directory}.")
    if not (directory / "checkpoints").is_dir():
        raise FileNotFoundError(f"No checkpoint in {directory}; train first.")
    checkpoints = _checkpoints(directory, settings, learner)
    if evaluation.iteration is not None:
        checkpoints.restore_iteration(evaluation.iteration)
    elif not (checkpoints.restore_best() if evaluation.best else checkpoints.restore_latest()):
        raise FileNotFoundError(f"No checkpoint in {directory}; train longer first.")
    if hasattr(learner, "finalize"):
        learner.finalize()  # with --average
    return int(checkpoints.iteration.numpy())


def _checkpoints(directory: Path, settings: Settings, learner: Any) -> Any:
    from maml_tf.training.checkpoints import Checkpoints

    # A task's classes are not those of the training: it starts from the head that was made here.
    head = learner.model.layers[-1].variables if settings.joint else []
    return Checkpoints(directory / "checkpoints", learner, without=head)


def ensemble(directory: Path, settings: Settings) -> tuple[Any, int]:
    """Makes the ensemble of a run's best checkpoints; also returns the best one's iteration.

    Raises:
      FileNotFoundError: it keeps fewer of them than `settings` ask for.
      ValueError: one cannot be read, or belongs to another network; or it is a release.
    """
    from maml_tf.experiments.build import make_learner
    from maml_tf.supervised.ensemble import Ensemble

    size = settings.evaluation.ensemble or 1
    learner: Any = make_learner(settings)
    checkpoints = _checkpoints(directory, settings, learner)
    kept = checkpoints.ranked()
    if len(kept) < size:
        raise FileNotFoundError(
            f"{directory} keeps {len(kept)} of its best checkpoints, not the {size} of --ensemble; "
            f"train with --keep_best={size}, or lower --ensemble."
        )
    members = []
    for place in range(size):
        checkpoints.restore_best(place)
        learner.finalize()  # with --average
        members.append([np.array(np.asarray(variable)) for variable in learner.state])
    return Ensemble(learner, members), kept[0]


def refuse_ensemble(given: Mapping[str, SettingValue], command: str) -> None:
    """Refuses an ensemble where one learner is needed; a run's own flags may name one.

    Raises:
      ValueError: the command line says --ensemble.
    """
    if given.get("ensemble"):
        raise ValueError(
            f"{command} takes one set of weights; drop --ensemble, which evaluate has."
        )


def is_release(place: Path) -> bool:
    """Whether a directory is a release and no run."""
    return (place / WEIGHTS_FILE).is_file() and not (place / "checkpoints").is_dir()


def _locate_release(given: Mapping[str, SettingValue], paths: list[str]) -> tuple[Path, Settings]:
    """Returns the place of the release's own results, and the settings in force."""
    release = _release(given["init"])
    if paths:
        raise ValueError(f"--init={release} takes the place of a run; drop {' '.join(paths)}.")
    _check_release(release)
    settings = _in_force(release, given)
    place = Path(settings.run.logdir) / os.path.basename(os.path.realpath(release))
    if (place / FLAGS_FILE).exists() or (place / "checkpoints").exists():  # a run of that name
        place = place.with_name(f"{place.name}.release")
    return place, settings


def start_from_release(settings: Settings, learner: Any) -> None:
    """Gives a new run the weights of the release `init`; a run in progress has its own.

    Raises:
      FileNotFoundError: there is no such release.
      ValueError: its weights are another network's.
    """
    from maml_tf.training.checkpoints import saved_iterations

    if saved_iterations(run_directory(settings) / "checkpoints") and settings.run.resume:
        return
    release = _release(settings.training.init)
    _check_release(release)
    _refuse_other_model(release, read_flags(release), settings.given)
    iteration = _load_release(release, learner, begins=True)
    _LOG.info("Starting from the weights of %s, iteration %d.", release, iteration)


def _release(init: SettingValue) -> Path:
    return bundled.find(Path(str(init)))


def _check_release(release: Path) -> None:
    for name in (FLAGS_FILE, WEIGHTS_FILE, RESULT_FILE):
        if not (release / name).is_file():
            raise FileNotFoundError(
                f"No release in {release}: no {name} there; `maml-tf release RUN --to=models/NAME` "
                "makes one, and `maml-tf list` names those that come along."
            )
    try:
        checksums.verify(release / checksums.SUMS, (FLAGS_FILE, WEIGHTS_FILE, RESULT_FILE))
    except checksums.Damaged as error:
        raise ValueError(f"{error} Get the release again.") from error


def _load_release(release: Path, learner: Any, *, begins: bool = False) -> int:
    """Puts a release's weights into `learner`; returns the iteration that they are of."""
    from maml_tf.saving.weights import load_release

    try:
        load_release(learner, release / WEIGHTS_FILE, begins=begins)
    except Exception as error:  # Keras and h5py name no types for what may be wrong with a file.
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{release / WEIGHTS_FILE} does not fit this network ({reason}); drop the flags that "
            f"change it from what {release / FLAGS_FILE} says."
        ) from error
    from maml_tf.results import files as result_files

    result = result_files.read(release / RESULT_FILE)[0]
    if (counter := _counter(learner)) is not None:
        counter.assign(getattr(result, "environment_steps", None) or 0)
    return result.iteration


def environment_steps(learner: Any) -> int | None:
    """Of a policy's training; None where they were not counted, as in earlier versions' runs."""
    counter = _counter(learner)
    return None if counter is None else int(np.asarray(counter)) or None


def _counter(learner: Any) -> Any:
    return getattr(learner, "counters", {}).get("environment_steps")
