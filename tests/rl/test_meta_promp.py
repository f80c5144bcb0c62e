"""ProMP and plain policy gradients: derivatives, updates, the adaptive penalty, state, learning."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_is_the_derivative, normal
from learners import SAMPLER, random_batches

import maml_tf
from maml_tf.rl.meta_promp import MetaProMP
from maml_tf.rl.meta_trpo import MetaTRPO
from maml_tf.rl.meta_vpg import MetaVPG
from maml_tf.rl.objectives import PolicyBatch, clipped_surrogate, masked_mean, surrogate
from maml_tf.rl.policy import Gaussian, GaussianPolicy, log_prob
from maml_tf.rl.rollouts import Rollouts

BOTH = pytest.mark.parametrize("kind", [MetaVPG, MetaProMP])


def make(kind=MetaProMP, hidden=(8,), seed=1, **options):
    options = {"meta_batch_size": 4, "step_size": 0.5, **options}
    return kind(GaussianPolicy(2, 2, hidden, seed), **options)


def displaced(learner):
    """Values other than those whose trajectories are stored: ratios other than 1."""
    return [
        v.value + 0.1 * normal(500 + i, *v.shape) * v.value + 0.02
        for i, v in enumerate(learner.variables)
    ]


def rollouts_of(batches):
    return Rollouts(batches, np.zeros((4, len(batches))), 6, 48, 0, 0.0, 0.0)


def values_of(variables):
    return [np.array(v.value) for v in variables]


@pytest.mark.usefixtures("float64")
@BOTH
@pytest.mark.parametrize("inner_steps", [0, 1, 2])
@pytest.mark.cases(1)
def test_the_gradient_is_the_objectives_derivative(kind, inner_steps):
    learner = make(kind, (4,), inner_steps=inner_steps, learn_step_size=True, step_size=0.1)
    if kind is MetaProMP:
        learner.kl_coefficients.assign(np.full(inner_steps, 0.7))
    batches = random_batches(learner, inner_steps + 1)
    values, names = displaced(learner), [v.path for v in learner.variables]
    objective = tf.function(lambda weights: learner.objective(weights, batches), autograph=False)
    gradient = learner.slope(batches)(values)
    assert_is_the_derivative(gradient, objective, values, names)
    assert bool(np.any(gradient[-1])) == bool(inner_steps)  # of a learned step size


@pytest.mark.parametrize("pieces", [2, 4])
@pytest.mark.cases(1)
def test_pieces_change_nothing_but_rounding(pieces):
    learner = make(minibatches=1, kl_coefficient=0.5)
    batches, values = random_batches(learner, 2, tasks=4), displaced(learner)
    whole = learner.slope(batches)(values)
    learner.pieces = pieces
    for one, other in zip(whole, learner.slope(batches)(values), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=1e-6)


def test_a_ratio_beyond_the_clip_counts_only_where_it_promises_less():
    """By hand: a mean moved by 1 makes the ratio of an action a exp(a - 1 / 2)."""
    ratios, gains = np.array([2.0, 2.0, 0.5, 0.5]), np.array([1.0, -1.0, 1.0, -1.0])
    actions = (np.log(ratios) + 0.5).astype(np.float32)[None, :, None]
    mask = tf.constant([[1.0, 1.0, 1.0, 1.0]])
    old, new = (Gaussian(tf.fill([1, 4, 1], m), tf.zeros([1, 1])) for m in (0.0, 1.0))
    batch = PolicyBatch(tf.zeros([1, 4, 1]), actions, tf.constant([gains], tf.float32), mask, old)
    loss = clipped_surrogate(new, batch, 0.3)
    np.testing.assert_allclose(loss, [-np.mean([1.3, -2.0, 0.5, -0.7])], rtol=1e-5)


def test_plain_policy_gradients_descend_the_surrogate_once():
    learner = make(MetaVPG, optimizer=keras.optimizers.SGD(0.1))
    batches = random_batches(learner, 2, tasks=4)
    values = learner.inner.values()
    with tf.GradientTape() as tape:
        tape.watch(values)
        new = learner.adapted_policy(values, batches)
        loss = tf.reduce_mean(surrogate(new, batches[-1]))
    expected = [v - 0.1 * g for v, g in zip(values, tape.gradient(loss, values), strict=True)]
    seen = learner.improve(rollouts_of(batches))
    for variable, value in zip(learner.variables, expected, strict=True):
        np.testing.assert_allclose(variable.value, value, atol=1e-6)
    assert seen["surrogate_after"] < seen["surrogate_before"] == pytest.approx(float(loss))


@pytest.mark.parametrize("share", [None, 0.5, 2.0])
@pytest.mark.cases(1)
def test_the_norm_of_an_update_is_that_of_the_clipped_gradient(share):
    learner = make(MetaVPG, optimizer=keras.optimizers.SGD(0.1))
    batches = random_batches(learner, 2, tasks=4)
    gradient = learner.slope(batches)(learner.inner.values())
    norms = [np.sqrt(sum((g.numpy() ** 2).sum() for g in part)) for part in _parts(gradient)]
    bound = None if share is None else share * float(norms[0])
    learner = make(MetaVPG, optimizer=keras.optimizers.SGD(0.1), clip_norm=bound)
    seen = learner.improve(rollouts_of(batches))
    np.testing.assert_allclose(seen["gradient_norms"][:3], norms, rtol=1e-4)
    factor = 0.1 * min(share or 1, 1)
    np.testing.assert_allclose(seen["update_norms"][:3], factor * np.array(norms), rtol=1e-3)
    assert np.isnan(seen["meta_step_size"])


def _parts(gradient):
    """All; the hidden layer and the log-std; the head."""
    return gradient, [*gradient[:2], gradient[4]], gradient[2:4]


@pytest.mark.slow
def test_a_schedule_counts_the_updates_of_an_iteration():
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([3], [1e-4, 0.0])
    learner = make(optimizer=keras.optimizers.SGD(rate), epochs=2, minibatches=2)
    rollouts = rollouts_of(random_batches(learner, 2, tasks=4))
    first, second = learner.improve(rollouts), learner.improve(rollouts)
    assert first["update_norms"][0] > 0 == second["update_norms"][0]
    assert first["meta_step_size"] == np.float32(1e-4) and second["meta_step_size"] == 0
    assert int(learner.optimizer.iterations) == 8


@pytest.mark.parametrize("pieces", [None, 4])  # more than a minibatch has tasks
@pytest.mark.slow
def test_minibatches_are_updates_by_a_few_tasks_each_in_turn(pieces):
    options = {"optimizer": keras.optimizers.Adam(0.01), "epochs": 2, "minibatches": 2}
    options["pieces"] = pieces
    learner = make(**options)
    batches = random_batches(learner, 2, tasks=4)
    by_hand = make()
    optimizer = keras.optimizers.Adam(0.01)
    halves = [tf.nest.map_structure(lambda t, h=h: t[2 * h : 2 * h + 2], batches) for h in (0, 1)]
    for half in halves * 2:
        optimizer.apply(by_hand.slope(half)(by_hand.inner.values()), by_hand.variables)
    learner.improve(rollouts_of(batches))
    for one, other in zip(learner.variables, by_hand.variables, strict=True):
        np.testing.assert_allclose(one.value, other.value, atol=1e-6)


def test_the_penalty_grows_with_the_divergence_of_the_policies_before_a_step():
    """A mean of two numbers moved by d each is a KL of d^2; the target is 0.01 within 1.5 times."""
    still = {"optimizer": keras.optimizers.SGD(0.0), "step_size": 1e-3}
    learner = make(**still, kl_coefficient=0.25)
    before, last = random_batches(learner, 2, tasks=4)
    for moved, expected in ((0.2, 0.5), (0.1, 0.5), (0.05, 0.25), (0.05, 0.125)):
        old = before.old._replace(means=before.old.means + moved)
        seen = learner.improve(rollouts_of([before._replace(old=old), last]))
        np.testing.assert_allclose(seen["kl"][0], moved**2, rtol=1e-3)
        np.testing.assert_allclose(learner.kl_coefficients.value, [expected])


def test_the_penalty_never_vanishes_for_good():
    learner = make(optimizer=keras.optimizers.SGD(0.0), step_size=1e-3, kl_coefficient=1e-8)
    batches = random_batches(learner, 2, tasks=4)
    learner.improve(rollouts_of(batches))
    np.testing.assert_allclose(learner.kl_coefficients.value, [1e-8])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", [MetaTRPO, MetaVPG, MetaProMP])
def test_the_sampling_correction_adds_how_good_the_end_was_of_what_was_sampled(kind):
    """At the policy that sampled its gradient is -mean(d log pi) R, summed over inner steps."""
    plain, corrected = (make(kind, inner_steps=2, sampling_correction=c) for c in (0.0, 3.0))
    batches = random_batches(plain, 3)
    outcomes = normal(8, 3)
    batches[-1] = batches[-1]._replace(outcomes=outcomes)

    def loss(learner, values):
        if kind is MetaTRPO:
            return learner.meta_objective(values, batches)[0]
        return learner.objective(values, batches)

    values = plain.inner.values()
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(values)
        more = loss(corrected, values) - loss(plain, values)
        policies = plain.adapted_policies(values, batches)
        by_hand = -sum(
            masked_mean(tf.exp(log_prob(new, b.actions) - log_prob(b.old, b.actions)), b.mask)
            * outcomes
            for new, b in zip(policies[:2], batches[:2], strict=True)
        )
        by_hand = 3.0 * tf.reduce_mean(by_hand)
    np.testing.assert_allclose(more, by_hand, rtol=1e-9)
    one, other = (tape.gradient(t, values, unconnected_gradients="zero") for t in (more, by_hand))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)
    assert any(np.any(np.abs(g) > 1e-4) for g in one)


@pytest.mark.slow
def test_a_second_meta_batch_compiles_nothing():
    learner = make(epochs=2)
    for index in range(2):
        learner.improve(rollouts_of(random_batches(learner, 2, tasks=4)))
        assert learner._improve.experimental_get_tracing_count() == 1, index


@BOTH
@pytest.mark.parametrize("per", [True, "layer", "layer_and_step"])
@pytest.mark.cases(1)
def test_learned_step_sizes_move(kind, per):
    learner = make(kind, learn_step_size=per, optimizer=keras.optimizers.Adam(0.01))
    before = values_of(learner.step_sizes)
    learner.meta_step(SAMPLER, 0)
    for one, other in zip(before, values_of(learner.step_sizes), strict=True):
        assert np.any(one != other)


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_same_weights_and_penalties(tmp_path):
    def run(directory, *iterations):
        for count in iterations:
            learner = make(epochs=2)
            options = {"save_every": 1, "log_every": 1, "progress": False}
            maml_tf.train(learner, SAMPLER, iterations=count, logdir=directory, **options)
        return values_of([*learner.state, *learner.optimizer.variables])

    for one, other in zip(run(tmp_path / "a", 3), run(tmp_path / "b", 2, 3), strict=True):
        np.testing.assert_array_equal(one, other)


@BOTH
@pytest.mark.cases(1)
def test_it_learns_to_adapt(kind):
    pytest.importorskip("gymnasium", reason="needs the extra rl")
    sampler = maml_tf.rl.Sampler("navigation_2d", tasks=8, episodes=10, horizon=20)
    learner = kind(
        GaussianPolicy(2, 2, (16,), 1),
        meta_batch_size=8,
        step_size=0.1,
        optimizer=keras.optimizers.Adam(0.005 if kind is MetaProMP else 0.02),
    )
    held_out = {"num_tasks": 16, "steps": 1, "step_size": 0.1}
    before = maml_tf.evaluate(learner, sampler, **held_out)
    maml_tf.train(learner, sampler, iterations=20 if kind is MetaProMP else 40, progress=False)
    after = maml_tf.evaluate(learner, sampler, **held_out)
    assert after.mean[1] > before.mean[1] + 2 * before.ci95[1]
    assert after.mean[1] > after.mean[0]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"epochs": 0}, "epochs must be 1 or more"),
        ({"minibatches": 3}, "4 tasks do not divide into minibatches=3"),
        ({"clip_ratio": 0.0}, "clip_ratio must be positive"),
        ({"inner_kl": -1.0}, "inner_kl must be positive"),
        ({"optimizer": keras.optimizers.Adam(use_ema=True)}, "Nothing takes averages of a policy"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
