"""A reader of the label feed that applies events in order, as docs/serving-labels.md tells people to do."""

from __future__ import annotations

from dataclasses import dataclass, field

from appview_pipeline.labels.feed import feed_bounds, read_feed
from appview_pipeline.store.database import Database
from appview_pipeline.store.label_feed import LabelEvent

Key = tuple[str, str, str, str]
"""(src, uri, cid, val)"""


@dataclass
class LabelFollower:
    """What a reader has at its cursor. `labels`: those not taken back, also expired ones."""

    cursor: int = 0
    labels: set[Key] = field(default_factory=set)

    def apply(self, event: LabelEvent) -> None:
        """Applies the next event."""
        if event.neg:
            said = (event.src, event.uri, event.val)
            self.labels = {key for key in self.labels if (key[0], key[1], key[3]) != said}
        else:
            self.labels.add((event.src, event.uri, event.cid, event.val))

    def catch_up(self, database: Database, limit: int = 3) -> None:
        """Reads to the end of the feed, in pages."""
        with database.connect("reader") as connection:
            newest = feed_bounds(connection).newest
            while self.cursor < newest:
                page = read_feed(connection, self.cursor, limit=limit)
                for event in page.events:
                    self.apply(event)
                assert page.cursor > self.cursor
                self.cursor = page.cursor
