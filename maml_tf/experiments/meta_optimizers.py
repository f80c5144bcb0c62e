"""How a policy's initial weights are moved: the meta-optimizers by the value of --meta_optimizer.

A new one is its module in `rl/` and an entry here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from maml_tf.experiments.records import SettingValue
from maml_tf.experiments.schedule_settings import SCHEDULE

if TYPE_CHECKING:
    from maml_tf.experiments.settings import Training
    from maml_tf.rl.meta_policy import MetaPolicy
    from maml_tf.rl.policy import Policy


class MetaOptimizer(NamedTuple):
    """One way to move theta by trajectories."""

    reads: frozenset[str]
    """Settings that only some of them look at; those of others are refused."""
    make: Callable[[Policy, Training, dict[str, Any]], MetaPolicy]
    """From a policy, settings, and the arguments that all learners of policies share."""
    defaults: Mapping[str, SettingValue] = {}
    """Values of derived settings."""


def _trpo(policy: Policy, training: Training, shared: dict[str, Any]) -> MetaPolicy:
    from maml_tf.rl.meta_trpo import MetaTRPO

    return MetaTRPO(
        policy,
        max_kl=training.max_kl,
        curvature=training.curvature,
        curvature_share=training.curvature_share,
        **shared,
    )


def _vpg(policy: Policy, training: Training, shared: dict[str, Any]) -> MetaPolicy:
    from maml_tf.rl.meta_vpg import MetaVPG

    return MetaVPG(policy, **_updates(training), **shared)


def _promp(policy: Policy, training: Training, shared: dict[str, Any]) -> MetaPolicy:
    from maml_tf.rl.meta_promp import MetaProMP

    return MetaProMP(
        policy,
        clip_ratio=training.clip_ratio,
        inner_kl=training.inner_kl,
        **_updates(training),
        **shared,
    )


def _updates(training: Training) -> dict[str, Any]:
    import keras

    from maml_tf.experiments.schedules import learning_rate

    rate = learning_rate(training, updates=training.epochs * training.minibatches)
    return {
        "optimizer": keras.optimizers.Adam(rate),
        "epochs": training.epochs,
        "minibatches": training.minibatches,
        "clip_norm": training.clip_norm,
    }


_BY_ADAM = SCHEDULE | {"meta_step_size", "clip_norm", "epochs", "minibatches"}

META_OPTIMIZERS = {
    "trpo": MetaOptimizer(frozenset({"max_kl", "curvature", "curvature_share"}), _trpo),
    "promp": MetaOptimizer(
        _BY_ADAM | {"clip_ratio", "inner_kl"},
        _promp,
        {"epochs": 5, "inner_loss": "likelihood_ratio"},
    ),
    "vpg": MetaOptimizer(_BY_ADAM, _vpg),
}
"""By the value of --meta_optimizer."""

DEFAULTS: dict[str, SettingValue] = {"epochs": 1, "inner_loss": "log_likelihood"}
"""Values of derived settings, where a meta-optimizer has no other."""

READS = frozenset().union(*(each.reads for each in META_OPTIMIZERS.values()))
"""What any of them looks at."""


def check(training: Training) -> None:
    """Refuses settings that the meta-optimizer would not heed.

    Raises:
      ValueError: names the setting, and which meta-optimizers read it.
    """
    usual = {each.name: each.default for each in dataclasses.fields(training)}
    for name in sorted(READS - META_OPTIMIZERS[training.meta_optimizer].reads):
        if getattr(training, name) not in (usual[name], None):
            readers = [key for key, each in META_OPTIMIZERS.items() if name in each.reads]
            raise ValueError(
                f"--{name} is for --meta_optimizer={' or '.join(readers)}, not "
                f"{training.meta_optimizer}; drop --{name}."
            )
    if training.minibatches > 1 and training.meta_batch_size % training.minibatches:
        raise ValueError(
            f"--meta_batch_size={training.meta_batch_size} does not divide into "
            f"--minibatches={training.minibatches}; choose a divisor."
        )


def derived(training: Training) -> dict[str, SettingValue]:
    """Values of the settings that are derived from which meta-optimizer it is."""
    return {**DEFAULTS, **META_OPTIMIZERS[training.meta_optimizer].defaults}
