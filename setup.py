"""Puts `flags/`, `models/` and `recipes/` into the wheel; pyproject.toml says everything else."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent


class WithFiles(build_py):
    """Also copies what `maml_tf.system.bundled` finds."""

    def run(self):
        """Builds; an editable installation finds the files where they lie."""
        super().run()
        if self.editable_mode:
            return
        for name in ("flags", "models", "recipes"):
            target = Path(self.build_lib, "maml_tf", name)
            shutil.copytree(HERE / name, target, dirs_exist_ok=True)


setup(cmdclass={"build_py": WithFiles})
