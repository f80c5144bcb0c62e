"""Multi-step loss: the query loss after every inner step counts, the last one's ever more.

MAML++ (Antoniou, Edwards & Storkey 2019, "How to train your MAML", paragraph "Multi-Step Loss
Optimization"). The weights are those of its code (`get_per_step_loss_importance_vector` in
HowToTrainYourMAMLPytorch), with meta-steps in the place of epochs.

Shape letters: S inner steps.
"""

from __future__ import annotations

import tensorflow as tf

LEAST = 0.03
"""Of its first weight, 1 / S: what the loss after a step before the last counts until the end."""


def step_weights(index: tf.Tensor, inner_steps: int, iterations: int) -> tf.Tensor:
    """How much the query loss after each inner step counts in a meta-step.

        v_s = max(1 - i / N, 0.03) / S    for s < S,    v_S = 1 - sum of the others,    i < N

    From meta-step N on the last alone counts: v_S = 1.

    Args:
      index: i of the meta-step, 0, 1, ...: an integer scalar.
      inner_steps: S, 1 or more.
      iterations: N, 1 or more.

    Returns:
      v, `[S]` float64, whose sum is 1: a function of `index` alone.
    """
    done = tf.cast(index, tf.float64) / iterations
    early = tf.where(done < 1, tf.maximum(1 - done, LEAST) / inner_steps, 0)
    before = tf.fill([inner_steps - 1], early)
    return tf.concat([before, [1 - (inner_steps - 1) * early]], 0)
