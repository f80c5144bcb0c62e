"""SIGINT and SIGTERM as a wish to stop, not as an exception in the middle of a step."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def stop_signal() -> Iterator[list[str]]:
    """Collects the names of SIGINT and SIGTERM; a second signal has its usual effect."""
    received: list[str] = []
    before: dict[int, Any] = {}

    def receive(number, frame):
        del frame
        received.append(signal.Signals(number).name)
        signal.signal(number, before[number])

    for number in (int(signal.SIGINT), int(signal.SIGTERM)):
        try:
            before[number] = signal.signal(number, receive)
        except ValueError:  # Not in the main thread: whoever runs us handles signals.
            break
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
