"""Meta-reinforcement-learning (paper section 5.3): the environments, and any other of Gymnasium's.

The environments themselves are in `rl/envs/`, and in `rl/environments.py` by name.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from maml_tf.experiments import meta_optimizers, policies
from maml_tf.experiments.records import ORACLE, Kind, Problem
from maml_tf.rl.environments import ENVIRONMENTS, Environment

if TYPE_CHECKING:
    from maml_tf.experiments.settings import Training

ORDER = 5


_OPTIONS = {"dynamics": "dynamics", "squared": "squared_reward"}
"""Settings that an environment looks at, by its own options."""


def _problem(name: str, environment: Environment) -> Problem:
    """The record of one of `rl.environments.ENVIRONMENTS`."""
    own = {setting for option, setting in _OPTIONS.items() if option in environment.options}
    return Problem(
        name=name,
        title=environment.title,
        kind=Kind.POLICY,
        reads=policies.SHARED | own,
        defaults={"test_steps": environment.test_steps},
        experiment=lambda training: name,
        check=meta_optimizers.check,
        offers=frozenset({ORACLE}),
        samples="paths" if environment.walks_on_a_plane else None,
    )


def _check_environment(training: Training) -> None:
    meta_optimizers.check(training)
    if not training.environment:
        raise ValueError(
            "--problem=gymnasium needs --environment=Id-v0 or --environment=module:Id-v0."
        )


_GYMNASIUM = Problem(
    name="gymnasium",
    title="an environment of Gymnasium",
    kind=Kind.POLICY,
    reads=policies.SHARED | {"environment", "asynchronous"},
    experiment=lambda training: re.sub(r"[^\w-]+", "_", training.environment),
    check=_check_environment,
    offers=frozenset({ORACLE}),
)

PROBLEMS = (*(_problem(name, each) for name, each in ENVIRONMENTS.items()), _GYMNASIUM)
