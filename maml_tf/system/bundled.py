"""Files that come with the package: `flags/`, `models/` and `recipes/`.

A flagfile per experiment, the releases, and flags that go with any of the experiments.

In the repository they lie beside the package, in an installed one within it; `setup.py` puts them
there.
"""

from __future__ import annotations

from pathlib import Path

FOLDERS = ("flags", "models", "recipes")
_PACKAGE = Path(__file__).parents[1]


def find(path: Path) -> Path:
    """A path such as `flags/NAME.flags` or `models/NAME`: the user's own, else the package's.

    Args:
      path: as the user gave it.

    Returns:
      The path itself where something is there, or the package has nothing of that name.
    """
    if path.is_absolute() or path.parts[:1] not in [(name,) for name in FOLDERS] or path.exists():
        return path
    own = _root() / path
    return own if ".." not in path.parts and own.exists() else path


def entries(folder: str) -> list[Path]:
    """What the package brings in one of `FOLDERS`, in order of their names."""
    place = _root() / folder
    return sorted(place.iterdir()) if place.is_dir() else []


def _root() -> Path:
    in_repository = (_PACKAGE.parent / "pyproject.toml").is_file()
    return _PACKAGE.parent if in_repository else _PACKAGE
