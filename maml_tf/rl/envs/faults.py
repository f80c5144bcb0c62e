"""What an environment of a user's does wrong, in one sentence: which one, where, and what to do."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

import gymnasium
import numpy as np

_LOG = logging.getLogger(__name__)

_LENGTH = 90
"""Characters of a task, or of an error's own words, that a sentence shows."""

LARGEST_REWARD = 1e15
"""Sums of ten thousand rewards up to here, and the squares of such sums, are finite in float32."""

DUTIES = {
    "__init__": "gymnasium.make, or the function given, makes one without arguments",
    "sample_tasks": "sample_tasks(rng, n) draws n tasks with rng",
    "set_task": "set_task(task) takes what sample_tasks gave",
    "set_tasks": "set_tasks(tasks) takes what sample_tasks gave, one per environment",
    "reset": "reset(seed=..., options=...) returns an observation of its space and a dictionary",
    "step": "step(action) returns observation, reward, terminated, truncated and a dictionary",
}
"""What each method has to do."""


class EnvironmentFault(ValueError):
    """An environment raised an error, or returned something else than Gymnasium's interface."""


def name_of(env: gymnasium.Env) -> str:
    """The id that an environment is registered by, or its class."""
    return env.spec.id if env.spec else type(env.unwrapped).__name__


def brief(value: object) -> str:
    """A value in one line of bounded length; an error by its type and first line."""
    value = value.item() if isinstance(value, np.generic) else value
    is_error = isinstance(value, BaseException)
    kind = type(value).__name__
    try:
        if not is_error:
            return _cut(" ".join(repr(value).split()))
        lines = str(value).strip().splitlines()
        return f"{kind} ({_cut(lines[0])})" if lines else kind
    except (Exception, SystemExit):  # of a __repr__ or __str__ of the user's
        return kind if is_error else f"a {kind}"


def _cut(text: str) -> str:
    return text if len(text) <= _LENGTH else text[: _LENGTH - 3] + "..."


def raised(name: str, method: str, error: BaseException, where: str = "") -> EnvironmentFault:
    """The fault of an error that a method raised.

    Args:
      name: the environment's.
      method: a key of `DUTIES`.
      error: what was raised.
      where: the step and the task, if there are any.
    """
    if isinstance(error, EnvironmentFault):
        return error
    return EnvironmentFault(
        f"{name} raised {brief(error)} in {where or method}; fix it so that {DUTIES[method]}"
        f"{_old_interface(method, error)}."
    )


def wrong(name: str, method: str, what: str, where: str) -> EnvironmentFault:
    """The fault of what a method returned; arguments as `raised`."""
    return EnvironmentFault(f"{name}, in {where}, {what}; fix it so that {DUTIES[method]}.")


def place(method: str, step: int) -> str:
    """The name of a method, or which step of an episode, from 1."""
    return f"step {step} of an episode" if method.startswith("step") else method


@functools.cache
def warn_once(sentence: str) -> None:
    """Says it once in this process."""
    _LOG.warning("%s", sentence)


def _old_interface(method: str, error: BaseException) -> str:
    """A few words where the error is that of unpacking what the old Gym's `step` returns."""
    old = method.startswith("step") and isinstance(error, ValueError) and "unpack" in brief(error)
    return ", five values, not the old Gym's four" if old else ""


def is_finite(numbers: np.ndarray) -> np.ndarray:
    """Which rows are finite in float32, [P] of [P, ...]."""
    with np.errstate(over="ignore"):
        finite = np.isfinite(numbers.astype(np.float32, copy=False))
    return np.all(finite.reshape(len(finite), -1), axis=1)


def can_be_learned(observations: np.ndarray, rewards: np.ndarray) -> np.ndarray:
    """Which environments returned numbers to learn from, [P] of [P, O] and [P]."""
    return is_finite(observations) & (np.abs(rewards) <= LARGEST_REWARD)


def observation(value: object, shape: tuple[int, ...]) -> np.ndarray | str:
    """An observation as an array, or what is wrong with it in a few words."""
    try:
        array = np.asarray(value)
    except Exception as error:
        return f"returned an observation that is no array: {brief(error)}"
    if array.dtype.kind not in "fiub":
        return f"returned an observation that holds no real numbers but {array.dtype}"
    if array.shape != shape:
        return f"returned an observation of shape {array.shape} where its space has {shape}"
    return array


def reward(value: object) -> float | str:
    """A reward as a number, or what is wrong with it in a few words."""
    if isinstance(value, (float, int, np.floating, np.integer)):
        try:
            return float(value)
        except OverflowError:
            return "returned a reward beyond all floats"
    try:
        array = np.asarray(value)
    except Exception as error:
        return f"returned a reward that is no number: {brief(error)}"
    if array.ndim or array.dtype.kind not in "fiub":
        return f"returned the reward {brief(value)}, which is not one number"
    return float(array)


def flag(name: str, value: object) -> bool | str:
    """`terminated` or `truncated` as a bool, or what is wrong with it in a few words."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype == bool:
        return bool(value)
    return f"returned {name}={brief(value)}, which is not a bool"


class Divergences:
    """Where environments returned numbers to learn nothing from, since their last reset."""

    def __init__(self, name: str):
        """Takes the environments' name."""
        self._name = name
        self._first: dict[int, str] = {}
        self._is_logged = False

    def clear(self) -> None:
        """Begins new episodes."""
        self._first = {}

    def note(self, rows: np.ndarray, step: int, actions: np.ndarray, rewards: np.ndarray) -> None:
        """Keeps the first time of each environment; not where the action was not finite itself.

        Args:
          rows: [P] bool: which environments did.
          step: from 1.
          actions: [P, ...].
          rewards: [P].
        """
        for row in np.flatnonzero(rows & np.isfinite(actions.reshape(len(rows), -1)).all(axis=1)):
            reward = rewards[row]
            what = "an observation that is not finite"
            if not np.isfinite(reward):
                what = f"the reward {reward} that is not finite"
            elif abs(reward) > LARGEST_REWARD:
                what = f"the reward {reward} that is beyond {LARGEST_REWARD}"
            self._first.setdefault(int(row), f"{what} in step {step}")

    def refuse(self, rows: np.ndarray, tasks: Sequence[object]) -> None:
        """Refuses episodes of no use.

        Args:
          rows: their environments.
          tasks: of all environments.

        Raises:
          ValueError: names the first one's task and step.
        """
        for row in rows:
            if row in self._first:
                raise EnvironmentFault(
                    f"{self._name} returned {self._first[row]} of every episode with task "
                    f"{brief(tasks[row])}; fix its step, or do not draw this task."
                )

    def warn(self, tasks: Sequence[object]) -> None:
        """Says once that all episodes ended so."""
        for row, what in list(self._first.items())[:1]:
            if not self._is_logged:
                _LOG.warning(
                    "All episodes of %s ended early: it returned %s of an episode with task %s.",
                    *(self._name, what, brief(tasks[row])),
                )
            self._is_logged = True
