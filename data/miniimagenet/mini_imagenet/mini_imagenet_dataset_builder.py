"""MiniImagenet: 100 classes of ImageNet, 600 images of each, 84 x 84 RGB."""

from __future__ import annotations

import csv

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

_SIZE = 84
_LABELS = epath.Path(__file__).parent / "labels.txt"


class Builder(tfds.core.GeneratorBasedBuilder):
    """Reads images and split files that the user has put into the manual directory."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Initial release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    The images are ImageNet's and may not be redistributed: get the training images of ILSVRC 2012
    from https://image-net.org under its terms. Put into the manual directory

    * `train.csv`, `val.csv` and `test.csv` (`filename,label`), the split of Ravi & Larochelle 2017,
    * `images/<filename>` or `images/<label>/<filename>` for every file that they name.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        """Features and where the data comes from."""
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(_SIZE, _SIZE, 3), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names_file=_LABELS),
                    "file_name": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://openreview.net/forum?id=rJY0-Kcll",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        """Training, validation and test classes, which share none."""
        folder = dl_manager.manual_dir
        return {
            split: self._generate_examples(folder / "images", folder / f"{name}.csv")
            for split, name in (
                (tfds.Split.TRAIN, "train"),
                (tfds.Split.VALIDATION, "val"),
                (tfds.Split.TEST, "test"),
            )
        }

    def _generate_examples(self, folder: epath.Path, split_file: epath.Path):
        """Yields every image that a split file names."""
        image_library = tfds.core.lazy_imports.PIL_Image
        with split_file.open() as file:
            for row in csv.DictReader(file):
                name, label = row["filename"], row["label"]
                places = (folder / name, folder / label / name)
                path = next((place for place in places if place.exists()), None)
                if path is None:
                    raise FileNotFoundError(
                        f"{split_file} names {name}, which {folder} does not have; put it there."
                    )
                with path.open("rb") as contents:
                    image = image_library.open(contents).convert("RGB")
                if image.size != (_SIZE, _SIZE):
                    image = image.resize((_SIZE, _SIZE), image_library.Resampling.LANCZOS)
                example = {"image": np.asarray(image), "label": label, "file_name": name}
                yield f"{label}/{name}", example
