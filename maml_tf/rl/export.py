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
alpha / 2. Where each inner step has learned step sizes of its own, `adapt` also takes
`first_step`, how many steps `weights` have behind them, 0 by default: `adapt(*later,
weights=adapted, first_step=1)`.

A Gaussian's `act` gives `means` and `log_stds`; that of choices gives `logits` (of several choices
one after another), and takes uniform `noise`, one number per choice. All but a plain Gaussian's,
whose means it is, give the likeliest action as `mode`. Actions are the policy's own: real ones
between -1 and 1, choices from 0; observations of other spaces than vectors are those that
`gymnasium.spaces.flatten` makes.

Arrays are float32 or float64, each as it likes, choices int32 or int64; a mask may be of bool.
Episodes that ended early are filled with zeros.

`act`, `adapt` and `initial_weights` are signatures too, with the same names of inputs; there the
dictionary's entries are inputs of their own, and nothing is left out. The graph is for use: no
derivative is to be taken through it.

Shape letters: B observations, E episodes, H steps of the longest; O observation numbers, A action
numbers, N numbers that the network gives. One task, no task axis.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import tensorflow as tf
import tensorflow.experimental.numpy as tnp

from maml_tf import arguments
from maml_tf._version import __version__
from maml_tf.engine.adaptation import PerStep
from maml_tf.engine.served_weights import (
    default_step_size,
    given_or_learned,
    served_variables,
    unique_names,
)
from maml_tf.engine.shapes import sizes
from maml_tf.rl.objectives import policy_batch, reinforce
from maml_tf.types import Servable, Trajectories, Weights

if TYPE_CHECKING:
    from tensorflow.types.experimental import PolymorphicFunction

    from maml_tf.rl.meta_policy import MetaPolicy

_TAKEN = (
    *("observations", "actions", "rewards", "mask", "steps", "step_size", "seed", "noise"),
    "first_step",
)
_TAKEN_OUTPUTS = ("means", "log_stds", "logits", "mode")

Named = dict[str, tf.Tensor]
"""Weights by name."""


def servable(learner: MetaPolicy, *, steps: int = 1, step_size: float | None = None) -> Servable:
    """Makes what `export` writes of a policy.

    Args:
      learner: what to export, with its weights as they are now.
      steps: default number of gradient steps of `adapt`, on the same episodes.
      step_size: default alpha; the learner's own by default. A learner with meta-learned step sizes
        uses those until a number is given, here or in a call; NaN in a call stands for them.

    Raises:
      ValueError: an argument is out of range.
    """
    steps = arguments.count("steps", steps, 0)
    step_size = default_step_size(learner.inner, step_size)
    served = ServedPolicy(learner)
    signatures = _compiled(served, steps, step_size)
    return Servable(served, signatures, description(served, steps, step_size))


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
        self.fixed = [v.value for v in policy.model.non_trainable_variables]  # of frozen layers

    @property
    def dtype(self) -> tf.DType:
        """Of observations and real actions."""
        return next(iter(self.initial.values())).dtype

    @property
    def action_dtype(self) -> tf.DType:
        """Of actions."""
        return self.dtype if self.learner.policy.head.has_spread else tf.int32

    def weights_before(self) -> Named:
        """The meta-learned weights."""
        return {name: tf.convert_to_tensor(v) for name, v in self.initial.items()}

    def actions(self, observations, weights: Named | None, seed, noise) -> Named:
        """Outputs `[B, N]`, log-stds `[A]` if any, and with a seed or noise also actions."""
        policy, values = self.learner.policy, self._in_order(weights)
        head = policy.head
        observations = tf.cast(observations, self.dtype)[tf.newaxis]
        outputs, log_stds = policy.outputs(values, observations), policy.log_stds(values)
        given = {head.output_name: outputs[0]}
        if head.has_spread:
            given["log_stds"] = log_stds
        if head.has_mode:
            given["mode"] = head.mode(outputs[0])
        if seed is not None:
            distribution = head.parameters(outputs, log_stds).distribution()
            given["actions"] = distribution.sample(seed=tf.stack([seed, 0]))[0]
        elif noise is not None:
            stds = tf.exp(log_stds) if head.has_spread else None
            drawn = head.act(outputs[0], stds, tf.cast(noise, outputs.dtype), tnp)
            given["actions"] = tf.cast(drawn, self.action_dtype)
        return given

    def weights_after(
        self, episodes, weights: Named | None, steps, step_size, first_step=None
    ) -> Named:
        """Weights after `steps` steps on the episodes `[E, H, ...]` of one task."""
        observations, actions, rewards, mask = episodes
        learner, mask = self.learner, tf.ones_like(rewards) if mask is None else mask
        tf.debugging.assert_non_negative(steps, "steps must be 0 or more")
        tf.debugging.assert_positive(tf.reduce_sum(mask), "mask marks no step as taken")
        values, head = self._in_order(weights), learner.policy.head
        # Which distribution drew the actions does not matter to the inner loss.
        old = tf.zeros([*sizes(rewards), head.output_size], rewards.dtype)
        columns = (observations, actions, rewards, mask, old, values[-1])
        trajectories = Trajectories._make(column[tf.newaxis] for column in columns)
        batch, _ = policy_batch(
            trajectories,
            discount=learner.discount,
            gae_lambda=learner.gae_lambda,
            parameters=head.parameters,
        )
        alphas = given_or_learned(learner.inner, step_size, self.step_sizes)
        if first_step is not None and isinstance(alphas, PerStep):
            tf.debugging.assert_non_negative(first_step, "first_step must be 0 or more")
            alphas = alphas.after(first_step)
        adapted, _ = learner.inner.loop(
            reinforce(learner.policy),
            learner.inner.stacked(1, values),
            batch,
            steps,
            step_size=alphas,
        )
        own = zip(self.initial, adapted, learner.adapts, strict=True)
        return {name: value[0] if moves else value for name, value, moves in own}

    def _in_order(self, weights: Named | None) -> Weights:
        given = self.weights_before() if weights is None else weights
        return [given[name] for name in self.initial]


def _compiled(served: ServedPolicy, steps: int, step_size: float) -> dict[str, Callable]:
    """Gives `served` its compiled functions, and returns its signatures."""
    specs = Specs(served)

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

    first = tf.constant(0) if served.learner.inner.per_step else None

    @tf.function(autograph=False)
    def adapt(
        observations,
        actions,
        rewards,
        mask=None,
        weights=None,
        steps=steps,
        step_size=step_size,
        first_step=first,
    ):
        columns = (observations, actions, rewards, mask)
        types = (served.dtype, served.action_dtype, served.dtype, served.dtype)
        taken = [
            None if column is None else tf.cast(column, dtype)
            for column, dtype in zip(columns, types, strict=True)
        ]
        return compute(taken, weights, steps, step_size, first_step)

    return adapt


class Specs:
    """Shapes and types of what the functions of an exported policy take."""

    def __init__(self, served: ServedPolicy):
        """Reads them off the policy."""
        policy, dtype = served.learner.policy, served.dtype

        def spec(name, *shape, dtype=dtype):
            return tf.TensorSpec(shape, dtype, name)

        size, actions = policy.observation_size, policy.head.action_shape
        self.observations = spec("observations", None, size)
        self.noise = spec("noise", None, policy.head.noise_size)
        self.seed = spec("seed", dtype=tf.int32)
        self.weights = {
            name: spec(name, *v.shape, dtype=v.dtype) for name, v in served.initial.items()
        }
        self.episodes = (
            spec("observations", None, None, size),
            spec("actions", None, None, *actions, dtype=served.action_dtype),
            spec("rewards", None, None),
        )
        self.mask = spec("mask", None, None)
        first = spec("first_step", dtype=tf.int32) if served.learner.inner.per_step else None
        self.numbers = spec("steps", dtype=tf.int32), spec("step_size", dtype=tf.float32), first

    def trace_all(self, act: PolymorphicFunction, adapt: PolymorphicFunction) -> None:
        """Traces every form of a call; NumPy's and many environments' numbers are of 64 bits."""

        def both(of):
            wide = tf.float64 if of.dtype.is_floating else tf.int64
            return of, tf.TensorSpec(of.shape, wide, of.name)

        flags = tf.TensorSpec(self.mask.shape, tf.bool, self.mask.name)
        drawn = [(self.seed, None), *((None, noise) for noise in (None, *both(self.noise)))]
        for given in (None, self.weights):
            for seen in both(self.observations):
                for seed, noise in drawn:
                    act.get_concrete_function(seen, given, seed, noise)
            for columns in itertools.product(*map(both, self.episodes)):
                for taken in (None, *both(self.mask), flags):
                    adapt.get_concrete_function(*columns, taken, given, *self.numbers)


def description(served: ServedPolicy, steps: int, step_size: float) -> dict[str, object]:
    """What `maml_tf.json` says of an exported policy."""
    learner = served.learner
    return {
        "maml_tf": __version__,
        "model": "policy",
        "observations": learner.policy.observation_size,
        "actions": learner.policy.action_size,
        "head": repr(learner.policy.head),
        "discount": learner.discount,
        "gae_lambda": learner.gae_lambda,
        "defaults": {
            "steps": steps,
            "step_size": "meta-learned" if math.isnan(step_size) else step_size,
        },
        "weights": list(served.initial),
    }
