"""Episodes of what people have: arrays with labels, datasets, folders of images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from maml_tf.tasks.sizes import check_counts, check_sizes

if TYPE_CHECKING:
    import tensorflow as tf
    from typing_extensions import Self


class Constructors:
    """What makes `Episodes` other than by their arrays class after class."""

    class_names: list[Any]

    def __init__(self, *arguments: Any, **options: Any):
        """As `Episodes` does it."""
        raise NotImplementedError

    @classmethod
    def from_arrays(
        cls,
        x: Any,
        labels: Any,
        ways: int,
        shots: int | tuple[int, int],
        queries: int | tuple[int, int] | None = None,
        **options: Any,
    ) -> Self:
        """Episodes of `x, labels` as `keras.datasets` and scikit-learn give them.

        Args:
          x: examples [n, ...] in any order: images, sequences, rows of a table.
          labels: the class of each [n], a number or a name.
          ways: N, classes of a task.
          shots: K, as for `Episodes`.
          queries: Q, as for `Episodes`.
          **options: the others of `Episodes`.
        """
        return cls(x, ways, shots, queries, labels=labels, **options)

    @classmethod
    def from_dataset(
        cls,
        dataset: tf.data.Dataset,
        ways: int,
        shots: int | tuple[int, int],
        queries: int | tuple[int, int] | None = None,
        *,
        image_size: int | tuple[int, int] | None = None,
        **options: Any,
    ) -> Self:
        """Episodes of a `tf.data.Dataset` of `(example, label)`, such as `tfds.load(...)` gives.

        All examples are read into memory.

        Args:
          dataset: of single examples with their label, as pairs or as dictionaries with "image"
            and "label"; not batched.
          ways: N, classes of a task.
          shots: K, as for `Episodes`.
          queries: Q, as for `Episodes`.
          image_size: a number, or (height, width), to which images of bytes are resampled.
          **options: the others of `Episodes`.

        Raises:
          ValueError: also if the dataset is none of these; see `datasets.labelled`.
        """
        from maml_tf.tasks import datasets

        x, labels = datasets.labelled(dataset, image_size)
        return cls(x, ways, shots, queries, labels=labels, **options)

    @classmethod
    def from_directory(
        cls,
        directory: str | os.PathLike[str],
        ways: int,
        shots: int | tuple[int, int],
        queries: int | tuple[int, int] | None = None,
        *,
        split: str = "train",
        image_size: int | tuple[int, int] | None = None,
        color: str = "rgb",
        classes: Sequence[str] | None = None,
        scale: float | None = 1 / 255,
        cache: bool = True,
        **options: Any,
    ) -> Self:
        """Episodes of folders of images, one folder a class.

        Args:
          directory: holds the folders; `images.folders.folder_images` says which classes are of
            which split.
          ways: N, classes of a task.
          shots: K, as for `Episodes`.
          queries: Q, as for `Episodes`.
          split: "train", "val" or "test".
          image_size: a number, or (height, width), to which every image is resampled as a whole;
            needed where they differ in size.
          color: "rgb" or "grey".
          classes: names of the folders to take, whatever the split.
          scale: makes fractions of bytes; give `adapt` and an exported model such, too.
          cache: keep the decoded images in the user's cache folder, for the next time.
          **options: the others of `Episodes`.

        Raises:
          FileNotFoundError: the directory, or a class that is named, is missing.
          ValueError: as for `Episodes`, and if a file is no image or of another size.
        """
        from maml_tf.tasks.images import folders

        check_sizes(ways, shots, queries)
        images, counts = folders.folder_images(
            directory, split, image_size=image_size, color=color, classes=classes, cache=cache
        )
        sizes = list(counts.values())
        wanted = shots if queries is None else queries
        check_counts(np.asarray(sizes), ways, shots, wanted, split, list(counts))
        options |= {"split": split, "scale": scale}
        made = cls(images, ways, shots, queries, counts=sizes, **options)
        made.class_names = list(counts)
        return made
