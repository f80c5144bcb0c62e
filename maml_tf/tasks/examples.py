"""Labelled examples as one array, checked, and on the device.

Shape letters: C classes, E examples per class; `...` is the shape of an example.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from maml_tf import arguments

_LOG = logging.getLogger(__name__)

_ALIGNMENT = 64
"""Bytes: TensorFlow's operations refuse memory that does not begin at a multiple."""

Examples: TypeAlias = np.ndarray | Sequence[np.ndarray]
"""[C, E, ...], or one array [E, ...] a class."""


def to_device(array: np.ndarray) -> tf.Tensor:
    """The array as a tensor where operations run.

    `tf.constant` makes two copies of an array that is not aligned as TensorFlow wants, and keeps
    one. A private map of a file is shared instead of copied, where the device is the CPU.
    """
    private = isinstance(array, np.memmap) and array.mode == "c" and array.flags.c_contiguous
    if not private or array.ctypes.data % _ALIGNMENT:
        return tf.constant(array)
    return tf.identity(tf.experimental.dlpack.from_dlpack(array.__dlpack__()))


def grouped(images: Any, labels: Any) -> tuple[Any, list[int], list[Any]]:
    """Examples [n, ...] in any order, class after class in order of the labels [n].

    Returns:
      The examples, how many each class has, and its label.

    Raises:
      ValueError: the labels are not one per example.
    """
    labels = np.asarray(labels)
    if labels.dtype == object and not all(isinstance(v, (str, bytes)) for v in labels.flat):
        raise ValueError("labels hold objects; give a number or a name for each example.")
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        raise ValueError("labels hold NaN; give a number or a name for each example.")
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    arrays = {"": images} if not isinstance(images, Mapping) else images
    for array in arrays.values():
        if not np.ndim(array):
            raise ValueError(
                f"the examples are {arguments.shown(array)}; give an array [examples, ...] beside "
                "the labels."
            )
    lengths = {len(array) for array in arrays.values()}
    if labels.ndim != 1 or lengths != {len(labels)}:
        raise ValueError(
            f"labels have shape {labels.shape} for {', '.join(map(str, sorted(lengths)))} examples;"
            " give one label, a number or a name, for each example."
        )
    order = np.argsort(labels, kind="stable")
    names, counts = np.unique(labels, return_counts=True)
    arrays = {name: np.asarray(array)[order] for name, array in arrays.items()}
    images = arrays if isinstance(images, Mapping) else arrays[""]
    return images, counts.tolist(), names.tolist()


def flatten_all(images: Any, counts: Sequence[int] | None) -> tuple[Any, np.ndarray]:
    """Checks examples; returns them as [sum of counts, ...] and the counts [C] as int64."""
    if not isinstance(images, Mapping):
        return _flatten(images, counts)
    inputs = {name: _flatten(array, counts) for name, array in images.items()}
    sizes = [own for _, own in inputs.values()]
    if not sizes or any(not np.array_equal(own, sizes[0]) for own in sizes):
        named = ", ".join(f"{name} {own.tolist()}" for name, (_, own) in inputs.items())
        raise ValueError(
            "the inputs differ in the number of examples of a class "
            f"({named or 'there are none'}); "
            "give every input of every example."
        )
    return {name: array for name, (array, _) in inputs.items()}, sizes[0]


def _flatten(images: Examples, counts: Sequence[int] | None) -> tuple[np.ndarray, np.ndarray]:
    if counts is not None:
        flat = np.atleast_1d(images)
        counts = arguments.sizes("counts", [*counts] if np.ndim(counts) else counts, 0)
        if sum(counts) != len(flat):
            raise ValueError(f"counts add up to {sum(counts)}, but there are {len(flat)} examples.")
        return _check_values(flat), np.asarray(counts, np.int64)
    array = None if isinstance(images, (list, tuple)) else np.atleast_1d(images)
    if array is not None and array.ndim > 2 and 0 in array.shape[2:]:
        raise ValueError(
            f"the examples are empty, of shape {list(array.shape[2:])}; give arrays [classes, "
            "examples, ...] of numbers."
        )
    classes = [np.asarray(examples) for examples in (images if array is None else array)]
    if any(examples.ndim == 0 for examples in classes):
        raise ValueError(
            "examples have no axis of classes, or none of the examples of a class; give an array "
            "[classes, examples, ...], or [examples, ...] and `counts`."
        )
    if len({(examples.shape[1:], examples.dtype.kind) for examples in classes}) != 1:
        raise ValueError(
            "there are no classes, or they differ in the shape or type of an example; give arrays "
            "[examples, ...] that differ in nothing but their length."
        )
    sizes = np.asarray([len(examples) for examples in classes], np.int64)
    # An array needs no copy; a list of arrays does.
    if array is None or array.dtype == object:
        return _check_values(np.concatenate(classes)), sizes
    return _check_values(array.reshape(sizes.sum(), *array.shape[2:])), sizes


def _check_values(flat: np.ndarray) -> np.ndarray:
    """Returns examples in the type in which they are served."""
    if flat.dtype.kind in "biu":
        return flat
    if flat.dtype.kind in "USO" and all(isinstance(v, (str, bytes)) for v in flat.flat):
        return flat
    if not np.issubdtype(flat.dtype, np.floating):
        raise ValueError(
            f"examples are {flat.dtype}; convert them to integers, a floating type or strings."
        )
    if not np.isfinite(flat).all():
        raise ValueError("examples hold NaN or infinite values; clean them first.")
    return flat.astype(np.float32, copy=False)


def check_range(examples: Any, scale: float | None) -> None:
    """Warns of images [n, H, W, channels] whose values seem to be bytes that nobody scales."""
    for array in examples.values() if isinstance(examples, Mapping) else [examples]:
        looks_like_images = array.ndim == 4 and array.shape[-1] in (1, 3, 4) and array.size
        if scale is not None or not looks_like_images or array.dtype.kind not in "uif":
            continue
        few = array[:: max(1, len(array) // 100)]  # What is mapped stays on its disk.
        if few.min() >= 0 and 2 < few.max() <= 255:
            _LOG.warning(
                "Images of %s hold values from %g to %g, which go into the model as they are; "
                "scale=1 / 255 makes fractions, scale=1.0 says that this is meant.",
                array.dtype,
                few.min(),
                few.max(),
            )


def check_scale(scale: float | None) -> None:
    """Refuses what is neither None nor a positive number."""
    real = isinstance(scale, (int, float, np.integer, np.floating)) and not isinstance(scale, bool)
    if scale is not None and not (real and scale > 0 and math.isfinite(scale)):
        raise ValueError(
            f"scale is {arguments.shown(scale)}; give a positive number such as 1 / 255, or None."
        )


def with_rotations(images: np.ndarray) -> np.ndarray:
    """Images [examples, H, W, channels] turned counterclockwise by 0 ... 3 quarter turns, stacked.

    Four copies in memory, because turning drawn images takes several times as long as drawing them.
    """
    if images.ndim != 4 or images.shape[1] != images.shape[2]:
        raise ValueError(
            f"rotations need square images [height, width, channels]; an example is "
            f"{list(images.shape[1:])}. Crop them or pass rotations=False."
        )
    return np.stack([np.rot90(images, turns, axes=(1, 2)) for turns in range(4)])
