"""The environments by name, for Gymnasium and for the sampler."""

from __future__ import annotations

import importlib
from typing import NamedTuple

import gymnasium

from maml_tf import arguments
from maml_tf.rl.envs.base import TaskEnv, TaskVectorEnv


class Environment(NamedTuple):
    """Where an environment is, and when its episodes end."""

    id: str  # Gymnasium's
    place: str  # module:class below this package
    horizon: int  # H
    options: tuple[str, ...] = ("dynamics", "threads")  # of its own; these are MuJoCo's


ENVIRONMENTS = {
    "navigation_2d": Environment(
        "maml_tf/Navigation2D-v0", "point:Navigation2D", 100, ("squared",)
    ),
    "cheetah_velocity": Environment(
        "maml_tf/HalfCheetahVelocity-v0", "half_cheetah:HalfCheetahVelocity", 200
    ),
    "cheetah_direction": Environment(
        "maml_tf/HalfCheetahDirection-v0", "half_cheetah:HalfCheetahDirection", 200
    ),
    "ant_velocity": Environment("maml_tf/AntVelocity-v0", "ant:AntVelocity", 200),
    "ant_direction": Environment("maml_tf/AntDirection-v0", "ant:AntDirection", 200),
    "ant_goal": Environment("maml_tf/AntGoal-v0", "ant:AntGoal", 200),
}
"""By the name of the experiment."""


DYNAMICS = ("paper", "gymnasium")
"""Of the robots."""


def check_dynamics(dynamics: str) -> None:
    """Refuses unknown dynamics.

    Raises:
      ValueError: they are none of `DYNAMICS`.
    """
    if not isinstance(dynamics, str) or dynamics not in DYNAMICS:
        known = " or ".join(map(repr, DYNAMICS))
        raise ValueError(f"dynamics is {arguments.shown(dynamics)}; use {known}.")


def make_vector(name: str, num_envs: int = 1, **kwargs) -> TaskVectorEnv:
    """P environments in one: `TaskVectorEnv`'s keywords, and the environment's own.

    Raises:
      ModuleNotFoundError: if the environment needs MuJoCo and it is not installed.
    """
    module, _, cls = ENVIRONMENTS[name].place.partition(":")
    try:
        found = importlib.import_module(f"maml_tf.rl.envs.{module}")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{name} needs {error.name}; pip install maml-tf[rl].", name=error.name
        ) from error
    return getattr(found, cls)(num_envs, **kwargs)


def make_single(name: str, **kwargs) -> TaskEnv:
    """One environment; it steps in the calling thread."""
    return TaskEnv(make_vector(name, **kwargs))


def register() -> None:
    """Makes the environments known to Gymnasium, once."""
    for name, environment in ENVIRONMENTS.items():
        if environment.id not in gymnasium.registry:
            gymnasium.register(
                environment.id,
                entry_point=f"{__name__}:make_single",
                vector_entry_point=f"{__name__}:make_vector",
                max_episode_steps=environment.horizon,
                kwargs={"name": name},
            )
