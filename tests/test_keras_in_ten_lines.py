"""The program that a Keras user would write, as it stands in examples/."""

import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from maml_tf.supervised import serving_arguments as argument_types
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


def _as_if_pretrained(base):
    """Moving averages that fit the random weights; else features would vanish on the way."""
    norms = [v for v in base._flatten_layers() if isinstance(v, keras.layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0
    base(np.random.default_rng(1).uniform(-1, 1, [16, 32, 32, 3]), training=True)
    return base


@pytest.mark.slow
def test_a_frozen_backbone_and_a_folder_of_images(tmp_path, capsys, monkeypatch):
    _folders(tmp_path)
    program = _program()
    keras.utils.set_random_seed(0)
    base = _as_if_pretrained(program.backbone())
    monkeypatch.setattr(program, "backbone", lambda: base)
    # An export of the usual types alone, for the others take half of the program's time.
    every = argument_types.mixes
    monkeypatch.setattr(argument_types, "mixes", lambda *sets: [next(iter(every(*sets)))])
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
    # Its batch normalisations are frozen: nothing depends on the other images of a set.
    np.testing.assert_allclose(logits, adapted.predict(images[mine]), rtol=1e-4, atol=1e-3)


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
