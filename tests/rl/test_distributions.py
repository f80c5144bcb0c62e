"""Every family's distribution is TFP's or equal to it, and right in its derivatives."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow.experimental.numpy as tnp
from helpers import assert_is_the_derivative, normal

from maml_tf.engine.conjugate_gradient import flatten, unflatten
from maml_tf.rl.heads import (
    BernoulliHead,
    CategoricalHead,
    GaussianHead,
    MultiCategoricalHead,
)
from maml_tf.rl.meta_trpo import MetaTRPO
from maml_tf.rl.objectives import PolicyBatch, masked_mean
from maml_tf.rl.parameters import Gaussian
from maml_tf.rl.policy import GaussianPolicy, Policy, kl, log_prob

pytest.importorskip("tensorflow_probability", reason="needs the extra rl")

from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from maml_tf.rl import distributions

HEADS = {
    "gaussian": GaussianHead(2),
    "squashed": GaussianHead(2, squash=True),
    "categorical": CategoricalHead(4),
    "several": MultiCategoricalHead((2, 3)),
    "bits": BernoulliHead(3),
}
TASKS, STEPS = 2, 5
each_head = pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)


def make_policy(head):
    """A policy of three observation numbers with random weights, and these."""
    policy = Policy(3, head, hidden=(4,))
    for seed, variable in enumerate(policy.variables):
        variable.assign(0.5 * normal(seed, *variable.shape))
    return policy, [tf.identity(v.value) for v in policy.variables]


def drawn(head, outputs, log_stds, seed=0):
    """Actions as a sampler draws them."""
    noise = head.noise(np.random.default_rng(seed), tuple(outputs.shape[:-1]))
    stds = None if log_stds is None else np.exp(log_stds)
    actions = np.asarray(head.act(outputs.numpy(), stds, noise))
    return tf.constant(actions.astype(outputs.dtype.as_numpy_dtype if head.has_spread else "int32"))


def make_batch(policy, weights, seed):
    seen = normal(seed, TASKS, STEPS, 3)
    outputs, log_stds = policy.outputs(weights, seen), policy.log_stds(weights)
    old = policy(weights, seen)
    if log_stds is not None:  # as an actor tells it
        old = old._replace(log_stds=tf.broadcast_to(log_stds, [TASKS, policy.head.size]))
    mask = tf.constant([[1.0, 1, 1, 0, 1], [1, 0, 0, 1, 0]], outputs.dtype)
    actions = drawn(policy.head, outputs, log_stds, seed)
    return PolicyBatch(seen, actions, normal(seed + 1, TASKS, STEPS), mask, old)


@each_head
def test_a_policy_s_distribution_is_one_of_tfp(head):
    policy, weights = make_policy(head)
    batch = make_batch(policy, weights, 0)
    found = policy.distribution(weights, batch.observations)
    assert isinstance(found, tfd.Distribution)
    assert found.batch_shape == (TASKS, STEPS) and found.event_shape == head.action_shape
    sample = found.sample(seed=[1, 2])
    assert sample.shape == batch.actions.shape and sample.dtype == batch.actions.dtype
    np.testing.assert_array_equal(
        found.log_prob(batch.actions), log_prob(policy(weights, batch.observations), batch.actions)
    )
    if not getattr(head, "squash", False):
        many = found.sample(4000, seed=[3, 4])
        expected = -tf.reduce_mean(found.log_prob(many), 0)
        np.testing.assert_allclose(found.entropy(), expected, atol=0.1)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("shared", [True, False])
def test_the_gaussian_s_fast_path_is_tfp_s_own_in_value_and_both_derivatives(shared):
    spread = (3,) if shared else (TASKS, 3)
    actions = normal(0, TASKS, STEPS, 3)
    old = Gaussian(normal(1, TASKS, STEPS, 3), 0.4 * normal(2, TASKS, 3))
    at = [normal(3, TASKS, STEPS, 3), 0.3 * normal(4, *spread)]
    vector = [normal(5, TASKS, STEPS, 3), normal(6, *spread)]
    weights = normal(7, TASKS, STEPS)

    def derivatives(make, which):
        with tf.GradientTape() as outer:
            outer.watch(at)
            with tf.GradientTape() as inner:
                inner.watch(at)
                new = make(*at)
                value = new.log_prob(actions) if which == 0 else make(*old).kl_divergence(new)
                total = tf.reduce_sum(weights * value)
            slope = inner.gradient(total, at)
        return value, *slope, *outer.gradient(slope, at, vector)

    for which in (0, 1):
        fast = derivatives(distributions.DiagonalGaussian, which)
        plain = derivatives(distributions.plain_gaussian, which)
        for one, other in zip(fast, plain, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)
    both = distributions.DiagonalGaussian(*at), distributions.plain_gaussian(*at)
    np.testing.assert_array_equal(both[0].entropy(), both[1].entropy())
    np.testing.assert_array_equal(*(d.sample(seed=[1, 0]) for d in both))


@pytest.mark.usefixtures("float64")
@each_head
def test_both_derivatives_of_density_and_divergence_are_central_differences(head):
    policy, weights = make_policy(head)
    batch = make_batch(policy, weights, 0)
    shift = normal(50, *flatten(weights).shape)
    old = policy(unflatten(flatten(weights) + 0.3 * shift, weights), batch.observations)
    names = [v.path for v in policy.variables]

    def density(values):
        return tf.reduce_sum(
            batch.advantages * log_prob(policy(values, batch.observations), batch.actions)
        )

    def divergence(values):
        return tf.reduce_sum(masked_mean(kl(old, policy(values, batch.observations)), batch.mask))

    for objective in (density, divergence):

        def slope(values, objective=objective):
            with tf.GradientTape() as tape:
                tape.watch(values)
                value = objective(values)
            return tape.gradient(value, values)

        assert_is_the_derivative(slope(weights), objective, weights, names)
        vector = [normal(70 + i, *w.shape) for i, w in enumerate(weights)]
        with tf.GradientTape() as tape:
            tape.watch(weights)
            along = sum(tf.reduce_sum(g * v) for g, v in zip(slope(weights), vector, strict=True))
        product = tape.gradient(along, weights, unconnected_gradients="zero")
        ahead, behind = (
            slope([w + by * v for w, v in zip(weights, vector, strict=True)])
            for by in (1e-5, -1e-5)
        )
        for got, a, b in zip(product, ahead, behind, strict=True):
            np.testing.assert_allclose(got, (a - b) / 2e-5, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("float64")
@each_head
def test_the_fisher_product_of_the_trust_region_is_the_hessian_s(head):
    policy, weights = make_policy(head)
    learner = MetaTRPO(policy, meta_batch_size=TASKS, step_size=0.3)
    batches = [make_batch(policy, weights, seed) for seed in (0, 10)]
    batches[1] = batches[1]._replace(old=learner.adapted_policy(weights, batches))
    vector = normal(7, *flatten(weights).shape)
    fisher, hessian = (
        learner.kl_curvature(weights, batches, kind)(vector) for kind in ("fisher", "hessian")
    )
    np.testing.assert_allclose(fisher, hessian, rtol=1e-8, atol=1e-10)
    assert np.tensordot(vector, fisher, 1) > 0


@each_head
def test_what_a_sampler_draws_is_distributed_so_and_tensorflow_draws_the_same(head):
    policy, weights = make_policy(head)
    seen = tf.repeat(normal(3, TASKS, 1, 3), 20000, 1)
    outputs, log_stds = policy.outputs(weights, seen), policy.log_stds(weights)
    actions = drawn(head, outputs, log_stds)
    one = policy.distribution(weights, seen[:, :1])
    expected = one.sample(20000, seed=[5, 6])[:, :, 0].numpy().swapaxes(0, 1)
    for moment in (1, 2):  # of a Bernoulli both are one, of a choice they tell its shares
        means = [np.mean(np.asarray(a, float) ** moment, 1) for a in (actions, expected)]
        np.testing.assert_allclose(*means, atol=0.1 if moment == 2 else 0.04)
    noise = head.noise(np.random.default_rng(0), (TASKS, 20000))
    stds = None if log_stds is None else tf.exp(log_stds)
    again = head.act(outputs, stds, tf.constant(noise), tnp)
    np.testing.assert_allclose(tf.cast(again, actions.dtype), actions, atol=1e-6)


@each_head
def test_steps_that_were_not_taken_change_nothing(head):
    """They are zeros, whatever the family, and have weight 0."""
    policy, weights = make_policy(head)
    learner = MetaTRPO(policy, meta_batch_size=TASKS, step_size=0.3)
    batch = make_batch(policy, weights, 0)
    gone = batch.mask.numpy() == 0

    def emptied(array):
        array = array.numpy().copy()
        array[gone] = 0
        return tf.constant(array)

    padded = batch._replace(
        observations=emptied(batch.observations),
        actions=emptied(batch.actions),
        old=tf.nest.map_structure(lambda t: emptied(t) if t.shape.rank == 3 else t, batch.old),
    )
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(weights)
        values = [learner.meta_objective(weights, [b, b])[0] for b in (batch, padded)]
    slopes = [flatten(tape.gradient(value, weights)) for value in values]
    assert np.all(np.isfinite(slopes[0]))
    np.testing.assert_allclose(*slopes, rtol=1e-4, atol=1e-6)


def test_a_squashed_gaussian_is_tfp_s_and_finite_for_actions_at_the_bounds():
    means, log_stds = normal(0, 1, 4, 2), 0.2 * normal(1, 2)
    own = distributions.squashed_gaussian(means, log_stds)
    plain = tfd.TransformedDistribution(distributions.plain_gaussian(means, log_stds), tfb.Tanh())
    actions = tf.tanh(normal(2, 1, 4, 2))
    np.testing.assert_allclose(own.log_prob(actions), plain.log_prob(actions), rtol=1e-5)
    other = distributions.squashed_gaussian(means + 1, log_stds)
    np.testing.assert_allclose(
        own.kl_divergence(other), own.distribution.kl_divergence(other.distribution)
    )
    with tf.GradientTape() as tape:
        tape.watch(means)
        at_bounds = distributions.squashed_gaussian(means, log_stds).log_prob(tf.sign(actions))
    assert np.all(np.isfinite(at_bounds)) and np.all(np.isfinite(tape.gradient(at_bounds, means)))


@pytest.mark.parametrize("name", ["categorical", "several", "bits"])
def test_certain_choices_have_finite_densities_divergences_and_slopes(name):
    head = HEADS[name]
    certain = {"categorical": [2], "several": [0, 4], "bits": [0, 2]}[name]
    outputs = np.full((1, 3, head.output_size), -200.0, np.float32)
    outputs[..., certain] = 200.0
    outputs = tf.constant(outputs)
    actions = drawn(head, outputs, None)
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        new = head.parameters(outputs, None)
        found = log_prob(new, actions), kl(head.parameters(tf.zeros_like(outputs), None), new)
    assert np.all(np.isfinite(found)) and np.all(np.isfinite(tape.gradient(found, outputs)))
    np.testing.assert_allclose(found[0], 0.0, atol=1e-6)  # of probability 1
    np.testing.assert_array_equal(head.mode(outputs), actions)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("part", [np.s_[0], np.s_[:, :2], np.s_[..., 1]], ids=str)
@pytest.mark.parametrize("squash", [True, False])
def test_a_part_of_a_distribution_is_that_of_the_part(shared, part, squash):
    policy, weights = make_policy(GaussianHead(2, squash))
    if not shared:
        weights = [tf.stack([w, 0.5 * w]) for w in weights]
    seen = normal(3, TASKS, STEPS, 3)
    whole = policy.distribution(weights, seen)
    actions = tf.tanh(0.3 * normal(4, TASKS, STEPS, 2))
    parted = actions.numpy()[(*part, slice(None))] if isinstance(part, tuple) else actions[part]
    expected = whole.log_prob(actions).numpy()[part]
    np.testing.assert_allclose(whole[part].log_prob(parted), expected, rtol=1e-5)
    np.testing.assert_allclose(whole.copy().log_prob(actions), whole.log_prob(actions))


def test_a_gaussian_policy_is_the_policy_of_its_head():
    policy, general = GaussianPolicy(3, 2, (4,), seed=5), Policy(3, HEADS["gaussian"], (4,), seed=5)
    for one, other in zip(policy.variables, general.variables, strict=True):
        np.testing.assert_array_equal(one, other)
    assert GaussianPolicy(3, 2, squash=True).head == HEADS["squashed"]
