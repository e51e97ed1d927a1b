"""A circuit breaker: a server that keeps failing is not asked for a while, and then with one request at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from appview_pipeline.backoff import BREAKER_FAILURES, BREAKER_SECONDS

State = Literal["closed", "open", "probing"]


@dataclass
class CircuitBreaker:
    """Opens after `BREAKER_FAILURES` failures in a row, for `BREAKER_SECONDS`. Then one request is let through, the
    probe: it closes the breaker if it succeeds, and opens it again if it fails.

    A request that failed while the server answered others says something about what was asked for, not about the
    server: it is no failure in the row. Otherwise some requests that hang at once would look like a server that hangs.

    `now` is in seconds of any clock that does not go back. Not thread-safe: its owner has a lock.
    """

    failures: int = 0
    """Failures in a row."""
    opened: int = 0
    """How often it has opened."""
    open_until: float | None = None
    """When it lets a probe through; None while it is closed."""
    reason: str | None = None
    """The last failure in words."""
    is_probing: bool = False
    answered_at: float = -math.inf
    """When the server last answered."""

    @property
    def state(self) -> State:
        if self.open_until is None:
            return "closed"
        return "probing" if self.is_probing else "open"

    def refuses_for(self, now: float) -> float | None:
        """Seconds until it lets a request through, or None if it lets one through now.

        While the probe is under way they are 0: it may end at any moment.
        """
        if self.open_until is None or (self.open_until <= now and not self.is_probing):
            return None
        return max(0.0, self.open_until - now)

    def let_through(self) -> bool:
        """A request begins, which `refuses_for` allows. True if it is the probe.

        It is followed by one of the three methods below, which are told so: a request that began before the breaker
        opened may end after the probe began.
        """
        is_probe = self.open_until is not None
        self.is_probing = is_probe
        return is_probe

    def succeeded(self, now: float) -> None:
        """The server answered: it works."""
        self.answered_at = now
        self.failures = 0
        self.open_until = None
        self.is_probing = False

    def failed(self, now: float, reason: str, *, began: float, is_probe: bool) -> None:
        """The server did not answer a request that began at `began`, or answered that it has trouble of its own."""
        self.reason = reason
        if not is_probe and began < self.answered_at:
            return
        self.failures += 1
        if is_probe or (self.open_until is None and self.failures >= BREAKER_FAILURES):
            self.opened += 1
            self.open_until = now + BREAKER_SECONDS
            self.is_probing = False

    def undecided(self, *, is_probe: bool) -> None:
        """The request ended without a word about the server: it was refused here, or the server asked for a pause."""
        if is_probe:
            self.is_probing = False
