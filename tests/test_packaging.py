"""What is published holds every module."""

from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="Python 3.11 has it")
ROOT = Path(__file__).parents[1]


def test_every_package_is_published():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = set(settings["tool"]["setuptools"]["packages"])
    folders = {file.parent.relative_to(ROOT) for file in (ROOT / "maml_tf").rglob("*.py")}
    assert named == {".".join(folder.parts) for folder in folders}
    assert all((ROOT / folder / "__init__.py").exists() for folder in folders)
