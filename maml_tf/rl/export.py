"""Exports a meta-learned policy as a SavedModel that runs on TensorFlow alone.

Neither Keras nor maml_tf is needed where it runs::

    model = tf.saved_model.load(directory)
    means = model.act(observations)["means"]                # with the meta-learned weights
    actions = model.act(observations, seed=step)["actions"]         # or noise=normal [B, A]
    adapted = model.adapt(observations, actions, rewards, mask)     # a task's own episodes
    actions = model.act(observations, adapted, seed=step)["actions"]
    twice = model.adapt(*later, weights=adapted, step_size=0.05)    # episodes of `adapted`

`adapted` is a dictionary of every weight by name, as `initial_weights()` gives them. A step of
`adapt` takes log-probabilities by the weights that it starts from, so the episodes of a further
step should be those of the adapted policy. The paper's first step takes alpha, the later ones
alpha / 2.

Arrays are float32 or float64, each as it likes; a mask may be of bool. Episodes that ended early
are filled with zeros.

`act`, `adapt` and `initial_weights` are signatures too, with the same names of inputs; there the
dictionary's entries are inputs of their own, and nothing is left out. The graph is for use: no
derivative is to be taken through it.

Shape letters: B observations, E episodes, H steps of the longest; O observation numbers, A action
numbers. One task, no task axis.
"""

from __future__ import annotations

import itertools
import math
import os
from typing import Any

import tensorflow as tf

from maml_tf import arguments
from maml_tf._version import __version__
from maml_tf.engine.adaptation import adapt_for, stack
from maml_tf.engine.inner_loop import InnerLoop
from maml_tf.engine.served_weights import default_step_size, given_or_learned, unique_names
from maml_tf.rl.meta_trpo import MetaTRPO
from maml_tf.rl.objectives import policy_batch, reinforce
from maml_tf.saving.saved_models import replacing, write
from maml_tf.types import Trajectories, Weights

_TAKEN = ("observations", "actions", "rewards", "mask", "steps", "step_size", "seed", "noise")
_TAKEN_OUTPUTS = ("means", "log_stds")

Named = dict[str, tf.Tensor]
"""Weights by name."""


def export(
    learner: MetaTRPO,
    directory: str | os.PathLike[str],
    *,
    steps: int = 1,
    step_size: float | None = None,
) -> None:
    """Writes a policy as a SavedModel, and beside it `maml_tf.json`, which says what it is.

    The directory appears whole or not at all; an earlier export in that place is replaced.

    Args:
      learner: whose policy to export, with its weights as they are now.
      directory: where to; it and its parents are created.
      steps: default number of gradient steps of `adapt`, on the same episodes.
      step_size: default alpha; the learner's own by default. A learner with meta-learned step
        sizes uses those until a number is given, here or in a call; NaN in a call stands for the
        meta-learned ones.

    Raises:
      ValueError: an argument is out of range, or the directory holds something else than an export.
      OSError: nothing can be written there.
    """
    arguments.learner(learner, ("policy", "step_sizes"), "make one: MetaTRPO(policy)")
    arguments.count("steps", steps, 0)
    step_size = default_step_size(_inner(learner), step_size)
    with replacing(directory) as staging:
        servable = ServablePolicy(learner)
        signatures = compiled(servable, steps, step_size)
        write(staging, servable, signatures, _description(servable, steps, step_size))


def _inner(learner: MetaTRPO) -> InnerLoop:
    return InnerLoop(
        learner.policy.variables, learner.adapts, learner.step_size, learner.step_sizes
    )


class ServablePolicy(tf.Module):
    """Holds what is saved: variables, and the functions that `compiled` adds."""

    def __init__(self, learner: MetaTRPO):
        """Reads the learner's weights as they are now."""
        super().__init__(name="policy")
        self.learner = learner
        policy = learner.policy
        prefix = f"{policy.model.name}/"
        paths = [v.path.removeprefix(prefix) for v in policy.variables]
        names = unique_names(paths, (*_TAKEN, *_TAKEN_OUTPUTS))
        values = zip(names, learner.initial_weights(), strict=True)
        self.initial = {name: tf.Variable(value, name=name) for name, value in values}
        moving = [name for name, own in zip(names, learner.adapts, strict=True) if own]
        self.step_sizes = {
            name: tf.Variable(alpha.value, name=f"{name}_step_size")
            for name, alpha in zip(moving, learner.step_sizes, strict=False)
        }

    @property
    def dtype(self) -> tf.DType:
        """Of observations and actions."""
        return next(iter(self.initial.values())).dtype

    def weights_before(self) -> Named:
        """The meta-learned weights."""
        return {name: tf.convert_to_tensor(v) for name, v in self.initial.items()}

    def actions(self, observations, weights: Named | None, seed, noise) -> Named:
        """Means `[B, A]`, log-stds `[A]`, and with a seed or noise `[B, A]` also actions."""
        observations = tf.cast(observations, self.dtype)
        means, log_stds = self.learner.policy(self._in_order(weights), observations[tf.newaxis])
        told = {"means": means[0], "log_stds": log_stds}
        if seed is not None:
            seeds = tf.stack([seed, 0])
            noise = tf.random.stateless_normal(tf.shape(means[0]), seeds, dtype=means.dtype)
        if noise is not None:
            told["actions"] = means[0] + tf.exp(log_stds) * tf.cast(noise, means.dtype)
        return told

    def weights_after(self, episodes, weights: Named | None, steps, step_size) -> Named:
        """Weights after `steps` steps on the episodes `[E, H, ...]` of one task."""
        observations, actions, rewards, mask = episodes
        learner, mask = self.learner, tf.ones_like(rewards) if mask is None else mask
        tf.debugging.assert_non_negative(steps, "steps must be 0 or more")
        tf.debugging.assert_positive(tf.reduce_sum(mask), "mask marks no step as taken")
        values = self._in_order(weights)
        # Which Gaussian drew the actions does not matter to the inner loss.
        columns = (observations, actions, rewards, mask, actions, values[-1])
        trajectories = Trajectories._make(column[tf.newaxis] for column in columns)
        how = {"discount": learner.discount, "gae_lambda": learner.gae_lambda}
        batch, _ = policy_batch(trajectories, **how)
        adapted, _ = adapt_for(
            reinforce(learner.policy),
            stack(values, 1, learner.adapts),
            batch,
            steps,
            step_size=given_or_learned(step_size, self.initial, self.step_sizes),
            adapts=learner.adapts,
        )
        own = zip(self.initial, adapted, learner.adapts, strict=True)
        return {name: value[0] if moves else value for name, value, moves in own}

    def _in_order(self, weights: Named | None) -> Weights:
        given = self.weights_before() if weights is None else weights
        return [given[name] for name in self.initial]


def compiled(servable: ServablePolicy, steps: int, step_size: float) -> dict[str, Any]:
    """Gives `servable` its compiled functions, and returns its signatures."""
    policy, dtype = servable.learner.policy, servable.dtype

    def spec(name, *shape, dtype=dtype):
        return tf.TensorSpec(shape, dtype, name)

    size, count = policy.observation_size, policy.action_size
    observations, noise = spec("observations", None, size), spec("noise", None, count)
    seed = spec("seed", dtype=tf.int32)
    weights = {name: spec(name, *v.shape, dtype=v.dtype) for name, v in servable.initial.items()}
    episodes = (
        spec("observations", None, None, size),
        spec("actions", None, None, count),
        spec("rewards", None, None),
    )
    mask = spec("mask", None, None)
    how = spec("steps", dtype=tf.int32), spec("step_size", dtype=tf.float32)
    # Tensors, so that a number in a call is one, too, and not a constant of another graph.
    steps, step_size = tf.constant(steps, tf.int32), tf.constant(step_size, tf.float32)

    @tf.function(autograph=False, input_signature=[])
    def initial_weights():
        return servable.weights_before()

    @tf.function(autograph=False)
    def act(observations, weights=None, seed=None, noise=None):
        return servable.actions(observations, weights, seed, noise)

    compute = tf.function(servable.weights_after, autograph=False)  # one graph for all types

    @tf.function(autograph=False)
    def adapt(
        observations, actions, rewards, mask=None, weights=None, steps=steps, step_size=step_size
    ):
        columns = (observations, actions, rewards, mask)
        taken = [None if column is None else tf.cast(column, dtype) for column in columns]
        return compute(taken, weights, steps, step_size)

    # Every way to call them; numpy's own floats and many environments' are of 64 bits.
    wide = {
        of: tf.TensorSpec(of.shape, tf.float64, of.name)
        for of in (observations, noise, *episodes, mask)
    }
    flags = tf.TensorSpec(mask.shape, tf.bool, mask.name)
    for given in (None, weights):
        for seen in (observations, wide[observations]):
            for drawn in ((None, None), (seed, None), (None, noise), (None, wide[noise])):
                act.get_concrete_function(seen, given, *drawn)
        for columns in itertools.product(*((column, wide[column]) for column in episodes)):
            for taken in (None, mask, wide[mask], flags):
                adapt.get_concrete_function(*columns, taken, given, *how)
    servable.initial_weights, servable.act, servable.adapt = initial_weights, act, adapt
    return {
        "initial_weights": initial_weights,
        "act": act.get_concrete_function(observations, weights, seed, None),
        "adapt": adapt.get_concrete_function(*episodes, mask, weights, *how),
    }


def _description(servable: ServablePolicy, steps: int, step_size: float) -> dict[str, Any]:
    learner = servable.learner
    return {
        "maml_tf": __version__,
        "model": "policy",
        "observations": learner.policy.observation_size,
        "actions": learner.policy.action_size,
        "discount": learner.discount,
        "gae_lambda": learner.gae_lambda,
        "defaults": {
            "steps": steps,
            "step_size": "meta-learned" if math.isnan(step_size) else step_size,
        },
        "weights": list(servable.initial),
    }
