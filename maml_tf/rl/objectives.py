"""What the inner and the outer loop of meta-RL descend, one number per task.

Means are over the steps that were taken (`mask`), as over the original's concatenated paths.

Shape letters: T tasks, E episodes per task, H horizon, L = E * H steps of a task, O and A numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from maml_tf.engine.shapes import sizes
from maml_tf.rl import advantages, policy
from maml_tf.rl import linear_baseline as value
from maml_tf.rl.parameters import Gaussian, Parameters
from maml_tf.rl.policy import Policy
from maml_tf.types import LossFn, Structure, Trajectories, Weights

_EPSILON = 1e-8


class PolicyBatch(NamedTuple):
    """Steps of T tasks, and how much better than expected each action was."""

    observations: tf.Tensor  # [T, L, O]
    actions: tf.Tensor  # [T, L, A], or [T, L] choices
    advantages: tf.Tensor  # [T, L], standardised for each task
    mask: tf.Tensor  # [T, L]
    old: Parameters  # of the distributions that the actions were drawn from
    outcomes: Structure = ()  # [T], returns, standardised over the tasks; or nothing

    def first(self, steps: int) -> PolicyBatch:
        """The first `steps` of each task."""
        observations, actions, gains, mask = (a[:, :steps] for a in self[:4])
        old = self.old.first(steps)
        return PolicyBatch(observations, actions, gains, mask, old, self.outcomes)


def policy_batch(
    trajectories: Trajectories,
    *,
    discount: float,
    gae_lambda: float,
    parameters: Callable[[tf.Tensor, tf.Tensor], Parameters] = Gaussian,
) -> tuple[PolicyBatch, tf.Tensor]:
    """Fits the baseline to the trajectories and weighs every action.

    Args:
      trajectories: of T tasks.
      discount: discount factor for later rewards.
      gae_lambda: see `advantages.generalized_advantages`.
      parameters: of the distributions, of the network's outputs `[T, L, N]` and log-stds `[T, A]`:
        of the policy's head.

    Returns:
      The batch, and each task's undiscounted return `[T]`, the mean over its episodes.
    """
    observations, actions, rewards, mask, outputs, log_stds = map(
        tf.convert_to_tensor, trajectories
    )
    rewards = rewards * mask
    inputs = value.features(observations)
    returns = advantages.discounted_sums(rewards, discount)
    values = value.predict(inputs, value.fit(inputs, returns, mask))
    gains = advantages.generalized_advantages(
        rewards, values, mask, discount=discount, gae_lambda=gae_lambda
    )
    gains = advantages.standardize(gains, mask)
    tasks, episodes, horizon = sizes(rewards)
    observations, actions, gains, mask, outputs = (
        tf.reshape(a, [tasks, episodes * horizon, *a.shape[3:]])
        for a in (observations, actions, gains, mask, outputs)
    )
    means = tf.reduce_mean(tf.reduce_sum(rewards, 2), 1)
    apart = means - tf.reduce_mean(means)
    outcomes = apart / (tf.math.reduce_std(means) + _EPSILON)
    old = parameters(outputs, log_stds)
    return PolicyBatch(observations, actions, gains, mask, old, outcomes), means


def masked_mean(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """`[T, L]` -> `[T]`, over the steps where the mask is 1."""
    return tf.reduce_sum(mask * values, 1) / tf.reduce_sum(mask, 1)


def reinforce(actor: Policy) -> LossFn:
    """The inner loss: `(weights, batch) -> [T]`, -mean(log pi(a|s) A) (paper equation 4)."""

    def loss(weights: Weights, batch: PolicyBatch) -> tf.Tensor:
        log_probs = policy.log_prob(actor(weights, batch.observations), batch.actions)
        return -masked_mean(log_probs * batch.advantages, batch.mask)

    return loss


def likelihood_ratio(actor: Policy) -> LossFn:
    """Another inner loss: `surrogate`, -mean(pi(a|s) / pi_old(a|s) A), `[T]`.

    Where pi is pi_old its gradient is that of `reinforce`, so that the inner step is the same, but
    not its second derivative: -mean(log pi A) leaves out of the meta-gradient how theta moves the
    probability of what was sampled, and this has most of it (Rothfuss et al. 2019, "ProMP",
    section 5: low-variance curvature).
    """

    def loss(weights: Weights, batch: PolicyBatch) -> tf.Tensor:
        return surrogate(actor(weights, batch.observations), batch)

    return loss


INNER_LOSSES = {"log_likelihood": reinforce, "likelihood_ratio": likelihood_ratio}
"""By the names of the flag. Where the policy is the one that sampled, their gradients agree."""


def _ratios(new: Parameters, batch: PolicyBatch) -> tf.Tensor:
    """pi_new(a|s) / pi_old(a|s), `[T, L]`."""
    old = policy.log_prob(batch.old, batch.actions)
    return tf.exp(policy.log_prob(new, batch.actions) - old)


def surrogate(new: Parameters, batch: PolicyBatch) -> tf.Tensor:
    """-mean(pi_new(a|s) / pi_old(a|s) A), `[T]` (Schulman et al. 2015, equation 14)."""
    return -masked_mean(_ratios(new, batch) * batch.advantages, batch.mask)


def clipped_surrogate(new: Parameters, batch: PolicyBatch, clip: float) -> tf.Tensor:
    """-mean(min(r A, clip(r, 1 - clip, 1 + clip) A)), r = pi_new(a|s) / pi_old(a|s), `[T]`.

    Beyond `clip` a ratio that promises more is not followed (Schulman et al. 2017, equation 7).
    """
    ratios = _ratios(new, batch)
    near = tf.clip_by_value(ratios, 1 - clip, 1 + clip)
    gains = tf.minimum(ratios * batch.advantages, near * batch.advantages)
    return -masked_mean(gains, batch.mask)


def sampling_correction(
    policies: Sequence[Parameters], batches: Sequence[PolicyBatch]
) -> tf.Tensor:
    """E-MAML's second term, `[T]`: which trajectories lead the inner step to a good end.

    The sum over inner steps of -mean(pi(a|s) / pi_old(a|s)) R, with R the return of the adapted
    policies, standardised over the tasks (Stadie et al. 2018, "Some considerations on learning to
    explore via meta-reinforcement learning", equation 6; there the sum over a task's steps, L times
    this mean, and R as it is).

    Args:
      policies: S + 1, those of each stage at its own steps.
      batches: S + 1; the last of them with `outcomes`.
    """
    total = tf.zeros_like(batches[-1].outcomes)
    for new, batch in list(zip(policies, batches, strict=True))[:-1]:
        total -= masked_mean(_ratios(new, batch), batch.mask) * batches[-1].outcomes
    return total


def after_adaptation(
    policies: Sequence[Parameters],
    batches: Sequence[PolicyBatch],
    correction: float,
    loss: Callable[[Parameters, PolicyBatch], tf.Tensor] = surrogate,
) -> tf.Tensor:
    """What a meta-step descends, `[]`: the mean over tasks of the last stage's loss.

    Args:
      policies: S + 1, those of each stage at its own steps.
      batches: S + 1.
      correction: factor of `sampling_correction`; 0: without.
      loss: `(policies, batch) -> [T]`.
    """
    losses = loss(policies[-1], batches[-1])
    if correction:
        losses += correction * sampling_correction(policies, batches)
    return tf.reduce_mean(losses)


def mean_kl(old: Parameters, new: Parameters, batch: PolicyBatch) -> tf.Tensor:
    """Mean KL(old || new) over a task's steps, `[T]`."""
    return masked_mean(policy.kl(old, new), batch.mask)
