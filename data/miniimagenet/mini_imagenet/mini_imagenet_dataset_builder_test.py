"""Builds the data set from generated images."""

import csv
import pathlib
import tempfile

import numpy as np
import pytest
from PIL import Image

tfds = pytest.importorskip(
    "tensorflow_datasets", reason="needs TensorFlow Datasets: pip install 'maml-tf[tfds]'"
)
pytest.importorskip("dill", reason="TensorFlow Datasets' own tests need dill")
from . import mini_imagenet_dataset_builder as module  # noqa: E402

LABELS = (pathlib.Path(__file__).parent / "labels.txt").read_text().split()


def write_images(folder):
    """Two images of one class a split, of another size and mode than wanted."""
    (folder / "images" / LABELS[1]).mkdir(parents=True)
    for number, split in enumerate(("train", "val", "test")):
        label = LABELS[number]
        rows = [("filename", "label")]
        for position in range(2):
            name = f"{label}{position + 1:08d}.jpg"
            # By the name alone, or below its class.
            place = folder / "images" / (label if number == 1 else "") / name
            Image.fromarray(np.full((90, 100), 80 * number + position, np.uint8)).save(place)
            rows.append((name, label))
        with open(folder / f"{split}.csv", "w", newline="") as file:
            csv.writer(file).writerows(rows)


class MiniImagenetTest(tfds.testing.DatasetBuilderTestCase):
    """The library's own conformance test."""

    DATASET_CLASS = module.Builder
    SPLITS = {"train": 2, "validation": 2, "test": 2}

    @classmethod
    def setUpClass(cls):
        """Generates the dummy data, instead of keeping images in the repository."""
        cls._images = tempfile.TemporaryDirectory()
        cls.EXAMPLE_DIR = cls._images.name
        write_images(pathlib.Path(cls._images.name))
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        """Removes it."""
        super().tearDownClass()
        cls._images.cleanup()


if __name__ == "__main__":
    tfds.testing.test_main()
