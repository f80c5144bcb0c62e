"""N-way K-shot episodes from any labelled array.

Shape letters: T tasks, N ways, K shots, Q queries a class, M = K + Q; C classes, E examples a
class; `...` is [H, W, channels] of an image or [D] of a feature vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from maml_tf.tasks import seeds
from maml_tf.types import Batch, Task

_ALIGNMENT = 64
"""Bytes: TensorFlow's operations refuse memory that does not begin at a multiple."""


class Episodes:
    """Classification tasks over random classes: a `TaskSource`.

    A task draws N of the C classes and numbers them 0 ... N-1 in random order, then draws K support
    and Q query examples of each, all without replacement. With `rotations`, every class of every
    task is turned by its own random multiple of 90 degrees, support and query alike (as in Santoro
    et al. 2016, https://arxiv.org/abs/1605.06065).

    The examples are one tensor on the device, four times as large with `rotations`; a meta-batch is
    a gather. On a CPU an array that is mapped privately (`np.load(file, mmap_mode="c")`) is not
    copied: the tensor is the map, which must not be written to afterwards.
    """

    def __init__(
        self,
        images: np.ndarray | Sequence[np.ndarray],
        ways: int,
        shots: int,
        queries: int | None = None,
        *,
        seed: int = 0,
        split: str = "train",
        counts: Sequence[int] | None = None,
        rotations: bool = False,
    ):
        """Checks the examples and puts them on the device.

        Args:
            images: [C, E, H, W, channels] or [C, E, D], or one array [E, ...] a class where classes
                differ in size. uint8 stays uint8 on the device and is served as x / 255; floating
                values are served as they are, in float32.
            ways: N, classes of a task.
            shots: K, support examples a class.
            queries: Q, query examples a class; K if not given.
            seed: the run's seed.
            split: "train", "val" or "test": independent streams of tasks. It does not choose the
                classes: `images` holds those of this split.
            counts: examples of each class, where `images` is one array [sum of counts, ...] of
                all of them, class after class.
            rotations: turn each class of each task; needs square images.

        Raises:
            ValueError: if the array has a wrong shape or type or values that are not finite, a
                count is not positive, or there are too few classes or examples.
        """
        queries = shots if queries is None else queries
        seeds.check_split(split)
        examples, sizes = _flatten(images, counts)
        check_counts(sizes, ways, shots, queries, split)
        examples = _with_rotations(examples) if rotations else examples[None]
        self.ways = ways
        self.shots = shots
        self.queries = queries
        self.seed = seed
        self.split = split
        self.rotations = rotations
        self.num_classes = len(sizes)
        # Made once, eagerly: a traced function captures the tensors instead of copying them into
        # its graph. 64-bit integers, because 32-bit ones live in host memory beside a GPU.
        self._examples = _to_device(examples.reshape(-1, *examples.shape[2:]))
        self._counts = tf.constant(sizes)  # [C]
        self._offsets = tf.constant(np.cumsum(sizes) - sizes)  # [C], first row of each class
        self._max_count = int(sizes.max())
        self._num_examples = int(sizes.sum())

    def __call__(self, index: tf.Tensor | int, num_tasks: int) -> Task:
        """Draws meta-batch `index`.

        Args:
            index: meta-batch number, int64 scalar.
            num_tasks: T, a Python integer.

        Returns:
            Task with support x [T, N*K, ...] float32 and y [T, N*K] int32 in 0 ... N-1, query x
            [T, N*Q, ...] and y [T, N*Q]. Examples of a class are neighbours.
        """
        rows = self._draw_rows(index, num_tasks)  # [T, N, M]
        if self.rotations:
            turns = 4.0 * self._draw("episode rotations", index, (num_tasks, self.ways, 1))
            rows += tf.cast(turns, tf.int64) * self._num_examples
        x = self.served(rows)  # [T, N, M, ...]
        return Task(
            support=self._batch(x[:, :, : self.shots]), query=self._batch(x[:, :, self.shots :])
        )

    def served(self, rows: tf.Tensor) -> tf.Tensor:
        """The examples float32 `[..., *shape]` of rows `[...]`; `labels` are those of all rows."""
        x = tf.gather(self._examples, rows)
        return tf.cast(x, tf.float32) / 255.0 if x.dtype == tf.uint8 else x

    def labels(self) -> np.ndarray:
        """The class of every row; a turned class is another one, as it is in an episode."""
        turns = self._examples.shape[0] // self._num_examples
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
        drawings = tf.math.top_k(drawings, self.shots + self.queries).indices  # [T, N, M]
        return tf.gather(self._offsets, classes)[..., None] + tf.cast(drawings, tf.int64)

    def _batch(self, x: tf.Tensor) -> Batch:
        """Merges ways and examples of x [T, N, K, ...] and labels them."""
        num_tasks, ways, examples = x.shape[:3]
        y = np.repeat(np.arange(ways, dtype=np.int32), examples)
        return Batch(
            tf.reshape(x, [num_tasks, ways * examples, *x.shape[3:]]),
            tf.broadcast_to(y, [num_tasks, ways * examples]),
        )


def _to_device(array: np.ndarray) -> tf.Tensor:
    """The array as a tensor where operations run.

    `tf.constant` makes two copies of an array that is not aligned as TensorFlow wants, and keeps
    one. A private map of a file is shared instead of copied, where the device is the CPU.
    """
    private = isinstance(array, np.memmap) and array.mode == "c" and array.flags.c_contiguous
    if not private or array.ctypes.data % _ALIGNMENT:
        return tf.constant(array)
    return tf.identity(tf.experimental.dlpack.from_dlpack(array.__dlpack__()))


def _flatten(
    images: np.ndarray | Sequence[np.ndarray], counts: Sequence[int] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Checks examples; returns them as [sum of counts, ...] and the counts [C] as int64."""
    if counts is not None:
        flat = np.atleast_1d(images)
        _check_example(flat)
        if sum(counts) != len(flat):
            raise ValueError(f"counts add up to {sum(counts)}, but there are {len(flat)} examples.")
        return _check_values(flat), np.asarray(counts, np.int64)
    array = None if isinstance(images, (list, tuple)) else np.atleast_1d(images)
    classes = [np.asarray(examples) for examples in (images if array is None else array)]
    if len({(examples.shape[1:], examples.dtype) for examples in classes}) != 1:
        raise ValueError(
            "there are no classes, or they differ in the shape or type of an example; give arrays "
            "[examples, ...] that differ in nothing but their length."
        )
    _check_example(classes[0])
    sizes = np.asarray([len(examples) for examples in classes], np.int64)
    # An array needs no copy; a list of arrays does.
    if array is None:
        return _check_values(np.concatenate(classes)), sizes
    return _check_values(array.reshape(sizes.sum(), *array.shape[2:])), sizes


def _check_example(examples: np.ndarray) -> None:
    """Refuses examples [E, ...] that are neither images nor vectors."""
    if examples.ndim not in (2, 4):
        raise ValueError(
            f"an example has shape {list(examples.shape[1:])}; give images [classes, examples, "
            "height, width, channels] or features [classes, examples, size]."
        )


def _check_values(flat: np.ndarray) -> np.ndarray:
    """Returns examples as uint8 or float32."""
    if flat.dtype == np.uint8:
        return flat
    if not np.issubdtype(flat.dtype, np.floating):
        raise ValueError(f"examples are {flat.dtype}; convert them to uint8 or a floating type.")
    if not np.isfinite(flat).all():
        raise ValueError("examples hold NaN or infinite values; clean them first.")
    return flat.astype(np.float32, copy=False)


def _with_rotations(images: np.ndarray) -> np.ndarray:
    """Images [examples, H, W, channels] turned counterclockwise by 0 ... 3 quarter turns, stacked.

    Four copies in memory, because turning drawn images takes several times as long as drawing them.
    """
    if images.ndim != 4 or images.shape[1] != images.shape[2]:
        raise ValueError(
            f"rotations need square images [height, width, channels]; an example is "
            f"{list(images.shape[1:])}. Crop them or pass rotations=False."
        )
    return np.stack([np.rot90(images, turns, axes=(1, 2)) for turns in range(4)])


def check_counts(
    counts: np.ndarray,
    ways: int,
    shots: int,
    queries: int,
    split: str,
    names: Sequence[str] | None = None,
) -> None:
    """Refuses tasks that classes of these sizes [C] cannot fill; numbers classes without names.

    Raises:
        ValueError: a count is not positive, or there are too few classes or examples.
    """
    for name, count in (("ways", ways), ("shots", shots), ("queries", queries)):
        if count < 1:
            raise ValueError(f"{name} is {count}; an episode needs at least 1.")
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
