"""Numpy's files, which may be damaged, or say that they hold more than they do."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from maml_tf.tasks.images import files as image_files

LARGEST = 64 * 2**30
"""Bytes of an array in an archive; no more than the machine has memory for."""


def mapped(path: Path) -> np.ndarray:
    """Maps a `.npy` into memory; what is written to the array does not get into the file.

    Raises:
      ValueError: if it is none, or not whole.
    """
    with _faults(f"{path} is not a whole array"):
        return np.lib.format.open_memmap(path, mode="c")


def names(path: Path) -> list[str]:
    """Names of the arrays in a `.npz`.

    Raises:
      ValueError: if it is none.
    """
    with _faults(f"{path} cannot be read"), zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def header(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array in a `.npz`, without reading it.

    Raises:
      ValueError: if it cannot be read, is too large, or its size is not what its shape says.
    """
    with _faults(f"{path} cannot be read"), zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(f"{name}.npy")
    image_files.check_entry(entry, f"{path}: {name}", _most(), "array")
    with (
        _faults(f"{path} cannot be read"),
        zipfile.ZipFile(path) as archive,
        archive.open(f"{name}.npy") as member,
    ):
        first = np.lib.format.read_magic(member) == (1, 0)
        read = np.lib.format.read_array_header_1_0
        shape, _, dtype = (read if first else np.lib.format.read_array_header_2_0)(member)
        size = math.prod(shape) * dtype.itemsize
        negative = any(length < 0 for length in shape)
        if not dtype.hasobject and (negative or member.tell() + size != entry.file_size):
            raise ValueError(f"'{name}' is not of the size that its shape says")
    return shape, dtype


def load(path: Path, name: str, fault: str = "is damaged") -> np.ndarray:
    """Reads an array of a `.npz` whose header was read.

    Raises:
      ValueError: if it is damaged, or holds Python's objects.
    """
    with (
        _faults(f"{path} {fault}"),
        zipfile.ZipFile(path) as archive,
        archive.open(f"{name}.npy") as member,
    ):
        return np.lib.format.read_array(member, allow_pickle=False)


@contextlib.contextmanager
def _faults(fault: str) -> Iterator[None]:
    """Turns whatever a damaged file makes a library raise into one line with the reason."""
    try:
        yield
    except Exception as error:  # Headers, compressions and zip files have errors of their own.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # What the system says is no damage.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{fault} ({reason}); make it again.") from error


def _most() -> int:
    """Bytes that an array may have."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return LARGEST
    return min(LARGEST, memory) if memory > 0 else LARGEST
