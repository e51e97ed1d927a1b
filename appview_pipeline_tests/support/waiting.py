"""Waiting for what happens elsewhere, in another thread or process, without guessing how long that takes."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_for(condition: Callable[[], object], seconds: float = 120.0, explain: Callable[[], str] = str) -> None:
    """Returns as soon as `condition` holds. Raises AssertionError with what `explain` says after `seconds`, which only
    a failure costs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"did not happen in {seconds:g} s\n{explain()}"
        time.sleep(0.01)
