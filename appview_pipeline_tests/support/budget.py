"""Random properties get a budget of time, and say how many examples they reached in it.

A property runs in rounds of its `max_examples`. The first round always runs to its end: that is the floor. More rounds
follow, each with a seed of its own, until the time of the property is used up. Seeds are counted from `--seed`, so the
same command tries the same examples in the same order, on a slow machine only fewer of them.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable
from typing import Any

import hypothesis

EXAMPLES, SECONDS = "examples", "seconds"
"""Names of the properties of a test's report that hold what it reached."""


class Budget:
    """The time of one property."""

    def __init__(self, seconds: float, first_seed: int, properties: list[tuple[str, object]]) -> None:
        """`properties`: of the test's report (`item.user_properties`), which gets the counts."""
        self._seconds = seconds
        self._first_seed = first_seed
        self._properties = properties

    def spend(self, test: Callable[..., None], **fixtures: Any) -> int:
        """Runs a test made by hypothesis' `given` in rounds; returns the number of examples that it passed."""
        handle = test.hypothesis  # type: ignore[attr-defined]
        inner = handle.inner_test
        count = 0

        @functools.wraps(inner)
        def counted(*arguments: Any, **more: Any) -> None:
            nonlocal count
            inner(*arguments, **more)
            count += 1

        began = time.monotonic()
        handle.inner_test = counted
        try:
            for seed in itertools.count(self._first_seed):
                print(f"seed {seed}")
                hypothesis.seed(seed)(test)
                before = count
                test(**fixtures)
                if time.monotonic() - began >= self._seconds or count == before:
                    break
        finally:
            handle.inner_test = inner
            self._properties.append((EXAMPLES, count))
            self._properties.append((SECONDS, round(time.monotonic() - began, 1)))
        return count
