"""CIFAR-100, dealt into few-shot classes in the two published ways.

CIFAR-FS: Bertinetto et al. 2019, https://arxiv.org/abs/1805.08136; 64 + 16 + 20 classes at random.
FC100: Oreshkin et al. 2018, https://arxiv.org/abs/1805.10123; 60 + 20 + 20 classes by superclass,
so that those of the tests are like none of the training's. data/cifar100/README.md says which files
may lie where.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maml_tf import seeds
from maml_tf.tasks.images import cache as image_cache
from maml_tf.tasks.images import files as image_files
from maml_tf.tasks.images import numbers_only, tfds
from maml_tf.tasks.images.decoding import ImageSplit

if TYPE_CHECKING:
    from maml_tf.tasks.episodes import Episodes

IMAGE_SHAPE = (32, 32, 3)
EXAMPLES = 600
"""Images of a class, of CIFAR-100's training and test sets together."""

SUPERCLASSES = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}
"""The 100 classes by superclass. Their numbers in the data set are their places in the alphabet."""

CLASSES = sorted(name for names in SUPERCLASSES.values() for name in names.split())

_FS_VAL = (
    "beaver otter flatfish shark lamp television beetle butterfly sea camel cattle crab crocodile "
    "maple_tree motorcycle tractor"
).split()
_FS_TEST = (
    "whale poppy rose sweet_pepper telephone bed table wardrobe leopard plain chimpanzee fox snail "
    "worm baby man woman bicycle pickup_truck rocket"
).split()
_FC_VAL = (
    *("large_carnivores", "large_omnivores_and_herbivores"),
    *("non-insect_invertebrates", "small_mammals"),
)
_FC_TEST = ("aquatic_mammals", "insects", "medium_mammals", "people")


def _of_superclasses(superclasses: tuple[str, ...]) -> list[str]:
    return [name for each in superclasses for name in SUPERCLASSES[each].split()]


def _dealt(val: list[str], test: list[str]) -> dict[str, list[str]]:
    train = [name for name in CLASSES if name not in {*val, *test}]
    return {"train": train, "val": sorted(val), "test": sorted(test)}


SPLITS = {
    "cifar_fs": _dealt(_FS_VAL, _FS_TEST),
    "fc100": _dealt(_of_superclasses(_FC_VAL), _of_superclasses(_FC_TEST)),
}
"""Classes of each split, in order of the alphabet."""

_HOW = "data/cifar100/README.md says how to obtain and place it"
_VERSION = 1  # Raise when the array would change.
_RECORD = 2 + 3072
"""Bytes of an image in the binary version: superclass, class, red, green and blue planes."""


def cifar_fs_episodes(
    data_dir: str | os.PathLike[str] | None = None, split: str = "train", **options: Any
) -> Episodes:
    """N-way K-shot episodes of CIFAR-FS: 64 classes to train on, 16 to validate, 20 for tests.

    Args:
      data_dir: see `cifar100_images`.
      split: "train", "val" or "test".
      **options: `ways`, `shots`, `queries` (15 per class unless given), `seed` and others of
        `Episodes`, and `download`, see `cifar100_images`.

    Returns:
      A `TaskSource` of images [T, N*K, 32, 32, 3] in 0 ... 1: bytes divided by 255.

    Raises:
      FileNotFoundError: if the data is missing.
      ValueError: if it is damaged, or the episodes are impossible.
    """
    return _episodes("cifar_fs", data_dir, split, **options)


def fc100_episodes(
    data_dir: str | os.PathLike[str] | None = None, split: str = "train", **options: Any
) -> Episodes:
    """N-way K-shot episodes of FC100: 60 classes to train on, 20 to validate, 20 for tests.

    Arguments, result and errors are those of `cifar_fs_episodes`.
    """
    return _episodes("fc100", data_dir, split, **options)


def _episodes(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    split: str,
    *,
    ways: int,
    shots: int | tuple[int, int],
    queries: int | tuple[int, int] = 15,
    download: bool = False,
    **options: Any,
) -> Episodes:
    from maml_tf.tasks.episodes import Episodes
    from maml_tf.tasks.sizes import check_counts

    classes = SPLITS[name][seeds.check_split(split)]
    sizes = [EXAMPLES] * len(classes)
    check_counts(np.asarray(sizes), ways, shots, queries, split, classes)  # before the slow part
    images, _ = cifar100_images(data_dir, classes, download=download)
    options.setdefault("scale", 1 / 255)
    return Episodes(images, ways, shots, queries, counts=sizes, split=split, **options)


def cifar100_images(
    data_dir: str | os.PathLike[str] | None = None,
    classes: list[str] | None = None,
    *,
    cache: bool = True,
    download: bool = False,
) -> ImageSplit:
    """CIFAR-100's images of some classes, those of its training set before those of its test set.

    Looks in `data_dir/cifar100` for the official archives or the folders in them:
    `cifar-100-binary.tar.gz`, `cifar-100-binary/`, `cifar-100-python.tar.gz`, `cifar-100-python/`;
    then for what `keras.datasets.cifar100` has downloaded.

    Args:
      data_dir: the folder that holds `cifar100/`; if not given, the environment variable
        MAML_TF_DATA, else "data".
      classes: names, see `CLASSES`; None: all.
      cache: keep all images as one array in `<data_dir>/cifar100/cache`, or in the user's cache
        folder where that is read-only.
      download: if nothing is found, let TensorFlow Datasets download and prepare the data. It may
        give the images of a class in another order, hence other tasks for a seed.

    Returns:
      uint8 images [600 times the number of classes, 32, 32, 3], class after class, and 600 for
      each class.

    Raises:
      FileNotFoundError: if nothing is found.
      ValueError: if a file is damaged, or a class has not 600 images; or if `download` finds no
        TensorFlow Datasets.
    """
    key, build = _source(data_dir, download)
    folders = cache_folders(data_dir)
    images = image_cache.cached_array(f"cifar100-{key}", folders, build) if cache else build()
    classes = CLASSES if classes is None else classes
    if classes != CLASSES:
        images = np.concatenate([images[CLASSES.index(name)] for name in classes])
    return ImageSplit(images.reshape(-1, *IMAGE_SHAPE), dict.fromkeys(classes, EXAMPLES))


def require(data_dir: str | os.PathLike[str] | None = None, *, download: bool = False) -> None:
    """Raises what `cifar100_images` would, if the data set is not there; opens nothing."""
    if not (download or _found(data_dir)):
        raise _missing(data_dir)


def cache_folders(data_dir: str | os.PathLike[str] | None = None) -> list[Path]:
    """Where the array is kept, in this order."""
    return image_cache.folders(_root(data_dir), "cifar100")


def _root(data_dir) -> Path:
    return image_files.data_folder(data_dir) / "cifar100"


def _missing(data_dir) -> FileNotFoundError:
    return FileNotFoundError(
        f"{_root(data_dir).absolute()} has no cifar-100-binary.tar.gz, no cifar-100-python.tar.gz "
        f"and no folder out of one; {_HOW}."
    )


def _found(data_dir) -> tuple[Path, str] | None:
    """Where the data set is, and which version."""
    root, keras_home = _root(data_dir), os.environ.get("KERAS_HOME")
    kept = (Path(keras_home) if keras_home else Path.home() / ".keras") / "datasets"
    places = [root, kept / "cifar-100-python-target", kept]
    for place in places:
        for version in ("binary", "python"):
            for path in (place / f"cifar-100-{version}.tar.gz", place / f"cifar-100-{version}"):
                if path.exists():
                    return path, version
    return None


def _source(data_dir, download: bool) -> tuple[str, Callable[[], np.ndarray]]:
    """Cache key, and what makes the array [100, 600, 32, 32, 3]."""
    found = _found(data_dir)
    if found is None:
        if download:
            return _tensorflow_datasets(_root(data_dir) / "cache" / "tfds")
        raise _missing(data_dir)
    path, version = found
    names = ("train.bin", "test.bin") if version == "binary" else ("train", "test")
    files = [path] if path.is_file() else [path / name for name in names]
    lacking = [str(file) for file in files if not file.is_file()]
    if lacking:
        raise FileNotFoundError(f"{lacking[0]} is missing; {_HOW}.")
    stamps = {file.name: image_files.stamp(file) for file in files}
    key = image_files.fingerprint([image_files.ImageFiles(path, stamps)], _VERSION)
    read = _binary if version == "binary" else _python

    def build() -> np.ndarray:
        fault = f"{path} is not a whole CIFAR-100; get it again."
        with image_files.damage(fault):
            parts = [read(contents) for contents in _contents(path, names)]
        images, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
        return _by_class(images, labels, str(path))

    return key, build


def _contents(path: Path, names: tuple[str, ...]) -> Iterator[bytes]:
    """The files of these names, of a folder or an archive, of which nothing is unpacked."""
    if path.is_dir():
        for name in names:
            yield (path / name).read_bytes()
        return
    with tarfile.open(path) as archive:
        members = {Path(member.name).name: member for member in archive if member.isfile()}
        for name in names:
            file = archive.extractfile(members[name])
            assert file is not None
            yield file.read()


def _binary(contents: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, 32, 32, 3] and classes [n] of the binary version."""
    records = np.frombuffer(contents, np.uint8).reshape(-1, _RECORD)
    return _upright(records[:, 2:]), records[:, 1].astype(np.int64)


def _python(contents: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, 32, 32, 3] and classes [n] of the Python version."""
    held = numbers_only.load(contents)
    return _upright(held[b"data"]), np.asarray(held[b"fine_labels"], np.int64)


def _upright(planes: np.ndarray) -> np.ndarray:
    """Images [n, 32, 32, 3] of their planes [n, 3 * 32 * 32]."""
    if planes.dtype != np.uint8:
        raise ValueError("the images are not bytes")
    return planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _by_class(images: np.ndarray, labels: np.ndarray, place: str) -> np.ndarray:
    """Images [100, 600, 32, 32, 3], each class in the order in which they come."""
    counts = np.bincount(labels, minlength=len(CLASSES))
    if len(counts) != len(CLASSES) or (counts != EXAMPLES).any():
        raise ValueError(
            f"{place} has {len(images)} images of {np.count_nonzero(counts)} classes; CIFAR-100 "
            f"has {EXAMPLES} of each of {len(CLASSES)}. Get it again."
        )
    order = np.argsort(labels, kind="stable")
    return np.ascontiguousarray(images[order]).reshape(len(CLASSES), EXAMPLES, *IMAGE_SHAPE)


def _tensorflow_datasets(folder: Path) -> tuple[str, Callable[[], np.ndarray]]:
    """Cache key and reader of the copy that TensorFlow Datasets downloads into `folder`."""
    examples, info = tfds.load("cifar100", "CIFAR-100", folder, _HOW)

    def build() -> np.ndarray:
        names = info.features["label"].names
        found = [(each["image"], CLASSES.index(names[each["label"]])) for each in examples]
        images, labels = zip(*found, strict=True)
        return _by_class(np.stack(images), np.asarray(labels), "TensorFlow Datasets")

    return f"tfds-{info.version}-{_VERSION}", build
