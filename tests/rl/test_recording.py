"""What was recorded is where the environments went while a policy adapted."""

import numpy as np
import pytest

pytest.importorskip("gymnasium", reason="needs the extra rl")

from maml_tf.rl.meta_trpo import MetaTRPO
from maml_tf.rl.policy import GaussianPolicy
from maml_tf.rl.recording import paths, record
from maml_tf.rl.sampler import Sampler

TASKS, EPISODES, HORIZON = 4, 3, 12


def make(**options):
    sampler = Sampler(
        "navigation_2d", tasks=TASKS, episodes=EPISODES, horizon=HORIZON, seed=1, **options
    )
    policy = GaussianPolicy(sampler.observation_size, 2, (8,), seed=2)
    return MetaTRPO(policy, meta_batch_size=TASKS, step_size=0.5), sampler


@pytest.mark.parametrize("oracle", [False, True])
def test_paths_are_what_the_policies_observed_and_one_place_more(oracle):
    learner, sampler = make(oracle=oracle)
    recorded = paths(learner, sampler, 2, split="val", tasks=3, episodes=2)
    assert len(recorded) == 3
    goals = sampler.sample_tasks(0, "val")
    rollouts = learner.roll_out_and_adapt(sampler, 0, [0.5, 0.25], "val")
    for task, one in enumerate(recorded):
        np.testing.assert_allclose(one["goal"], goals[task], atol=6e-5)
        assert [len(stage) for stage in one["paths"]] == [2, 2, 2]
        for stage, batch in zip(one["paths"], rollouts.batches, strict=True):
            columns = (batch.observations, batch.actions, batch.mask)
            seen, actions, mask = (
                np.reshape(c[task], (EPISODES, HORIZON, *c.shape[2:])) for c in columns
            )
            for episode, places in enumerate(stage):
                taken = int(mask[episode].sum())
                assert len(places) == taken + 1
                np.testing.assert_allclose(places[:-1], seen[episode, :taken, :2], atol=6e-5)
                last = seen[episode, taken - 1, :2]
                last = last + 0.1 * np.clip(actions[episode, taken - 1], -1, 1)
                np.testing.assert_allclose(places[-1], last, atol=6e-5)


def test_paths_and_records_agree():
    learner, sampler = make()
    first = paths(learner, sampler, 1, step_size=0.3, tasks=2, episodes=1)
    goal, (before, after) = record(learner, sampler, 1, [0.3], "test")
    np.testing.assert_allclose(first[1]["goal"], goal, atol=6e-5)
    for stage, episode in zip(first[1]["paths"], (before, after), strict=True):
        np.testing.assert_allclose(stage[0], episode.positions, atol=6e-5)
