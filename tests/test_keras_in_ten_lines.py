"""The program that a Keras user would write, as it stands in examples/."""

import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from maml_tf.tasks import Episodes

PROGRAM = Path(__file__).parents[1] / "examples" / "keras_in_ten_lines.py"


def _program():
    spec = importlib.util.spec_from_file_location("keras_in_ten_lines", PROGRAM)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    return program


def _folders(place, classes=(5, 4), images=4):
    """A colour a class, with noise."""
    rng = np.random.default_rng(0)
    for split, number in zip(("train", "test"), classes, strict=True):
        for kind in range(number):
            folder = place / split / f"{split}_{kind}"
            folder.mkdir(parents=True)
            colour = rng.integers(0, 256, 3)
            for i in range(images):
                noisy = colour + rng.normal(0, 10, [40, 36, 3])
                picture = Image.fromarray(np.clip(noisy, 0, 255).astype("uint8"))
                picture.save(folder / f"{i}.png")


def test_a_frozen_backbone_and_a_folder_of_images(tmp_path, capsys):
    _folders(tmp_path)
    program = _program()
    keras.utils.set_random_seed(0)
    estimate, adapted = program.main(tmp_path, iterations=3)
    assert estimate.num_tasks == 20 and estimate.mean.shape == (4,)
    # Colours are told apart even by a random backbone, once the head has adapted.
    assert estimate.mean[-1] > estimate.mean[0] + 0.2
    said = capsys.readouterr().out
    assert "accuracy on new classes" in said
    images, labels = program.images_of(tmp_path / "test")
    assert images.shape == (16, 32, 32, 3) and images.max() > 100
    mine = labels < 3
    loaded = tf.saved_model.load(str(tmp_path / "exported"))
    logits = loaded.adapt_and_predict(images[mine], labels[mine], images[mine])
    np.testing.assert_allclose(logits, adapted.predict(images[mine]), atol=1e-4)
    # Bytes go in as they are, and so do the same numbers.
    shots = tf.constant(np.round(images[mine]))
    as_bytes = loaded.adapt_and_predict(
        tf.cast(shots, tf.uint8), tf.constant(labels[mine]), tf.cast(shots, tf.uint8)
    )
    expected = loaded.adapt_and_predict(shots, labels[mine], shots)
    np.testing.assert_allclose(as_bytes, expected, atol=1e-5)


def test_classes_by_label_are_those_by_count():
    rng = np.random.default_rng(0)
    labels = np.array([2, 0, 1, 0, 2, 1, 1, 0, 2])
    images = rng.normal(size=[9, 4]).astype("float32")
    by_class = [images[labels == c] for c in range(3)]
    expected = Episodes(by_class, 2, 1, 1)(3, 4)
    for given in (labels, labels[:, None], np.array(["a", "b", "c"])[labels]):
        got = Episodes(images, 2, 1, 1, labels=given)(3, 4)
        tf.nest.map_structure(np.testing.assert_array_equal, got, expected)
    got = Episodes({"a": images}, 2, 1, 1, labels=labels)(3, 4)
    np.testing.assert_array_equal(got.support.x["a"], expected.support.x)


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"labels have shape \(3,\) for 4 examples"):
        Episodes(np.zeros([4, 2]), 1, 1, 1, labels=[0, 0, 1])
    with pytest.raises(ValueError, match="counts and labels"):
        Episodes(np.zeros([4, 2]), 1, 1, 1, labels=[0, 0, 1, 1], counts=[2, 2])
