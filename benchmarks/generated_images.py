"""Writes images in the place and shape of MiniImagenet's, so that all of it can run without it.

    python -m benchmarks.generated_images DIR --layout=folders
    python -m benchmarks.generated_images DIR --layout=npz --classes 8 5 5 --examples 20

A class is a pattern of coloured blotches, an example that pattern moved and with noise, so that
a network can learn to tell classes apart. Splits share no class.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SPLITS = ("train", "val", "test")
LAYOUTS = ("folders", "csv", "ilsvrc", "npz", "flat_npz", "npy")
CLASSES = (64, 16, 20)
EXAMPLES = 600
SIZE = 84


def class_name(number: int) -> str:
    """A name in the form of ImageNet's."""
    return f"n{number + 1:08d}"


def class_images(number: int, examples: int, size: int = SIZE, seed: int = 0) -> np.ndarray:
    """Images uint8 [examples, size, size, 3] of one class, a function of the arguments."""
    random = np.random.default_rng((seed, number))
    pattern = random.integers(40, 216, (5, 5, 3), np.uint8)
    pattern = np.asarray(Image.fromarray(pattern).resize((size, size), Image.Resampling.BICUBIC))
    images = np.empty((examples, size, size, 3), np.uint8)
    for image in images:
        moved = np.roll(pattern, random.integers(0, size // 2, 2), axis=(0, 1))
        image[:] = moved + random.integers(0, 40, moved.shape, np.uint8)
    return images


def write(
    folder: Path,
    layout: str,
    classes: Sequence[int] = CLASSES,
    examples: int = EXAMPLES,
    *,
    size: int = SIZE,
    ending: str = ".png",
    seed: int = 0,
) -> None:
    """Writes three splits.

    Args:
      folder: `<data_dir>/miniimagenet`; made if need be.
      layout: `folders`: train/<class>/*; `csv`: images/* and train.csv; `ilsvrc`:
        ILSVRC2012_img_train/<class>/<class>_<number>.JPEG, more than the split files take, and
        split files of Ravi & Larochelle's names; `npz` [C, E, ...]; `flat_npz`: [n, ...] and
        labels; `npy`.
      classes: classes of train, val and test.
      examples: images of a class.
      size: pixels of a side.
      ending: of image files: ".png" keeps every value, ".jpg" does not.
      seed: of everything.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first = 0
    for split, count in zip(SPLITS, classes, strict=True):
        numbers = range(first, first + count)
        first += count
        if layout in ("npz", "flat_npz", "npy"):
            _write_arrays(folder / split, layout, numbers, examples, size, seed)
        else:
            rows = _write_files(folder, split, layout, numbers, examples, size, ending, seed)
            if layout != "folders":
                with open(folder / f"{split}.csv", "w", newline="") as file:
                    csv.writer(file).writerows([("filename", "label"), *rows])


def _write_arrays(path: Path, layout, numbers, examples, size, seed) -> None:
    images = np.empty((len(numbers), examples, size, size, 3), np.uint8)
    for place, number in zip(images, numbers, strict=True):
        place[:] = class_images(number, examples, size, seed)
    if layout == "npy":
        np.save(path, images)
    elif layout == "npz":
        np.savez(path, images=images)
    else:
        # Out of order, as labels allow.
        labels = np.tile(np.arange(len(numbers)), examples)
        np.savez(path, images=images.swapaxes(0, 1).reshape(-1, size, size, 3), labels=labels)


def _write_files(folder, split, layout, numbers, examples, size, ending, seed) -> list:
    rows = []
    for number in numbers:
        name = class_name(number)
        place = {"folders": folder / split / name, "csv": folder / "images"}.get(
            layout, folder / "ILSVRC2012_img_train" / name
        )
        place.mkdir(parents=True, exist_ok=True)
        for position, image in enumerate(class_images(number, examples, size, seed), start=1):
            listed = f"{name}{position:08d}.jpg" if layout == "ilsvrc" else f"{position:08d}"
            if layout == "ilsvrc":
                # Their numbers have gaps and no leading zeros: their order is not that of names.
                file = place / f"{name}_{7 * position}.JPEG"
            else:
                listed = f"{name}{listed}{ending}"
                file = place / listed
            Image.fromarray(image).save(file, quality=90)
            rows.append((listed, name))
    return rows


def main() -> None:
    """Writes what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a data_dir; images go to miniimagenet/ in it")
    parser.add_argument("--layout", choices=LAYOUTS, default="folders")
    parser.add_argument("--classes", type=int, nargs=3, default=CLASSES, help="train, val, test")
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="images of a class")
    parser.add_argument("--size", type=int, default=SIZE, help="pixels of a side")
    parser.add_argument("--ending", default=".jpg", help="of image files")
    options = vars(parser.parse_args())
    write(options.pop("folder") / "miniimagenet", **options)


if __name__ == "__main__":
    main()
