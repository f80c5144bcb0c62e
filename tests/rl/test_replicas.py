"""One replica and two in a process take the same steps with a policy."""

import contextlib

import keras
import numpy as np
import pytest
from helpers import PointSampler, slow

from maml_tf.rl.meta_promp import MetaProMP
from maml_tf.rl.meta_trpo import MetaTRPO
from maml_tf.rl.meta_vpg import MetaVPG
from maml_tf.rl.policy import GaussianPolicy

DAMPED = {"damping": 3.0}
"""Products with an all but singular curvature are not told to six digits."""

CASES = {
    "TRPO": (MetaTRPO, {**DAMPED, "pieces": 2, "curvature_share": 0.5, "learn_step_size": True}),
    "TRPO, finite differences": (MetaTRPO, {**DAMPED, "curvature": "finite_differences"}),
    "ProMP": (MetaProMP, {"epochs": 2, "minibatches": 2, "clip_norm": 0.1}),
    "VPG": (MetaVPG, {"inner_steps": 2}),
}


def two_meta_steps(strategy, kind, options):
    with strategy.scope() if strategy else contextlib.nullcontext():
        policy = GaussianPolicy(2, 2, (8,), seed=1, standardize=True)
        if kind is not MetaTRPO:  # It shows a gradient that is twice too large.
            options = {"optimizer": keras.optimizers.SGD(0.1), **options}
        learner = kind(policy, meta_batch_size=4, step_size=0.2, **options)
    start = [np.copy(variable.value) for variable in learner.variables]
    sizes, adapted = set(), learner.adapted_policies

    def adapted_policies(parameters, batches):
        sizes.add(batches[-1].mask.shape[0])
        return adapted(parameters, batches)

    learner.adapted_policies = adapted_policies
    metrics = learner.meta_steps(PointSampler(tasks=4, episodes=4, horizon=10), 0, 2)
    return start, [np.asarray(variable) for variable in learner.state], metrics, sizes


@pytest.mark.parametrize(
    "name", ["TRPO", slow("ProMP"), slow("TRPO, finite differences"), slow("VPG")]
)
def test_two_replicas_take_the_same_steps_as_one(name, two):
    start, alone, seen, sizes = two_meta_steps(None, *CASES[name])
    _, state, seen_by_two, sizes_of_two = two_meta_steps(two, *CASES[name])
    assert sizes_of_two == {size // 2 for size in sizes}  # of tasks at a time
    assert all(np.abs(one - before).max() > 1e-4 for before, one in zip(start, alone, strict=False))
    for one, other in zip(alone, state, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=3e-6)
    for field, expected in seen._asdict().items():
        if "seconds" not in field:
            np.testing.assert_allclose(
                getattr(seen_by_two, field), expected, rtol=1e-4, atol=1e-6, err_msg=field
            )


def test_tasks_that_do_not_divide_are_refused(two):
    with two.scope():
        policy = GaussianPolicy(2, 2, (8,), seed=1)
        with pytest.raises(ValueError, match="5 tasks do not divide among 2 replicas; take meta_b"):
            MetaTRPO(policy, meta_batch_size=5)
        message = "4 tasks do not divide into minibatches=4 on each of 2 replicas; choose a divisor"
        with pytest.raises(ValueError, match=message):
            MetaProMP(policy, meta_batch_size=4, minibatches=4)
