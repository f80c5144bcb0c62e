"""Keeps what was decoded from image files.

Decoding tens of thousands of small files takes many seconds, mapping one array into memory a
fraction of one. A cache file is named after a fingerprint of its source, so that a changed source
is decoded again, and is a `.npy` with the CRC-32 of everything before it as its last four bytes
(which Numpy does not read). Nothing is ever unpickled.
"""

from __future__ import annotations

import io
import logging
import os
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from maml_tf.system.files import replacing_file, sweep

_LOG = logging.getLogger(__name__)
_CRC_BYTES = 4
_LEFT = re.compile(r"\..+\.npy\.[0-9a-f]{32}")


def cached_array(name: str, folders: Sequence[Path], build: Callable[[], np.ndarray]) -> np.ndarray:
    """Returns the array kept under `name`, or builds it and keeps it.

    Safe with several processes at once: each writes a file of its own and renames it into place. A
    damaged file is built again.

    Args:
      name: file name without its ending, naming the contents (see `files.fingerprint`).
      folders: where to look, in order; the first that can be written keeps a new array.
      build: makes the array.

    Returns:
      The array, mapped into memory (mode "c") where it could be kept.
    """
    paths = [folder / f"{name}.npy" for folder in folders]
    for folder in folders:
        _sweep(folder)
    for path in paths:
        if path.is_file():
            try:
                return _load(path)
            except Exception as error:  # A damaged file can raise anything; rebuilding is right.
                _LOG.warning("%s cannot be read (%s); decoding its source again.", path, error)
    array = build()
    kept = next((path for path in paths if _can_store(path, array)), None)
    if kept is None:
        _LOG.warning("No folder to keep the decoded images in (%s).", ", ".join(map(str, folders)))
        return array
    del array  # The map takes its place: the two are never there together.
    return _load(kept)


def folders(root: Path, name: str) -> list[Path]:
    """Where arrays of a data set are kept: beside it, else in the user's cache, if there is one."""
    places = [root / "cache"]
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
        cache = cache if cache.is_absolute() else Path.home() / ".cache"
    except RuntimeError:  # Neither HOME nor a user of that number.
        return places
    return [*places, cache / "maml_tf" / name] if cache.is_absolute() else places


def file_of(array: np.ndarray) -> Path | None:
    """The file that an array from here is a map of; None if it could not be kept."""
    file = getattr(array, "filename", None) if isinstance(array, np.memmap) else None
    return Path(file).absolute() if file else None


def _load(path: Path) -> np.ndarray:
    """Maps what `_store` wrote, or raises."""
    contents = np.memmap(path, np.uint8, mode="r")
    if zlib.crc32(contents[:-_CRC_BYTES].data) != int.from_bytes(contents[-_CRC_BYTES:], "little"):
        raise ValueError(f"{path} has a wrong checksum")
    return np.load(path, mmap_mode="c", allow_pickle=False)


def _can_store(path: Path, array: np.ndarray) -> bool:
    """Whether `_store` succeeded."""
    try:
        _store(path, array)
    except OSError as error:
        _LOG.info("Not kept as %s: %s", path, error)
        return False
    return True


def _store(path: Path, array: np.ndarray) -> None:
    """Writes atomically, or raises OSError."""
    array = np.ascontiguousarray(array)
    existing = next(folder for folder in path.parents if folder.is_dir())
    if not existing.stat().st_mode & 0o222:
        # The superuser could write; whoever made the folder read-only meant it.
        raise PermissionError(f"{existing} is read-only")
    with replacing_file(path) as place, open(place, "xb") as file:
        header = io.BytesIO()
        described = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(header, described)
        file.write(header.getvalue())
        array.tofile(file)
        checksum = zlib.crc32(array.data, zlib.crc32(header.getvalue()))
        file.write(checksum.to_bytes(_CRC_BYTES, "little"))


def _sweep(folder: Path) -> None:
    """Removes what killed processes left, also as earlier versions called it."""
    sweep(folder)
    for left in folder.glob(".*.npy.*"):
        if _LEFT.fullmatch(left.name) and left.is_file() and os.access(folder, os.W_OK):
            left.unlink(missing_ok=True)
