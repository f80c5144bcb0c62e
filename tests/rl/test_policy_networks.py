"""Networks of a user's own: any Keras model of one observation, and why not others."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import PointSampler, normal
from keras import layers
from learners import SAMPLER

import maml_tf
from maml_tf.rl.actor import DivisibleAct
from maml_tf.rl.heads import CategoricalHead
from maml_tf.rl.meta_trpo import MetaTRPO
from maml_tf.rl.policy import GaussianPolicy, Policy


class Subclassed(keras.Model):
    def __init__(self, outputs):
        super().__init__()
        self.body, self.last = layers.Dense(4, "tanh"), layers.Dense(outputs)

    def call(self, x):
        return self.last(self.body(x))


def subclassed(outputs):
    model = Subclassed(outputs)
    model(tf.zeros([1, 2]))  # which builds it
    return model


def functional(outputs):
    x = keras.Input((2,))
    h = layers.LayerNormalization()(layers.Dense(4, "tanh")(x))
    return keras.Model(x, layers.Dense(outputs)(layers.Concatenate()([x, h])))


def sequential(outputs, *more, shape=(2,), last=True):
    end = [layers.Dense(outputs)] if last else []
    return keras.Sequential([keras.Input(shape), *more, *end])


def two(outputs):
    x = keras.Input((2,))
    return keras.Model(x, [layers.Dense(outputs)(x), layers.Dense(outputs)(x)])


@pytest.mark.parametrize("make", [subclassed, functional, sequential])
@pytest.mark.cases(1)
def test_it_acts_as_it_is_computed_and_learns(make):
    policy = GaussianPolicy(2, 2, network=make(2))
    assert policy.variables[:-1] == policy.model.trainable_variables
    weights = [tf.stack([v.value, 0.5 * v.value + 0.1]) for v in policy.variables]
    seen, noise = normal(0, 2, 3, 2).numpy(), normal(1, 2, 3, 2).numpy()
    act = policy.actor(weights, 2)
    actions, means = act(seen, noise)
    expected = policy(weights, seen)
    np.testing.assert_allclose(means, expected.means, rtol=1e-5, atol=1e-6)
    spread = np.exp(expected.log_stds)[:, None]
    np.testing.assert_allclose(actions, means + spread * noise, rtol=1e-5, atol=1e-6)
    assert not isinstance(act, DivisibleAct)  # TensorFlow has threads of its own
    sampler = PointSampler(tasks=2, episodes=4, horizon=5)
    learner = MetaTRPO(policy, meta_batch_size=2, step_size=0.1)
    assert learner.meta_steps(sampler, 0, 1).backtracks[0] >= 0


def test_one_compiled_call_serves_all_weights():
    calls = []

    class Counted(layers.Dense):
        pass

    @maml_tf.stacked.register(Counted)
    def _(layer, x, run):
        calls.append(1)
        return tf.matmul(x, run.value(layer.kernel)) + run.aligned(layer.bias, x)

    policy = GaussianPolicy(2, 2, network=keras.Sequential([keras.Input((2,)), Counted(2)]))
    seen, noise = np.zeros((2, 3, 2), np.float32), np.zeros((2, 3, 2), np.float32)
    del calls[:]
    for scale in (1.0, 2.0, 3.0):
        act = policy.actor([scale * v.value for v in policy.variables], 2)
        for _ in range(3):
            act(seen, noise)
    assert len(calls) == 1


@pytest.mark.slow
def test_images_come_in_the_network_s_own_shape_and_exports_take_them_flat(tmp_path):
    network = keras.Sequential(
        [keras.Input((4, 4, 3), dtype="float32"), layers.Rescaling(1 / 255)]
        + [layers.Conv2D(4, 3, strides=2, activation="relu"), layers.Flatten(), layers.Dense(3)]
    )
    policy = Policy(48, CategoricalHead(3), network=network)
    weights = [v.value for v in policy.variables]
    images = np.random.default_rng(0).uniform(0, 255, (2, 5, 4, 4, 3)).astype(np.float32)
    found = policy(weights, images.reshape(2, 5, 48)).logits
    expected = network(images.reshape(10, 4, 4, 3))
    np.testing.assert_allclose(found, tf.reshape(expected, found.shape), rtol=1e-4, atol=1e-5)
    learner = MetaTRPO(policy, meta_batch_size=2)
    maml_tf.export(learner, tmp_path / "it")
    model = maml_tf.load_export(tmp_path / "it")
    logits = model.act(images[0].reshape(5, 48))["logits"]
    np.testing.assert_allclose(logits, found[0], rtol=1e-4, atol=1e-5)
    learner.save(tmp_path / "it.weights.h5")
    network.layers[-1].kernel.assign_add(tf.ones_like(network.layers[-1].kernel))
    learner.load(tmp_path / "it.weights.h5")
    np.testing.assert_array_equal(network.layers[-1].kernel, weights[-2])


@pytest.mark.slow
def test_frozen_layers_stay_and_are_exported(tmp_path):
    normalization, backbone = layers.Normalization(), layers.Dense(4, "relu")
    normalization.adapt(np.array([[0.0, 1.0], [4.0, 3.0], [5.0, 5.0]]))
    batch = layers.BatchNormalization()
    network = sequential(2, normalization, backbone, batch)
    backbone.trainable = batch.trainable = False
    batch.moving_mean.assign([1.0, 2.0, 3.0, 4.0])
    policy = GaussianPolicy(2, 2, network=network)
    assert [v.name for v in policy.variables] == ["kernel", "bias", "log_std"]
    maml_tf.export(MetaTRPO(policy, meta_batch_size=2), tmp_path / "it")
    seen, model = normal(0, 5, 2), maml_tf.load_export(tmp_path / "it")
    np.testing.assert_allclose(model.act(seen)["means"], network(seen), rtol=1e-4, atol=1e-5)


REFUSED = {
    "a recurrent one": (
        lambda: sequential(2, layers.LSTM(3), shape=(1, 2)),
        "'lstm.*recurrent layer's output depends on the observations before.*FrameStack",
    ),
    "a wrapped recurrent one": (
        lambda: sequential(2, layers.Bidirectional(layers.GRU(3)), shape=(1, 2)),
        "recurrent layer's output",
    ),
    "statistics of a batch": (
        lambda: sequential(2, layers.BatchNormalization()),
        "batch normalisation's output depends on the other.*freeze it, or take LayerNormalization",
    ),
    "dropout": (lambda: sequential(2, layers.Dropout(0.5)), "'dropout.*draws random numbers"),
    "noise": (lambda: sequential(2, layers.GaussianNoise(0.5)), "draws random numbers"),
    "other inputs": (
        lambda: sequential(2, shape=(3,)),
        r"takes \(3,\), 3 numbers, and an observation has 2",
    ),
    "other outputs": (
        lambda: sequential(3),
        r"gives \(3,\) numbers for an observation, and the actions need \(2,\); .*Dense\(2\)",
    ),
    "several outputs": (lambda: two(2), "gives several outputs"),
    "an unknown shape": (lambda: sequential(2, shape=(None, 2)), "one input of a known shape"),
    "weights of another precision": (
        lambda: sequential(2, layers.Dense(3, dtype="float64")),
        "has weights in float64, and trajectories are in float32",
    ),
    "a regulariser": (
        lambda: sequential(2, layers.Dense(3, kernel_regularizer="l2")),
        "has a regulariser or adds a loss",
    ),
    "none": (lambda: "mlp", "must be a built keras.Model, not str"),
    "one not built": (lambda: keras.Sequential([layers.Dense(2)]), "build it first"),
}


@pytest.mark.slow
def test_a_network_may_compute_in_half_precision():
    made = sequential(2, layers.Dense(4, "relu", dtype="mixed_float16"))
    learner = MetaTRPO(GaussianPolicy(2, 2, network=made), meta_batch_size=4, step_size=0.1)
    before = made.get_weights()
    learner.meta_step(SAMPLER, 0)
    moved = [np.abs(a - b).max() for a, b in zip(made.get_weights(), before, strict=True)]
    assert 0 < max(moved) < 1


@pytest.mark.parametrize("stddev", [-1.0, float("nan")])
def test_a_head_that_cannot_be_drawn_is_refused(stddev):
    with pytest.raises(ValueError, match="head_stddev must be"):
        GaussianPolicy(2, 2, head_stddev=stddev)


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_function_of_one_observation_is_refused(case):
    make, said = REFUSED[case]
    with pytest.raises(ValueError, match=said) as raised:
        GaussianPolicy(2, 2, network=make())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("option", [{"context": True}, {"head_stddev": 0.1}])
def test_what_describes_another_network_is_refused(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} and network are given both"):
        GaussianPolicy(2, 2, network=sequential(2), **option)
    with pytest.raises(ValueError, match="init_std is 0.5, and choices have no spread"):
        Policy(2, CategoricalHead(2), init_std=0.5)
