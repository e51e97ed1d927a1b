"""Waiting for what happens elsewhere, in another thread or process, without guessing how long that takes."""

from __future__ import annotations

import time
from collections.abc import Callable

SHORTEST, LONGEST = 0.01, 0.1
"""Seconds between two looks, at first and after two seconds. A look can be a query, or a walk through /proc."""
SHARE = 0.05
"""Of what was waited for so far, the next look comes so much later."""


def pause(waited: float, shortest: float = SHORTEST, longest: float = LONGEST) -> None:
    """Sleeps until the next look at something that has not happened in `waited` seconds."""
    time.sleep(min(longest, max(shortest, waited * SHARE)))


def wait_for(
    condition: Callable[[], object], seconds: float = 120.0, explain: Callable[[], str] = str, longest: float = LONGEST
) -> None:
    """Returns soon after `condition` holds. Raises AssertionError with what `explain` says after `seconds`, which only
    a failure costs. `longest`: seconds between two looks, where one takes long."""
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        assert waited < seconds, f"did not happen in {seconds:g} s\n{explain()}"
        pause(waited, longest=longest)
