"""Progress bars that never end the work whose progress they show."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm


class _Patient:
    """Standard error, where a write that fails is dropped: it may be closed, or its disk full."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Bar(tqdm):
    """`tqdm` on standard error as long as there is one."""

    def __init__(self, *arguments: Any, until_first: str = "", **options: Any):
        """Takes what `tqdm` takes, but `file`; `until_first` is shown before the first update."""
        if sys.stderr is None:
            options["disable"] = True
        else:
            options["file"] = _Patient(sys.stderr)
        super().__init__(*arguments, **options)
        self._until_first = until_first
        if until_first:
            self.set_postfix_str(until_first)

    def update(self, n: float | None = 1) -> bool | None:
        """As tqdm's."""
        self._begin()
        return super().update(n)

    def __iter__(self) -> Iterator[Any]:
        """As tqdm's, which counts what it yields without `update`."""
        for value in super().__iter__():
            self._begin()
            yield value

    def _begin(self) -> None:
        if self._until_first:
            self._until_first = ""
            self.set_postfix_str("", refresh=False)


def tell(sentence: str) -> None:
    """Writes a sentence beside the bars that are shown."""
    if sys.stderr is not None:
        tqdm.write(sentence, file=_Patient(sys.stderr))
