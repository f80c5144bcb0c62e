"""`maml-tf release`: what a repository can keep of a run."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from pathlib import Path
from typing import Any

from maml_tf.cli import runs
from maml_tf.experiments.settings import Config
from maml_tf.results import files as result_files
from maml_tf.saving.weights import save_model_weights
from maml_tf.system.files import replacing_directory

_LOG = logging.getLogger(__name__)


def run(given: dict[str, Any], words: list[str]) -> int:
    """Writes a run's initial weights, its flags, and the results measured with them."""
    directory, config = runs.locate(given, words)
    if not config.to or config.init:
        raise ValueError("A release is made from a run: maml-tf release RUN --to=models/NAME.")
    if config.learn_step_size:
        raise ValueError(
            f"{directory} has meta-learned step sizes, which a release does not hold; use "
            "`maml-tf export`."
        )
    target = Path(config.to)
    _check(target)
    runs.set_up_machine(config)
    learner, iteration = runs.restore(directory, config)
    results = result_files.release((directory / "results").glob("*.json"), iteration)
    with replacing_directory(target, runs.RESULT_FILE, runs.FLAGS_FILE) as staging:
        save_model_weights(learner.model, staging / runs.WEIGHTS_FILE)
        (staging / runs.RESULT_FILE).write_text(json.dumps(results, indent=1) + "\n")
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
    ours = names & {runs.RESULT_FILE, runs.WEIGHTS_FILE}
    other = names & {"checkpoints", "learner.json", "saved_model.pb"}
    if other or (not ours and any(not name.startswith(".") for name in names)):
        raise ValueError(
            f"{target} holds something else than a release; choose an empty or new directory, such "
            "as models/NAME."
        )


def _flags(directory: Path) -> tuple[Config, str]:
    """The run's own flags, without this machine's directories, and what it began from."""
    here, own = Config(), runs.read_flags(directory)
    began = f"# Trained from the weights of {Path(own.init).name} (--init).\n" if own.init else ""
    return dataclasses.replace(own, logdir=here.logdir, data_dir="", init="", to=""), began
