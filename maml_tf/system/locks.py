"""One process at a time trains in a directory."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from maml_tf.system.files import fcntl, unwritable

LOCK_FILE = "run.lock"
"""There while a process trains; says which."""

_REMEDY = "choose another log directory (--logdir)"

_HELD: dict[tuple[int, int], int] = {}
"""How often this process holds the lock of each directory (device, inode)."""


@contextlib.contextmanager
def run_lock(directory: Path) -> Iterator[None]:
    """Holds a directory for this process, which may do so again meanwhile.

    The lock is the operating system's: it ends with the process, however that ends. Where the file
    system or the platform has none, nothing is held.

    Args:
      directory: made if it is not there; it may be renamed meanwhile.

    Raises:
      ValueError: another process holds it; names it.
      OSError: nothing can be written there.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        folder = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise unwritable(directory, error, _REMEDY) from error
    try:
        status = os.fstat(folder)
        key = status.st_dev, status.st_ino
        lock = None if key in _HELD else _acquire(folder, directory)
        _HELD[key] = _HELD.get(key, 0) + 1
        try:
            yield
        finally:
            _HELD[key] -= 1
            if not _HELD[key]:
                del _HELD[key]
            if lock is not None:
                _remove(folder)
                os.close(lock)
    finally:
        os.close(folder)


def _acquire(folder: int, directory: Path) -> int | None:
    if fcntl is None:
        return None
    while True:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
            lock = os.open(LOCK_FILE, flags, 0o644, dir_fd=folder)
        except OSError as error:
            raise unwritable(directory / LOCK_FILE, error, _REMEDY) from error
        if not stat.S_ISREG(os.fstat(lock).st_mode):
            os.close(lock)
            raise ValueError(f"{directory / LOCK_FILE} is not a regular file; remove it.")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 1000, 0).decode(errors="replace").strip() or "another process"
            os.close(lock)
            raise ValueError(
                f"{directory} is in use by {holder}; wait for its end, or give another --logdir or "
                "--run_name."
            ) from None
        except OSError:  # This file system has no locks.
            _remove(folder)
            os.close(lock)
            return None
        if _is_still_there(lock, folder):
            break
        os.close(lock)
    os.ftruncate(lock, 0)
    with contextlib.suppress(OSError):  # A full disk: the lock holds without its text.
        os.pwrite(lock, _this_process().encode(errors="replace"), 0)
    return lock


def _is_still_there(lock: int, folder: int) -> bool:
    """Whether the file was not removed between its opening and its locking."""
    try:
        return os.path.samestat(os.stat(LOCK_FILE, dir_fd=folder), os.fstat(lock))
    except FileNotFoundError:
        return False


def _remove(folder: int) -> None:
    with contextlib.suppress(OSError):
        os.unlink(LOCK_FILE, dir_fd=folder)


def _this_process() -> str:
    program = os.path.basename(sys.argv[0]).replace("__main__.py", "maml-tf")
    command = shlex.join([program, *sys.argv[1:]])[:300]
    since = time.strftime("%Y-%m-%d %H:%M")
    return f"process {os.getpid()} on {socket.gethostname()} since {since} ({command})\n"
