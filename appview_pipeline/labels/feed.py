"""The label feed, for programs: every label event that took effect, in order, resumed by a cursor.

>>> for page in follow(database, after=stored_cursor):
...     for event in page.events:
...         ...                    # event.src says event.val of event.uri, or takes it back: event.neg
...     store(page.cursor)         # and go on after it, whenever the program is started again

A reader that applies the events in this order has the labels in effect: of each (src, uri, cid, val) the last one
counts, and a negation ends all of (src, uri, val), whatever their cid. A label ends by itself at its `exp`, without an
event.

Past events are removed by age (`APPVIEW_LABEL_EVENT_DAYS`), but never those that decide what is in effect. So a reader
that begins with 0, or comes back after long, ends with the right labels; only what was overtaken meanwhile is missing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace

from appview_pipeline import backoff
from appview_pipeline.errors import OperatorError
from appview_pipeline.store.database import Database
from appview_pipeline.store.errors import DatabaseError
from appview_pipeline.store.label_feed import FeedBounds, FeedPage, LabelEvent, feed_bounds, listen, read_feed

__all__ = ["FeedBounds", "FeedPage", "FutureCursor", "LabelEvent", "feed_bounds", "follow", "listen", "read_feed"]

log = logging.getLogger(__name__)

PAGE = 1_000
"""Rows of `pipeline.label_event` that a page looks at."""


class FutureCursor(OperatorError):
    """The feed has never had an event of that id: the cursor is another database's, or this one is an older copy."""


def check_cursor(bounds: FeedBounds, cursor: int) -> bool:
    """Whether events after a cursor were removed by age; 0 asks for what is there. Raises `FutureCursor`."""
    if cursor > bounds.last_given:
        raise FutureCursor(
            f"The cursor {cursor} lies in the future: the newest label event is {bounds.newest}. It is another "
            "database's, or this one was restored from an older copy: begin again with 0."
        )
    return 0 < cursor < bounds.swept_to


def follow(
    database: Database,
    *,
    after: int | None = None,
    sources: Collection[str] | None = None,
    unsigned: bool = True,
    limit: int = PAGE,
    stopped: Callable[[], bool] = lambda: False,
    poll_seconds: float = backoff.LABEL_FEED_POLL_SECONDS,
) -> Iterator[FeedPage]:
    """The feed after the cursor `after` (None: from now on; 0: from the oldest), page by page, without an end.

    Gives pages with events, and such as only move the cursor; waits for NOTIFY between them, and polls. `sources`: only
    these labelers; `unsigned`: also events without a signature. While the database is away it waits. Ends when
    `stopped`. Raises `FutureCursor`, also when the database is replaced by an older copy meanwhile, and `OperatorError`
    where the database can't be had at the beginning.
    """
    with database.connect("reader") as connection:
        bounds = feed_bounds(connection, sources)
    cursor = bounds.newest if after is None else after
    is_outdated = check_cursor(bounds, cursor)
    for _ in listen(database, stopped=stopped, poll_seconds=poll_seconds):
        while not stopped():
            try:
                with database.connect("reader") as connection:
                    page = read_feed(connection, cursor, limit=limit, sources=sources, unsigned=unsigned)
                    if page.cursor == cursor:
                        check_cursor(feed_bounds(connection), cursor)
            except FutureCursor:
                raise
            except (DatabaseError, OperatorError) as error:
                log.warning("The label feed can't be read (%s).", error)
                break  # `listen` has lost its connection too, and waits
            if page.cursor == cursor:
                break
            cursor = page.cursor
            yield replace(page, is_outdated=is_outdated)
            is_outdated = False
