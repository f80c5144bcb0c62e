"""N-way K-shot episodes from any labelled array.

Shape letters: T tasks, N ways, K shots, Q queries per class, M = K + Q; C classes, E examples per
class; `...` is the shape of an example: [H, W, channels] of an image, [D] of a feature vector,
[length] of a sentence of tokens, nothing of a number, or what else the model takes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
import tensorflow as tf

from maml_tf import arguments, seeds
from maml_tf.tasks import augmentation
from maml_tf.tasks.examples import (
    Examples,
    check_range,
    check_scale,
    flatten_all,
    grouped,
    to_device,
    with_rotations,
)
from maml_tf.types import Batch, Task


class Episodes:
    """Classification tasks over random classes: a `TaskSource`.

    A task draws N of the C classes and numbers them 0 ... N-1 in random order, then draws K support
    and Q query examples of each, all without replacement. With `rotations`, every class of every
    task is turned by its own random multiple of 90 degrees, support and query alike (as in Santoro
    et al. 2016, https://arxiv.org/abs/1605.06065).

    Values are served as they are: whole numbers, bytes and tokens among them, in their own type,
    floating values in float32, text as tf.string. So a model, `adapt` and an exported model take
    what the array holds. Only `scale` changes values, and whoever says it scales what is given to
    `adapt` and to an exported model in the same way.

    The examples are one tensor on the device, four times as large with `rotations`; a meta-batch is
    a gather. On a CPU an array that is mapped privately (`np.load(file, mmap_mode="c")`) is not
    copied: the tensor is the map, which must not be written to afterwards.
    """

    draws_by_index = True
    """Known to `sources.tracing`, which need not find it out for every evaluation."""

    def __init__(
        self,
        images: Examples | Mapping[str, Examples],
        ways: int,
        shots: int | tuple[int, int],
        queries: int | tuple[int, int] | None = None,
        *,
        seed: int = 0,
        split: str = "train",
        counts: Sequence[int] | None = None,
        labels: Any = None,
        rotations: bool = False,
        scale: float | None = None,
        augment: Any = None,
    ):
        """Checks the examples and puts them on the device.

        Args:
          images: examples of any shape and type, [C, E, ...], or one array [E, ...] per class where
            classes differ in size; a dictionary of such for a model of several inputs.
          ways: N, classes of a task.
          shots: K, support examples per class. With (low, high) each task draws its own K,
            uniformly, both ends included; sets are padded to `high`, and the mask says so.
          queries: Q, query examples per class, or (low, high) as for `shots`. If not given, K, or
            its upper end.
          seed: the run's seed.
          split: "train", "val" or "test": independent streams of tasks. It does not choose the
            classes: `images` holds those of this split.
          counts: examples of each class, where `images` is one array [sum of counts, ...] of
            all of them, class after class.
          labels: the class of each example [n], a number or a name, where `images` is one array
            [n, ...] in any order: x and y as `keras.datasets` give them.
          rotations: turn each class of each task; needs square images.
          scale: serve x * scale in float32; 1 / 255 makes fractions of bytes. The array stays on
            the device in its own type. Computed as x / (1 / scale), so that 1 / 255 gives the
            bits of x / 255. 1.0 says that pixels from 0 to 255 are meant, without a warning.
          augment: changes the examples of episodes at random, after `scale`: a Keras layer or a
            model of layers such as `RandomFlip`, or a function `(x [B, ...], seed int32 [2]) ->
            [B, ...]`; a dictionary changes "support" and "query" by two such, or one of them. The
            same meta-batch is changed in the same way each time that it is drawn.

        Raises:
          ValueError: if the array has a wrong shape or type or values that are not finite, a
            count is not positive, there are too few classes or examples, or `augment` cannot
            take them.
        """
        queries = max(_range("shots", shots)) if queries is None else queries
        seeds.check_split(split)
        check_scale(scale)
        arguments.boolean("rotations", rotations)
        if labels is not None:
            if counts is not None:
                raise ValueError("counts and labels both say the classes; give one of them.")
            images, counts = grouped(images, labels)
        examples, sizes = flatten_all(images, counts)
        check_counts(sizes, ways, shots, queries, split)
        check_range(examples, scale)
        examples = tf.nest.map_structure(
            with_rotations if rotations else lambda array: array[None], examples
        )
        self.ways = ways
        self.shots = shots
        self.queries = queries
        self.seed = arguments.whole("seed", seed)
        self.split = split
        self.rotations = rotations
        self.scale = scale
        self.num_classes = len(sizes)
        self._shots, self._queries = _range("shots", shots), _range("queries", queries)
        # Made once, eagerly: a traced function captures the tensors instead of copying them into
        # its graph. 64-bit integers, because 32-bit ones live in host memory beside a GPU.
        self._examples = tf.nest.map_structure(
            lambda array: to_device(array.reshape(-1, *array.shape[2:])), examples
        )
        self._counts = tf.constant(sizes)  # [C]
        self._offsets = tf.constant(np.cumsum(sizes) - sizes)  # [C], first row of each class
        self._max_count = int(sizes.max())
        self._num_examples = int(sizes.sum())
        self._changes = augmentation.changes(augment)
        augmentation.check(self._changes, self.served(tf.zeros([1], tf.int64)))

    @classmethod
    def from_arrays(
        cls,
        x: Any,
        labels: Any,
        ways: int,
        shots: int | tuple[int, int],
        queries: int | tuple[int, int] | None = None,
        **options: Any,
    ) -> Episodes:
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
    ) -> Episodes:
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
        **options: Any,
    ) -> Episodes:
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
          **options: the others of `Episodes`.

        Raises:
          FileNotFoundError: the directory, or a class that is named, is missing.
          ValueError: as for `Episodes`, and if a file is no image or of another size.
        """
        from maml_tf.tasks.images import folders

        check_sizes(ways, shots, queries)
        images, counts = folders.folder_images(
            directory, split, image_size=image_size, color=color, classes=classes
        )
        sizes = list(counts.values())
        wanted = shots if queries is None else queries
        check_counts(np.asarray(sizes), ways, shots, wanted, split, list(counts))
        return cls(images, ways, shots, queries, counts=sizes, split=split, scale=scale, **options)

    @property
    def query_size(self) -> int:
        """N * Q, the examples of a query set, padding included."""
        return self.ways * self._queries[1]

    def __call__(self, index: tf.Tensor | int, num_tasks: int) -> Task:
        """Draws meta-batch `index`.

        Args:
          index: meta-batch number, int64 scalar.
          num_tasks: T, a Python integer.

        Returns:
          Task with support x [T, N*K, ...] and y [T, N*K] int32 in 0 ... N-1, query x [T, N*Q,
          ...] and y [T, N*Q]. Examples of a class are neighbours. A set whose size is drawn has a
          mask [T, N*K]; where that is False x is 0, or "".
        """
        num_tasks = arguments.count("num_tasks", num_tasks, 1)
        rows = self._draw_rows(index, num_tasks)  # [T, N, M]
        if self.rotations:
            turns = 4.0 * self._draw("episode rotations", index, (num_tasks, self.ways, 1))
            rows += tf.cast(turns, tf.int64) * self._num_examples
        shots = self._shots[1]
        return Task(
            support=self._batch("support", rows[:, :, :shots], self._shots, index),
            query=self._batch("query", rows[:, :, shots:], self._queries, index),
        )

    def served(self, rows: tf.Tensor) -> Any:
        """The examples `[..., *shape]` of rows `[...]`; `labels` are those of all rows."""
        return tf.nest.map_structure(lambda examples: self._take(examples, rows), self._examples)

    def _take(self, examples: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        x = tf.gather(examples, rows)
        # Divided: a product with 1 / 255 would be rounded twice.
        return x if self.scale is None else tf.cast(x, tf.float32) / (1.0 / self.scale)

    def labels(self) -> np.ndarray:
        """The class of every row; a turned class is another one, as it is in an episode."""
        turns = tf.nest.flatten(self._examples)[0].shape[0] // self._num_examples
        labels = np.arange(turns * self.num_classes, dtype=np.int32)
        return np.repeat(labels, np.tile(self._counts.numpy(), turns))

    def _draw(self, purpose: str, index: tf.Tensor | int, shape: tuple[int, ...]) -> tf.Tensor:
        """Uniform numbers in [0, 1) of meta-batch `index`."""
        return seeds.uniform(seeds.stream(self.seed, self.split, purpose, index), shape)

    def _draw_rows(self, index: tf.Tensor | int, num_tasks: int) -> tf.Tensor:
        """Rows [T, N, M] of the examples; the largest of random numbers are a random choice."""
        classes = self._draw("episode classes", index, (num_tasks, self.num_classes))
        classes = tf.math.top_k(classes, self.ways).indices  # [T, N]
        shape = (num_tasks, self.ways, self._max_count)
        drawings = self._draw("episode examples", index, shape)  # [T, N, E]
        exists = (
            tf.range(self._max_count, dtype=tf.int64) < tf.gather(self._counts, classes)[..., None]
        )
        drawings = tf.where(exists, drawings, -1.0)
        drawings = tf.math.top_k(drawings, self._shots[1] + self._queries[1]).indices  # [T, N, M]
        return tf.gather(self._offsets, classes)[..., None] + tf.cast(drawings, tf.int64)

    def _batch(self, name: str, rows: tf.Tensor, sizes: tuple[int, int], index) -> Batch:
        """The labelled examples of rows [T, N, K], of which each task keeps its own number."""
        num_tasks, ways, most = rows.shape
        x = self._changed(name, self.served(rows), index)  # [T, N, K, ...]
        y = np.repeat(np.arange(ways, dtype=np.int32), most)
        mask: Any = ()
        if sizes[0] < most:
            purpose = {"support": "episode shots", "query": "episode queries"}[name]
            drawn = self._draw(purpose, index, (num_tasks, 1, 1)) * (most - sizes[0] + 1)
            mask = tf.range(most) < sizes[0] + tf.cast(drawn, tf.int32)  # [T, 1, K]
            mask = tf.broadcast_to(mask, rows.shape)
            x = tf.nest.map_structure(lambda values: _where(mask, values), x)
            mask = tf.reshape(mask, [num_tasks, ways * most])
        merged = tf.nest.map_structure(
            lambda values: tf.reshape(values, [num_tasks, ways * most, *values.shape[3:]]), x
        )
        return Batch(merged, tf.broadcast_to(y, [num_tasks, ways * most]), mask=mask)

    def _changed(self, name: str, x: tf.Tensor, index) -> tf.Tensor:
        """Examples x [T, N, K, ...] of a set, augmented if it is."""
        if name not in self._changes:
            return x
        seed = seeds.stream(self.seed, self.split, f"episode augmentation, {name}", index)
        flat = tf.reshape(x, [-1, *x.shape[3:]])
        return tf.reshape(self._changes[name](flat, seed), [*x.shape[:3], *x.shape[3:]])


def _where(mask: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """The values x [T, N, K, ...] where the mask [T, N, K] is True, elsewhere 0."""
    mask = tf.reshape(mask, [*mask.shape, *[1] * (x.shape.rank - mask.shape.rank)])
    return tf.where(mask, x, tf.zeros_like(x))


def _range(name: str, size: int | tuple[int, int]) -> tuple[int, int]:
    """The smallest and the largest of `size`, a number or (low, high).

    Raises:
      ValueError: if it is neither.
    """
    low, high = (size, size) if _is_whole(size) else _pair(name, size)
    if low > high:
        raise ValueError(f"{name} is {size}; give (low, high) with low <= high.")
    return int(low), int(high)


def _pair(name: str, size: Any) -> tuple[int, int]:
    pair = tuple(size) if isinstance(size, (tuple, list)) else ()
    if len(pair) != 2 or not all(map(_is_whole, pair)):
        raise ValueError(f"{name} is {size!r}; give a whole number, or two as (low, high).")
    return pair[0], pair[1]


def _is_whole(size: Any) -> TypeGuard[int]:
    return isinstance(size, (int, np.integer)) and not isinstance(size, bool)


def check_sizes(
    ways: int, shots: int | tuple[int, int], queries: int | tuple[int, int] | None
) -> tuple[int, int]:
    """Refuses sizes of a task that are no positive whole numbers; returns the largest K and Q.

    Raises:
      ValueError: names the one that is not.
    """
    fewest, most = _range("shots", shots)
    least, largest = _range("queries", most if queries is None else queries)
    for name, count in (("ways", ways), ("shots", fewest), ("queries", least)):
        if arguments.whole(name, count) < 1:
            raise ValueError(f"{name} is {count}; an episode needs at least 1.")
    return most, largest


def check_counts(
    counts: np.ndarray,
    ways: int,
    shots: int | tuple[int, int],
    queries: int | tuple[int, int],
    split: str,
    names: Sequence[str] | None = None,
) -> None:
    """Refuses tasks that classes of these sizes [C] cannot fill; numbers classes without names.

    Raises:
      ValueError: a count is not positive, or there are too few classes or examples.
    """
    shots, queries = check_sizes(ways, shots, queries)
    if ways > len(counts):
        raise ValueError(
            f"{ways}-way episodes need {ways} classes; the {split!r} split has {len(counts)}."
        )
    smallest = int(np.argmin(counts))
    if shots + queries > counts[smallest]:
        raise ValueError(
            f"{shots} support and {queries} query examples need {shots + queries} examples a "
            f"class; class {names[smallest] if names else smallest} of the {split!r} split has "
            f"{counts[smallest]}."
        )
