"""Meta-reinforcement-learning (paper section 5.3): the environments, and any other of Gymnasium's.

The environments themselves are in `rl/envs/`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from maml_tf.experiments import policies
from maml_tf.experiments.records import ORACLE, Kind, Problem, SettingValue

if TYPE_CHECKING:
    from maml_tf.experiments.settings import Training

ORDER = 3


def policy_problem(
    name: str,
    title: str,
    *,
    reads: frozenset[str] = frozenset(),
    defaults: Mapping[str, SettingValue] | None = None,
    samples: str | None = None,
) -> Problem:
    """Makes the record of an environment, whose `name` is a key of `rl.envs.ENVIRONMENTS`."""
    return Problem(
        name=name,
        title=title,
        kind=Kind.POLICY,
        reads=policies.SHARED | reads,
        defaults=defaults or {},
        experiment=lambda training: name,
        offers=frozenset({ORACLE}),
        samples=samples,
    )


def _check_environment(training: Training) -> None:
    if not training.environment:
        raise ValueError(
            "--problem=gymnasium needs --environment=Id-v0 or --environment=module:Id-v0."
        )


_GYMNASIUM = Problem(
    name="gymnasium",
    title="an environment of Gymnasium",
    kind=Kind.POLICY,
    reads=policies.SHARED | {"environment"},
    experiment=lambda training: re.sub(r"[^\w-]+", "_", training.environment),
    check=_check_environment,
    offers=frozenset({ORACLE}),
)

_ROBOT = frozenset({"dynamics"})

PROBLEMS = (
    policy_problem(
        "navigation_2d",
        "2D navigation",
        reads=frozenset({"squared_reward"}),
        defaults={"test_steps": 4},
        samples="paths",
    ),
    policy_problem("cheetah_velocity", "half-cheetah, goal velocity", reads=_ROBOT),
    policy_problem("cheetah_direction", "half-cheetah, forward/backward", reads=_ROBOT),
    policy_problem("ant_velocity", "ant, goal velocity", reads=_ROBOT),
    policy_problem("ant_direction", "ant, forward/backward", reads=_ROBOT),
    policy_problem("ant_goal", "ant, goal position", reads=_ROBOT),
    _GYMNASIUM,
)
