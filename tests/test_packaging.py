"""What is published holds every module."""

from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="Python 3.11 has it")
ROOT = Path(__file__).parents[1]


def test_every_package_is_published():
    """`find` takes folders with an `__init__.py`; stubs are data."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert settings["packages"]["find"]["include"] == ["maml_tf*"]
    folders = {file.parent for file in (ROOT / "maml_tf").rglob("*.py")}
    assert all((folder / "__init__.py").exists() for folder in folders)
    data = settings["package-data"]
    for stub in (ROOT / "maml_tf").rglob("*.pyi"):
        package = ".".join(stub.parent.relative_to(ROOT).parts)
        assert "*.pyi" in data.get(package, []) + data.get("*", []), package
