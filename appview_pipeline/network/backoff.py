"""How long to wait before trying an upstream again."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass
class Backoff:
    """Exponential back-off with full jitter, so that many clients of one upstream don't return all at once.

    The n-th wait in a row is drawn from 0 to `first * 2**n` seconds, at most `longest`, and never under a tenth of
    `first`. A connection that held for `healthy` seconds ends the row.
    """

    first: float = 1.0
    longest: float = 64.0
    healthy: float = 30.0
    failures: int = 0

    def next(self) -> float:
        """Seconds to wait now; counts one more failure."""
        ceiling = min(self.longest, self.first * 2 ** min(self.failures, 30))
        self.failures += 1
        return max(self.first / 10, random.uniform(0, ceiling))

    def longest_wait(self) -> float:
        """Seconds to wait where trying soon can't help; counts one more failure. Half of it is jitter."""
        self.failures += 1
        return random.uniform(self.longest / 2, self.longest)

    def connected_for(self, seconds: float) -> None:
        """Tells how long the connection that has just ended had held."""
        if seconds >= self.healthy:
            self.failures = 0
