"""Images in folders named by their class, as people have them.

Shape letters: n images, H height, W width, c channels.
"""

from __future__ import annotations

import functools
import logging
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from maml_tf import arguments, seeds
from maml_tf.system import texts
from maml_tf.system.files import user_path
from maml_tf.tasks.images import cache as image_cache
from maml_tf.tasks.images import decoding
from maml_tf.tasks.images import files as image_files
from maml_tf.tasks.images import splits as split_files
from maml_tf.tasks.images.decoding import ImageSplit

_LOG = logging.getLogger(__name__)

ENDINGS = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff")
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""How a split's folder, or its list of classes with .txt, may be called."""
SHARES = {"val": 0.16, "test": 0.2}
"""Of the classes, where nobody says which belong to which split; the rest are for training."""

_SPELT = {"gray": "grey", "grayscale": "grey", "greyscale": "grey"}
_VERSION = 1  # Raise when the decoded array would change.


def folder_images(
    directory: str | os.PathLike[str],
    split: str = "train",
    *,
    image_size: int | tuple[int, int] | None = None,
    color: str = "rgb",
    classes: Sequence[str] | None = None,
    cache: bool = True,
) -> ImageSplit:
    """All images of the classes of one split, in order of the classes' names, then of the files'.

    A folder in `directory` is a class, and the images anywhere below it are its examples. Which
    classes are of the split is said by `classes`; or else by folders `train/`, `val/` and `test/`
    around those of the classes; or by `train.txt`, `val.txt` and `test.txt` beside them, a name a
    line; or else 16 % of the classes are for validation and 20 % for tests, drawn once and for
    all, and the rest for training.

    What is no image by its ending is left out, and so is what file managers leave. Photographs are
    turned as their EXIF says; what is transparent lies on white; an animation is its first picture.

    Args:
      directory: that holds the folders.
      split: "train", "val" or "test".
      image_size: a number, or (height, width): every image is resampled to it as a whole, by
        Lanczos. Needed where images differ in size.
      color: "rgb" or "grey".
      classes: names of folders of classes, whatever the split.
      cache: keep the decoded array in the user's cache folder.

    Returns:
      uint8 images [n, H, W, c], and the number of images of each class.

    Raises:
      FileNotFoundError: the directory, or a class that is named, is missing.
      ValueError: there are no images or no classes, a class is in two splits, or a file is no
        image, or of another size than the others.
    """
    size, color = decoding.checked_size(image_size), check_color(color)
    files = _files(find(directory), seeds.check_split(split), classes)
    counts = {name: len(own) for name, own in files.items()}
    flat = [file for own in files.values() for file in own]
    size = size or _one_size(flat)
    shape = (*size, decoding.CHANNELS[color])
    stamps = {f"{name} {file}": image_files.stamp(file) for name in files for file in files[name]}
    source = image_files.ImageFiles(Path(), stamps)
    key = image_files.fingerprint([source], _VERSION)
    build = functools.partial(decoding.decode, flat, shape, decoding.upright(color), "images")
    if not arguments.boolean("cache", cache):
        return ImageSplit(build(), counts)
    name = f"{split}-{'x'.join(map(str, size))}-{color}-{key}"
    return ImageSplit(image_cache.cached_array(name, cache_folders(), build), counts)


def find(directory: str | os.PathLike[str]) -> Path:
    """The directory, if it is one.

    Raises:
      FileNotFoundError: it is not.
    """
    root = user_path(directory, "directory")
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root.absolute()} is no folder; name one that holds a folder of images per class."
        )
    return root


def cache_folders() -> list[Path]:
    """Where decoded images are kept: never beside a user's own."""
    return image_cache.folders(Path(), "images")[1:]


def check_color(color: str) -> str:
    """Returns "rgb" or "grey", which may be spelt otherwise, or raises ValueError."""
    color = _SPELT.get(color, color) if isinstance(color, str) else color
    if color not in decoding.MODES:
        choices = " or ".join(decoding.MODES)
        raise ValueError(f"color must be {choices}, not {arguments.shown(color)}.")
    return color


def _files(root: Path, split: str, classes: Sequence[str] | None) -> dict[str, list[Path]]:
    """The image files of each class of one split, both in order of their names."""
    if isinstance(classes, str):
        raise ValueError(f"classes must be a list of names of folders, not '{classes}'.")
    folders = {} if classes is not None else _split_folders(root)
    if folders:
        found = {s: _class_folders(folder) for s, folder in folders.items()}
        split_files.check_disjoint({s: map(_plain, own) for s, own in found.items()})
        place, own = folders.get(split, root / split), found.get(split)
        if own is None:
            raise FileNotFoundError(
                f"{root.absolute()} has {', '.join(f'{f.name}/' for f in folders.values())} but no "
                f"{split}/; make it, with folders of classes that the others lack."
            )
    else:
        place, every = root, _class_folders(root)
        names = _chosen(root, every, split) if classes is None else classes
        own = _named(root, every, names)
    files = {name: _images(folder) for name, folder in own.items()}
    if not files:
        raise ValueError(
            f"{place.absolute()} holds no folders of classes; put the images of each class into a "
            "folder of its own."
        )
    for name, images in files.items():
        if not images:
            raise ValueError(
                f"{place.absolute()}: folder {name} holds no images (*{' *'.join(ENDINGS)}); put "
                "some there, or remove it."
            )
    return files


def _split_folders(root: Path) -> dict[str, Path]:
    """The folders of the splits, if there are any for training and one other."""
    found = {}
    for split, names in SPLIT_FOLDERS.items():
        there = [root / name for name in names if (root / name).is_dir()]
        if there:
            found[split] = there[0]
    return found if "train" in found and len(found) > 1 else {}


def _class_folders(root: Path) -> dict[str, Path]:
    """Folders of classes by their names, in order."""
    folders = image_files.list_folders(root)
    return {folder.name: folder for folder in sorted(folders, key=lambda f: _plain(f.name))}


def _plain(name: str) -> str:
    """A name in one form of Unicode: file systems differ in how they write an accent."""
    return unicodedata.normalize("NFC", name)


def _chosen(root: Path, folders: Mapping[str, Path], split: str) -> Iterable[str]:
    """Names of the classes of a split, by the lists beside them, or else by lot."""
    lists = {
        s: path
        for s, names in SPLIT_FOLDERS.items()
        for path in [root / f"{name}.txt" for name in names]
        if path.is_file()
    }
    if lists:
        named = {s: _lines(path) for s, path in lists.items()}
        split_files.check_disjoint(named)
        if split not in named:
            raise FileNotFoundError(
                f"{root.absolute()} has {', '.join(path.name for path in lists.values())} but no "
                f"{split}.txt; write one, a name of a class a line."
            )
        return named[split]
    names = list(folders)
    order = np.random.default_rng(0).permutation(len(names))
    held_out = {s: max(1, round(share * len(names))) for s, share in SHARES.items()}
    ends = {"val": held_out["val"], "test": sum(held_out.values()), "train": len(names)}
    starts = {"val": 0, "test": held_out["val"], "train": ends["test"]}
    chosen = [names[place] for place in sorted(order[starts[split] : ends[split]])]
    if names and not chosen:
        raise ValueError(
            f"{root.absolute()} has {len(names)} classes, too few for classes of training, "
            "validation and tests; add some, or say by train.txt, val.txt and test.txt which are "
            "which."
        )
    return chosen


def _lines(path: Path) -> list[str]:
    text = texts.decode(image_files.read_file(path), str(path))
    lines = (line.strip().rstrip("/") for line in text.splitlines())
    return [_plain(line) for line in lines if line and not line.startswith("#")]


def _named(root: Path, folders: Mapping[str, Path], names: Iterable[str]) -> dict[str, Path]:
    there = {_plain(name): name for name in folders}
    wanted = sorted({_plain(str(name)) for name in names})
    missing = [name for name in wanted if name not in there]
    if missing:
        raise FileNotFoundError(
            f"{root.absolute()} has no folder {missing[0]}; it has "
            f"{arguments.shown(', '.join(folders)) if folders else 'none'}."
        )
    return {there[name]: folders[there[name]] for name in wanted}


def _images(folder: Path) -> list[Path]:
    names = list(image_files.list_files(folder).stamps)
    images = [name for name in names if name.lower().endswith(ENDINGS)]
    if len(images) < len(names):
        other = next(name for name in names if name not in set(images))
        _LOG.warning(
            "%s: left out %d files that are no images by their ending, first %s.",
            folder,
            len(names) - len(images),
            other,
        )
    return [folder / name for name in images]


def _one_size(files: Sequence[Path]) -> tuple[int, int]:
    """The size of all images, upright, by their headers."""
    first: tuple[int, int] | None = None
    for file in files:
        size = decoding.size_of(file)
        if first is not None and size != first:
            raise ValueError(
                f"{file} has {size[0]} x {size[1]} pixels, {files[0]} has {first[0]} x {first[1]}; "
                "give image_size=(height, width), to which all are resampled."
            )
        first = size
    assert first is not None
    return first
