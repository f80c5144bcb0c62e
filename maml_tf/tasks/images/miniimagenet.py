"""MiniImagenet: 64 + 16 + 20 classes of ImageNet, 600 images of each, 84 x 84 RGB.

Classes from Vinyals et al. 2016, https://arxiv.org/abs/1606.04080; split by Ravi & Larochelle 2017.
Preparation as in Finn et al. 2017: the whole image to 84 x 84 by Lanczos resampling, x / 255, no
mean subtracted, nothing turned. data/miniimagenet/README.md says which files may lie where.

Shape letters: C classes, E examples of a class, n images of a split.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from maml_tf import seeds
from maml_tf.system.progress import Bar
from maml_tf.tasks.images import arrays as array_files
from maml_tf.tasks.images import cache as image_cache
from maml_tf.tasks.images import decoding
from maml_tf.tasks.images import files as image_files
from maml_tf.tasks.images import splits as split_files
from maml_tf.tasks.images import tfds as tensorflow_datasets
from maml_tf.tasks.images.decoding import ImageSplit

if TYPE_CHECKING:
    from maml_tf.tasks.episodes import Episodes

_LOG = logging.getLogger(__name__)

IMAGE_SIZE = 84
IMAGE_SHAPE = (IMAGE_SIZE, IMAGE_SIZE, 3)
ENDINGS = (".jpg", ".jpeg", ".png")
IMAGE_FOLDERS = ("images", "ILSVRC2012_img_train")
"""Where the images of split files may lie; the first that exists is used."""

_HOW = "data/miniimagenet/README.md says how to obtain and place the images"
_VERSION = 1  # Raise when the decoded array would change.


class _Source(NamedTuple):
    """A split that is found and checked, but not yet read."""

    counts: dict[str, int]
    key: str  # Names the contents; empty for what is read as it lies.
    read: Callable[[], np.ndarray]  # -> [n, 84, 84, 3]


def miniimagenet_episodes(
    data_dir: str | os.PathLike[str] | None = None,
    split: str = "train",
    *,
    ways: int,
    shots: int | tuple[int, int],
    queries: int = 15,
    seed: int = 0,
    download: bool = False,
) -> Episodes:
    """N-way K-shot episodes of the paper's MiniImagenet.

    Args:
      data_dir: see `miniimagenet_images`.
      split: "train" (64 classes), "val" (16) or "test" (20).
      ways: N, classes of a task.
      shots: K, support images per class, or (low, high), as for `Episodes`.
      queries: Q, query images per class; 15 in every split, unless given.
      seed: the run's seed.
      download: see `miniimagenet_images`.

    Returns:
      A `TaskSource` of images [T, N*K, 84, 84, 3] in 0 ... 1: bytes divided by 255. So give
      `adapt` and an exported model images divided by 255.

    Raises:
      FileNotFoundError: if the data is missing.
      ValueError: if the data is damaged or the episodes are impossible.
    """
    from maml_tf.tasks.episodes import Episodes
    from maml_tf.tasks.sizes import check_counts, check_sizes

    check_sizes(ways, shots, queries)
    source, folders = _find(data_dir, split, download)
    # Before the slow part, and by the names of the classes.
    sizes, names = list(source.counts.values()), list(source.counts)
    check_counts(np.asarray(sizes), ways, shots, queries, split, names)
    if min(sizes) < max(sizes):
        _LOG.warning(
            "Classes of the %r split have %d (%s) to %d images.",
            split,
            min(sizes),
            names[sizes.index(min(sizes))],
            max(sizes),
        )
    images = _read(source, split, folders)
    return Episodes(
        images, ways, shots, queries, seed=seed, split=split, counts=sizes, scale=1 / 255
    )


def miniimagenet_images(
    data_dir: str | os.PathLike[str] | None = None,
    split: str = "train",
    *,
    cache: bool = True,
    download: bool = False,
) -> ImageSplit:
    """All images of one split: classes in order of their names, images in order of theirs.

    Looks in `data_dir/miniimagenet`, then in `data_dir`, for all three splits as `train.npy`,
    `train.npz`, `train/<class>/*.jpg`, or `train.csv` beside a folder of images, and likewise `val`
    and `test`. Images of another size or mode are resized and converted; arrays are taken as they
    are.

    Args:
      data_dir: the folder that holds `miniimagenet/`; if not given, the environment variable
        MAML_TF_DATA, else "data".
      split: "train", "val" or "test".
      cache: keep the array in `cache/` beside the splits, or in the user's cache folder where
        that is read-only.
      download: if nothing is found, read what TensorFlow Datasets has built with
        data/miniimagenet/mini_imagenet. Nothing is fetched: the images may not be.

    Returns:
      The images, mapped into memory where they are kept in a file, and the size of each class.

    Raises:
      FileNotFoundError: if a split, or an image that it names, is missing.
      ValueError: if a file is damaged or no image, a class is in two splits, or an array has
        another shape or type; or if `download` finds no TensorFlow Datasets.
    """
    source, folders = _find(data_dir, split, download)
    return ImageSplit(_read(source, split, folders if cache else []), source.counts)


def _read(source: _Source, split: str, folders: list[Path]) -> np.ndarray:
    if not (source.key and folders):
        return source.read()
    return image_cache.cached_array(f"miniimagenet-{split}-{source.key}", folders, source.read)


def require(data_dir: str | os.PathLike[str] | None = None, *, download: bool = False) -> None:
    """Raises what `miniimagenet_images` would, if no split is there; opens nothing."""
    root, found = _root(data_dir)
    if not (found or download):
        raise _missing(root)


def cache_folders(data_dir: str | os.PathLike[str] | None = None) -> list[Path]:
    """Where decoded images are kept, in this order."""
    return image_cache.folders(_root(data_dir)[0], "miniimagenet")


def _find(data_dir, split: str, download: bool) -> tuple[_Source, list[Path]]:
    """Finds one split, and the folders that may keep its array."""
    seeds.check_split(split)
    root, found = _root(data_dir)
    if found:
        source = found(split)
    elif download:
        source = _tensorflow_datasets(root, split)
    else:
        raise _missing(root)
    return source, image_cache.folders(root, "miniimagenet")


def _missing(root: Path) -> FileNotFoundError:
    return FileNotFoundError(
        f"{root.absolute()} has no train.npy, train.npz, train/ or train.csv; {_HOW}."
    )


def _root(data_dir) -> tuple[Path, Callable[[str], _Source] | None]:
    """The folder of the data set, and what reads a split from it, if it is there."""
    base = image_files.data_folder(data_dir)
    for folder in (base / "miniimagenet", base):
        if found := _layout(folder):
            return folder, found
    return base / "miniimagenet", None


def _layout(root: Path) -> Callable[[str], _Source] | None:
    """What reads a split from this folder; nothing where there is none."""
    incomplete = ""
    for ending, read in ((".npy", _array), (".npz", _archive), ("", _folder), (".csv", _listed)):
        paths = {split: root / f"{split}{ending}" for split in seeds.SPLITS}
        there = {s for s, path in paths.items() if (path.is_file() if ending else path.is_dir())}
        missing = [path.name for split, path in paths.items() if split not in there]
        if not missing:
            return functools.partial(read, paths)
        if there and not incomplete:
            incomplete = f"{paths[min(there)].name} but no {' and no '.join(missing)}"
    if incomplete:
        raise FileNotFoundError(f"{root.absolute()} has {incomplete}; {_HOW}.")
    return None


# --- image files ---


def _folder(paths: Mapping[str, Path], split: str) -> _Source:
    """`train/<class>/*.jpg`."""
    folders = {s: image_files.list_folders(path) for s, path in paths.items()}
    split_files.check_disjoint({s: [f.name for f in own] for s, own in folders.items()})
    split_files.check_disjoint(
        {s: [os.path.realpath(f) for f in own] for s, own in folders.items()}
    )
    listed = image_files.list_files(paths[split])
    for name in listed.stamps:
        if name.count("/") != 1 or not name.lower().endswith(ENDINGS):
            raise ValueError(
                f"{listed.path}: {name} is not an image <class>/*{' or *'.join(ENDINGS)}; "
                "remove it."
            )
    if not listed.stamps:
        raise ValueError(f"{listed.path} holds no images; {_HOW}.")
    files = sorted(name.split("/") for name in listed.stamps)
    return _Source(
        dict(sorted(Counter(label for label, _ in files).items())),
        image_files.fingerprint([listed], _VERSION),
        functools.partial(_decode, [listed.path / label / name for label, name in files]),
    )


def _listed(paths: Mapping[str, Path], split: str) -> _Source:
    """`train.csv` beside `images/` or `ILSVRC2012_img_train/`."""
    path = paths[split]
    rows = {s: split_files.rows(p) for s, p in paths.items()}
    split_files.check_disjoint({s: {label for label, _ in r} for s, r in rows.items()})
    folders = [path.parent / name for name in IMAGE_FOLDERS]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        raise FileNotFoundError(
            f"{path} is there, but neither {' nor '.join(str(folder) for folder in folders)}; "
            f"{_HOW}."
        )
    files, absent = [], []
    by_number = functools.cache(functools.partial(_files_by_number, folder))
    for label, name in rows[split]:
        places = [place / n for n in _names(name) for place in (folder, folder / label)]
        places += _numbered(name, label, by_number)
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            absent.append(name)
        else:
            files.append(file)
    if absent:
        raise FileNotFoundError(
            f"{path} names {len(absent)} of {len(rows[split])} images that {folder} does not have, "
            f"first {absent[0]}; put them there as <filename> or <label>/<filename>."
        )
    _check_once(path, files)
    stamps = {
        f"{label} {file.relative_to(folder)}": image_files.stamp(file)
        for (label, _), file in zip(rows[split], files, strict=True)
    }
    return _Source(
        dict(sorted(Counter(label for label, _ in rows[split]).items())),
        image_files.fingerprint([image_files.ImageFiles(folder, stamps)], _VERSION),
        functools.partial(_decode, files),
    )


def _names(name: str) -> list[str]:
    """How a file may be called in the folder of images; a split file may name the folder, too."""
    first, _, rest = name.partition("/")
    return [name, rest] if rest and first in IMAGE_FOLDERS else [name]


def _check_once(path: Path, files: list[Path]) -> None:
    """Refuses two rows of a split file that mean one file."""
    twice = [file for file, count in Counter(files).items() if count > 1]
    if twice:
        raise ValueError(f"{path} names {twice[0]} twice; remove a line.")


def _numbered(name: str, label: str, by_number: Callable[[str], list[Path]]) -> list[Path]:
    """The ILSVRC file that a name of Ravi & Larochelle's split files stands for.

    `n0153282900000005.jpg` is the class n01532829 and the position 5, counted from 1, among all of
    the class's files in order of their own numbers.
    """
    match = re.fullmatch(rf"{re.escape(label)}(\d{{8}})\.\w+", name)
    position = int(match[1]) if match else 0
    return by_number(label)[position - 1 : position] if position else []


def _files_by_number(folder: Path, label: str) -> list[Path]:
    """A class's files `<wnid>_<number>.JPEG`, in order of the numbers."""
    files = [folder / label / name for name in image_files.list_names(folder / label)]
    matches = {file: re.fullmatch(r".*_(\d+)\.\w+", file.name) for file in files}
    numbers = {file: int(match[1]) for file, match in matches.items() if match}
    return sorted(numbers, key=lambda file: numbers[file])


def _decode(files: list[Path]) -> np.ndarray:
    """Decodes files to [n, 84, 84, 3]."""
    return decoding.decode(files, IMAGE_SHAPE, _rgb, "MiniImagenet")


def _rgb(image: Image.Image, place: str) -> Image.Image:
    """As the original had it: neither turned as EXIF says, nor laid on a ground."""
    return decoding.eight_bits(image, place).convert("RGB")


# --- arrays ---


def _array(paths: Mapping[str, Path], split: str) -> _Source:
    """`train.npy` [C, E, 84, 84, 3], mapped into memory."""
    path = paths[split]
    images = array_files.mapped(path)
    counts = _class_numbers(path, images.shape, images.dtype)
    return _Source(counts, "", lambda: images.reshape(-1, *IMAGE_SHAPE))


def _archive(paths: Mapping[str, Path], split: str) -> _Source:
    """`train.npz` with `images` [C, E, 84, 84, 3], or `images` [n, 84, 84, 3] and `labels` [n]."""
    path = paths[split]
    there = array_files.names(path)
    if "images" not in there:
        raise ValueError(
            f"{path} holds no array 'images', but {', '.join(there) or 'nothing'}; make it again."
        )
    shape, dtype = array_files.header(path, "images")
    labels = _labels(path, shape) if "labels" in there else None
    key = image_files.fingerprint(
        [image_files.ImageFiles(path.parent, {path.name: image_files.stamp(path)})], _VERSION
    )
    if labels is None:
        counts = _class_numbers(path, shape, dtype)
        return _Source(counts, key, lambda: _load_images(path).reshape(-1, *IMAGE_SHAPE))
    _check_images(path, shape[1:], dtype)
    order = np.argsort(labels, kind="stable")
    names, sizes = np.unique(labels, return_counts=True)
    counts = {str(name): int(size) for name, size in zip(names, sizes, strict=True)}
    return _Source(counts, key, lambda: _load_images(path)[order])


def _labels(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The labels of an archive's images, whose shape is given."""
    own, dtype = array_files.header(path, "labels")
    if own != shape[:1]:
        raise ValueError(
            f"{path} has labels {list(own)} for images {list(shape)}; save one label an image."
        )
    if dtype.kind not in "biufSUO":
        raise ValueError(f"{path} has labels of type {dtype}; save numbers or names.")
    return array_files.load(path, "labels", "cannot be read")


def _load_images(path: Path) -> np.ndarray:
    return array_files.load(path, "images")


def _class_numbers(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> dict[str, int]:
    """Sizes of numbered classes, of an array [C, E, 84, 84, 3]."""
    _check_images(path, shape[2:], dtype)
    return {str(label): shape[1] for label in range(shape[0])}


def _check_images(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Refuses an array whose images are not [84, 84, 3] of bytes."""
    if shape != IMAGE_SHAPE or dtype != np.uint8:
        raise ValueError(
            f"{path} does not hold uint8 images [classes, examples, 84, 84, 3] (or [n, 84, 84, 3] "
            f"with labels [n]): an image is {dtype} {list(shape)}; resize and convert them."
        )


# --- TensorFlow Datasets ---


def _tensorflow_datasets(root: Path, split: str) -> _Source:
    """What `tfds build` made of data/miniimagenet/mini_imagenet, in its own folder or in `root`."""
    tfds = tensorflow_datasets.library(_HOW)
    for folder in (str(root / "tfds"), None):  # None: the library's own.
        try:
            builder = tfds.builder("mini_imagenet", data_dir=folder)
        except tfds.core.DatasetNotFoundError:
            continue
        if builder.is_prepared():
            break
    else:
        raise FileNotFoundError(
            f"TensorFlow Datasets has no mini_imagenet in {root / 'tfds'} or its own folder; build "
            f"it, or {_HOW}."
        )
    named = "validation" if split == "val" else split
    undecoded = builder.as_dataset(split=named, decoders={"image": tfds.decode.SkipDecoding()})
    label_names = builder.info.features["label"].names
    files = sorted(
        (label_names[example["label"]], example["file_name"].decode())
        for example in tfds.as_numpy(undecoded)
    )

    def read() -> np.ndarray:
        images = np.empty((len(files), *IMAGE_SHAPE), np.uint8)
        place = {file: index for index, file in enumerate(files)}
        examples = tfds.as_numpy(builder.as_dataset(split=named))
        for example in Bar(examples, total=len(files), desc="Decoding MiniImagenet", disable=None):
            file = label_names[example["label"]], example["file_name"].decode()
            images[place[file]] = example["image"]
        return images

    counts = dict(sorted(Counter(label for label, _ in files).items()))
    built = image_files.list_files(Path(builder.data_dir))
    return _Source(counts, image_files.fingerprint([built], _VERSION), read)
