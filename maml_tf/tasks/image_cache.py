"""Reads image files from a folder or a zip, and keeps what was decoded from them.

Decoding tens of thousands of small files takes many seconds, reading one array back a fraction of
one. A cache file is named after a fingerprint of its source, so that a changed source is decoded
again, and is a `.npz`, whose CRC-32 is checked on reading. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import logging
import os
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

_LOG = logging.getLogger(__name__)
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
                status = file.stat()
                stamps[name] = f"{status.st_size} {status.st_mtime_ns}"
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


def cached_array(name: str, folders: Sequence[Path], build: Callable[[], np.ndarray]) -> np.ndarray:
    """Returns the array kept under `name`, or builds it and keeps it.

    Safe with several processes at once: each writes a file of its own and renames it into place. A
    damaged file is built again.

    Args:
        name: file name without its ending, naming the contents (see `fingerprint`).
        folders: where to look, in order; the first that can be written keeps a new array.
        build: makes the array.

    Returns:
        The array.
    """
    paths = [folder / f"{name}.npz" for folder in folders]
    for path in paths:
        if path.is_file():
            try:
                return _load(path)
            except Exception as error:  # A damaged file can raise anything; rebuilding is right.
                _LOG.warning("%s cannot be read (%s); decoding its source again.", path, error)
    array = build()
    for path in paths:
        try:
            _store(path, array)
            return array
        except OSError as error:
            _LOG.info("Not kept as %s: %s", path, error)
    _LOG.warning("No folder to keep the decoded images in (%s).", ", ".join(map(str, folders)))
    return array


def user_cache() -> Path:
    """The user's folder for files that can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maml_tf"


def _is_junk(name: str) -> bool:
    return any(part.startswith(".") or part in _JUNK for part in name.split("/"))


def _load(path: Path) -> np.ndarray:
    """Reads what `_store` wrote, or raises."""
    with np.load(path, allow_pickle=False) as arrays:
        # Numpy reads as far as the array's header says; a damaged header must not end it early.
        if arrays.zip.testzip() is not None:
            raise ValueError("wrong checksum")
        return arrays["array"]


def _store(path: Path, array: np.ndarray) -> None:
    """Writes atomically, or raises OSError."""
    existing = next(folder for folder in path.parents if folder.is_dir())
    if not existing.stat().st_mode & 0o222:
        # The superuser could write; whoever made the folder read-only meant it.
        raise PermissionError(f"{existing} is read-only")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "xb") as file:
            np.savez(file, array=array)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
