"""What happened in a gap of a stream: the relay's list of repositories and their revs, compared with what is indexed.

A gap of a stream says that events are missing, and not whose. After it every repository is one of these:

- Its next commit comes by the stream. It names the one before it, so it proves that nothing is missing, or shows that
  something is (`sql/apply/repo.sql`).
- It commits nothing more. Then the relay lists its last rev: either we have that, or it is missing, and so the
  repository is desynchronized and queued.
- Nothing was known of it. If it was written in the gap it is queued.

The list says also which accounts are active: what became of an account in the gap is noted as if its event had come.

A survey reads the list from its beginning, after the gap was found, so what it lists is newer than what is missing. At
its end the gap is closed. The cursor is in the database: a survey that is interrupted is gone on with.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone

from appview_pipeline import backoff
from appview_pipeline.backfill.pages import BadPage, NoSuchMethod, RepositoryPage, relay_origin, repository_page
from appview_pipeline.errors import Stopped
from appview_pipeline.indexing.changes import AccountState, Change, Gap
from appview_pipeline.ingest.writer import Writer
from appview_pipeline.network.fetch_errors import FetchError
from appview_pipeline.network.xrpc import Client
from appview_pipeline.protocol.syntax import format_milliseconds, tid_from_micros
from appview_pipeline.settings import Settings
from appview_pipeline.shards import Shard
from appview_pipeline.store import listing as store
from appview_pipeline.store.database import Database
from appview_pipeline.store.gaps import OpenStreamGap, close_gap, open_gaps_of_streams
from appview_pipeline.store.session_lock import SessionLock, session_lock
from appview_pipeline.store.survey import (
    Behind,
    Listed,
    ListedAccount,
    accounts_changed,
    repositories_behind,
    stream_lag,
)

log = logging.getLogger(__name__)

LOCK = "survey of the network"
"""Name of the lock that makes a survey the only one of its database."""
SOURCE = "survey"
"""Name of this source in `pipeline.batch`."""
UNKNOWN_BEGINNING = timedelta(days=7)
"""Where nobody knows when a gap began it is taken to have begun so long before it was found."""
SLACK = timedelta(minutes=10)
"""Clocks of hosts may differ so much from ours: relays accept revs that are five minutes ahead."""
LATE_COMMIT = timedelta(minutes=10)
"""A batch that found a gap committed it within this time."""
MAX_EMPTY_PAGES = 10
"""Pages in a row with a cursor and nothing else."""
MAX_WAITING_PAGES = 200
"""Pages whose repositories wait to be looked at again."""


@dataclass(frozen=True)
class SurveySummary:
    """What a survey did. `gaps`: open gaps of streams when it began, of which `closed` are closed now; `compared`:
    repositories; `missing`: those of which something is missing, which are queued; `accounts`: those that have become
    active or inactive unnoticed; `failed`: pages that could not be read. `ended`: why it ended, or "" while it goes
    on."""

    gaps: int = 0
    closed: int = 0
    compared: int = 0
    missing: int = 0
    accounts: int = 0
    failed: int = 0
    seconds: float = 0.0
    ended: str = ""


Progress = Callable[[SurveySummary], object]


def close_stream_gaps(
    settings: Settings,
    database: Database,
    *,
    max_seconds: float | None = None,
    progress: Progress = lambda _: None,
    stopped: Callable[[], bool] = lambda: False,
    client: Client | None = None,
) -> SurveySummary:
    """Closes the gaps of all streams (`sequence`, `outdated_cursor`): what happened in them is applied, or queued.

    Where there is none it costs a look into the database. Ends when no gap is open, after `max_seconds`, or when the
    relay does not answer; the next call goes on. Raises `LockTaken` where another survey is at work, `LockLost`, and
    `OperatorError` without a database.
    """
    with database.connect("reader") as connection:
        gaps = open_gaps_of_streams(connection)
    if not gaps:
        return SurveySummary(ended="no gap of a stream is open")
    taken = "another process surveys the network"
    with ExitStack() as stack:
        held = stack.enter_context(session_lock(database, LOCK, taken=taken, stopped=stopped, patience=0.0))
        if client is None:
            client = stack.enter_context(Client(settings))
        survey = _Survey(
            settings=settings,
            database=database,
            client=client,
            progress=progress,
            stopped=stopped,
            deadline=None if max_seconds is None else time.monotonic() + max_seconds,
            lock=SessionLock(held, "the survey", "its lock"),
        )
        return survey.run()


class _Ended(Exception):
    """It is time to end; `str()` says why."""


@dataclass(frozen=True)
class _Span:
    """The repositories that a gap concerns, and the time in which something of them may have been missed, as revs.
    `ended`: the end of that time."""

    shard: Shard
    since: str
    until: str
    ended: datetime


@dataclass(frozen=True)
class _Waiting:
    """A page whose repositories that seem to be behind, and accounts that seem to have changed, are looked at again.
    `asked_at`: when it was asked for; `at`: when they are looked at again, by `time.monotonic`."""

    page: RepositoryPage
    cursor: str | None
    why: str | None
    behind: list[Listed]
    changed: list[ListedAccount]
    asked_at: datetime
    at: float


def span_of(gap: OpenStreamGap) -> _Span:
    """What a gap of a stream concerns."""
    began = gap.detected_at - UNKNOWN_BEGINNING
    if gap.from_time is not None:
        # Where it is of another stream, that may have gone on beside this one for a while.
        began = gap.from_time if gap.after is not None else min(began, gap.from_time)
    since = began - SLACK
    until = gap.detected_at + SLACK
    return _Span(Shard.parse(gap.shard), _tid(since), _tid(until), until)


def _tid(moment: datetime) -> str:
    return tid_from_micros(max(0, int(moment.timestamp() * 1_000_000)))


def listed_in(spans: Sequence[_Span], page: RepositoryPage) -> list[Listed]:
    """The repositories of a page that gaps concern, each with the time in which something may have been missed."""
    found = []
    for did, rev in page.revs.items():
        own = [span for span in spans if span.shard.takes(did.encode())]
        if own:
            found.append(Listed(did, rev, min(span.since for span in own), max(span.until for span in own)))
    return found


def accounts_in(spans: Sequence[_Span], page: RepositoryPage) -> list[ListedAccount]:
    """The accounts of a page that gaps concern, each with the end of the time in which something may have been missed.

    One that is not active because its repository is behind at the relay, or because its host sends too much, is as it
    was.
    """
    found = []
    for did, (active, status) in page.accounts.items():
        ended = [span.ended for span in spans if span.shard.takes(did.encode())]
        if ended and status not in ("desynchronized", "throttled"):
            found.append(ListedAccount(did, active, status, max(ended)))
    return found


class _Survey:
    """One run."""

    def __init__(
        self,
        *,
        settings: Settings,
        database: Database,
        client: Client,
        progress: Progress,
        stopped: Callable[[], bool],
        deadline: float | None,
        lock: SessionLock,
    ) -> None:
        self._settings = settings
        self._database = database
        self._client = client
        self._progress = progress
        self._stopped = stopped
        self._deadline = deadline
        self._lock = lock
        self._relay = settings.relay_url
        self._began = time.monotonic()
        self._writer = Writer(database, settings, SOURCE, stopped=stopped)
        self.summary = SurveySummary()

    def run(self) -> SurveySummary:
        """See `close_stream_gaps`."""
        ended = "no gap of a stream is open any more"
        try:
            first = True
            while gaps := self._open():
                if first:
                    self._add(gaps=len(gaps))
                first = False
                self._check()
                self._wait_for_stream()
                self._survey(gaps)
        except _Ended as reason:
            ended = str(reason)
        except Stopped:
            ended = "it was asked to end"
        self._add(ended=ended)
        return self.summary

    def _open(self) -> list[OpenStreamGap]:
        with self._database.connect("reader") as connection:
            return open_gaps_of_streams(connection)

    def _add(self, ended: str = "", **counts: int) -> None:
        values = {name: getattr(self.summary, name) + count for name, count in counts.items()}
        self.summary = replace(self.summary, **values, seconds=time.monotonic() - self._began, ended=ended)
        self._progress(self.summary)

    def _check(self) -> None:
        self._lock.ensure()
        if self._stopped():
            raise _Ended("it was asked to end")
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise _Ended("its time was over")

    def _wait_for_stream(self) -> None:
        """A stream that catches up brings most of what seems to be missing: it goes first."""
        with self._database.connect("reader") as connection:
            lag = stream_lag(connection, self._relay)
        if lag is None or lag.seconds > backoff.SURVEY_LAG_SECONDS:
            return
        behind = time.time() - lag.relay_time.timestamp()
        if behind > backoff.SURVEY_LAG_SECONDS:
            raise _Ended(f"the stream is {behind:,.0f} s behind: its gaps are surveyed once it has caught up")

    def _survey(self, gaps: list[OpenStreamGap]) -> None:
        """Reads the list on, or from its beginning, and closes the gaps that it covers."""
        with self._database.connect("writer") as connection:
            reading = store.read_listing(connection, self._relay, "survey")
            is_new = reading is None or reading.finished_at is not None
            may_begin = reading is None or reading.wait <= 0
            if is_new and may_begin:
                store.begin_listing(connection, self._relay, "survey")
                reading = store.read_listing(connection, self._relay, "survey")
        assert reading is not None, "it was begun"
        if reading.wait > 0:
            raise _Ended(f"the relay's list could not be read ({reading.error}); it is tried again later")
        if is_new:
            # Found before it began, and known to it from the first page on.
            covered = [gap for gap in self._open() if gap.detected_at <= reading.began_at]
        else:
            # The process that began it may not have seen one that was committed late: the next survey covers that.
            covered = [gap for gap in gaps if gap.detected_at <= reading.began_at - LATE_COMMIT]
        cut_off = self._read(reading, [span_of(gap) for gap in covered])
        with self._database.connect("writer") as connection:
            if cut_off is not None:
                wait = backoff.listing(backoff.LISTING_TRIES)
                store.fail_listing(connection, self._relay, "survey", cut_off, wait)
                connection.commit()
                raise _Ended(f"{cut_off}: so its gaps stay open")
            closed = sum(close_gap(connection, gap.id) for gap in covered)
        self._add(closed=closed)

    def _read(self, reading: store.Reading, spans: list[_Span]) -> str | None:
        """Reads the list to its end, and returns why it was cut off (None: it was not).

        Pages are settled in their order, each before its cursor is stored.
        """
        waiting: deque[_Waiting] = deque()
        cursor: str | None = reading.cursor
        is_over = False
        why: str | None = None
        empty, attempts = 0, reading.attempts
        while not is_over or waiting:
            self._check()
            if not is_over and len(waiting) < MAX_WAITING_PAGES:
                asked_at = datetime.now(timezone.utc)
                page = self._page(cursor, attempts)
                attempts = 0
                empty = 0 if page.entries else empty + 1
                why = _cut_off(page.cursor, cursor, empty)
                is_over = page.cursor is None or why is not None
                if not is_over:
                    cursor = page.cursor
                changed = self._changed(accounts_in(spans, page))
                behind = self._behind(listed_in(spans, page), {it.did for it in changed})
                at = time.monotonic() + (backoff.SURVEY_RECHECK_SECONDS if behind or changed else 0.0)
                waiting.append(_Waiting(page, None if is_over else page.cursor, why, behind, changed, asked_at, at))
            elif waiting[0].at > time.monotonic():
                time.sleep(min(backoff.STOP_POLL_SECONDS, waiting[0].at - time.monotonic()))
            while waiting and waiting[0].at <= time.monotonic():
                self._settle(waiting.popleft())
        return why

    def _page(self, cursor: str | None, attempts: int) -> RepositoryPage:
        """The next page. Raises `_Ended` where it can't be read."""
        try:
            return repository_page(self._client, relay_origin(self._settings), cursor, is_trusted=True)
        except NoSuchMethod as error:
            raise _Ended(f"the relay does not list repositories, so its gaps can't be surveyed: {error}") from None
        except (BadPage, FetchError) as error:
            seconds = backoff.listing(attempts + 1)
            if isinstance(error, FetchError) and error.retry_after is not None:
                seconds = max(seconds, error.retry_after)
            log.warning("The relay's list of repositories could not be read: %s", error)
            with self._database.connect("writer") as connection:
                if attempts + 1 >= backoff.LISTING_TRIES:
                    # A cursor that the relay does not take any more, perhaps.
                    store.begin_listing(connection, self._relay, "survey")
                store.fail_listing(connection, self._relay, "survey", str(error), seconds)
            self._add(failed=1)
            raise _Ended(f"the relay's list could not be read: {error}") from None

    def _behind(self, listed: list[Listed], changed: set[str]) -> list[Listed]:
        """Those that seem to be behind; `changed`: accounts that may be only once they are active here."""
        if not listed:
            return []
        with self._database.connect("reader") as connection:
            found = {it.did for it in repositories_behind(connection, listed)} | changed
        return [it for it in listed if it.did in found]

    def _changed(self, listed: list[ListedAccount]) -> list[ListedAccount]:
        if not listed:
            return []
        with self._database.connect("reader") as connection:
            return accounts_changed(connection, listed)

    def _settle(self, it: _Waiting) -> None:
        """Looks again at what seemed to have changed, or to be behind; notes and queues what is; moves the cursor."""
        changed = self._changed(it.changed)
        if changed:
            self._writer.write([_account_change(found, it.asked_at) for found in changed], time.time())
        missing: list[Behind] = []
        if it.behind:
            with self._database.connect("reader") as connection:
                missing = repositories_behind(connection, it.behind)
        if missing:
            changes = [Change(size=0, gaps=[gap_of(found)]) for found in missing]
            self._writer.write(changes, time.time())
        with self._database.connect("writer") as connection:
            store.move_listing(
                connection,
                self._relay,
                "survey",
                cursor=it.cursor,
                entries=it.page.entries,
                queued=len(missing),
                error=it.why,
            )
        self._add(compared=len(it.page.revs), missing=len(missing), accounts=len(changed))


def gap_of(found: Behind) -> Gap:
    """The gap of a repository of which something is missing."""
    known = found.known if found.known is not None and found.known < found.listed else None
    return Gap("repository", found.did, after=known, until=found.listed)


def _account_change(found: ListedAccount, asked_at: datetime) -> Change:
    """What an event of the account would have said. It gives way to events that are newer than the list."""
    since = format_milliseconds(int(asked_at.timestamp() * 1_000))
    return Change(size=0, account=AccountState(found.did, found.active, found.status, since))


def _cut_off(cursor: str | None, before: str | None, empty: int) -> str | None:
    """Why the list is not read on though it has a cursor; None where it is over, or goes on."""
    if cursor is not None and cursor == before:
        return "the list was cut off: its cursor leads to the same page again"
    if cursor is not None and empty >= MAX_EMPTY_PAGES:
        return "the list was cut off: its pages are empty"
    return None
