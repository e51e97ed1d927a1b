"""What a process that fetches repositories has done so far: for people who watch, for plots, for the end of a job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class WorkSummary:
    """What `worker.work` has done.

    `repositories`: applied; `records`: that these had; `created`, `updated`, `deleted`: records that were missing,
    different, or only here; `refused`: records that are dead letters; `bytes`: of the exports. `failed`: attempts that
    failed, of which `parked` were given up for now; `failures` counts them by kind. `fetching`: under way now.
    `left`: repositories that still waited when last counted (up to a million; the worker counts down in between).
    `ended`: why it ended, or "" while it goes on.
    """

    repositories: int = 0
    records: int = 0
    created: int = 0
    updated: int = 0
    deleted: int = 0
    refused: int = 0
    bytes: int = 0
    failed: int = 0
    parked: int = 0
    fetching: int = 0
    seconds: float = 0.0
    left: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    """Of the repositories that failed last, by DID, why; and of those that were asked for and may not be fetched. At
    most `MAX_REASONS`."""
    ended: str = ""

    @property
    def rate(self) -> float:
        """Repositories a second."""
        return self.repositories / self.seconds if self.seconds > 0 else 0.0

    @property
    def record_rate(self) -> float:
        """Records a second."""
        return self.records / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta_seconds(self) -> float | None:
        """Seconds until nothing is left at this rate; None: nobody can say, or what is left may not be fetched now."""
        return self.left / self.rate if self.rate > 0 and self.ended != NOTHING_MORE else None


NOTHING_MORE = "nothing more may be fetched now"
"""Why it ended: what is left, if anything, has to wait for its host, or until it is tried again."""
MAX_REASONS = 100

Progress = Callable[[WorkSummary], object]
"""Called every second or so, on the thread that called `work`. It must not change the summary."""
