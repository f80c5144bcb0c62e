"""N-way K-shot episodes from any labelled array.

Shape letters: T tasks, N ways, K shots, Q queries per class, M = K + Q; C classes, E examples per
class; `...` is the shape of an example: [H, W, channels] of an image, [D] of a feature vector,
[length] of a sentence of tokens, nothing of a number, or what else the model takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from maml_tf import arguments, seeds
from maml_tf.tasks import augmentation
from maml_tf.tasks.constructors import Constructors
from maml_tf.tasks.examples import (
    Examples,
    check_range,
    check_scale,
    flatten_all,
    grouped,
    to_device,
    with_rotations,
)
from maml_tf.tasks.shares import share_of
from maml_tf.tasks.sizes import check_counts, drawn, span
from maml_tf.types import Batch, Task


class Episodes(Constructors):
    """Classification tasks over random classes: a `TaskSource`.

    A task draws N of the C classes and numbers them 0 ... N-1 in random order, then draws K support
    and Q query examples of each, all without replacement. With `rotations`, every class of every
    task is turned by its own random multiple of 90 degrees, support and query alike (as in Santoro
    et al. 2016, https://arxiv.org/abs/1605.06065).

    Values are served as they are: whole numbers, bytes and tokens among them, in their own type,
    floating values in float32, text as tf.string. So a model, `adapt` and an exported model take
    what the array holds. Only `scale` changes values, and whoever says it scales what is given to
    `adapt` and to an exported model in the same way.

    `class_names` has the label of each class, or the name of its folder; its number where nobody
    named it.

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
        queries = max(span("shots", shots)) if queries is None else queries
        seeds.check_split(split)
        check_scale(scale)
        arguments.boolean("rotations", rotations)
        names: list[Any] | None = None
        if labels is not None:
            if counts is not None:
                raise ValueError("counts and labels both say the classes; give one of them.")
            images, counts, names = grouped(images, labels)
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
        self.class_names = list(range(len(sizes))) if names is None else names
        self._shots, self._queries = span("shots", shots), span("queries", queries)
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
        return self.share(index, arguments.count("num_tasks", num_tasks, 1), 0, 1)

    def share(self, index: tf.Tensor | int, num_tasks: int, mine: Any, replicas: int) -> Task:
        """Draws share number `mine` of meta-batch `index`: takes no other examples than its own.

        Args:
          index: meta-batch number, int64 scalar.
          num_tasks: T of the whole meta-batch.
          mine: 0 ... `replicas` - 1, a scalar.
          replicas: among how many the T tasks are shared, a divisor.
        """
        if self._changes and replicas > 1:  # A set is changed as a whole.
            return share_of(self(index, num_tasks), mine, replicas)
        rows = self._draw_rows(index, num_tasks)  # [T, N, M]
        if self.rotations:
            turns = 4.0 * self._draw("episode rotations", index, (num_tasks, self.ways, 1))
            rows += tf.cast(turns, tf.int64) * self._num_examples
        shots = self._shots[1]
        sets = {"support": rows[:, :, :shots], "query": rows[:, :, shots:]}
        masks = {name: self._mask(name, of_set, index) for name, of_set in sets.items()}
        sets, masks = share_of((sets, masks), mine, replicas)
        return Task(*(self._batch(name, sets[name], masks[name], index) for name in sets))

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

    def _mask(self, name: str, rows: tf.Tensor, index) -> Any:
        """Which of the examples [T, N, K] of a set exist; nothing where all do."""
        sizes, purpose = {
            "support": (self._shots, "episode shots"),
            "query": (self._queries, "episode queries"),
        }[name]
        if sizes[0] == sizes[1]:
            return ()
        mask = drawn(self._draw(purpose, index, (rows.shape[0],)), sizes)
        return tf.broadcast_to(mask[:, tf.newaxis], rows.shape)

    def _batch(self, name: str, rows: tf.Tensor, mask: Any, index) -> Batch:
        """The labelled examples of rows [T, N, K], of which each task keeps its own number."""
        num_tasks, ways, most = rows.shape
        x = self._changed(name, self.served(rows), index)  # [T, N, K, ...]
        y = np.repeat(np.arange(ways, dtype=np.int32), most)
        if tf.is_tensor(mask):
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
