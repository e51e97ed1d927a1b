"""The network's repositories, from lists: the relay's hosts, and each host's repositories, into the queue.

Whatever is read is stored with the cursor that leads beyond it, a page at a time. A run may end anywhere, and the next
one goes on. Lists are not trusted: an account's host is the one that its DID document names, which is asked when
the repository is fetched. A list that leads nowhere, or has far more than its host has accounts, is cut off.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue

from appview_pipeline import backoff
from appview_pipeline.backfill.pages import (
    BadPage,
    NoSuchMethod,
    RepositoryPage,
    host_page,
    relay_origin,
    repository_page,
)
from appview_pipeline.network.fetch_errors import FetchError
from appview_pipeline.network.xrpc import Client
from appview_pipeline.settings import Settings
from appview_pipeline.store import backfill_queue as queue
from appview_pipeline.store import listing as store
from appview_pipeline.store.database import Connection, Database
from appview_pipeline.store.listing import HostToList, ListingName
from appview_pipeline.store.session_lock import SessionLock, session_lock

log = logging.getLogger(__name__)

LOCK = "listing of the network"
"""Name of the lock that makes a listing the only one of its database."""
HOSTS_AT_ONCE = 16
"""Hosts that are listed at the same time."""
MAX_PAGES_OF_HOSTS = 1_000
"""Pages of the relay's list of hosts."""
MAX_EMPTY_PAGES = 10
"""Pages in a row with a cursor and nothing else."""
MIN_LISTED, LISTED_FACTOR = 100_000, 20
"""A host may list so many repositories, or so many times the accounts that the relay knows of (a lower limit)."""


@dataclass(frozen=True)
class ListingSummary:
    """What a listing did. `hosts`: hosts that the relay listed in this run; `listed`: hosts whose lists were read to
    their end; `repositories`: entries of active accounts read; `queued`: repositories queued, also those that the
    stream has brought; `failed`: pages that could not be read; `left`: hosts still to be listed. `ended`: why
    it ended, or "" while it goes on."""

    hosts: int = 0
    listed: int = 0
    repositories: int = 0
    queued: int = 0
    failed: int = 0
    left: int = 0
    seconds: float = 0.0
    ended: str = ""


Progress = Callable[[ListingSummary], object]


def list_network(
    settings: Settings,
    database: Database,
    *,
    max_seconds: float | None = None,
    progress: Progress = lambda _: None,
    stopped: Callable[[], bool] = lambda: False,
    client: Client | None = None,
) -> ListingSummary:
    """Queues every repository that the relay, or one of its hosts, lists and that is not known to the queue.

    Goes on where the last run ended; a listing that was read to its end begins anew a day after it began. First queues
    what the stream has brought and nobody has queued, and what is not complete and not in the queue.

    Ends when everything is listed, after `max_seconds`, or when only hosts are left that have just failed: the next run
    tries them again. Raises `LockTaken` where another listing is at work, `LockLost`, and `OperatorError` without a
    database.
    """
    taken = "another process lists the repositories of the network"
    with ExitStack() as stack:
        held = stack.enter_context(session_lock(database, LOCK, taken=taken, stopped=stopped, patience=0.0))
        if client is None:
            client = stack.enter_context(Client(settings))
        deadline = None if max_seconds is None else time.monotonic() + max_seconds
        lock = SessionLock(held, "the listing", "its lock")
        listing = _Listing(settings, database, client, progress, stopped, deadline, lock)
        return listing.run()


def queue_known(database: Database, *, stopped: Callable[[], bool] = lambda: False) -> int:
    """Queues repositories that only the stream has brought so far. Returns how many were looked at."""
    looked_at, page = 0, 5_000
    while not stopped():
        with database.connect("writer") as connection:
            found = queue.queue_unknown(connection, page)
        looked_at += found
        if found < page:
            break
    return looked_at


def queue_incomplete(database: Database, *, stopped: Callable[[], bool] = lambda: False) -> int:
    """Queues repositories that are not complete and not in the queue. Returns how many."""
    queued, after = 0, ""
    while not stopped():
        with database.connect("writer") as connection:
            some, last = queue.queue_incomplete(connection, after)
        queued += some
        if last is None:
            break
        after = last
    return queued


@dataclass(frozen=True)
class _Page:
    """What came of a page of a host's list: the page, or why there is none."""

    host: HostToList
    page: RepositoryPage | None
    error: str = ""
    retry_after: float | None = None
    counts: bool = True
    is_final: bool = False


class _Ended(Exception):
    """It is time to end; `str()` says why."""


class _Listing:
    """One run. The calling thread alone uses the database; the others read one page of a host each."""

    def __init__(
        self,
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
        self._tasks: SimpleQueue[HostToList] = SimpleQueue()
        self._pages: SimpleQueue[_Page] = SimpleQueue()
        self._at_work: dict[str, HostToList] = {}
        self._empty: dict[str, int] = {}
        self._threads = 0
        self.summary = ListingSummary()

    def run(self) -> ListingSummary:
        """See `list_network`."""
        ended = "everything is listed"
        try:
            queued = queue_incomplete(self._database, stopped=self._stopped)
            queued += queue_known(self._database, stopped=self._stopped)
            self._add(queued=queued)
            if self._list_hosts():
                self._list_repositories_of_hosts()
            else:
                self._list_repositories_of_relay()
        except _Ended as why:
            ended = str(why)
        finally:
            if self._at_work:
                with self._database.connect("writer") as connection:
                    store.release_hosts(connection, list(self._at_work))
        with self._database.connect("reader") as connection:
            left = store.hosts_left(connection)
        if left.hosts and ended == "everything is listed":
            ended = f"{left.hosts:,} hosts could not be listed yet"
        self._add(left=left.hosts - self.summary.left, ended=ended)
        return self.summary

    def _add(self, ended: str = "", **counts: int) -> None:
        values = {name: getattr(self.summary, name) + count for name, count in counts.items()}
        seconds = time.monotonic() - self._began
        self.summary = replace(self.summary, **values, seconds=seconds, ended=ended)
        self._progress(self.summary)

    def _check(self) -> None:
        self._lock.ensure()
        if self._stopped():
            raise _Ended("it was asked to end")
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise _Ended("its time was over")

    # ---- lists of the relay

    def _list_hosts(self) -> bool:
        """Reads the relay's list of hosts on. Returns whether the relay has one."""
        reading = self._reading("hosts")
        pages = empty = 0
        while reading.finished_at is None:
            self._check()
            try:
                page = host_page(self._client, self._settings, reading.cursor)
            except NoSuchMethod:
                return False
            except (BadPage, FetchError) as error:
                self._fail_of_relay("hosts", reading.attempts, error)
            else:
                pages, empty = pages + 1, 0 if page.hosts else empty + 1
                cursor, why = _next(page.cursor, reading.cursor, empty, pages < MAX_PAGES_OF_HOSTS)
                with self._database.connect("writer") as connection:
                    store.add_hosts(connection, page.hosts, reading.began_at)
                    store.move_listing(connection, self._relay, "hosts", cursor=cursor, entries=page.entries, error=why)
                self._add(hosts=len(page.hosts))
            reading = self._reading("hosts")
        return True

    def _list_repositories_of_relay(self) -> None:
        """Reads the relay's list of repositories on, for a relay that does not list hosts."""
        reading = self._reading("repositories")
        empty = 0
        while reading.finished_at is None:
            self._check()
            try:
                page = repository_page(self._client, relay_origin(self._settings), reading.cursor, is_trusted=True)
            except NoSuchMethod as error:
                raise _Ended(f"the relay lists neither hosts nor repositories: {error}") from None
            except (BadPage, FetchError) as error:
                self._fail_of_relay("repositories", reading.attempts, error)
            else:
                empty = 0 if page.entries else empty + 1
                cursor, why = _next(page.cursor, reading.cursor, empty, True)
                with self._database.connect("writer") as connection:
                    queued = queue.enqueue_new(connection, page.revs, reason="discovered", priority=queue.REST)
                    store.move_listing(
                        connection,
                        self._relay,
                        "repositories",
                        cursor=cursor,
                        entries=page.entries,
                        queued=queued,
                        error=why,
                    )
                self._add(repositories=len(page.revs), queued=queued)
            reading = self._reading("repositories")

    def _reading(self, name: ListingName) -> store.Reading:
        """How far the list was read; it begins anew a day after it last began, if it was read to its end."""
        with self._database.connect("writer") as connection:
            reading = store.read_listing(connection, self._relay, name)
            is_over = reading is not None and reading.finished_at is not None
            if reading is None or (is_over and time.time() - reading.began_at.timestamp() >= backoff.LISTING_SECONDS):
                store.begin_listing(connection, self._relay, name)
                reading = store.read_listing(connection, self._relay, name)
        assert reading is not None, "it was begun"
        if reading.finished_at is None and reading.wait > 0:
            raise _Ended(f"the relay's list could not be read ({reading.error}); it is tried again later")
        return reading

    def _fail_of_relay(self, name: ListingName, attempts: int, error: FetchError | BadPage) -> None:
        seconds = backoff.listing(attempts + 1)
        if isinstance(error, FetchError) and error.retry_after is not None:
            seconds = max(seconds, error.retry_after)
        log.warning("The relay's list of %s could not be read: %s", name, error)
        with self._database.connect("writer") as connection:
            if attempts + 1 >= backoff.LISTING_TRIES:
                # A cursor that the relay does not take any more, perhaps.
                store.begin_listing(connection, self._relay, name)
            store.fail_listing(connection, self._relay, name, str(error), seconds)
        self._add(failed=1)

    # ---- lists of the hosts

    def _list_repositories_of_hosts(self) -> None:
        is_dry = False
        while True:
            self._check()
            if len(self._at_work) < HOSTS_AT_ONCE and not is_dry:
                limit = HOSTS_AT_ONCE - len(self._at_work)
                with self._database.connect("writer") as connection:
                    taken = store.take_hosts(connection, limit, backoff.LISTING_CLAIM_SECONDS)
                is_dry = not taken
                for host in taken:
                    self._hand_out(host)
            if not self._at_work:
                return
            try:
                page = self._pages.get(timeout=backoff.STOP_POLL_SECONDS)
            except Empty:
                continue
            is_dry = False
            self._store(page)

    def _hand_out(self, host: HostToList) -> None:
        self._at_work[host.host] = host
        self._tasks.put(host)
        if self._threads < min(HOSTS_AT_ONCE, len(self._at_work)):
            self._threads += 1
            # Not joined: one that hangs must not hold up the end of the process.
            threading.Thread(target=self._read, name=f"listing {self._threads}", daemon=True).start()

    def _read(self) -> None:
        while True:
            host = self._tasks.get()
            try:
                self._pages.put(_Page(host, repository_page(self._client, host.host, host.cursor)))
            except NoSuchMethod as error:
                self._pages.put(_Page(host, None, str(error), is_final=True))
            except BadPage as error:
                self._pages.put(_Page(host, None, str(error)))
            except FetchError as error:
                self._pages.put(_Page(host, None, error.reason, error.retry_after, error.blames_account))
            except Exception as error:  # a defect of ours holds up this host alone
                log.exception("Listing %s failed in an unexpected way", host.host)
                self._pages.put(_Page(host, None, f"this program failed: {type(error).__name__}: {error}"))

    def _store(self, it: _Page) -> None:
        host, page = it.host, it.page
        del self._at_work[host.host]
        if page is None:
            attempts = host.attempts + it.counts
            seconds: float | None = backoff.listing(max(attempts, 1))
            if it.retry_after is not None and seconds is not None:
                seconds = max(seconds, it.retry_after)
            if it.is_final or attempts >= backoff.LISTING_TRIES:
                seconds = None
            with self._database.connect("writer") as connection:
                store.fail_host(connection, host.host, it.error, seconds, counts=it.counts)
            self._add(failed=1)
            return
        empty = self._empty[host.host] = 0 if page.entries else self._empty.get(host.host, 0) + 1
        listed = host.listed + page.entries
        cursor, why = _next(
            page.cursor, host.cursor, empty, listed < max(MIN_LISTED, LISTED_FACTOR * (host.accounts or 0))
        )
        with self._database.connect("writer") as connection:
            queued = self._store_page(connection, host, page, cursor, why)
        self._add(repositories=len(page.revs), queued=queued, listed=int(cursor is None))
        if cursor is None:
            self._empty.pop(host.host, None)
        else:
            self._hand_out(replace(host, cursor=cursor, listed=listed, attempts=0))

    def _store_page(
        self, connection: Connection, host: HostToList, page: RepositoryPage, cursor: str | None, why: str | None
    ) -> int:
        queued = queue.enqueue_new(connection, page.revs, reason="discovered", priority=queue.REST, host=host.host)
        store.move_host(
            connection,
            host.host,
            cursor=cursor,
            entries=page.entries,
            claim_seconds=backoff.LISTING_CLAIM_SECONDS,
            error=why,
        )
        return queued


def _next(cursor: str | None, before: str | None, empty: int, may_go_on: bool) -> tuple[str | None, str | None]:
    """Where a list goes on (None: nowhere), and why it is cut off there (None: it is over, or goes on)."""
    if cursor is None:
        return None, None
    if cursor == before:
        return None, "the list was cut off: its cursor leads to the same page again"
    if empty >= MAX_EMPTY_PAGES:
        return None, "the list was cut off: its pages are empty"
    if not may_go_on:
        return None, "the list was cut off: it has far more entries than there can be"
    return cursor, None
