"""The environments by name, for Gymnasium and for the sampler."""

from __future__ import annotations

import importlib

import gymnasium

from maml_tf import arguments
from maml_tf.rl.environments import ENVIRONMENTS
from maml_tf.rl.envs.base import TaskVectorEnv
from maml_tf.rl.envs.single import TaskEnv

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
