"""Labelled examples out of a `tf.data.Dataset`, as TensorFlow Datasets and Keras give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from maml_tf import arguments
from maml_tf.system.progress import Bar
from maml_tf.tasks.images import decoding

_NAMES = (("image", "label"), ("x", "y"), ("features", "label"), ("text", "label"))
"""Of an example and its class, where an element is a dictionary."""


def labelled(
    dataset: tf.data.Dataset, image_size: int | tuple[int, int] | None
) -> tuple[np.ndarray, np.ndarray]:
    """All examples [n, ...] of a dataset, and the label [n] of each.

    Args:
      dataset: of `(example, label)`, one at a time, or of dictionaries with "image" and "label".
      image_size: a number, or (height, width), to which images of bytes are resampled; None: all
        examples have one shape.

    Raises:
      ValueError: it is no such dataset, has no labels, no examples or no end, is batched, or its
        examples differ in shape.
    """
    if not isinstance(dataset, tf.data.Dataset):
        raise ValueError(
            "from_dataset takes a tf.data.Dataset of (example, label), not "
            f"{arguments.shown(dataset)}; arrays go into from_arrays."
        )
    size = decoding.checked_size(image_size)
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("the dataset repeats without end; drop .repeat(), or add .take(n).")
    pick = _picker(dataset.element_spec)
    examples: list[np.ndarray] = []
    labels: list[Any] = []
    for element in Bar(dataset.as_numpy_iterator(), desc="Reading", unit=" examples", disable=None):
        example, label = pick(element)
        example = np.asarray(example)
        if size is not None:
            example = _resampled(example, size)
        if examples and example.shape != examples[0].shape:
            raise ValueError(
                f"examples differ in shape: {list(examples[0].shape)}, then "
                f"{list(example.shape)}; give image_size=(height, width), or map the dataset to "
                "one shape."
            )
        examples.append(example)
        labels.append(label)
    if not examples:
        raise ValueError("the dataset has no examples; is it used up, or filtered to nothing?")
    return np.stack(examples), np.asarray(labels)


def _picker(spec: Any):
    """What takes (example, label) out of an element, after a look at its form."""
    if isinstance(spec, tuple) and len(spec) == 2:
        _check_label(spec[1])
        return lambda element: element
    if isinstance(spec, Mapping):
        for names in _NAMES:
            if set(names) <= set(spec):
                _check_label(spec[names[1]])
                return lambda element: (element[names[0]], element[names[1]])
        raise ValueError(
            f"the dataset's elements have {', '.join(sorted(spec))}; map them to (example, label)."
        )
    raise ValueError(
        "the dataset has no labels: its elements are "
        f"{type(spec).__name__}s, not pairs (example, label); "
        "tfds.load(..., as_supervised=True) gives such."
    )


def _check_label(spec: Any) -> None:
    shape = getattr(spec, "shape", None)
    if shape is None or shape.rank not in (0, None):
        raise ValueError(
            f"a label has the shape {getattr(shape, 'as_list', lambda: shape)()}; give one number "
            "or name per example. Of a batched dataset take .unbatch(), of one-hot labels the "
            "argmax."
        )


def _resampled(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image [H, W, c] or [H, W] of bytes as [height, width, c]."""
    if image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise ValueError(
            f"image_size resamples images of bytes [height, width, channels]; an example is "
            f"{image.dtype} {list(image.shape)}. Map the dataset to one shape."
        )
    flat = image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image
    return decoding.resampled(Image.fromarray(flat), size)[0]
