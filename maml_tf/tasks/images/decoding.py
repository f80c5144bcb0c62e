"""Decodes image files into one array, on every core.

Shape letters: n images, H height, W width, c channels.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from PIL import Image, ImageOps

from maml_tf import arguments
from maml_tf.system.progress import Bar
from maml_tf.tasks.images import files as image_files

_LOG = logging.getLogger(__name__)

MODES = {"rgb": "RGB", "grey": "L"}
"""Pillow's mode of each choice of colour."""
CHANNELS = {"rgb": 3, "grey": 1}

Convert: TypeAlias = Callable[[Image.Image, str], Image.Image]
"""From an image as it was stored, and its place for messages, to one of the mode that is wanted."""


class ImageSplit(NamedTuple):
    """Images of one split, class after class."""

    images: np.ndarray  # uint8 [n, H, W, c]
    counts: dict[str, int]  # images of each class, by its name


def decode(
    files: Sequence[Path], shape: tuple[int, int, int], convert: Convert, title: str
) -> np.ndarray:
    """Decodes files to [n, H, W, c], resampled by Lanczos where they have another size.

    All of them are tried, so that one message tells of every file that is damaged.

    Args:
      files: n paths.
      shape: (H, W, c).
      convert: makes an image of c channels.
      title: of the data set, for the progress bar.

    Raises:
      ValueError: files are no images, or not such as `convert` takes.
    """
    images = np.empty((len(files), *shape), np.uint8)
    faults: dict[int, ValueError] = {}

    def decode_one(index: int) -> bool:
        file = files[index]
        try:
            image = convert(
                image_files.open_image(image_files.read_file(file), str(file)), str(file)
            )
        except ValueError as error:
            faults[index] = error
            return False
        images[index], resized = resampled(image, shape[:2])
        return resized

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = pool.map(decode_one, range(len(files)))
        bar = Bar(jobs, total=len(files), desc=f"Decoding {title}", unit=" images", disable=None)
        try:
            count = sum(bar)
        except BaseException:  # An interrupt, too, ends it here, and not after all the files.
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if faults:
        raise _fault(files, faults)
    if count:
        _LOG.info("Resized %d of %d images to %d x %d.", count, len(files), *shape[:2])
    return images


def resampled(image: Image.Image, size: tuple[int, int]) -> tuple[np.ndarray, bool]:
    """One image as [H, W, c] of a size (H, W), and whether it had another."""
    other = image.size != size[::-1]
    if other:
        image = image.resize(size[::-1], Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(*size, -1), other


def size_of(file: Path) -> tuple[int, int]:
    """(H, W) of an image file, upright.

    Raises:
      ValueError: it is no image, or damaged.
    """
    image = image_files.open_image(image_files.read_file(file), str(file))
    width, height = ImageOps.exif_transpose(image).size
    return height, width


def checked_size(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """(H, W) of a size that is a number or such a pair; None where there is none.

    Raises:
      ValueError: it is something else.
    """
    if size is None:
        return None
    pair = (size, size) if not isinstance(size, (tuple, list)) else tuple(size)
    if len(pair) != 2:
        raise ValueError(f"image_size must be a number or (height, width), not {size!r}.")
    height, width = (arguments.count("image_size", side, 1) for side in pair)
    return height, width


def eight_bits(image: Image.Image, place: str) -> Image.Image:
    """The image, unless its pixels have more bits: Pillow would cut what is brighter than 255.

    Raises:
      ValueError: they have.
    """
    if image.mode[0] in "IF":
        raise ValueError(f"{place} has pixels of more than 8 bits; save it as 8-bit RGB.")
    return image


def upright(color: str) -> Convert:
    """Turns photographs as their EXIF says, lays what is transparent on white, makes it `color`."""

    def convert(image: Image.Image, place: str) -> Image.Image:
        image = ImageOps.exif_transpose(eight_bits(image, place))
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            paper = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(paper, image)
        return image.convert(MODES[color])

    return convert


def _fault(files: Sequence[Path], faults: dict[int, ValueError]) -> ValueError:
    first, *others = sorted(faults)
    if not others:
        return faults[first]
    more = ", ".join(str(files[index]) for index in others[:3])
    more += " and others" if len(others) > 3 else ""
    return ValueError(f"{faults[first]} {len(others)} more files have faults: {more}.")
