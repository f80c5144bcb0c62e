import numpy as np
import pytest
import tensorflow as tf

from maml_tf.engine import patches

# spatial lengths, kernel, strides, dilation, padding
GEOMETRIES = [
    ((5, 6), (3, 3), (1, 1), (1, 1), "same"),
    ((5, 6), (3, 2), (2, 3), (1, 1), "same"),
    ((5, 6), (2, 2), (2, 2), (1, 1), "valid"),
    ((7, 7), (3, 2), (1, 1), (2, 3), "same"),
    ((7, 7), (3, 3), (1, 1), (2, 2), "valid"),
    ((6, 5), (1, 1), (3, 3), (1, 1), "valid"),
    ((6,), (3,), (1,), (2,), "causal"),
    ((6,), (3,), (2,), (1,), "causal"),
    ((3, 4, 5), (2, 2, 2), (1, 2, 1), (1, 1, 1), "same"),
]


def random(seed, shape):
    return tf.constant(np.random.default_rng(seed).normal(size=shape))


def patches_in_loops(x, kernel, strides, dilation, padding):
    """Reads every tap of every output position, one at a time."""
    spatial = x.shape[1:-1]
    before, out = [], []
    for n, k, s, d in zip(spatial, kernel, strides, dilation, strict=True):
        reach = d * (k - 1)
        if padding == "valid":
            out.append((n - reach - 1) // s + 1)
            before.append(0)
        else:
            out.append(-(-n // s))
            spare = max((out[-1] - 1) * s + reach + 1 - n, 0)
            before.append(reach if padding == "causal" else spare // 2)
    y = np.zeros([len(x), *out, *kernel, x.shape[-1]])
    for position in np.ndindex(*out):
        for tap in np.ndindex(*kernel):
            at = [
                o * s + t * d - b
                for o, s, t, d, b in zip(position, strides, tap, dilation, before, strict=True)
            ]
            if all(0 <= i < n for i, n in zip(at, spatial, strict=True)):
                y[(slice(None), *position, *tap)] = x[(slice(None), *at)]
    return y.reshape([len(x), *out, -1])


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_patches_are_what_loops_read(geometry):
    spatial, *rest = geometry
    x = random(0, [2, *spatial, 3])
    np.testing.assert_array_equal(patches.extract(x, *rest), patches_in_loops(x.numpy(), *rest))


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_the_gradient_is_the_adjoint_and_its_gradient_the_patches_again(geometry):
    """p = G x is linear: <G x, q> = <x, G^T q>, and d(G^T q)/dq along x is G x."""
    spatial, *rest = geometry
    x = random(0, [2, *spatial, 3])
    q = random(1, patches.extract(x, *rest).shape)
    with tf.GradientTape() as outer:
        outer.watch(q)
        with tf.GradientTape() as inner:
            inner.watch(x)
            product = tf.reduce_sum(patches.extract(x, *rest) * q)
        adjoint = inner.gradient(product, x)
    np.testing.assert_allclose(tf.reduce_sum(adjoint * x), product)
    assert adjoint.shape == x.shape
    again = outer.gradient(adjoint, q, output_gradients=x)
    np.testing.assert_allclose(again, patches.extract(x, *rest))


def test_each_kind_of_padding_in_one_dimension_by_hand():
    x = tf.reshape(tf.constant([1.0, 2.0, 3.0]), [1, 3, 1])

    def rows(padding):
        return patches.extract(x, [2], [1], [1], padding)[0].numpy().tolist()

    assert rows("valid") == [[1, 2], [2, 3]]
    assert rows("same") == [[1, 2], [2, 3], [3, 0]]
    assert rows("causal") == [[0, 1], [1, 2], [2, 3]]


def test_the_number_of_images_may_be_unknown_when_traced():
    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, 4, 4, 2], tf.float64)])
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(patches.extract(x, [3, 3], [2, 2], [1, 1], "same") ** 2)
        return tape.gradient(y, x)

    x = random(0, [3, 4, 4, 2])
    # Each position's gradient is 2 x times the number of taps that read it.
    counts = patches_in_loops(np.ones([1, 4, 4, 1]), [3, 3], [2, 2], [1, 1], "same")
    assert gradient(x).shape == x.shape
    assert float(tf.reduce_sum(gradient(tf.ones_like(x)))) == 2 * counts.sum() * 3 * 2


def test_unknown_image_sizes_are_refused():
    @tf.function(autograph=False, input_signature=[tf.TensorSpec([1, None, 4, 2])])
    def take(x):
        return patches.extract(x, [3, 3], [1, 1], [1, 1], "same")

    with pytest.raises(ValueError, match="static image sizes"):
        take.get_concrete_function()
