"""What a run says of work that goes on: a line every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable


class EverySeconds:
    """Calls what it is given, but no more often than every so many seconds, and not at once."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = time.monotonic()

    def __call__(self, say: Callable[[], object]) -> None:
        if time.monotonic() - self._last >= self._seconds:
            self._last = time.monotonic()
            say()
