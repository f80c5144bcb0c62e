"""Arrays, datasets and augmentation of one's own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf.tasks import Episodes

CLASSES, EXAMPLES = 4, 5


def examples(shape=(6, 7, 3), dtype=np.uint8):
    """Examples [20, ...] in random order, whose values all are 10 times their class; labels."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(CLASSES), EXAMPLES))
    x = np.broadcast_to(10 * labels.reshape(-1, *[1] * len(shape)), (len(labels), *shape))
    return x.astype(dtype), labels


def check(source, shape, scale=1.0):
    task = source(0, 3)
    x = task.support.x.numpy()
    assert x.shape == (3, 4, *shape)
    classes = x.reshape(3, 4, -1)[..., 0] / scale / 10
    for task_classes, y in zip(classes, task.support.y.numpy(), strict=True):
        assert len({round(float(c)) for c in task_classes}) == 2
        assert all(len({round(float(c)) for c in task_classes[y == n]}) == 1 for n in (0, 1))


@pytest.mark.parametrize("shape", [(6, 7, 3), (12, 2), (5,), ()])
def test_arrays_of_images_sequences_rows_and_numbers(shape):
    x, labels = examples(shape)
    check(Episodes.from_arrays(x, labels, 2, 2), shape)
    names = np.array(["ant", "bee", "cat", "dog"])[labels]
    named = Episodes.from_arrays(x, names, 2, 2, queries=1)
    assert named.class_names == ["ant", "bee", "cat", "dog"]
    check(named, shape)


@pytest.mark.parametrize("form", ["pairs", "dictionaries"])
def test_datasets(form):
    x, labels = examples()
    data = (x, labels) if form == "pairs" else {"image": x, "label": labels, "id": labels}
    dataset = tf.data.Dataset.from_tensor_slices(data)
    check(Episodes.from_dataset(dataset, 2, 2), (6, 7, 3))
    scaled = Episodes.from_dataset(dataset, 2, 2, image_size=(3, 4), scale=1 / 255)
    check(scaled, (3, 4, 3), 1 / 255)


def test_a_dataset_of_images_of_several_sizes():
    sizes = [3, 5] * 10
    data = tf.data.Dataset.from_generator(
        lambda: ((np.full((s, s, 1), n, np.uint8), n % 2) for n, s in enumerate(sizes)),
        output_signature=(tf.TensorSpec([None, None, 1], tf.uint8), tf.TensorSpec([], tf.int32)),
    )
    source = Episodes.from_dataset(data, 2, 1, image_size=4)
    assert source(0, 1).support.x.shape == (1, 2, 4, 4, 1)
    with pytest.raises(ValueError, match=r"differ in shape: \[3, 3, 1\], then \[5, 5, 1\]; give"):
        Episodes.from_dataset(data, 2, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.map(lambda x, y: x), "the dataset has no labels: its elements are"),
        (lambda data: data.batch(2), r"a label has the shape .*; give one number or name"),
        (lambda data: data.repeat(), "repeats without end; drop .repeat"),
        (lambda data: data.filter(lambda x, y: y < 0), "the dataset has no examples"),
        (lambda data: data.map(lambda x, y: {"a": x, "b": y}), "elements have a, b; map them to"),
        (lambda data: [1, 2], r"takes a tf.data.Dataset of \(example, label\), not \[1, 2\]"),
        (lambda data: data.map(lambda x, y: (x, tf.one_hot(y, 4))), "one-hot labels the argmax"),
    ],
)
def test_a_wrong_dataset_is_one_line(change, message):
    data = change(tf.data.Dataset.from_tensor_slices(examples()))
    with pytest.raises(ValueError, match=message) as info:
        Episodes.from_dataset(data, 2, 1)
    assert "\n" not in str(info.value)


def test_resampling_needs_images_of_bytes():
    data = tf.data.Dataset.from_tensor_slices(examples(dtype=np.float32))
    with pytest.raises(ValueError, match=r"image_size resamples images of bytes .* float32"):
        Episodes.from_dataset(data, 2, 1, image_size=3)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_bytes_that_nobody_scales_are_warned_of(dtype, caplog):
    x, labels = examples(dtype=dtype)
    Episodes.from_arrays(x, labels, 2, 1)
    assert "hold values from 0 to 30, which go into the model as they are" in caplog.text
    caplog.clear()
    Episodes.from_arrays(x, labels, 2, 1, scale=1.0)
    Episodes.from_arrays(x[:, 0], labels, 2, 1)  # no images
    Episodes.from_arrays(x / 255, labels, 2, 1)
    assert not caplog.text


# --- augmentation ---


def flips(**options):
    return keras.Sequential(
        [
            keras.layers.RandomFlip("horizontal_and_vertical", **options),
            keras.layers.RandomTranslation(0.2, 0.2, **options),
        ]
    )


def wide():
    """Images no two pixels of which are alike."""
    x = np.random.default_rng(1).uniform(size=(20, 6, 6, 1)).astype(np.float32)
    return x, np.repeat(np.arange(4), 5)


def episodes(augment, **options):
    return Episodes.from_arrays(*wide(), 2, 2, augment=augment, **options)


@pytest.mark.parametrize("augment", [flips(), lambda x, seed: x + seeded_noise(x, seed)])
def test_augmentation_is_a_function_of_seed_split_and_index(augment):
    source, plain = episodes(augment), episodes(None)
    task, again = source(3, 4), source(3, 4)
    source(9, 4)
    traced = tf.function(lambda index: source(index, 4))(tf.constant(3, tf.int64))
    for name in ("support", "query"):
        x = getattr(task, name).x
        np.testing.assert_array_equal(x, getattr(again, name).x)
        np.testing.assert_allclose(x, getattr(traced, name).x, atol=1e-6)
        assert np.abs(x - getattr(plain(3, 4), name).x).max() > 0.1
        np.testing.assert_array_equal(getattr(task, name).y, getattr(plain(3, 4), name).y)
    changed = task.support.x - plain(3, 4).support.x
    for other in (episodes(augment, seed=1), episodes(augment, split="val")):
        base = episodes(None, seed=other.seed, split=other.split)
        assert np.abs(other(3, 4).support.x - base(3, 4).support.x - changed).max() > 0.01


def seeded_noise(x, seed):
    return tf.random.stateless_normal(tf.shape(x), seed)


def test_a_dictionary_augments_one_set():
    source, plain = episodes({"support": flips(), "query": None}), episodes(None)
    task, same = source(0, 2), plain(0, 2)
    np.testing.assert_array_equal(task.query.x, same.query.x)
    assert np.abs(task.support.x - same.support.x).max() > 0.1


def test_padding_is_not_augmented():
    noise = keras.layers.GaussianNoise(1.0)
    source = Episodes.from_arrays(*wide(), 2, (1, 3), 1, augment=noise)
    support = source(0, 16).support
    assert not support.mask.numpy().all() and support.mask.numpy().any()
    assert not support.x.numpy()[~support.mask.numpy()].any()


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (7, r"must be a Keras layer or model, a function of \(x, seed\), or a dictionary"),
        (lambda x: x, "must be a Keras layer or model, a function of"),
        ({"train": flips()}, "augment has train; its keys are support, query"),
        (keras.layers.RandomCrop(3, 3), r"augment of the support set makes \(3, 3, 1\) of"),
        (keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Dense(1)]), "has weights to train"),
        (lambda x, seed: x @ seed, "augment of the support set fails on float32 examples"),
    ],
)
def test_a_wrong_augmentation_is_one_line(augment, message):
    with pytest.raises(ValueError, match=message) as info:
        episodes(augment)
    assert "\n" not in str(info.value)


def test_a_learner_trains_on_augmented_episodes_of_a_dataset():
    x, labels = wide()
    data = tf.data.Dataset.from_tensor_slices((x, labels))
    source = Episodes.from_dataset(data, 2, 2, augment=flips())
    inputs = keras.Input((6, 6, 1))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs)))

    def trained():
        keras.utils.set_random_seed(0)
        made = keras.models.clone_model(model)
        made.set_weights([np.full(w.shape, 0.01, np.float32) for w in model.weights])
        learner = maml_tf.MetaLearner(
            made, keras.losses.SparseCategoricalCrossentropy(from_logits=True), meta_batch_size=2
        )
        maml_tf.train(learner, source, iterations=5, progress=False)
        return made.get_weights()

    for one, other in zip(trained(), trained(), strict=True):
        np.testing.assert_array_equal(one, other)
