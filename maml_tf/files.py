"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


@contextlib.contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Gives a path of the same name elsewhere to write to, and moves that file here at the end.

    When the body fails, what was written is removed and `path` is as it was.

    Raises:
      OSError: nothing can be written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as staging:
        yield Path(staging) / path.name
        os.replace(Path(staging) / path.name, path)


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path that a user gave: with the home folder for a leading ~.

    Raises:
      ValueError: it is a URL, holds control characters, or there is no such home folder.
    """
    text = os.fspath(path)
    if "://" in text or any(unicodedata.category(c) == "Cc" for c in text):
        raise ValueError(f"{text!r} is not a path on this machine; name a file or a folder.")
    expanded = os.path.expanduser(text)
    if expanded.startswith("~") and expanded == text:
        raise ValueError(f"There is no home folder for {text}; write the whole path.")
    return Path(expanded)
