"""From settings to the things that they name: task sources, a learner, its validation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

from maml_tf.experiments import policies, supervised
from maml_tf.experiments.records import Kind

if TYPE_CHECKING:
    from maml_tf.experiments.settings import Settings
    from maml_tf.types import Learner

_BUILDERS: dict[Kind, ModuleType] = {
    Kind.REGRESSION: supervised,
    Kind.CLASSIFICATION: supervised,
    Kind.POLICY: policies,
}


def require_data(settings: Settings) -> None:
    """Raises what `make_tasks` would for a data set that is not there; imports no TensorFlow.

    Raises:
      FileNotFoundError: the message says how to get it.
    """
    if settings.problem.require_data is not None:
        settings.problem.require_data(settings.machine)


def make_tasks(settings: Settings, split: str) -> Any:
    """Makes the source of the tasks of one split: "train", "val" or "test".

    Returns:
      A `TaskSource`; for meta-RL a sampler of trajectories.

    Raises:
      FileNotFoundError: the data set is not there; the message says how to get it.
      ValueError: the data set is damaged, or too small for the settings; the environment is
        unknown, has no tasks, or needs an extra.
    """
    with _extras(settings):
        return _BUILDERS[settings.problem.kind].tasks(settings, split)


def make_learner(settings: Settings, classes: int | None = None) -> Learner:
    """Makes the learner; pre-training is meta-training without inner steps.

    Args:
      settings: of the run.
      classes: of a joint classifier that is to be trained (`Settings.joint`). Without them, what is
        fine-tuned to tasks in its place: the same network with a fresh head.
    """
    with _extras(settings):
        return _BUILDERS[settings.problem.kind].learner(settings, classes)


def make_validation(settings: Settings, learner: Learner) -> Any:
    """Makes what `train` takes as validation for these settings."""
    with _extras(settings):
        return _BUILDERS[settings.problem.kind].validation(settings, learner)


@contextlib.contextmanager
def _extras(settings: Settings) -> Iterator[None]:
    """Names what a problem needs, where it is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = "maml-tf[rl]" if settings.problem.kind is Kind.POLICY else error.name
        raise ValueError(
            f"--problem={settings.problem.name} needs {error.name}; pip install {package}."
        ) from error
