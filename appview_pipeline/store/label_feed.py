"""The label feed: label events that took effect, in the order of their ids, which readers resume by."""

from __future__ import annotations

import logging
import select
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from psycopg2.extensions import connection as Connection

from appview_pipeline import backoff
from appview_pipeline.errors import OperatorError
from appview_pipeline.store.database import Database
from appview_pipeline.store.errors import DatabaseError
from appview_pipeline.store.labels import CHANNEL
from appview_pipeline.store.sql import sections

log = logging.getLogger(__name__)


class LabelEvent(NamedTuple):
    """A label or negation that took effect: a row of `pipeline.label_event`, whose comments describe the columns.

    `id` is its place in the feed. `cid` is empty where every version of the subject is meant. `cts` and `exp` are the
    texts that were signed, `cts_micros` and `exp_micros` the same as microseconds since 1970. `signed`: the bytes under
    the signature where they are not the canonical ones.
    """

    id: int
    src: str
    uri: str
    cid: str
    val: str
    neg: bool
    cts: str
    exp: str | None
    sig: bytes | None
    signed: bytes | None
    cts_micros: int
    exp_micros: int | None


@dataclass(frozen=True)
class FeedBounds:
    """Which cursors the feed knows. `newest`: id of the newest event; `last_given`: no cursor above it was ever valid;
    `swept_to`: after a cursor below it, events are missing that were removed by age."""

    newest: int
    last_given: int
    swept_to: int


@dataclass(frozen=True)
class FeedPage:
    """Events in the order of their ids, perhaps none. `cursor`: up to this id everything was read: the next page begins
    after it. `is_outdated`: the cursor before it was so old that past events are missing, which were removed by age;
    those that decide what is in effect never are."""

    events: Sequence[LabelEvent]
    cursor: int
    is_outdated: bool = False


def feed_bounds(connection: Connection, sources: Collection[str] | None = None) -> FeedBounds:
    """The bounds of the feed of all labelers, or of those of `sources`."""
    with connection.cursor() as cursor:
        cursor.execute(sections("labels/feed.sql")["bounds"], {"sources": None if sources is None else list(sources)})
        ((newest, last_given, swept_to),) = cursor.fetchall()
    return FeedBounds(newest, max(newest, last_given), swept_to)


def read_feed(
    connection: Connection,
    after: int,
    *,
    limit: int,
    until: int | None = None,
    sources: Collection[str] | None = None,
    unsigned: bool = True,
) -> FeedPage:
    """The events after an id, of all labelers or of those of `sources`; those without a signature only if `unsigned`.

    Looks at no more than `limit` rows. It returns fewer events where some did not take effect; at the end of the feed
    the page's cursor is the newest id. `until`: an id that was the newest before, and at which the page ends at last.
    """
    parameters = {"after": after, "until": until, "limit": limit, "unsigned": unsigned}
    with connection.cursor() as cursor:
        if sources is None:
            cursor.execute(sections("labels/feed.sql")["page"], parameters)
        else:
            names = sorted(set(sources))
            cursor.execute(sections("labels/feed.sql")["page_of_sources"], {**parameters, "sources": names})
        rows = cursor.fetchall()
    events = [
        LabelEvent._make((*row[1:9], _bytes(row[9]), _bytes(row[10]), *row[11:])) for row in rows if row[1] is not None
    ]
    return FeedPage(events, rows[0][0])


def _bytes(value: memoryview | None) -> bytes | None:
    return None if value is None else bytes(value)


def listen(
    database: Database,
    *,
    stopped: Callable[[], bool] = lambda: False,
    poll_seconds: float = backoff.LABEL_FEED_POLL_SECONDS,
) -> Iterator[None]:
    """Yields once at the beginning, and then whenever the feed may have more: after a NOTIFY, and every `poll_seconds`
    in case that none comes through (a pooler between, a standby).

    Ends when `stopped`. It has a connection of its own, and makes it again when the database was away; meanwhile it
    goes on yielding by time.
    """
    away = backoff.database_away()
    while not stopped():
        try:
            with database.dedicated("reader") as connection:
                with connection.cursor() as cursor:
                    cursor.execute(f"LISTEN {CHANNEL}")
                away.failures = 0
                yield
                while not stopped():
                    _wait(connection, poll_seconds, stopped)
                    yield
        except (DatabaseError, OperatorError) as error:
            wait = away.next()
            log.warning("The database does not say when labels change (%s). Next attempt in %.1f s.", error, wait)
            _pause(wait, stopped)
            yield


def _wait(connection: Connection, seconds: float, stopped: Callable[[], bool]) -> None:
    """Returns when a NOTIFY has come, `seconds` are over, or `stopped`."""
    deadline = time.monotonic() + seconds
    while not stopped() and (left := deadline - time.monotonic()) > 0:
        if select.select([connection], [], [], min(left, backoff.STOP_POLL_SECONDS))[0]:
            connection.poll()
            if connection.notifies:
                connection.notifies.clear()
                return


def _pause(seconds: float, stopped: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not stopped() and (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, backoff.STOP_POLL_SECONDS))
