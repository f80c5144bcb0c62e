"""Tasks drawn from an environment of a user's, as its `sample_tasks` takes its arguments.

Shape letters: n tasks.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np

from maml_tf.rl.envs.faults import EnvironmentFault, brief, raised
from maml_tf.rl.envs.task_forms import same

_COUNTS = (
    "n num number count size num_tasks n_tasks ntasks tasks task_count number_of_tasks amount k "
    "batch_size meta_batch_size"
).split()
_MAKERS: dict[str, Callable[[np.random.Generator, int], Any]] = {
    **dict.fromkeys(("rng", "generator", "gen", "np_random", "random"), lambda rng, seed: rng),
    "seed": lambda rng, seed: seed,
    "random_state": lambda rng, seed: np.random.RandomState(seed),
}
"""Parameters of `sample_tasks` that chance comes by, and what they are given."""


class TaskDraws:
    """An environment's `sample_tasks`, called by its own signature, as a function of a generator.

    One that takes no generator draws from `np_random`, NumPy or `random`; all are seeded around the
    call, and if that does not do, `reset(seed=...)` comes before it.
    """

    def __init__(self, name: str, sample: Callable, env: Any):
        """Takes the function, and the environment that it belongs to.

        Raises:
          ValueError: the function takes other things than a generator and a number of tasks.
        """
        self._name, self._sample, self._env = name, sample, env
        self._arguments = _arguments_of(name, sample)
        self._resets = False

    def __call__(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray | list | tuple:
        """Draws tasks, n of them, as the environment gives them.

        Raises:
          ValueError: the environment raises an error, or gives something else than n tasks.
        """
        seed = int(copy.deepcopy(rng).integers(2**31))
        args, kwargs = self._arguments(rng, seed, num_tasks)
        try:
            with _seeded(self._env, seed):
                if self._resets:
                    self._env.reset(seed=seed)
                gave = self._sample(*args, **kwargs)
                drawn = _entries(gave, num_tasks + 1)
        except (Exception, SystemExit) as error:
            raise raised(self._name, "sample_tasks", error) from error
        if drawn is None:
            raise EnvironmentFault(
                f"{self._name} gave {brief(gave)} where {num_tasks} tasks were asked for; "
                "sample_tasks returns an array or a list, one entry per task."
            )
        if len(drawn) != num_tasks:
            more = drawn is not gave and len(drawn) > num_tasks
            many = f"more than {num_tasks}" if more else f"{len(drawn)}"
            raise EnvironmentFault(
                f"{self._name} gave {many} tasks where {num_tasks} were asked for; "
                "sample_tasks(rng, n) returns n of them."
            )
        return drawn

    def refuse_other_chance(self, num_tasks: int, begin: Callable[[Any], None]) -> Any:
        """Checks that the same seed draws the same tasks, and returns these.

        Args:
          num_tasks: how many are drawn.
          begin: sets a task, which some environments need before a reset.

        Raises:
          ValueError: two draws of one seed differ.
        """
        self._draw(num_tasks)  # the first draw may make a stock of tasks
        if same(self._draw(num_tasks), drawn := self._draw(num_tasks)):
            return drawn
        begin(drawn[0])
        self._resets = True
        if same(self._draw(num_tasks), drawn := self._draw(num_tasks)):
            return drawn
        raise EnvironmentFault(
            f"{self._name} drew different tasks from the same seed, so that no run could be "
            "repeated; draw in sample_tasks(rng, n) from rng alone, and keep no state."
        )

    def _draw(self, num_tasks: int) -> Any:
        return self(np.random.default_rng(0), num_tasks)


def _entries(gave: Any, most: int) -> np.ndarray | list | tuple | None:
    """What `sample_tasks` gave as an array or a list, not more than `most` of another iterable.

    None of what is no row of tasks: one task, what has no order, or a table of named columns.
    """
    if isinstance(gave, np.ndarray):
        return gave if gave.ndim else None
    if isinstance(gave, (list, tuple)):
        return gave
    unordered = isinstance(gave, (str, bytes, Mapping, set, frozenset))
    if unordered or hasattr(gave, "columns"):
        return None
    if not hasattr(gave, "__iter__") and not hasattr(gave, "__getitem__"):
        return None
    return list(itertools.islice(gave, most))


@contextlib.contextmanager
def _seeded(env: Any, seed: int) -> Iterator[None]:
    """Seeds an environment's own generator and, for a while, those of the whole program."""
    own = getattr(env, "unwrapped", env)
    with contextlib.suppress(AttributeError):  # a property of the environment's own
        own.np_random = gymnasium.utils.seeding.np_random(seed)[0]
    of_numpy, of_python = np.random.get_state(), random.getstate()
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(of_numpy)
        random.setstate(of_python)


def _arguments_of(name: str, sample: Callable) -> Callable[[Any, int, int], tuple[list, dict]]:
    """How to call `sample_tasks`: `(rng, seed, n) -> args, kwargs`."""
    try:
        given = list(inspect.signature(sample).parameters.values())
    except (TypeError, ValueError):  # a builtin, which has no signature
        return lambda rng, seed, n: ([rng, n], {})
    own = [p for p in given if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if not own and any(p.kind is p.VAR_POSITIONAL for p in given):
        return lambda rng, seed, n: ([rng, n], {})
    chance = next((p for p in own if _is_chance(p)), None)
    count = next((p for p in own if p is not chance and _is_count(p)), None)
    rest = [p for p in own if p is not chance and p is not count]
    rest.sort(key=lambda p: p.default is not p.empty)  # what must be given first
    if chance is None and sum(p.default is p.empty for p in rest) > (count is None):
        chance = rest.pop(0)
    if count is None and rest:
        count = rest.pop(0)
    left = [p.name for p in rest if p.default is p.empty]
    if count is None or left:
        takes = f"takes {', '.join(p.name for p in own) or 'nothing'}"
        raise EnvironmentFault(
            f"{name} has a sample_tasks that {takes}; let it take (rng, n), or n alone, the number "
            "of tasks."
        )

    def arguments(rng: Any, seed: int, n: int) -> tuple[list, dict]:
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for place, parameter in enumerate(own):
            if parameter is count:
                value: Any = n
            elif parameter is chance:
                value = _MAKERS.get(parameter.name.lower(), _MAKERS["rng"])(rng, seed)
            else:
                continue
            if parameter.kind is parameter.KEYWORD_ONLY or len(args) < place:
                kwargs[parameter.name] = value
            else:
                args.append(value)
        return args, kwargs

    return arguments


def _is_chance(parameter: inspect.Parameter) -> bool:
    return parameter.name.lower() in _MAKERS or "Generator" in str(parameter.annotation)


def _is_count(parameter: inspect.Parameter) -> bool:
    return parameter.name.lower() in _COUNTS or parameter.annotation in (int, "int")
