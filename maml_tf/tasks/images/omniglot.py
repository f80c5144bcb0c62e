"""Omniglot: 1623 handwritten characters of 50 alphabets, 20 drawings of each.

Source of the data: Lake, Salakhutdinov & Tenenbaum 2015, https://github.com/brendenlake/omniglot.
Preparation as in Finn et al. 2017: 28 x 28 pixels by Lanczos resampling, ink 1 on 0.

Shape letter: C characters.
"""

from __future__ import annotations

import functools
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from maml_tf import seeds
from maml_tf.system.progress import Bar
from maml_tf.tasks.images import cache as image_cache
from maml_tf.tasks.images import files as image_files
from maml_tf.tasks.images import tfds

if TYPE_CHECKING:
    from maml_tf.tasks.episodes import Episodes

DRAWINGS = 20
SOURCE_SIZE = 105
IMAGE_SIZE = 28
SPLIT_SIZES = {"train": 1100, "val": 100, "test": 423}
SPLIT_SEED = 0

_PARTS = ("images_background", "images_evaluation")
_HOW = (
    "download images_background.zip and images_evaluation.zip from the python/ folder of "
    "https://github.com/brendenlake/omniglot to there"
)
_VERSION = 1  # Raise when the decoded array would change.


def omniglot_episodes(
    data_dir: str | os.PathLike[str] | None = None,
    split: str = "train",
    *,
    ways: int,
    shots: int | tuple[int, int],
    queries: int | None = None,
    seed: int = 0,
    rotations: bool = True,
    download: bool = False,
) -> Episodes:
    """N-way K-shot episodes of the paper's Omniglot.

    Args:
      data_dir: see `omniglot_images`.
      split: "train" (1100 characters), "val" (100) or "test" (423).
      ways: N, characters of a task.
      shots: K, support drawings per character, or (low, high), as for `Episodes`.
      queries: Q, query drawings per character; K if not given.
      seed: the run's seed; the characters of a split do not depend on it.
      rotations: turn each character of each task by its own multiple of 90 degrees, in every
        split, as the original did.
      download: see `omniglot_images`.

    Returns:
      A `TaskSource` of images [T, N*K, 28, 28, 1] in 0 ... 1, ink 1: what `omniglot_images`
      gives, divided by 255. So give `adapt` and an exported model images divided by 255.

    Raises:
      FileNotFoundError: if the data is missing.
      ValueError: if the data is damaged or the episodes are impossible.
    """
    from maml_tf.tasks.episodes import Episodes
    from maml_tf.tasks.sizes import check_sizes

    seeds.check_split(split)
    check_sizes(ways, shots, queries)  # before the slow part
    images = omniglot_splits(omniglot_images(data_dir, download=download))[split]
    return Episodes(
        images,
        ways,
        shots,
        queries,
        seed=seed,
        split=split,
        rotations=rotations,
        scale=1 / 255,
    )


def omniglot_splits(
    images: np.ndarray, seed: int = SPLIT_SEED, *, sizes: dict[str, int] | None = None
) -> dict[str, np.ndarray]:
    """Deals the characters into training, validation and test.

    Args:
      images: [C, 20, 28, 28, 1], from `omniglot_images`.
      seed: of the shuffle. Keep it: runs of different seeds then share their test characters.
      sizes: characters of each split; 1100, 100 and 423 if not given.

    Returns:
      Disjoint selections [size, 20, 28, 28, 1] under "train", "val" and "test".

    Raises:
      ValueError: if there are too few characters.
    """
    sizes = SPLIT_SIZES if sizes is None else sizes
    if sum(sizes.values()) > len(images):
        raise ValueError(
            f"splits of {'/'.join(map(str, sizes.values()))} need {sum(sizes.values())} "
            f"characters; there are {len(images)}. Get the whole data set."
        )
    order = np.random.default_rng(seed).permutation(len(images))
    ends = np.cumsum(list(sizes.values()))
    return {s: images[order[end - sizes[s] : end]] for s, end in zip(sizes, ends, strict=True)}


def omniglot_images(
    data_dir: str | os.PathLike[str] | None = None, *, cache: bool = True, download: bool = False
) -> np.ndarray:
    """All drawings, characters in order of (alphabet, character).

    Looks for `omniglot/images_background` and `omniglot/images_evaluation` in `data_dir`, each as
    the official `.zip` or as a folder `<alphabet>/<character>/*.png`.

    Args:
      data_dir: the folder that holds `omniglot/`; if not given, the environment variable
        MAML_TF_DATA, else "data".
      cache: keep the decoded array in `<data_dir>/omniglot/cache`, or in the user's cache folder
        where that is read-only.
      download: if nothing is found, let TensorFlow Datasets download and prepare the data. It
        gives the drawings of a character in another order, hence other tasks for a seed.

    Returns:
      uint8 [C, 20, 28, 28, 1], C = 1623, ink 255 on 0.

    Raises:
      FileNotFoundError: if nothing, or only one part, is found.
      ValueError: if a file is damaged, is no drawing, or a character has not 20 drawings; or if
        `download` finds no TensorFlow Datasets.
    """
    root = image_files.data_folder(data_dir) / "omniglot"
    sources = _find_sources(root, may_lack=download)
    if sources:
        key = image_files.fingerprint(sources, _VERSION)
        build: Callable[[], np.ndarray] = functools.partial(_decode, sources)
    else:
        key, build = _tensorflow_datasets(root / "cache" / "tfds")
    if not cache:
        return build()
    return image_cache.cached_array(f"omniglot-{key}", cache_folders(data_dir), build)


def require(data_dir: str | os.PathLike[str] | None = None, *, download: bool = False) -> None:
    """Raises what `omniglot_images` would, if the data set is not there; opens nothing."""
    _find_paths(image_files.data_folder(data_dir) / "omniglot", may_lack=download)


def cache_folders(data_dir: str | os.PathLike[str] | None = None) -> list[Path]:
    """Where decoded images are kept, in this order."""
    return image_cache.folders(image_files.data_folder(data_dir) / "omniglot", "omniglot")


def _find_sources(root: Path, *, may_lack: bool) -> list[image_files.ImageFiles]:
    """The two parts of the data set, zip or folder; nothing where that is allowed."""
    return [image_files.list_files(path) for path in _find_paths(root, may_lack=may_lack)]


def _find_paths(root: Path, *, may_lack: bool) -> list[Path]:
    """Where the two parts are; nothing where that is allowed."""
    paths, missing = [], []
    for part in _PARTS:
        found = [path for path in (root / f"{part}.zip", root / part) if path.exists()]
        paths += found[:1]
        missing += [] if found else [f"{part}.zip"]
    if not paths and may_lack:
        return []
    if missing:
        raise FileNotFoundError(f"{root.absolute()} has no {' and no '.join(missing)}; {_HOW}.")
    return paths


def _decode(sources: list[image_files.ImageFiles]) -> np.ndarray:
    """Decodes every drawing of zips or folders."""
    for source in sources:
        if not source.stamps:
            raise ValueError(f"{source.path} holds no drawings; get it again.")
    # Counted before the slow part.
    _check_counts(Counter(_character(s, name) for s in sources for name in s.stamps))
    drawings = defaultdict(list)
    total = sum(len(source.stamps) for source in sources)
    with Bar(total=total, desc="Decoding Omniglot", unit=" drawings", disable=None) as progress:
        for source in sources:
            for name, contents in source.read():
                drawing = _decode_drawing(contents, f"{source.path}: {name}")
                drawings[_character(source, name)].append(drawing)
                progress.update()
    return _stack(drawings)


def _character(source: image_files.ImageFiles, name: str) -> tuple[str, str]:
    """(alphabet, character) of the file `.../<alphabet>/<character>/<drawing>.png`."""
    parts = name.split("/")
    if len(parts) < 3 or not name.lower().endswith(".png"):
        raise ValueError(
            f"{source.path}: {name} is not a drawing <alphabet>/<character>/*.png; remove it."
        )
    return parts[-3], parts[-2]


def _decode_drawing(contents: bytes, place: str) -> np.ndarray:
    """One drawing [28, 28, 1] from a PNG file."""
    drawing = image_files.open_image(contents, place)
    if drawing.size != (SOURCE_SIZE, SOURCE_SIZE):
        raise ValueError(
            f"{place} has {drawing.width} x {drawing.height} pixels, not {SOURCE_SIZE} x "
            f"{SOURCE_SIZE}; use the original images."
        )
    return _shrink(drawing)


def _shrink(drawing: Image.Image) -> np.ndarray:
    """Resamples and inverts, [28, 28, 1]."""
    # Grey first: Pillow resamples 1-bit images by nearest neighbour, whatever it is asked.
    grey = drawing.convert("L").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)
    return 255 - np.asarray(grey)[:, :, None]


def _check_counts(counts: Mapping[tuple[str, str], int]) -> None:
    for character, count in sorted(counts.items()):
        if count != DRAWINGS:
            raise ValueError(
                f"{'/'.join(character)} has {count} drawings; every Omniglot character has "
                f"{DRAWINGS}. Get the data again."
            )


def _stack(drawings: Mapping[tuple[str, str], list[np.ndarray]]) -> np.ndarray:
    """Drawings by (alphabet, character) as [C, 20, 28, 28, 1]."""
    _check_counts({character: len(images) for character, images in drawings.items()})
    return np.stack([np.stack(drawings[character]) for character in sorted(drawings)])


def _tensorflow_datasets(folder: Path) -> tuple[str, Callable[[], np.ndarray]]:
    """Cache key and decoder of the copy that TensorFlow Datasets downloads into `folder`."""
    examples, info = tfds.load("omniglot", "Omniglot", folder, _HOW)

    def build() -> np.ndarray:
        names = info.features["label"].names  # "<alphabet>_<character, from 0>"
        drawings = defaultdict(list)
        for example in examples:
            alphabet, character = names[example["label"]].rsplit("_", 1)
            drawing = _shrink(Image.fromarray(example["image"][..., 0]))
            drawings[alphabet, f"character{int(character) + 1:02d}"].append(drawing)
        return _stack(drawings)

    return f"tfds-{info.version}-{_VERSION}", build
