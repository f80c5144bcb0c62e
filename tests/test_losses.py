import numpy as np
import pytest
import tensorflow as tf

from maml_tf import losses


def test_mean_squared_error_by_hand():
    outputs = tf.constant([[[1.0], [2.0]], [[0.0], [0.0]]])
    y = tf.constant([[[0.0], [4.0]], [[3.0], [0.0]]])
    # (1 + 4) / 2 and (9 + 0) / 2
    np.testing.assert_allclose(losses.mean_squared_error(outputs, y), [2.5, 4.5])


def test_mean_squared_error_averages_components_too():
    outputs = tf.constant([[[1.0, 3.0]]])
    np.testing.assert_allclose(losses.mean_squared_error(outputs, tf.zeros([1, 1, 2])), [5.0])


def test_mean_squared_error_takes_targets_of_another_type():
    assert (
        losses.mean_squared_error(tf.ones([1, 2], tf.float64), tf.zeros([1, 2])).dtype == "float64"
    )


def test_targets_without_the_last_axis_would_broadcast_and_are_refused():
    with pytest.raises(ValueError, match=r"y\[\.\.\., None\]"):
        losses.mean_squared_error(tf.zeros([1, 5, 1]), tf.zeros([1, 5]))


LOGITS = tf.math.log(tf.constant([[[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]], [[0.1, 0.2, 0.7]] * 2]))
LABELS = [[0, 0], [2, 1]]
# Task 0: -ln 1/2 and -ln 1/4; task 1: -ln 0.7 and -ln 0.2.
EXPECTED = [1.5 * np.log(2), -0.5 * (np.log(0.7) + np.log(0.2))]


@pytest.mark.parametrize("dtype", [tf.int32, tf.int64, tf.uint8])
def test_cross_entropy_by_hand(dtype):
    got = losses.cross_entropy(LOGITS, tf.constant(LABELS, dtype))
    np.testing.assert_allclose(got, EXPECTED, rtol=1e-6)


def test_cross_entropy_does_not_depend_on_a_common_shift_of_the_logits():
    got = losses.cross_entropy(LOGITS + 1e3, tf.constant(LABELS))
    np.testing.assert_allclose(got, EXPECTED, rtol=1e-4)


def test_summed_cross_entropy_is_the_sum_over_examples_divided_by_shots():
    ways, shots = 3, 2
    logits = tf.random.stateless_normal([4, ways * shots, ways], [1, 2])
    labels = tf.constant([[0, 0, 1, 1, 2, 2]] * 4)
    each = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    expected = tf.reduce_sum(each, -1) / shots
    np.testing.assert_allclose(losses.summed_cross_entropy(logits, labels), expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", [tf.int32, tf.int64, tf.uint8])
def test_accuracy_by_hand(dtype):
    # Task 0 predicts 0, 1 against 0, 0; task 1 predicts 2, 2 against 2, 1.
    got = losses.accuracy(LOGITS, tf.constant(LABELS, dtype))
    np.testing.assert_allclose(got, [0.5, 0.5])
    assert got.dtype == LOGITS.dtype


def test_one_number_per_task():
    logits, labels = tf.zeros([7, 4, 3]), tf.zeros([7, 4], tf.int32)
    for loss in (losses.cross_entropy, losses.summed_cross_entropy, losses.accuracy):
        assert loss(logits, labels).shape == [7]
    assert losses.mean_squared_error(tf.zeros([7, 4, 2, 2]), tf.zeros([7, 4, 2, 2])).shape == [7]
