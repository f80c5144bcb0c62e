"""What a sampler is given by name, by function or ready made, as one vector environment with tasks.

Shape letters: P environments in parallel.
"""

from __future__ import annotations

import functools
import importlib
import itertools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import gymnasium

from maml_tf import arguments
from maml_tf.rl.environments import ENVIRONMENTS
from maml_tf.rl.envs import faults
from maml_tf.rl.envs.base import TaskVectorEnv
from maml_tf.rl.envs.foreign import ForeignTasks
from maml_tf.rl.envs.foreign_vector import ForeignVector
from maml_tf.rl.envs.guarded import check_spaces
from maml_tf.rl.envs.registry import check_dynamics, make_vector

Given: TypeAlias = str | Callable[[], gymnasium.Env] | gymnasium.vector.VectorEnv
"""A name of `ENVIRONMENTS`, an id that is registered with Gymnasium, "module:id" with the module
that registers it, a function that makes an environment, or P of them in one."""

Tasked: TypeAlias = TaskVectorEnv | ForeignTasks | ForeignVector
"""P environments with `sample_tasks` and `set_tasks`."""


class Options(NamedTuple):
    """How to make the environments; the last three belong to some of this package's alone."""

    horizon: int | None = None  # H; None: the environment's own
    oracle: bool = False  # append the task to the observation
    asynchronous: bool = False  # each of a user's own in a process of its own
    dynamics: str = "paper"  # of this package's robots
    squared: bool = False  # reward of 2D navigation
    threads: int | None = None  # of MuJoCo


def make_environments(
    environment: Given, num_envs: int, options: Options, share: slice | None = None
) -> Tasked:
    """Makes P environments in one, with `sample_tasks` and `set_tasks`.

    Args:
      environment: by name, by function, or ready made.
      num_envs: P.
      options: of the environments.
      share: of several workers, the environments that this one steps. Of a user's own it makes no
        others; this package's are made and reset as a whole, so that all draw the same.

    Raises:
      ValueError: the dynamics are unknown, an option is not the environment's, or the environment
        is unknown, its module cannot be imported, it has no tasks, or spaces that no policy is for,
        or does not keep to Gymnasium's interface.
    """
    _check_options(environment, options)
    if isinstance(environment, gymnasium.vector.VectorEnv):
        if share is not None:
            raise ValueError(
                f"{type(environment).__name__} is made already, so that several workers cannot "
                "share it; give a function that makes one environment, or its id."
            )
        _check(environment, num_envs)
        if isinstance(environment, (TaskVectorEnv, ForeignTasks)):
            return environment
        return ForeignVector(environment)
    own = num_envs if share is None else share.stop - share.start
    if not isinstance(environment, str):
        return ForeignTasks(
            environment, own, oracle=options.oracle, asynchronous=options.asynchronous
        )
    name = _own_name(environment)
    if name in ENVIRONMENTS:
        return _make_own(name, num_envs, options)
    _register(environment)
    id = environment.rpartition(":")[2]
    # By its record: another process does not know the id. Without Gymnasium's own checker, for
    # `ForeignTasks` says what is wrong in a sentence.
    make = functools.partial(
        gymnasium.make,
        gymnasium.spec(id),
        max_episode_steps=options.horizon,
        disable_env_checker=True,
    )
    return ForeignTasks(
        make, own, oracle=options.oracle, asynchronous=options.asynchronous, name=id
    )


def own_horizon(environment: Given, made: Tasked) -> int:
    """The environment's own H.

    Raises:
      ValueError: its episodes have no end.
    """
    name = getattr(made, "name", None) or type(made).__name__
    name = environment if isinstance(environment, str) else name
    own = getattr(made, "max_episode_steps", None)
    if own is None or own == -1:  # Gymnasium's two words for no end
        raise ValueError(f"{name}'s episodes have no end; give a horizon (--horizon).")
    return arguments.count(f"max_episode_steps of {name}", own, 1)


def _make_own(name: str, num_envs: int, options: Options) -> TaskVectorEnv:
    known = ENVIRONMENTS[name]
    return make_vector(
        name,
        num_envs,
        max_episode_steps=options.horizon or known.horizon,
        oracle=options.oracle,
        autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED,
        **{option: getattr(options, option) for option in known.options},
    )


def _check_options(environment: Given, options: Options) -> None:
    """Refuses options that the environment would not heed."""
    check_dynamics(options.dynamics)
    used = {"dynamics": options.dynamics != "paper", "squared": options.squared}
    entry = ENVIRONMENTS.get(_own_name(environment))
    for option, argument in (("dynamics", "dynamics"), ("squared", "squared_reward")):
        if used[option] and (entry is None or option not in entry.options):
            having = [name for name, e in ENVIRONMENTS.items() if option in e.options]
            raise ValueError(f"{argument} is for {', '.join(having)}; drop it.")
    made = isinstance(environment, gymnasium.vector.VectorEnv)
    if options.asynchronous and (entry is not None or made):
        name = environment if isinstance(environment, str) else type(environment).__name__
        reason = "is made already" if made else "steps all its tasks at once"
        raise ValueError(
            f"asynchronous is for environments of your own, one process each, and {name} {reason}; "
            "drop it."
        )
    if made and options.oracle and not getattr(environment, "oracle", False):
        raise ValueError(
            f"oracle is True, and {type(environment).__name__} is made already without its tasks "
            "in the observation; make it with oracle=True, or drop it."
        )


def _own_name(environment: Given) -> str:
    """The name in `ENVIRONMENTS` of what is given by its id; else as given, or none."""
    if not isinstance(environment, str):
        return ""
    ids = {entry.id: name for name, entry in ENVIRONMENTS.items()}
    return ids.get(environment, environment)


def _register(environment: str) -> None:
    """Imports the module of "module:id", and refuses an id that is not registered then."""
    module, _, id = environment.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name in _prefixes(module):
            raise ValueError(f"{error}; is the directory of {module} on PYTHONPATH?") from error
        raise ValueError(
            f"{module} cannot be imported, for it raised {faults.brief(error)}; fix it until "
            f'python -c "import {module}" works.'
        ) from error
    try:
        gymnasium.spec(id)
    except (gymnasium.error.Error, ValueError, TypeError) as error:
        unknown = f"environment {id!r} is unknown"
        if module:
            unknown += f", for {module} does not register it"
        raise ValueError(
            f"{unknown}; use one of {', '.join(ENVIRONMENTS)}, or an id that is registered "
            "with Gymnasium."
        ) from error


def _prefixes(module: str) -> list[str]:
    """The packages of a module, and itself."""
    return list(itertools.accumulate(module.split("."), lambda head, tail: f"{head}.{tail}"))


def _check(environment: gymnasium.vector.VectorEnv, num_envs: int) -> None:
    """Refuses a vector environment that lacks tasks, has other spaces, or another size."""
    name = type(environment).__name__
    if not hasattr(environment, "set_tasks") or not hasattr(environment, "sample_tasks"):
        raise ValueError(
            f"{name} has no tasks; give it sample_tasks(rng, n) and set_tasks(tasks), or wrap its "
            "environments with maml_tf.rl.envs.ForeignTasks."
        )
    if environment.num_envs != num_envs:
        raise ValueError(
            f"{name} holds {environment.num_envs} environments; tasks x episodes are {num_envs}."
        )
    check_spaces(name, environment.single_observation_space, environment.single_action_space)
