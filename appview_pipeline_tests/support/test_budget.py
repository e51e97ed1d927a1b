"""The budget of random properties: a floor whatever the time, other examples in each round, failures that count."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appview_pipeline_tests.support.budget import EXAMPLES, SECONDS, Budget

FLOOR = 10


def spend(seconds: float, seed: int = 0) -> tuple[list[int], int, dict[str, Any]]:
    """The examples that a property saw, the count, and what is reported."""
    seen: list[int] = []

    @settings(max_examples=FLOOR)
    @given(number=st.integers(0, 2**64))
    def test(number: int) -> None:
        seen.append(number)

    reported: list[tuple[str, object]] = []
    count = Budget(seconds, seed, reported).spend(test)
    return seen, count, dict(reported)


def test_without_time_there_is_the_floor() -> None:
    seen, count, reported = spend(0)
    assert len(seen) == count == reported[EXAMPLES] == FLOOR
    assert isinstance(reported[SECONDS], float)


def test_time_brings_more_and_other_examples_after_the_same_first_ones() -> None:
    floor, _, _ = spend(0)
    seen, count, _ = spend(0.3)
    assert len(seen) == count > 2 * FLOOR
    assert seen[:FLOOR] == floor
    assert len(set(seen)) > len(seen) / 2
    assert spend(0, seed=1)[0] == seen[FLOOR : 2 * FLOOR], "seeds count up from the first"


def test_what_fails_in_a_later_round_fails_and_is_counted() -> None:
    passed = 0

    @settings(max_examples=FLOOR)
    @given(number=st.integers())
    def test(number: int) -> None:
        nonlocal passed
        assert passed < FLOOR, "in the second round"
        passed += 1

    reported: list[tuple[str, object]] = []
    with pytest.raises(AssertionError, match="in the second round"):
        Budget(60, 0, reported).spend(test)
    assert dict(reported)[EXAMPLES] == FLOOR
