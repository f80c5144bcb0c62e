"""`maml-tf release`: what a repository can keep of a run."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from maml_tf.cli import model_card, runs, start
from maml_tf.experiments.records import SettingValue
from maml_tf.experiments.settings import Settings
from maml_tf.saving.names import WEIGHTS_FILE
from maml_tf.system.files import replacing_directory

_LOG = logging.getLogger(__name__)


def run(given: Mapping[str, SettingValue], words: list[str]) -> int:
    """Writes a run's initial weights, its flags, and the results measured with them."""
    runs.refuse_ensemble(given, "release")
    directory, settings = runs.locate(given, words)
    to = settings.run.to
    if not to or settings.training.init:
        raise ValueError("A release is made from a run: maml-tf release RUN --to=models/NAME.")
    target = Path(to)
    _check(target)
    start.on(settings.machine)
    from maml_tf.results import files as result_files
    from maml_tf.saving.weights import save_release

    learner, iteration = runs.restore(directory, settings)
    results = result_files.release((directory / "results").glob("*.json"), iteration)
    with replacing_directory(target, runs.RESULT_FILE, runs.FLAGS_FILE) as staging:
        save_release(learner, staging / WEIGHTS_FILE)
        (staging / runs.RESULT_FILE).write_text(json.dumps(results, indent=1) + "\n")
        (staging / model_card.FILE).write_text(_card(directory, target, staging), "utf-8")
        runs.write_flags(staging, *_flags(directory))
    _LOG.info("Wrote the initial weights of iteration %d to %s", iteration, target)
    return 0


def _check(target: Path) -> None:
    """Refuses a directory that holds something else than a release.

    Raises:
      ValueError: names it.
    """
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file; choose a directory, such as models/NAME.")
    names = set(os.listdir(target)) if target.is_dir() else set()
    ours = names & {runs.RESULT_FILE, WEIGHTS_FILE}
    other = names & {"checkpoints", "learner.json", "saved_model.pb"}
    if other or (not ours and any(not name.startswith(".") for name in names)):
        raise ValueError(
            f"{target} holds something else than a release; choose an empty or new directory, such "
            "as models/NAME."
        )


def _card(directory: Path, target: Path, staging: Path) -> str:
    from maml_tf.results import files as result_files

    own = runs.read_flags(directory)
    measured = result_files.read(staging / runs.RESULT_FILE)
    began = Path(own.training.init).name
    return model_card.card(target.resolve().name, own, measured, began)


def _flags(directory: Path) -> tuple[Settings, str]:
    """The run's own flags, without this machine's directories, and what it began from."""
    own = runs.read_flags(directory)
    init = own.training.init
    began = f"# Trained from the weights of {Path(init).name} (--init).\n" if init else ""
    return own.replace(logdir=None, data_dir=None, init=None, to=None), began
