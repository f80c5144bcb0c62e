"""`maml-tf prepare`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from maml_tf.cli import start
from maml_tf.experiments import build
from maml_tf.experiments.records import Problem, SettingValue
from maml_tf.experiments.settings import Machine, make

_LOG = logging.getLogger(__name__)


def run(given: Mapping[str, SettingValue], words: list[str]) -> int:
    """Reads a data set once, so that later runs start from its cache.

    Raises:
      ValueError: the data set is damaged, or nothing could be kept.
    """
    del words  # There are none.
    settings = make(given)
    problem = settings.problem
    if problem.prepared is None:
        _LOG.info("%s has nothing to prepare.", problem.name)
        return 0
    build.require_data(settings)
    start.tensorflow()
    for split in ("train", "val", "test"):
        build.make_tasks(settings, split)
    files = problem.prepared(settings.machine)
    kept = dict.fromkeys(_kept(problem, settings.machine, file) for file in files)
    _LOG.info("%s is ready, in %s.", problem.name, ", ".join(map(str, kept)))
    return 0


def _kept(problem: Problem, machine: Machine, file: Path | None) -> Path:
    """The file that holds decoded images.

    Raises:
      ValueError: there is none; names the folders that could have one.
    """
    if file is None:
        folders = problem.cache_folders(machine) if problem.cache_folders else []
        places = " or ".join(str(folder.absolute()) for folder in folders)
        raise ValueError(
            f"Nothing could be kept, so that every start would decode {problem.name} again: "
            f"make {places} writable, or name another folder by XDG_CACHE_HOME."
        )
    return file
