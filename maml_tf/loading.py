"""A trained learner, from where the command line left it."""

from __future__ import annotations

import os
from typing import Any

from maml_tf import arguments
from maml_tf.cli import runs
from maml_tf.system import bundled
from maml_tf.system.files import user_path


def load(place: str | os.PathLike[str], *, best: bool = False, iteration: int | None = None) -> Any:
    """Makes the learner of a run's directory or a release, with its trained weights.

    Writes nothing. `maml_tf.evaluate`, `tune_step_size`, `export` and `train` take what it returns.

    Args:
      place: a run's directory, as `maml-tf train` makes it, or a release, such as models/NAME:
        one's own, or else one that comes with the package.
      best: the weights that validated best, not the newest; of a run.
      iteration: those of this checkpoint; of a run.

    Returns:
      `MetaLearner`, another supervised learner, or `maml_tf.rl.MetaTRPO`.

    Raises:
      FileNotFoundError: there is neither in that place, or no such checkpoint.
      ValueError: it is damaged, several runs are there, a release is asked for `best` or for an
        `iteration`, or a run for both.
    """
    path = bundled.find(user_path(place, "place"))
    arguments.boolean("best", best)
    if iteration is not None:
        iteration = arguments.count("iteration", iteration, 0)
        if best:
            raise ValueError("best and iteration are two choices of weights; drop one of them.")
    if not runs.is_release(path):
        given = {"use_best": best, "test_iteration": iteration}
        return runs.with_weights(*runs.locate(given, [str(path)]))[0]
    if best or iteration is not None:
        raise ValueError(
            f"{path} is a release, which has one set of weights; drop best, iteration."
        )
    return runs.with_weights(*runs.locate({"init": str(path)}, []))[0]
