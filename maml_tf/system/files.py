"""Files and directories on disk: whole or not at all, and never another process' ones.

What is being written lies in a directory `.<name>.<8 letters>.part` beside its place until it is
complete. The process that writes holds a lock on that directory, so that `sweep` can tell what a
killed process left from what another process is writing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import unicodedata
import uuid
from collections.abc import Iterator
from pathlib import Path

from maml_tf import arguments
from maml_tf.system import checksums

try:
    import fcntl
    import resource
except ImportError:  # Windows
    fcntl = resource = None  # type: ignore[assignment]

_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")
"""Controls, halves of characters, and ends of lines: flags and results are one line each."""
_LEFT = re.compile(r"\.(.+)\.[0-9a-f]{8}\.part")
_SHOWN = 40  # characters of the name that stand in it at most
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Unwritable(OSError):
    """Something cannot be written; the message says what to do."""


def user_path(path: str | os.PathLike[str], name: str = "The path") -> Path:
    """A path as a user writes it: `~` and `~name` are home directories.

    Args:
      path: not the empty one.
      name: of the argument, for messages.

    Raises:
      ValueError: it is not a path on this machine, there is no such home directory, or it holds
        characters that no file name should.
    """
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise ValueError(
            f"{name} must be a path, a string or a pathlib.Path, not {arguments.shown(path)}."
        )
    text = os.fspath(path)
    if not text:
        raise ValueError(f"{name} is empty; name a place, such as '.'.")
    if "://" in text:
        raise ValueError(f"'{text}' is not a local directory or file; copy to or from one.")
    if any(unicodedata.category(character) in _UNPRINTABLE for character in text):
        raise ValueError(f"The path {text!r} holds characters that cannot be printed; rename it.")
    if not text.startswith("~"):
        return Path(text)
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        name = text.split("/")[0]
        raise ValueError(f"There is no home directory {name} for '{text}'; write the whole path.")
    return Path(expanded)


def refuse_pattern(path: str | os.PathLike[str]) -> None:
    """Refuses a path that TensorFlow takes for a pattern: it would write there and never read.

    Raises:
      ValueError: names the characters.
    """
    found = [character for character in "*?[\\" if character in os.fspath(path)]
    if found:
        raise ValueError(
            f"'{path}' holds {' and '.join(found)}, which TensorFlow takes for a pattern of names; "
            "choose another directory."
        )


def unwritable(
    path: str | os.PathLike[str], error: BaseException, remedy: str = "choose another directory"
) -> OSError:
    """The error to raise when something cannot be written, with the remedy.

    Args:
      path: what was to be written.
      error: what the attempt raised; of TensorFlow and HDF5, the text tells the reason.
      remedy: against anything but a full disk.
    """
    if isinstance(error, Unwritable):
        return error
    number = error.errno if isinstance(error, OSError) else None
    reason = os.strerror(number) if number else _first_line(error)
    if number in _NO_ROOM or any(os.strerror(n) in str(error) for n in _NO_ROOM):
        return Unwritable(
            f"Cannot write to {path}: no room is left on its disk. Make room, then give the same "
            "command again."
        )
    return Unwritable(f"Cannot write to {path} ({reason}); {remedy}.")


def require_room(path: Path, size: int) -> None:
    """Refuses to begin to write a file for which there is no room.

    Args:
      path: the file; its directory is there.
      size: bytes.

    Raises:
      OSError: the disk has less, or the process may not write files of that size.
    """
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0] if resource else -1
    if shutil.disk_usage(path.parent).free < size or 0 <= limit < size:
        raise unwritable(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def staging(place: Path) -> Iterator[Path]:
    """A new directory beside `place` to write in; what is left of it at the end is removed.

    Args:
      place: what will be written; its directory is made if it is not there.

    Raises:
      OSError: nothing can be written there.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        sweep(place.parent, place.name)
        directory, lock = _locked_directory(place)
    except OSError as error:
        raise unwritable(place, error) from error
    try:
        yield directory
    finally:
        try:
            shutil.rmtree(directory, ignore_errors=True)
        finally:
            if lock is not None:
                os.close(lock)


def _locked_directory(place: Path) -> tuple[Path, int | None]:
    while True:
        directory = place.with_name(f".{place.name[:_SHOWN]}.{uuid.uuid4().hex[:8]}.part")
        directory.mkdir()
        lock = lock_directory(directory)
        if directory.is_dir():  # It was not swept before it was locked.
            return directory, lock
        if lock is not None:
            os.close(lock)


def lock_directory(directory: Path) -> int | None:
    """Locks a directory until the returned descriptor is closed, or its process ends.

    Returns:
      The descriptor; None where the file system or the platform has no locks.

    Raises:
      BlockingIOError: another process holds it.
    """
    if fcntl is None:
        return None
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file (UTF-8) whole or not at all.

    Raises:
      OSError: it cannot be written; says what to do.
    """
    with replacing_file(path) as place:
        place.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Gives a path of the same name elsewhere to write to, and moves that file here at the end.

    When the body fails, what was written is removed and `path` is as it was.

    Raises:
      OSError: nothing can be written there, or `path` is a directory.
    """
    with staging(path) as directory:
        try:
            yield directory / path.name
            os.replace(directory / path.name, path)
        except OSError as error:
            raise unwritable(path, error) from error


@contextlib.contextmanager
def replacing_directory(place: Path, first: str, last: str) -> Iterator[Path]:
    """Gives a new directory to write in, and moves its files to `place` at the end.

    A place that is not there appears whole. In one that is there, file after file is replaced:
    `last` is removed before any other and comes after all, so that a reader who asks for it never
    meets half of each. Files of other names stay. When the body fails, or a file cannot be
    replaced, `place` is as it was. `SHA256SUMS` is added.

    Args:
      place: the directory.
      first: the name of the file that comes before the others, by which to know what it will be.
      last: the name of the file without which the directory is none of its kind.

    Raises:
      OSError: nothing can be written there, or another process is writing there.
    """
    # In a place that is there, so that it may be a volume of its own.
    with staging(place / last if place.is_dir() else place) as directory:
        try:
            yield directory
            sums = checksums.text(directory)
            (directory / checksums.SUMS).write_text(sums, encoding="utf-8")
            if not place.is_dir():
                directory.rename(place)
            else:
                _replace_files(directory, place, first, last)
        except OSError as error:
            raise unwritable(place, error) from error


def _replace_files(source: Path, place: Path, first: str, last: str) -> None:
    try:
        lock = lock_directory(place)
    except BlockingIOError as error:
        message = (
            f"Cannot write to {place}: another process is writing there; give another directory."
        )
        raise Unwritable(message) from error
    names = {p.relative_to(source).as_posix() for p in source.rglob("*") if not p.is_dir()}
    aside, new = source / f".{last}.before", []
    try:
        _move(place, aside, last)
        for name in sorted(names, key=lambda name: (name == last, name != first, name)):
            _move(place, aside, name)
            new.append(name)
            _move(source, place, name)
    except OSError:
        for name in new:
            (place / name).unlink(missing_ok=True)
        before = (p.relative_to(aside).as_posix() for p in aside.rglob("*") if not p.is_dir())
        for name in sorted(before, key=lambda name: name == last):
            _move(aside, place, name)
        raise
    finally:
        if lock is not None:
            os.close(lock)


def _move(source: Path, target: Path, name: str) -> None:
    """Moves a file from one directory to another, if it is there."""
    if os.path.lexists(source / name):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(source / name, target / name)


def sweep(directory: Path, name: str = "") -> None:
    """Removes what killed processes were writing in a directory; never fails.

    Args:
      directory: need not be there.
      name: of what they were writing; anything by default.
    """
    for left in os.listdir(directory) if directory.is_dir() else []:
        match = _LEFT.fullmatch(left)
        if not match or match[1] != (name[:_SHOWN] or match[1]):
            continue
        path = directory / left
        if path.is_symlink() or not path.is_dir():
            continue
        try:
            lock = lock_directory(path)
        except BlockingIOError:
            continue  # Somebody is writing there.
        if lock is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)
