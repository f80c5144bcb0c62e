"""Environments of a user's in processes of their own, for those whose step is slow.

Gymnasium's `AsyncVectorEnv` with workers (`process_worker`) that begin in a fresh process, for
TensorFlow's threads do not survive a fork, and that end with the main one. What is pickled goes
from one of the program's processes to another; nothing is read from a file.

Shape letters: P environments.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing.connection
import multiprocessing.util
import sys
import time
import types
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
from gymnasium.vector import async_vector_env

from maml_tf.rl.envs import faults
from maml_tf.rl.envs.faults import EnvironmentFault
from maml_tf.rl.envs.process_worker import FAULT, Making, work

_GRACE = 5.0
"""Seconds that environments have to close."""
_FILES = 3
"""Open files of a process, in the one that started it."""


class Processes(async_vector_env.AsyncVectorEnv):
    """P environments, each in a process, with the numbers of a `SyncVectorEnv`.

    The first fault ends all processes, as an interrupt does.
    """

    def __init__(
        self, make: Callable[[], gymnasium.Env], name: str, num_envs: int, like: gymnasium.Env
    ):
        """Starts the processes.

        Args:
          make: makes one environment; it is sent to each process by cloudpickle.
          name: of the environment, for messages.
          num_envs: P.
          like: one that `make` made; what its classes are defined in is imported only once.

        Raises:
          ValueError: `make` cannot be sent, the environment cannot be made in a process of its
            own, or the system allows fewer open files.
        """
        self._name = name
        self._tasks: list = [None] * num_envs
        self._steps = 0
        _refuse_too_many(name, num_envs)
        packed = _packed(make, f"{name} is made by {faults.brief(make)}", "a class of a module")
        _LIVE.add(self)
        try:
            with _without_main(), warnings.catch_warnings():
                # Gymnasium tells a whole traceback beside the error that it raises.
                warnings.simplefilter("ignore")
                super().__init__(
                    [Making(packed, name)] * num_envs, context=_context(like), worker=work
                )
        except (EOFError, ConnectionError) as error:
            raise self._lost("__init__") from error
        except BaseException as error:
            self.close()
            if isinstance(error, Exception):
                raise faults.raised(name, "__init__", error) from error
            raise

    def set_attr(self, name: str, values: Any) -> None:
        """Sets an attribute of each environment, one value for each, sent by cloudpickle."""
        sent = [
            _packed(value, f"{self._name} has the {name} {faults.brief(value)}", "plain data")
            for value in values
        ]
        self._tasks = list(values)
        with self._watched("set_task"):
            super().set_attr(name, sent)

    def reset(self, **kwargs) -> tuple[Any, dict[str, Any]]:
        """As `AsyncVectorEnv.reset`; raises the first environment's fault, if there is one."""
        self._steps = 0
        with self._watched("reset"):
            observations, infos = super().reset(**kwargs)
            _raise_first(infos)
            return observations, infos

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """As `AsyncVectorEnv.step`; raises the first environment's fault, if there is one."""
        self._steps += 1
        with self._watched("step"):
            *rest, infos = super().step(actions)
            _raise_first(infos)
            return (*rest, infos)  # type: ignore[return-value]  # of mypy: four and one

    @contextlib.contextmanager
    def _watched(self, method: str) -> Iterator[None]:
        if self.closed:
            raise ValueError(
                f"{self._name}'s processes have ended, by close, a fault or an interrupt; make a "
                "new sampler."
            )
        try:
            yield
        except (EOFError, ConnectionError) as error:
            raise self._lost(method) from error
        except BaseException:
            self.close()
            raise

    def _lost(self, method: str) -> EnvironmentFault:
        """The fault of a process that has ended by itself."""
        processes = self._started()
        sentinels = [process.sentinel for process in processes]
        ended = multiprocessing.connection.wait(sentinels, _GRACE)
        row = min(map(sentinels.index, ended), default=0)  # type: ignore[arg-type]
        code = processes[row].exitcode if ended else None
        self.close()
        how = "is lost" if code is None else f"ended with status {code}"
        how = how if code is None or code >= 0 else f"ended by signal {-code}"
        task = f" with task {faults.brief(self._tasks[row])}" if method != "__init__" else ""
        return EnvironmentFault(
            f"{self._name}'s process {how} in {faults.place(method, self._steps)}{task}; let the "
            "environment raise an error instead, and see what it wrote to the terminal."
        )

    def _started(self) -> list[Any]:
        return [each for each in getattr(self, "processes", ()) if each.pid is not None]

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Closes the environments, whatever they are doing, and ends their processes."""
        del timeout
        for pipe in getattr(self, "parent_pipes", ()):
            if pipe is not None:
                pipe.close()  # which a worker takes for the end
        processes = self._started()
        until = time.monotonic() + (0.0 if terminate else _GRACE)
        for process in processes:
            process.join(max(until - time.monotonic(), 0.0))
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()


_LIVE: weakref.WeakSet[Processes] = weakref.WeakSet()


@atexit.register  # and so before multiprocessing's own, which would wait for them
def _close_all() -> None:
    for each in list(_LIVE):
        each.close()


def _refuse_too_many(name: str, num_envs: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _FILES * num_envs + 100
    if allowed != resource.RLIM_INFINITY and allowed < needed:
        raise ValueError(
            f"{name} in {num_envs} processes needs {needed} open files, and {allowed} are allowed; "
            f"`ulimit -n {needed}` allows them, or give fewer tasks or episodes."
        )


def _packed(value: Any, whose: str, advice: str) -> bytes:
    try:
        return cloudpickle.dumps(value)
    except Exception as error:  # of a __reduce__ of the user's as well
        raise EnvironmentFault(
            f"{whose}, which cannot be sent to a process of its own ({faults.brief(error)}); let "
            f"it be {advice}, or leave asynchronous."
        ) from error


def _context(like: gymnasium.Env) -> str:
    """How processes are started: from a server that has imported what all of them need."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    modules = {__name__, type(like).__module__}
    while isinstance(like, gymnasium.Wrapper):
        like = like.env
        modules.add(type(like).__module__)
    multiprocessing.set_forkserver_preload(sorted(modules - {"__main__"}))
    return "forkserver"


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Hides the program's main module, which each process would run again.

    What cloudpickle sends of it goes by value.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _raise_first(infos: dict[str, Any]) -> None:
    if FAULT in infos:
        raise EnvironmentFault(infos[FAULT][int(np.argmax(infos[f"_{FAULT}"]))])
