"""Servers that are asked: how many requests each has, whether it is parked, and its circuit breaker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Upstream:
    """What is known of a server now. Times are UNIX seconds.

    `host`: its name, with the port where that is not the usual one. `failures`: failures in a row. `opened`: how often
    its breaker has opened since this process knows it. `reason`: its last failure in words.
    """

    host: str
    breaker: Literal["closed", "open", "probing"]
    failures: int
    opened: int
    open_until: float | None
    parked_until: float | None
    reason: str | None
    in_flight: int
