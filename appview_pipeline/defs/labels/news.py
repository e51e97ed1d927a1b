"""What is new of the labelers since the reports before: differences of the totals in `pipeline.labeler`.

They are kept in memory. A code server that starts begins with the totals that it finds, so what was applied while none
ran shows in no plot; only the first one ever counts from the beginning.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from appview_pipeline.operations.labeler_news import LabelerNews, difference
from appview_pipeline.store.label_reports import LabelerReport

MAX_REPORTED = 20
"""Labelers that are reported at once, since each is an event in Dagster's storage. The others come next time, with all
that is new of them then."""
SELDOM_SECONDS = 3_600.0
"""How often a labeler is reported of which nothing is new."""
WINDOW_SECONDS = 1_800.0
"""How far back rejected labels count for the check."""
MARK_SECONDS = 300.0


@dataclass
class Reported:
    """What was last reported of each labeler, and when. Times are those of a monotonic clock, in seconds.

    `reported_at`: when reports were last made, or where reporting began.
    """

    reported_at: float
    labelers: dict[str, tuple[LabelerReport | None, float]] = field(default_factory=dict)

    def begin(self, found: Iterable[LabelerReport]) -> None:
        """Takes the totals that are there as reported."""
        self.labelers = {it.did: (it, self.reported_at) for it in found}

    def due(self, found: Sequence[LabelerReport], now: float, limit: int = MAX_REPORTED) -> list[LabelerNews]:
        """What is to be reported now, of at most `limit` labelers: of which something is new, and of which nothing was
        said for long; those first whose state has changed, then those that have waited longest."""
        ranked = []
        for it in found:
            before, at = self.labelers.setdefault(it.did, (None, self.reported_at))
            news = difference(it, before, now - at)
            has_moved = before is None or (before.state, before.is_wanted) != (it.state, it.is_wanted)
            is_overdue = it.is_wanted and now - at >= SELDOM_SECONDS
            if has_moved or news.frames or news.received or is_overdue:
                ranked.append((not has_moved, at, it.did, news))
        self.reported_at = now
        ranked.sort(key=lambda one: one[:3])
        return [news for _, _, _, news in ranked[:limit]]

    def note(self, news: LabelerNews, at: float) -> None:
        """Takes that as reported."""
        self.labelers[news.now.did] = (news.now, at)

    def all_since(self, found: Sequence[LabelerReport], now: float) -> list[LabelerNews]:
        """What is new of every labeler, which is reported with that."""
        before = {it.did: self.labelers.get(it.did, (None, self.reported_at)) for it in found}
        news = [difference(it, before[it.did][0], now - before[it.did][1]) for it in found]
        self.labelers = {it.did: (it, now) for it in found}
        self.reported_at = now
        return news


@dataclass
class Window:
    """Totals of the last half hour, some minutes apart, for a share that says how it is now. `last`: what was last said
    of the labelers."""

    marks: deque[tuple[float, dict[str, LabelerReport]]] = field(default_factory=deque)
    last: list[LabelerNews] = field(default_factory=list)

    def since(self, found: Sequence[LabelerReport], now: float) -> list[LabelerNews]:
        """What came of each labeler in the last half hour, or since the first call."""
        if not self.marks or now - self.marks[-1][0] >= MARK_SECONDS:
            self.marks.append((now, {it.did: it for it in found}))
        while len(self.marks) > 1 and now - self.marks[1][0] >= WINDOW_SECONDS:
            self.marks.popleft()
        at, before = self.marks[0]
        self.last = [difference(it, before.get(it.did), now - at) for it in found]
        return self.last
