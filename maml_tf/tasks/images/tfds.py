"""Data sets by TensorFlow Datasets, an optional library."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from maml_tf.system.progress import Bar


def library(how: str) -> ModuleType:
    """TensorFlow Datasets.

    Raises:
      ValueError: if it is not installed; says how to get it, or `how` to do without.
    """
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ValueError(
            f"downloading needs TensorFlow Datasets: pip install 'maml-tf[tfds]'; or {how}."
        ) from error
    return tensorflow_datasets


def load(name: str, title: str, folder: Path, how: str) -> tuple[Iterator[dict[str, Any]], Any]:
    """The examples of a data set, training and test, which are fetched into `folder`; its info.

    Raises:
      ValueError: it is not installed, or cannot give them; says `how` to do without.
    """
    tfds = library(how)
    try:
        dataset, info = tfds.load(name, split="train+test", data_dir=str(folder), with_info=True)
    except Exception as error:  # Of the network, of the disk, and of its own kinds.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"TensorFlow Datasets cannot give {title} ({reason}); {how}.") from error

    def examples() -> Iterator[dict[str, Any]]:
        yield from Bar(tfds.as_numpy(dataset), desc=f"Decoding {title}", disable=None)

    return examples(), info
