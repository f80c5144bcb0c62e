import keras
import numpy as np
import pytest

from maml_tf import MetaLearner
from maml_tf.networks import conv_network, dense_network, part_of


def layer_types(model):
    return [type(layer).__name__ for layer in model.layers]


def test_sinusoid_network():
    model = dense_network(1, 1)
    assert (model.input_shape, model.output_shape) == ((None, 1), (None, 1))
    # 1*40 + 40, 40*40 + 40, 40*1 + 1
    assert model.count_params() == 80 + 1640 + 41


def test_omniglot_network_without_convolution():
    model = dense_network((28, 28, 1), 5, (256, 128, 64, 64), norm="batch_norm")
    assert (model.input_shape, model.output_shape) == ((None, 28, 28, 1), (None, 5))
    widths = [784, 256, 128, 64, 64, 5]
    products = sum(a * b + b for a, b in zip(widths[:-1], widths[1:], strict=True))
    offsets = 256 + 128 + 64 + 64
    assert sum(np.prod(v.shape) for v in model.trainable_variables) == products + offsets


def test_omniglot_network():
    model = conv_network((28, 28, 1), 5)
    block = ["Conv2D", "BatchNormalization", "ReLU"]
    assert layer_types(model) == block * 4 + ["GlobalAveragePooling2D", "Dense"]
    assert [model.get_layer(f"relu_{i}").output.shape[1] for i in (1, 2, 3, 4)] == [14, 7, 4, 2]
    kernels = 9 * 64 + 3 * 9 * 64 * 64
    biases, offsets, head = 4 * 64, 4 * 64, 64 * 5 + 5
    trained = sum(np.prod(v.shape) for v in model.trainable_variables)
    assert trained == kernels + biases + offsets + head


def test_miniimagenet_network():
    model = conv_network((84, 84, 3), 5, filters=32, max_pool=True)
    block = ["Conv2D", "BatchNormalization", "ReLU", "MaxPooling2D"]
    assert layer_types(model) == block * 4 + ["Flatten", "Dense"]
    assert model.get_layer("head").kernel.shape == (800, 5)


def test_layer_norm_is_over_space_and_channels_with_one_scale_a_channel():
    model = conv_network((8, 8, 1), 3, filters=4, norm="layer_norm")
    norm = model.get_layer("norm_1")
    assert norm.gamma.shape == norm.beta.shape == (4,)
    x = np.random.default_rng(0).normal(3, 5, size=(2, 4, 4, 4)).astype("float32")
    x += [0.0, 10.0, 20.0, 30.0]  # channels that differ, so that a norm of each alone would show
    over = {"axis": (1, 2, 3), "keepdims": True}
    np.testing.assert_allclose(norm(x), (x - x.mean(**over)) / x.std(**over), atol=1e-5)


def test_batch_norm_has_an_offset_no_scale_and_the_originals_epsilon():
    norm = conv_network((8, 8, 1), 3, filters=4).get_layer("norm_1")
    assert (norm.center, norm.scale, norm.epsilon) == (True, False, 1e-3)


@pytest.mark.parametrize(
    "build",
    [lambda **k: dense_network(4, 2, **k), lambda **k: conv_network((8, 8, 1), 2, filters=4, **k)],
)
def test_none_means_no_normalisation(build):
    assert not any("Normalization" in name for name in layer_types(build(norm="none")))


def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="batch_norm, layer_norm, none; got 'bn'"):
        dense_network(1, 1, norm="bn")


def test_weights_are_a_function_of_the_seed():
    first, again, other = (conv_network((28, 28, 1), 5, seed=s).get_weights() for s in (3, 3, 4))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.allclose(first[0], other[0])


def test_layers_of_one_shape_start_differently():
    model = dense_network(8, 8, (8, 8))
    first, second = model.get_layer("dense_2").kernel, model.get_layer("head").kernel
    assert not np.allclose(first, second)


def test_initial_values():
    dense = dense_network(100, 1, (400,))
    kernel = dense.get_layer("dense_1").kernel.numpy()
    # A normal of 0.01 cut at two standard deviations keeps 0.88 of its spread.
    assert kernel.std() == pytest.approx(0.0088, rel=0.02)
    assert np.abs(kernel).max() <= 0.02
    assert not dense.get_layer("dense_1").bias.numpy().any()

    conv = conv_network((28, 28, 1), 20)
    kernel = conv.get_layer("conv_2").kernel.numpy()
    limit = np.sqrt(6 / (9 * 64 + 9 * 64))  # Glorot uniform
    assert 0.99 * limit < np.abs(kernel).max() <= limit
    assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.02)
    assert conv.get_layer("head").kernel.numpy().std() == pytest.approx(1.0, rel=0.05)

    pooled = conv_network((28, 28, 1), 20, filters=16, max_pool=True)
    assert np.abs(pooled.get_layer("head").kernel).max() <= np.sqrt(6 / (16 + 20))


@pytest.mark.parametrize(
    "build",
    [
        lambda **k: dense_network(4, 20, (400,), **k),
        lambda **k: conv_network((8, 8, 1), 20, **k),
        lambda **k: conv_network((32, 32, 1), 20, max_pool=True, **k),
    ],
)
def test_the_spread_of_the_head_can_be_chosen(build):
    usual, chosen = build(), build(head_stddev=0.3)
    assert chosen.get_layer("head").kernel.numpy().std() == pytest.approx(0.3, rel=0.05)
    for a, b in zip(usual.weights[:-2], chosen.weights[:-2], strict=True):
        np.testing.assert_array_equal(a, b)
    assert not build(head_stddev=0.0).get_layer("head").kernel.numpy().any()


def test_plain_keras_models_that_survive_cloning():
    model = conv_network((8, 8, 1), 2, filters=4)
    copy = keras.models.clone_model(model)
    assert [v.shape for v in copy.variables] == [v.shape for v in model.variables]


@pytest.mark.parametrize(
    "part, paths",
    [("head", ["head/kernel", "head/bias"]), ("context", ["context/vector"])],
)
def test_the_weights_of_a_part(part, paths):
    model, another = (dense_network(2, 3, context=True) for _ in range(2))
    belongs = part_of(model, part)
    chosen = [
        v.path.removeprefix("dense_network/") for v in model.trainable_variables if belongs(v)
    ]
    assert chosen == paths
    assert not any(map(belongs, another.trainable_variables))
    assert part_of(model, "all") is None


@pytest.mark.parametrize("norm", ["none", "batch_norm"])
def test_body_and_head_are_what_adapts_by_default(norm):
    model = dense_network(2, 3, norm=norm)
    adapting = {
        part: MetaLearner(model, "mse", adapts=part_of(model, part)).adapts
        for part in ("all", "head", "body")
    }
    assert adapting["all"] == np.logical_xor(adapting["head"], adapting["body"]).tolist()
    assert sum(adapting["head"]) == 2 and sum(adapting["body"]) == 4
    with pytest.raises(ValueError, match="has no head; give it its last layer name='head'"):
        part_of(keras.Sequential([keras.Input([2]), keras.layers.Dense(1)]), "body")


@pytest.mark.parametrize(
    "part, said",
    [
        ("tail", "part must be one of all, head, body, context; not 'tail'"),
        ("context", "'dense_network' has no context; give it context=True"),
    ],
)
def test_a_part_that_is_not_there(part, said):
    with pytest.raises(ValueError, match=said):
        part_of(dense_network(2, 3), part)
