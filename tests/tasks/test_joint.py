import numpy as np
import pytest
import tensorflow as tf

from maml_tf.tasks import Episodes, JointBatches

SIZES = (3, 4, 8)


def numbered(rotations=False):
    """Images [E, 2, 2, 1] of class c hold c everywhere, but the corner that counts the turns."""
    classes = [np.full((size, 2, 2, 1), 10 * c, np.uint8) for c, size in enumerate(SIZES)]
    for images in classes:
        images[:, 0, 0] += 1
    return Episodes(classes, ways=2, shots=1, queries=2, seed=3, rotations=rotations)


CORNERS = [(0, 0), (1, 0), (1, 1), (0, 1)]  # where a corner goes, counterclockwise


@pytest.mark.parametrize("rotations", [False, True])
def test_labels_are_the_true_classes(rotations):
    tasks = JointBatches(numbered(rotations))
    assert tasks.num_classes == (12 if rotations else 3)
    x, y = tasks(0, 50).query[:2]
    assert x.shape == (50, 4, 2, 2, 1) and y.shape == (50, 4)  # 2 ways x 2 queries an episode
    pixels = x.numpy().astype(int)[..., 0].reshape(-1, 2, 2)
    for image, label in zip(pixels, y.numpy().ravel(), strict=True):
        turns, own = divmod(int(label), len(SIZES))
        assert image[CORNERS[turns]] == 10 * own + 1 and image.sum() == 4 * 10 * own + 1
    assert set(y.numpy().ravel()) == set(range(tasks.num_classes))


def test_examples_are_served_as_the_episodes_serve_them():
    images = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    for scale, dtype in ((None, tf.uint8), (0.5, tf.float32)):
        episodes = Episodes(images, ways=2, shots=1, queries=(1, 2), scale=scale)
        x = JointBatches(episodes)(0, 30).query.x
        assert x.shape == (30, 4, 1) and x.dtype == dtype
        assert set(x.numpy().ravel()) == {n * (scale or 1) for n in range(6)}


def test_every_example_is_as_likely():
    labels = JointBatches(numbered())(0, 3000).query.y.numpy().ravel()
    shares = np.bincount(labels) / len(labels)
    np.testing.assert_allclose(shares, np.array(SIZES) / sum(SIZES), atol=0.02)


def test_a_meta_batch_is_a_function_of_its_index():
    one, again = JointBatches(numbered()), JointBatches(numbered())
    one(0, 2)
    later = [tasks(tf.constant(7, tf.int64), 2).query.y for tasks in (one, again)]
    np.testing.assert_array_equal(*later)
    assert np.any(one(6, 2).query.y != later[0])
