"""A small learner of a point's way to a goal, and trajectories to differentiate through."""

import tensorflow as tf
from helpers import PointSampler, normal

from maml_tf.rl.meta_trpo import MetaTRPO
from maml_tf.rl.objectives import PolicyBatch
from maml_tf.rl.policy import Gaussian, GaussianPolicy

SAMPLER = PointSampler(tasks=4, episodes=5, horizon=10)


def make_learner(hidden=(8,), seed=1, **options):
    options = {"meta_batch_size": 4, "step_size": 0.5, **options}
    return MetaTRPO(GaussianPolicy(2, 2, hidden, seed), **options)


def random_batches(learner, stages, tasks=3, steps=6):
    """Stored trajectories, the last of them drawn by the adapted policies."""
    theta = [v.value for v in learner.policy.variables]
    batches = [
        PolicyBatch(
            normal(10 * s, tasks, steps, 2),
            normal(10 * s + 1, tasks, steps, 2),
            normal(10 * s + 2, tasks, steps),
            tf.cast(normal(10 * s + 3, tasks, steps) > -1, normal(0).dtype),
            _as_an_actor_tells(learner.policy(theta, normal(10 * s, tasks, steps, 2)), tasks),
        )
        for s in range(stages)
    ]
    old = learner.adapted_policy([v.value for v in learner.variables], batches)
    return [*batches[:-1], batches[-1]._replace(old=_as_an_actor_tells(old, tasks))]


def _as_an_actor_tells(policy, tasks):
    spreads = tf.broadcast_to(policy.log_stds, [tasks, policy.log_stds.shape[-1]])
    return Gaussian(policy.means, spreads)
