"""Which numbers a setting may be; a setting that is a range of numbers itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`; never NaN, never infinite."""

    least: float
    most: float
    above: bool = False
    """Whether `least` itself is left out."""

    def __contains__(self, value: float) -> bool:
        """Whether `value` is one of them."""
        first = value > self.least if self.above else value >= self.least
        return first and value <= self.most

    def __str__(self) -> str:
        """The range in words."""
        first = "above" if self.above else "from"
        return f"{first} {_number(self.least)} to {_number(self.most)}"


class Span(NamedTuple):
    """Whole numbers from `low` to `high`, of which each task draws one; written LOW..HIGH."""

    low: int
    high: int

    def __str__(self) -> str:
        """As it is written."""
        return f"{self.low}..{self.high}"

    def __repr__(self) -> str:
        """As it is written."""
        return str(self)

    @classmethod
    def read(cls, text: str) -> int | Span:
        """Reads what is written; a number where both ends are the same.

        Raises:
          ValueError: says how it is written.
        """
        found = re.fullmatch(r"([+-]?[0-9]{1,100})\.\.([+-]?[0-9]{1,100})", text)
        if not found:
            raise ValueError("write a range as LOW..HIGH, such as 1..5")
        low, high = map(int, found.groups())
        if low > high:
            raise ValueError(f"write the smaller number of a range first, {high}..{low}")
        return low if low == high else cls(low, high)


def largest(size: int | Span) -> int:
    """The upper end of a range, or the number that is given in its place."""
    return size.high if isinstance(size, Span) else size


COUNT = Range(1, 10**6)
"""Of examples, tasks, classes, steps of an episode."""
INNER_STEPS = Range(0, 1000)
"""Of the training: each is a part of the compiled graph, which takes a second or so to make."""
STEPS = Range(0, 10**4)
"""Gradient steps of an evaluation."""
INDEX = Range(0, 10**6)
ITERATIONS = Range(0, 10**12)
EVERY = Range(1, 10**12)
FILTERS = Range(1, 2**16)
PIXELS = Range(1, 4096)
"""Of a side of an image."""
POSITIVE = Range(0, 1e30, above=True)
"""Finite in single precision."""
NOT_NEGATIVE = Range(0, 1e30)
MEMBERS = Range(2, 1000)
"""Of an ensemble."""
MEMBERS_KEPT = Range(1, 1000)
SHARE = Range(0, 1)
PART = Range(0, 1, above=True)
MOMENTUM = Range(0, 0.99999, above=True)
"""Of a moving average."""
SEED = Range(0, 2**32 - 1)
FRAMES_PER_SECOND = Range(1, 50)
"""A GIF counts hundredths of a second, and viewers slow down what is faster."""
THREADS = Range(0, 1024)
"""TensorFlow aborts, or exhausts the machine, beyond."""


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"
