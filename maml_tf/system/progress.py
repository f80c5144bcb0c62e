"""Progress bars that never end the work whose progress they show."""

from __future__ import annotations

import contextlib
import sys
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

    def __init__(self, *arguments: Any, **options: Any):
        """Takes what `tqdm` takes, but `file`."""
        if sys.stderr is None:
            options["disable"] = True
        else:
            options["file"] = _Patient(sys.stderr)
        super().__init__(*arguments, **options)


def tell(sentence: str) -> None:
    """Writes a sentence beside the bars that are shown."""
    if sys.stderr is not None:
        tqdm.write(sentence, file=_Patient(sys.stderr))
