"""Sizes of a task: N ways, K shots, Q queries per class; checked, and drawn where they vary.

Shape letters: T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
import tensorflow as tf

from maml_tf import arguments


def span(name: str, size: int | tuple[int, int]) -> tuple[int, int]:
    """The smallest and the largest of `size`, a number or (low, high).

    Raises:
      ValueError: if it is neither.
    """
    low, high = (size, size) if _is_whole(size) else _pair(name, size)
    if low > high:
        raise ValueError(f"{name} is {size}; give (low, high) with low <= high.")
    return int(low), int(high)


def drawn(numbers: tf.Tensor, sizes: tuple[int, int]) -> tf.Tensor:
    """Which examples of a padded set exist: the first ones, as many as each task draws.

    Args:
      numbers: uniform in [0, 1), one a task, [T].
      sizes: the smallest and the largest size; these and all between are equally likely.

    Returns:
      bool [T, largest].
    """
    low, high = sizes
    # The largest number, 1 - 2^-24, times a whole number is rounded to below it: never high + 1.
    size = low + tf.cast(numbers * (high - low + 1), tf.int32)
    return tf.range(high) < size[:, tf.newaxis]


def _pair(name: str, size: Any) -> tuple[int, int]:
    pair = tuple(size) if isinstance(size, (tuple, list)) else ()
    if len(pair) != 2 or not all(map(_is_whole, pair)):
        given = arguments.shown(size)
        raise ValueError(f"{name} must be a whole number, or two as (low, high), not {given}.")
    return pair[0], pair[1]


def _is_whole(size: Any) -> TypeGuard[int]:
    try:
        arguments.whole("size", size)
    except ValueError:
        return False
    return True


def check_sizes(
    ways: int, shots: int | tuple[int, int], queries: int | tuple[int, int] | None
) -> tuple[int, int]:
    """Refuses sizes of a task that are no positive whole numbers; returns the largest K and Q.

    Raises:
      ValueError: names the one that is not.
    """
    fewest, most = span("shots", shots)
    least, largest = span("queries", most if queries is None else queries)
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
