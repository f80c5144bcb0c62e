"""Reads image files from a folder or a zip, and keeps what was decoded from them.

Decoding tens of thousands of small files takes many seconds, mapping one array into memory a
fraction of one. A cache file is named after a fingerprint of its source, so that a changed source
is decoded again, and is a `.npy` with the CRC-32 of everything before it as its last four bytes
(which Numpy does not read). Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
from PIL import Image

_LOG = logging.getLogger(__name__)
_CRC_BYTES = 4
_JUNK = ("__MACOSX", "Thumbs.db", "desktop.ini")


class ImageFiles(NamedTuple):
    """Files below a folder or in a zip."""

    path: Path
    stamps: dict[str, str]
    """What tells a changed file, by name relative to `path`, in order of names."""

    def read(self) -> Iterator[tuple[str, bytes]]:
        """Yields each file's name and contents.

        Raises:
            ValueError: if the zip is damaged.
        """
        if self.path.is_dir():
            for name in self.stamps:
                yield name, (self.path / name).read_bytes()
            return
        with zipfile.ZipFile(self.path) as archive:
            for name in self.stamps:
                try:
                    contents = archive.read(name)
                except (zipfile.BadZipFile, zlib.error, EOFError) as error:
                    raise ValueError(f"{self.path} is damaged at {name}; get it again.") from error
                yield name, contents


def data_folder(data_dir: str | os.PathLike[str] | None) -> Path:
    """The folder of the data sets: `data_dir`, else $MAML_TF_DATA, else "data"."""
    return Path(data_dir or os.environ.get("MAML_TF_DATA") or "data")


def stamp(file: Path) -> str:
    """What tells a changed file without reading it."""
    status = file.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def list_files(path: Path) -> ImageFiles:
    """Lists the files below a folder or in a zip, without hidden and system files.

    Raises:
        ValueError: if `path` is a file but not a whole zip.
    """
    if path.is_dir():
        stamps = {}
        for file in path.rglob("*"):
            name = file.relative_to(path).as_posix()
            if not _is_junk(name) and file.is_file():
                stamps[name] = stamp(file)
    else:
        try:
            with zipfile.ZipFile(path) as archive:
                entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path} is not a whole zip file; get it again.") from error
        stamps = {e.filename: f"{e.file_size} {e.CRC}" for e in entries if not _is_junk(e.filename)}
    return ImageFiles(path, dict(sorted(stamps.items())))


def fingerprint(sources: Sequence[ImageFiles], version: int) -> str:
    """Names what would be decoded from these sources by this version of the decoder."""
    digest = hashlib.sha256(str(version).encode())
    for source in sources:
        for item in source.stamps.items():
            digest.update(repr(item).encode())
    return digest.hexdigest()[:16]


def open_image(contents: bytes, place: str) -> Image.Image:
    """Decodes an image file.

    Raises:
        ValueError: if it is none, or damaged; says so of `place`.
    """
    try:
        with Image.open(io.BytesIO(contents)) as image:
            image.load()
    except Exception as error:  # Pillow raises SyntaxError, too, for a broken PNG.
        raise ValueError(f"{place} is not an image; get the data again.") from error
    return image


def tensorflow_datasets(how: str) -> ModuleType:
    """The library, an optional one.

    Raises:
        ValueError: if it is not installed; says how to get it, or `how` to do without.
    """
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ValueError(
            f"downloading needs TensorFlow Datasets: pip install 'maml-tf[tfds]'; or {how}."
        ) from error
    return tensorflow_datasets


def cached_array(name: str, folders: Sequence[Path], build: Callable[[], np.ndarray]) -> np.ndarray:
    """Returns the array kept under `name`, or builds it and keeps it.

    Safe with several processes at once: each writes a file of its own and renames it into place. A
    damaged file is built again.

    Args:
        name: file name without its ending, naming the contents (see `fingerprint`).
        folders: where to look, in order; the first that can be written keeps a new array.
        build: makes the array.

    Returns:
        The array, mapped into memory (mode "c") where it could be kept.
    """
    paths = [folder / f"{name}.npy" for folder in folders]
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


def user_cache() -> Path:
    """The user's folder for files that can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maml_tf"


def _is_junk(name: str) -> bool:
    return any(part.startswith(".") or part in _JUNK for part in name.split("/"))


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
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "xb") as file:
            header = io.BytesIO()
            described = np.lib.format.header_data_from_array_1_0(array)
            np.lib.format.write_array_header_1_0(header, described)
            file.write(header.getvalue())
            array.tofile(file)
            checksum = zlib.crc32(array.data, zlib.crc32(header.getvalue()))
            file.write(checksum.to_bytes(_CRC_BYTES, "little"))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
