"""How much a transaction of a job beside the live writer does, by how long the ones before it held their locks."""

from __future__ import annotations

from dataclasses import dataclass, field

LOCK_SECONDS = 0.25
"""How long such a transaction should hold locks that the live writer may wait for."""
FIRST_CHUNK, SMALLEST_CHUNK, LARGEST_CHUNK = 200, 20, 5_000


@dataclass
class Pace:
    """How many entries the next transaction handles. It grows slowly and shrinks at once: too large a chunk makes the
    live stream wait, too small a chunk only costs the job some time. `fixed`: always this many."""

    fixed: int | None = None
    size: float = field(default_factory=lambda: FIRST_CHUNK)

    @property
    def next(self) -> int:
        return self.fixed or round(self.size)

    def took(self, count: int, seconds: float) -> None:
        """Notes how long the last transaction, of `count` entries, held its locks."""
        if seconds > LOCK_SECONDS:
            self.size = max(min(self.size, count * LOCK_SECONDS / seconds), SMALLEST_CHUNK)
        elif count >= self.next:
            self.size = min(count * LOCK_SECONDS / max(seconds, 0.001), self.size * 1.5, LARGEST_CHUNK)
