"""Functions of a library that are replaced while something is traced."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any


class Replacement:
    """Attributes of modules that are others while anybody is inside.

    Threads may come and go in any order, as the replicas of a strategy do: the first one in
    replaces, the last one out puts back.
    """

    def __init__(self, *replaced: tuple[Any, str, Any]):
        """Takes (owner, name, value) of each; the owner's present values are put back later."""
        self._replaced = [(o, name, value, getattr(o, name)) for o, name, value in replaced]
        self._lock, self._inside = threading.Lock(), 0

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Within, the attributes have their other values, in all threads."""
        with self._lock:
            if not self._inside:
                for owner, name, value, _ in self._replaced:
                    setattr(owner, name, value)
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    for owner, name, _, before in self._replaced:
                        setattr(owner, name, before)
