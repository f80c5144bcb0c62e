"""SHA-256 of files, in the format of `sha256sum`: what was written is what is read.

`sha256sum --check SHA256SUMS` verifies a release or an export where this package is not installed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

SUMS = "SHA256SUMS"
"""The file of a directory's checksums."""

_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


class Damaged(ValueError):
    """A file is not as it was written."""


def text(directory: Path, files: Iterable[Path] | None = None) -> str:
    """The checksums of files, one line each.

    Args:
      directory: names are relative to it.
      files: below it; all that it holds by default.
    """
    if files is None:
        files = (p for p in directory.rglob("*") if p.is_file() and p.name != SUMS)
    named = sorted((file.relative_to(directory).as_posix(), file) for file in files)
    return "".join(f"{_sha256(file)}  {name}\n" for name, file in named)


def listed(sums: Path) -> dict[str, str]:
    """The checksums that a file lists, by name; empty if there is no such file.

    Raises:
      Damaged: it is not such a file.
    """
    if not sums.is_file():
        return {}
    lines = sums.read_text(encoding="utf-8", errors="replace").splitlines()
    matches = [_LINE.fullmatch(line) for line in lines]
    if not lines or not all(matches):
        raise Damaged(f"{sums} is damaged: it does not list checksums.")
    return {match[2]: match[1] for match in matches if match}


def verify(sums: Path, required: Iterable[str] = ()) -> int:
    """Reads all files that `sums` lists, and compares.

    Args:
      sums: a file of checksums; where there is none, as in what earlier versions wrote, nothing is
        compared.
      required: names that it has to list.

    Returns:
      How many files were compared.

    Raises:
      Damaged: names the first file that is not as it was written.
    """
    expected = listed(sums)
    absent = [name for name in required if expected and name not in expected]
    if absent:
        raise Damaged(f"{sums} is damaged: it does not list {absent[0]}.")
    for name, digest in expected.items():
        file = sums.parent / name
        if not file.is_file():
            raise Damaged(f"{file} is missing; {sums.name} beside it lists it.")
        if _sha256(file) != digest:
            raise Damaged(f"{file} is not as it was written: its SHA-256 differs.")
    return len(expected)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as opened:
        while piece := opened.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
