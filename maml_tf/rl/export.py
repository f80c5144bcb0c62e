"""What `maml_tf.export` writes of a policy: a SavedModel that runs on TensorFlow alone.

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
from collections.abc import Callable
from typing import TYPE_CHECKING

import tensorflow as tf

from maml_tf import arguments
from maml_tf._version import __version__
from maml_tf.engine.served_weights import (
    default_step_size,
    given_or_learned,
    served_variables,
    unique_names,
)
from maml_tf.rl.objectives import policy_batch, reinforce
from maml_tf.types import Servable, Trajectories, Weights

if TYPE_CHECKING:
    from tensorflow.types.experimental import PolymorphicFunction

    from maml_tf.rl.meta_policy import MetaPolicy

_TAKEN = ("observations", "actions", "rewards", "mask", "steps", "step_size", "seed", "noise")
_TAKEN_OUTPUTS = ("means", "log_stds")

Named = dict[str, tf.Tensor]
"""Weights by name."""


def servable(learner: MetaPolicy, *, steps: int = 1, step_size: float | None = None) -> Servable:
    """Makes what `export` writes; see `MetaPolicy.servable`."""
    steps = arguments.count("steps", steps, 0)
    step_size = default_step_size(learner.inner, step_size)
    served = ServedPolicy(learner)
    signatures = _compiled(served, steps, step_size)
    return Servable(served, signatures, _description(served, steps, step_size))


class ServedPolicy(tf.Module):
    """Holds what is saved: variables, and the functions that `_compiled` adds."""

    def __init__(self, learner: MetaPolicy):
        """Reads the learner's weights as they are now."""
        super().__init__(name="policy")
        self.learner = learner
        policy = learner.policy
        prefix = f"{policy.model.name}/"
        paths = [v.path.removeprefix(prefix) for v in policy.variables]
        names = unique_names(paths, (*_TAKEN, *_TAKEN_OUTPUTS))
        self.initial, self.step_sizes = served_variables(learner.inner, names)

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
        given = {"means": means[0], "log_stds": log_stds}
        if seed is not None:
            seeds = tf.stack([seed, 0])
            noise = tf.random.stateless_normal(tf.shape(means[0]), seeds, dtype=means.dtype)
        if noise is not None:
            given["actions"] = means[0] + tf.exp(log_stds) * tf.cast(noise, means.dtype)
        return given

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
        adapted, _ = learner.inner.loop(
            reinforce(learner.policy),
            learner.inner.stacked(1, values),
            batch,
            steps,
            step_size=given_or_learned(step_size, self.initial, self.step_sizes),
        )
        own = zip(self.initial, adapted, learner.adapts, strict=True)
        return {name: value[0] if moves else value for name, value, moves in own}

    def _in_order(self, weights: Named | None) -> Weights:
        given = self.weights_before() if weights is None else weights
        return [given[name] for name in self.initial]


def _compiled(served: ServedPolicy, steps: int, step_size: float) -> dict[str, Callable]:
    """Gives `served` its compiled functions, and returns its signatures."""
    specs = _Specs(served)

    @tf.function(autograph=False, input_signature=[])
    def initial_weights():
        return served.weights_before()

    @tf.function(autograph=False)
    def act(observations, weights=None, seed=None, noise=None):
        return served.actions(observations, weights, seed, noise)

    served.initial_weights, served.act = initial_weights, act
    adapt = served.adapt = _adapt(served, steps, step_size)
    specs.trace_all(act, adapt)
    return {
        "initial_weights": initial_weights,
        "act": act.get_concrete_function(specs.observations, specs.weights, specs.seed, None),
        "adapt": adapt.get_concrete_function(
            *specs.episodes, specs.mask, specs.weights, *specs.numbers
        ),
    }


def _adapt(served: ServedPolicy, steps: int, step_size: float) -> PolymorphicFunction:
    compute = tf.function(served.weights_after, autograph=False)  # one graph for all types
    # Tensors, so that a number in a call is one, too, and not a constant of another graph.
    steps, step_size = tf.constant(steps, tf.int32), tf.constant(step_size, tf.float32)

    @tf.function(autograph=False)
    def adapt(
        observations, actions, rewards, mask=None, weights=None, steps=steps, step_size=step_size
    ):
        columns = (observations, actions, rewards, mask)
        taken = [None if column is None else tf.cast(column, served.dtype) for column in columns]
        return compute(taken, weights, steps, step_size)

    return adapt


class _Specs:
    """Shapes and types of what the functions of an exported policy take."""

    def __init__(self, served: ServedPolicy):
        policy, dtype = served.learner.policy, served.dtype

        def spec(name, *shape, dtype=dtype):
            return tf.TensorSpec(shape, dtype, name)

        size, count = policy.observation_size, policy.action_size
        self.observations, self.noise = spec("observations", None, size), spec("noise", None, count)
        self.seed = spec("seed", dtype=tf.int32)
        self.weights = {
            name: spec(name, *v.shape, dtype=v.dtype) for name, v in served.initial.items()
        }
        self.episodes = (
            spec("observations", None, None, size),
            spec("actions", None, None, count),
            spec("rewards", None, None),
        )
        self.mask = spec("mask", None, None)
        self.numbers = spec("steps", dtype=tf.int32), spec("step_size", dtype=tf.float32)

    def trace_all(self, act: PolymorphicFunction, adapt: PolymorphicFunction) -> None:
        """Traces every form of a call; NumPy's and many environments' floats are of 64 bits."""
        wide = {
            of: tf.TensorSpec(of.shape, tf.float64, of.name)
            for of in (self.observations, self.noise, *self.episodes, self.mask)
        }
        flags = tf.TensorSpec(self.mask.shape, tf.bool, self.mask.name)
        noises = (None, self.noise, wide[self.noise])
        drawn = [(self.seed, None), *((None, noise) for noise in noises)]
        for given in (None, self.weights):
            for seen in (self.observations, wide[self.observations]):
                for seed, noise in drawn:
                    act.get_concrete_function(seen, given, seed, noise)
            for columns in itertools.product(*((c, wide[c]) for c in self.episodes)):
                for taken in (None, self.mask, wide[self.mask], flags):
                    adapt.get_concrete_function(*columns, taken, given, *self.numbers)


def _description(served: ServedPolicy, steps: int, step_size: float) -> dict[str, object]:
    learner = served.learner
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
        "weights": list(served.initial),
    }
