"""Puts the repository's root on the path: `benchmarks` is not part of the installed package."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
