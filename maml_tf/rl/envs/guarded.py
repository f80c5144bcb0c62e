"""One environment of a user's, made and watched: what it does wrong is one sentence each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from maml_tf.rl.envs import faults, spaces, task_forms
from maml_tf.rl.envs.faults import EnvironmentFault

TASK = "task"
"""Where `reset(options=...)` finds the task of an environment without `set_task`."""


class _Options(dict):
    """Options of a reset that notice whether the task among them is looked at."""

    looked_at = False


def _noticed(name: str, by_key: bool) -> Callable:
    def method(self: _Options, *args: Any) -> Any:
        self.looked_at |= not by_key or args[0] == TASK
        return getattr(dict, name)(self, *args)

    return method


for _name in ("__contains__", "__getitem__", "get", "pop", "setdefault"):
    setattr(_Options, _name, _noticed(_name, by_key=True))
for _name in ("__iter__", "__or__", "__ror__", "copy", "items", "keys", "values"):
    setattr(_Options, _name, _noticed(_name, by_key=False))


class Guarded(gymnasium.Wrapper):
    """An environment that knows its task and its step, and names both where it does wrong.

    Its observations are vectors of real numbers, whatever the environment's space.

    One without `set_task` finds its task in the options of every reset, under `TASK`.
    """

    def __init__(self, env: gymnasium.Env, name: str):
        """Takes an environment, and what messages call it."""
        super().__init__(env)
        self._name = name
        self._task: Any = None
        self._sets_task = env.has_wrapper_attr("set_task")
        self._steps = 0
        own = self._space = env.observation_space
        vectors = isinstance(own, gymnasium.spaces.Box) and len(own.shape) == 1
        if not (vectors and np.issubdtype(own.dtype, np.floating)):
            self.observation_space = spaces.vectors(own)
        self._shape = own.shape if vectors else None
        self._dtype = self.observation_space.dtype

    @property
    def task(self) -> Any:
        """The present task; set_task is given a copy of its own."""
        return self._task

    @task.setter
    def task(self, task: Any) -> None:
        self._task = task
        if not self._sets_task:
            return
        try:
            self.env.get_wrapper_attr("set_task")(task_forms.own_copy(self._task))
        except (Exception, SystemExit) as error:
            raise self._raised("set_task", error) from error

    def reset(
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[np.ndarray, dict]:
        """Starts an episode; returns its observation, and no information."""
        if not self._sets_task:
            options = _Options(options or {}, **{TASK: task_forms.own_copy(self._task)})
        try:
            result = self.env.reset(seed=seed, options=options)
        except (Exception, SystemExit) as error:
            raise self._raised("reset", error) from error
        if isinstance(options, _Options) and not options.looked_at:
            raise EnvironmentFault(
                f"{self._name} has no set_task, and its reset does not look at "
                f'options["{TASK}"]; give it set_task(task), or take the task there.'
            )
        if not isinstance(result, tuple) or len(result) != 2:
            alone = "" if isinstance(result, tuple) else " alone, as the old Gym did"
            raise self._wrong("reset", f"returned {faults.brief(result)}{alone}")
        self._steps = 0
        return self._seen("reset", result[0]), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Takes a step; returns what Gymnasium's `step` does, without the environment's infos."""
        self._steps += 1
        try:
            result = self.env.step(action)
        except (Exception, SystemExit) as error:
            raise self._raised("step", error) from error
        if not isinstance(result, tuple) or len(result) != 5:
            many = f"{len(result)} values, as the old Gym did" if isinstance(result, tuple) else ""
            raise self._wrong("step", f"returned {many or faults.brief(result)}")
        seen, reward, terminated, truncated, _ = result
        # What is right at a glance costs no call.
        if not (
            isinstance(seen, np.ndarray) and seen.shape == self._shape and seen.dtype == self._dtype
        ):
            seen = self._seen("step", seen)
        if not isinstance(reward, float):
            reward = self._checked("step", faults.reward(reward))
        if not isinstance(terminated, bool):
            terminated = self._checked("step", faults.flag("terminated", terminated))
        if not isinstance(truncated, bool):
            truncated = self._checked("step", faults.flag("truncated", truncated))
        return seen, reward, terminated, truncated, {}  # nothing reads an environment's own infos

    def close(self) -> None:
        """Closes the environment; what it raises then is only logged."""
        try:
            self.env.close()
        except (Exception, SystemExit) as error:
            faults.warn_once(f"{self._name} raised {faults.brief(error)} in close.")

    def _seen(self, method: str, value: Any) -> np.ndarray:
        """An observation as a vector of its space's type; infinite where that cannot hold it."""
        found = self._checked(method, spaces.flattened(self._space, value))
        with np.errstate(over="ignore"):
            return found.astype(self._dtype, copy=False)

    def _checked(self, method: str, value: Any) -> Any:
        if isinstance(value, str):
            raise self._wrong(method, value)
        return value

    def _where(self, method: str) -> str:
        return f"{faults.place(method, self._steps)} with task {faults.brief(self._task)}"

    def _raised(self, method: str, error: BaseException) -> EnvironmentFault:
        return faults.raised(self._name, method, error, self._where(method))

    def _wrong(self, method: str, what: str) -> EnvironmentFault:
        return faults.wrong(self._name, method, what, self._where(method))


def made(make: Callable[[], gymnasium.Env], name: str) -> gymnasium.Env:
    """One environment, or the reason why there is none."""
    if isinstance(make, gymnasium.Env) or not callable(make):
        what = faults.name_of(make) if isinstance(make, gymnasium.Env) else faults.brief(make)
        raise ValueError(
            f"{what} is no function that makes environments; give one that makes a new one at "
            "every call, such as the class."
        )
    name = name or getattr(make, "__name__", type(make).__name__)
    try:
        env = make()
    except (Exception, SystemExit) as error:
        raise faults.raised(name, "__init__", error) from error
    if not isinstance(env, gymnasium.Env):
        raise ValueError(
            f"{name} made {faults.brief(env)}, which is no gymnasium.Env; return an environment of "
            "a class that inherits from gymnasium.Env."
        )
    return env


def maker(
    make: Callable[[], gymnasium.Env], name: str, met: dict[int, Any]
) -> Callable[[], gymnasium.Env]:
    """Makes one environment, which must not be among those met before."""

    def maker() -> gymnasium.Env:
        env = made(make, name)
        if id(env.unwrapped) in met:
            raise EnvironmentFault(
                f"{name} is one object for several tasks; let the function make a new "
                "environment at every call."
            )
        met[id(env.unwrapped)] = env.unwrapped
        return Guarded(env, name)

    return maker


def check(name: str, env: gymnasium.Env) -> None:
    """Refuses an environment that has no tasks, or spaces that no policy is for."""
    if not env.has_wrapper_attr("sample_tasks"):
        missing = [m for m in ("sample_tasks", "set_task") if not env.has_wrapper_attr(m)]
        raise ValueError(
            f"{name} has no tasks; give it {' and '.join(missing)} (sample_tasks(rng, n), and "
            f'set_task(task) or reset(options={{"{TASK}": task}})).'
        )
    own = (getattr(env, f"{kind}_space", None) for kind in ("observation", "action"))
    check_spaces(name, *own)


def check_spaces(name: str, observations: object, actions: object) -> None:
    """Refuses spaces that no policy is for.

    Raises:
      ValueError: naming the environment, the space and the reason.
    """
    reasons = (
        ("observations", observations, spaces.why_not_observed(observations)),
        ("actions", actions, spaces.why_not_acted(actions)),
    )
    for kind, space, reason in reasons:
        if reason:
            raise ValueError(f"{name} has {kind} {faults.brief(space)}; {reason}.")
