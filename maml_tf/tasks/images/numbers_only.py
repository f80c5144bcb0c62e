"""Reads arrays out of a data set that its authors published as a pickle, without running it."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),
}
"""What a pickle of numbers, texts, lists, dictionaries and arrays names."""


def load(contents: bytes) -> Any:
    """Numbers, texts, lists, dictionaries and NumPy's arrays; texts of Python 2 as bytes.

    Unpickling calls what a file names. This knows the makers of an array and refuses any other
    name, so that a file cannot run code.

    Raises:
      ValueError: the file names something else.
      Exception: it is damaged; pickle says so in many ways.
    """
    return _Reader(io.BytesIO(contents), encoding="bytes").load()


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise ValueError(f"it names {module}.{name}, which no data set needs") from None
