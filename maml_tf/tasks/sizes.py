"""Sizes of an episode: N ways, K shots, Q queries per class; checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np

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
