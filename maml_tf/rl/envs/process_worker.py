"""What a process with an environment of a user's does: its faults are information, not its end.

It answers Gymnasium's `AsyncVectorEnv` in the main process, and leaves Ctrl-C to that.
"""

from __future__ import annotations

import signal
import warnings
from typing import Any

import cloudpickle
import gymnasium
from gymnasium.vector import async_vector_env

from maml_tf.rl.envs import faults
from maml_tf.rl.envs.faults import EnvironmentFault
from maml_tf.rl.envs.guarded import maker

FAULT = "fault"
"""Of an information: a sentence."""


class Making:
    """Makes an environment that tells its faults; a plain object, so that any process reads it."""

    def __init__(self, packed: bytes, name: str):
        """Takes a function that makes one, as cloudpickle packed it, and the environment's name."""
        self._packed, self._name = packed, name

    def __call__(self) -> gymnasium.Env:
        """Makes one.

        Raises:
          ValueError: there is none to be had.
        """
        try:
            make = cloudpickle.loads(self._packed)
        except Exception as error:
            raise faults.raised(self._name, "__init__", error, "a process of its own") from error
        return Telling(maker(make, self._name, {})(), self._name)


class Telling(gymnasium.Wrapper):
    """Hands faults on as information: what is raised would end the process."""

    def __init__(self, env: gymnasium.Env, name: str):
        """Takes an environment that is watched, and its name."""
        super().__init__(env)
        self._name, self._fault = name, ""

    @property
    def task(self) -> Any:
        """Is only set: what cloudpickle packed."""
        return None

    @task.setter
    def task(self, packed: bytes) -> None:
        self._fault = ""
        try:
            self.env.task = cloudpickle.loads(packed)  # type: ignore[attr-defined]  # of Guarded
        except EnvironmentFault as fault:
            self._fault = str(fault)  # told by the reset that follows
        except Exception as error:
            self._fault = (
                f"{self._name} has a task that cannot be read in a process of its own "
                f"({faults.brief(error)}); let it be plain data, or leave asynchronous."
            )

    def reset(self, **kwargs) -> tuple[Any, dict[str, Any]]:
        """Starts an episode, or tells why not."""
        try:
            if self._fault:
                raise EnvironmentFault(self._fault)
            return self.env.reset(**kwargs)
        except EnvironmentFault as fault:
            return self.observation_space.sample(), {FAULT: str(fault)}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Takes a step, or tells why not."""
        try:
            return self.env.step(action)
        except EnvironmentFault as fault:
            return self.observation_space.sample(), 0.0, False, False, {FAULT: str(fault)}


def work(index, make, pipe, parent_pipe, memory, queue, *rest) -> None:
    """What a process does: it answers the main process until that closes the pipe."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # The main process stops in its own time. Not ignored: programs that the environment
        # starts would inherit that.
        signal.signal(number, lambda *_: None)
    if index:
        warnings.simplefilter("ignore")  # the same of each
    try:
        try:
            env = make()
        except ValueError as error:  # of `maker`
            pipe.recv()  # the first question is answered with it
            queue.put((index, EnvironmentFault, str(error), ""))
            pipe.send((None, False))
            return
        async_vector_env._async_worker(index, lambda: env, pipe, parent_pipe, memory, queue, *rest)
    except (EOFError, OSError):
        queue.cancel_join_thread()
