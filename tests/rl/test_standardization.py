import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import normal
from learners import SAMPLER

import maml_tf
from maml_tf.engine.functional import functional
from maml_tf.rl import GaussianPolicy, MetaTRPO, Standardize
from maml_tf.rl.standardization import moments_of

OBSERVED = 5.0 + 3.0 * np.asarray(normal(3, 300, 2))


def make(seed=1, **options):
    policy = GaussianPolicy(2, 2, (8,), seed, standardize=True, **options)
    return MetaTRPO(policy, meta_batch_size=4, step_size=0.5)


def test_statistics_are_those_of_all_that_was_seen_however_it_was_cut():
    layer = GaussianPolicy(2, 2, (8,), standardize=True).standardizer
    for part in np.split(OBSERVED, [1, 7, 7, 250]):
        layer.update(moments_of(part)[None])
    np.testing.assert_allclose(layer.mean.value, OBSERVED.mean(0), rtol=1e-5)
    np.testing.assert_allclose(layer.variance.value, OBSERVED.var(0), rtol=1e-5)
    assert float(layer.count.value) == 300
    shown = layer(tf.constant(OBSERVED, tf.float32))
    expected = (OBSERVED - OBSERVED.mean(0)) / OBSERVED.std(0)
    np.testing.assert_allclose(shown, expected, atol=1e-5)
    np.testing.assert_array_equal(layer(np.full([1, 2], 1e9, np.float32)), np.full([1, 2], 10))


def test_a_policy_acts_and_is_weighed_by_the_same_numbers():
    policy = make().policy
    policy.standardizer.update(moments_of(OBSERVED)[None])
    weights = [tf.stack([v.value, 2 * v.value]) for v in policy.variables]
    seen = np.asarray(OBSERVED[:12], np.float32).reshape(2, 6, 2)
    _, means = policy.actor(weights, 2)(seen, np.zeros((2, 6, 2), np.float32))
    np.testing.assert_allclose(means, policy(weights, seen).means, atol=1e-5)
    plain = GaussianPolicy(2, 2, (8,), 1)
    shown = (seen - OBSERVED.mean(0)) / OBSERVED.std(0)
    np.testing.assert_allclose(means, plain(weights, shown.astype(np.float32)).means, atol=1e-4)
    assert not functional(policy.model).fall_backs(weights[:-1], seen)


@pytest.mark.slow
def test_a_meta_step_adds_the_steps_that_were_taken():
    learner = make()
    batches = learner.roll_out_and_adapt(SAMPLER, 0, [None]).batches
    seen = np.concatenate([b.observations.numpy()[b.mask.numpy() > 0] for b in batches])
    learner.meta_step(SAMPLER, 0)
    layer = learner.policy.standardizer
    assert float(layer.count.value) == len(seen) == int(learner.counters["environment_steps"].value)
    np.testing.assert_allclose(layer.mean.value, seen.mean(0), atol=1e-6)


def test_images_of_bytes_are_standardized():
    layer = Standardize()
    x = np.full((2, 3, 3, 1), 7, np.uint8)
    np.testing.assert_allclose(layer(x), 7.0, rtol=1e-6)
    layer.update(moments_of(np.stack([x[0], x[0] + 2]))[None])
    np.testing.assert_allclose(layer(x), -1.0, rtol=1e-5)


@pytest.mark.slow
def test_a_run_goes_on_with_its_statistics(tmp_path):
    def run(directory, *iterations):
        for count in iterations:
            learner = make()
            maml_tf.train(
                learner, SAMPLER, iterations=count, logdir=directory, save_every=1, progress=False
            )
        return [np.asarray(v.value) for v in learner.state]

    straight, resumed = run(tmp_path / "a", 3), run(tmp_path / "b", 2, 3)
    assert len(straight) == 5 + 3
    for one, other in zip(straight, resumed, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_files_and_exports_hold_them(tmp_path):
    learner, again = make(), make(seed=2)
    learner.policy.standardizer.update(moments_of(OBSERVED)[None])
    learner.save(tmp_path / "it.weights.h5")
    again.load(tmp_path / "it.weights.h5")
    seen = np.asarray(OBSERVED[:5], np.float32)
    expected = learner.policy(learner.initial_weights(), seen[None]).means[0]
    np.testing.assert_array_equal(
        again.policy(again.initial_weights(), seen[None]).means[0], expected
    )
    maml_tf.export(again, tmp_path / "export")
    model = tf.saved_model.load(str(tmp_path / "export"))
    np.testing.assert_allclose(model.act(seen)["means"], expected, rtol=1e-5, atol=1e-6)


def network(*layers):
    return keras.Sequential([keras.Input((2,)), *layers])


@pytest.mark.slow
def test_a_network_of_ones_own_may_begin_with_it():
    policy = GaussianPolicy(2, 2, network=network(Standardize(), keras.layers.Dense(2)))
    learner = MetaTRPO(policy, meta_batch_size=4, step_size=0.5)
    learner.meta_step(SAMPLER, 0)
    assert float(policy.standardizer.count.value) > 0 and len(learner.state) == 3 + 3
    for layers in ([keras.layers.Dense(2), Standardize()], [Standardize(), Standardize()]):
        with pytest.raises(ValueError, match="has a Standardize that is not its first layer"):
            GaussianPolicy(2, 2, network=network(*layers, keras.layers.Dense(2)))
    with pytest.raises(ValueError, match="standardize and network are given both"):
        GaussianPolicy(2, 2, network=network(keras.layers.Dense(2)), standardize=True)
