"""Repositories out of the queue, fetched from their hosts, compared and written.

One thread, the caller's, runs the loop: it alone uses the queue. Others fetch one repository each, and may hang; three
compare what was fetched with the index, one of them what is large; one writes (`writing.py`). `lanes.py` says which
repository is next.

A process may be killed at any instruction. What it had taken returns to the queue by itself, and what it had written is
right: another attempt finds what is left.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from typing import TypeVar

from appview_pipeline import backoff
from appview_pipeline.backfill.compare import Counts
from appview_pipeline.backfill.fetch import Fetcher, FetchFailed, export_failed
from appview_pipeline.backfill.lanes import Lanes
from appview_pipeline.backfill.listing import queue_incomplete
from appview_pipeline.backfill.progress import MAX_REASONS, NOTHING_MORE, Progress, WorkSummary
from appview_pipeline.backfill.resync import Prepared, begin, compare_again, needed_rev, prepare
from appview_pipeline.backfill.writing import Abandoned, Part, WritingThread
from appview_pipeline.errors import OperatorError
from appview_pipeline.ingest.dead_letters import EXCLUDED
from appview_pipeline.ingest.writer import Writer
from appview_pipeline.network.xrpc import Client
from appview_pipeline.protocol.export import Export, InvalidExport
from appview_pipeline.settings import Settings
from appview_pipeline.store import backfill_queue as queue
from appview_pipeline.store import hosts as host_store
from appview_pipeline.store.backfill_queue import UNKNOWN_HOST, URGENT, Fetched, Postponed, Queued, Scope
from appview_pipeline.store.backfill_reports import BackfillReport, add_report
from appview_pipeline.store.database import Connection, Database
from appview_pipeline.store.errors import DatabaseError, Transient
from appview_pipeline.store.repo_states import RepoState, fail_resync, read_repos

log = logging.getLogger(__name__)

SOURCE = "backfill"
"""Name of this source in `pipeline.batch`."""
LARGE_BYTES = 8_000_000
"""An export of so many bytes is large: one of them is compared at a time, beside smaller ones."""
SMALL_COMPARED = 2
"""Smaller exports that are compared at a time."""
MEMORY_EXPORTS = 4
"""Exports of `APPVIEW_REPO_MEMORY_BYTES` that all fetches together may hold in memory."""
MAX_DOWNLOADED = 16
"""Exports that are downloaded and not written yet, as a multiple of those that may be fetched at once. Those in memory
have no more than `MEMORY_EXPORTS` times `APPVIEW_REPO_MEMORY_BYTES` together, or are one; those in files, than
`APPVIEW_REPO_BYTES`, or are one: so a large repository, which takes minutes to write, holds up no other."""
SAVED_AT_ONCE = 200
"""Outcomes that one transaction notes."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class _Moved:
    """The account's host is another one than the queue says."""

    queued: Queued
    host: str


@dataclass(frozen=True)
class _Downloaded:
    """The host has delivered the repository. `state`: of `begin`, before it was asked."""

    queued: Queued
    export: Export
    state: RepoState


@dataclass(frozen=True)
class _Failed:
    """The repository could not be fetched, or not be compared. `in_fetch`: its host's turn ends with it."""

    queued: Queued
    error: FetchFailed
    in_fetch: bool


@dataclass(frozen=True)
class _Written:
    """The repository is written to its end."""

    did: str


_Message = _Moved | _Downloaded | _Failed | _Written


@dataclass
class _Job:
    """A repository that was taken and is not noted yet. `comparisons`: how often its export was compared."""

    queued: Queued
    export: Export | None = None
    state: RepoState | None = None
    prepared: Prepared | None = None
    earlier: Counts = field(default_factory=Counts)
    comparisons: int = 0

    def close(self) -> None:
        """Lets go of the export."""
        if self.export is not None:
            self.export.close()
            self.export = None


def work(
    settings: Settings,
    database: Database,
    *,
    bucket: int | None = None,
    urgent: bool = False,
    dids: Collection[str] | None = None,
    days: int | None = None,
    max_seconds: float | None = None,
    progress: Progress = lambda _: None,
    stopped: Callable[[], bool] = lambda: False,
    client: Client | None = None,
) -> WorkSummary:
    """Works the queue off until nothing may be taken now, for at most `max_seconds`.

    `bucket`: only this part of the queue; otherwise all of it. `urgent`: only what was asked for or is desynchronized.
    `dids`: these repositories, which are queued as asked for; each is tried once, whatever is parked.
    `days`: only records of the last so many days; -1: everything; 0: only what is urgent is worked off. By default
    `APPVIEW_BACKFILL_DAYS`. What is urgent is fetched whole, for its newest days would not close its gaps; `dids` are
    fetched as `days` says (by default whole).

    At its end it finishes what is at hand, and gives back what is not begun. Raises `OperatorError` where there is no
    database, and the error of a defect of ours.
    """
    with ExitStack() as stack:
        if client is None:
            client = stack.enter_context(Client(settings))
        fetcher = Fetcher(replace(settings, repo_memory_bytes=memory_share(settings)), database, client)
        # The loop and the writer have a connection each, beside the pool that the others share: the one would wait for
        # those, and the other would plan its statements anew on each connection that it gets.
        single = replace(settings, db_pool_size=1)
        loop_database, writer_database = (
            stack.enter_context(closing(Database(database.url, single))) for _ in range(2)
        )
        worker = Worker(
            settings=settings,
            database=database,
            loop_database=loop_database,
            writer_database=writer_database,
            fetcher=fetcher,
            scopes=_scopes(settings, bucket, urgent=urgent, days=days),
            bucket=bucket,
            dids=None if dids is None else tuple(dict.fromkeys(dids)),
            days=days,
            progress=progress,
            stopped=stopped,
        )
        return worker.run(max_seconds)


def memory_share(settings: Settings) -> int:
    """Bytes of an export that may be in memory, so that all fetches together are within the limit; what is larger goes
    to a file."""
    return settings.repo_memory_bytes * MEMORY_EXPORTS // max(MEMORY_EXPORTS, settings.repo_fetches)


def _scopes(settings: Settings, bucket: int | None, *, urgent: bool, days: int | None) -> list[Scope]:
    """What is looked through, in this order."""
    is_only_urgent = urgent or (settings.backfill_days if days is None else days) == 0
    lowest = queue.DESYNCHRONIZED if is_only_urgent else queue.REST
    if bucket is not None:
        return [Scope(bucket, lowest)]
    return [URGENT] if is_only_urgent else [URGENT, *(Scope(number) for number in range(queue.BUCKETS))]


@dataclass
class Worker:
    """The loop. `fetcher` fetches on any thread; `loop_database` and `writer_database` are for one thread each.

    The rest is as for `work`.
    """

    settings: Settings
    database: Database
    loop_database: Database
    writer_database: Database
    fetcher: Fetcher
    scopes: list[Scope]
    bucket: int | None
    dids: tuple[str, ...] | None
    days: int | None
    progress: Progress
    stopped: Callable[[], bool]

    def __post_init__(self) -> None:
        """Nothing is taken yet."""
        self.summary = WorkSummary()
        self._lanes = Lanes(self.settings.repo_fetches, self.settings.host_repo_fetches, time.monotonic)
        self._jobs: dict[str, _Job] = {}
        self._messages: SimpleQueue[_Message] = SimpleQueue()
        self._tasks: SimpleQueue[Queued] = SimpleQueue()
        self._small: SimpleQueue[_Downloaded | None] = SimpleQueue()
        self._large: SimpleQueue[_Downloaded | None] = SimpleQueue()
        self._downloaded: dict[str, int] = {}
        self._share = memory_share(self.settings)
        self._memory_bytes = self._file_bytes = 0
        self._threads = 0
        self._is_ending = threading.Event()
        self._unsaved: list[_Moved | _Failed | _Written] = []
        self._unsaved_since = 0.0
        self._tried: set[str] = set()
        self._scope = 0
        self._after = self._urgent_after = UNKNOWN_HOST
        self._urgent_at = 0.0
        self._hosts: list[str] = []
        self._dry_scopes = 0
        self._look_at = 0.0
        self._away = backoff.database_away()
        self._database_due = 0.0
        self._renewed_at = time.monotonic()
        self._noted = WorkSummary()
        self._unresolved = 0

    # ---- the loop

    def run(self, max_seconds: float | None) -> WorkSummary:
        """See `work`."""
        began = self._reported_at = time.monotonic()
        shown_at = 0.0
        writer = Writer(self.writer_database, self.settings, SOURCE, stopped=self._is_ending.is_set)
        self._begin()
        self._writing = WritingThread(
            writer, self.settings.backfill_rows, lambda did: self._messages.put(_Written(did))
        )
        for number in range(SMALL_COMPARED):
            self._thread(lambda: self._compare(self._small), f"compare {number + 1}")
        self._thread(lambda: self._compare(self._large), "compare large")
        try:
            while not self.summary.ended:
                self._step()
                now = time.monotonic()
                self.summary.seconds = now - began
                if self.stopped():
                    self.summary.ended = "it was asked to end"
                elif max_seconds is not None and self.summary.seconds >= max_seconds:
                    self.summary.ended = f"its {max_seconds:,.0f} s were over"
                elif self._is_done():
                    self.summary.ended = NOTHING_MORE
                if now - shown_at >= 1.0:
                    shown_at = now
                    self.progress(self.summary)
        finally:
            self._end()
            self.summary.seconds = time.monotonic() - began
        self._count_left()
        self.progress(self.summary)
        return self.summary

    def _begin(self) -> None:
        if any(scope.is_urgent for scope in self.scopes) and self.dids is None:
            queue_incomplete(self.loop_database, stopped=self.stopped)
        with self.loop_database.connect("writer") as connection:
            if self.dids is not None:
                queue.enqueue(connection, self.dids, reason="requested", priority=queue.ASKED)
                self._note_not_queued(connection, self.dids)
        self._count_left()

    def _note_not_queued(self, connection: Connection, dids: Collection[str]) -> None:
        """Says why the queue does not take some of the repositories that were asked for."""
        queued = {it.did for it in queue.waiting(connection, dids) if not it.is_parked}
        for did, state in read_repos(connection, [did for did in dids if did not in queued]).items():
            if (state.excluded or not state.active) and len(self.summary.reasons) < MAX_REASONS:
                self.summary.reasons[did] = EXCLUDED if state.excluded else "its account is not active"

    def _count_left(self) -> None:
        """How many wait: looked up at the beginning, at the end and now and then, and counted down in between."""
        self._counted_at = time.monotonic()

        def count(connection: Connection) -> int:
            if self.dids is not None:
                return len(queue.waiting(connection, self.dids))
            each = max(1, 1_000_000 // len(self.scopes))
            scopes = [scope for scope in self.scopes if not scope.is_urgent or len(self.scopes) == 1]
            return sum(queue.count_waiting(connection, scope, each) for scope in scopes)

        left = self._with_database(count)
        if left is not None:
            self.summary.left = left

    def _step(self) -> None:
        self._writing.check()
        self._collect(self._patience())
        self._renew()
        # What nothing follows need not wait for others.
        self._writing.hurries = self._lanes.running == 0 and self._lanes.ready == 0
        if self._unsaved and (
            len(self._unsaved) >= SAVED_AT_ONCE
            or len(self._unsaved) >= len(self._jobs)
            or time.monotonic() - self._unsaved_since >= backoff.RESOLUTION_SAVE_SECONDS
        ):
            self._save()
        self._take()
        self._hand_out()
        self.summary.fetching = self._lanes.running
        if time.monotonic() - self._reported_at >= backoff.BACKFILL_REPORT_SECONDS:
            self._report()
        if time.monotonic() - self._counted_at >= backoff.BACKFILL_COUNT_SECONDS:
            self._count_left()

    def _patience(self) -> float:
        """Seconds until there is something to do without a message."""
        if self._unsaved and len(self._unsaved) >= SAVED_AT_ONCE:
            return 0.0
        return 0.02 if self._has_room else backoff.STOP_POLL_SECONDS

    @property
    def _has_room(self) -> bool:
        return self._may_fetch and self._lanes.may_start < self._lanes.fetches

    @property
    def _may_fetch(self) -> bool:
        """Whether what is downloaded, and not written yet, leaves room for more."""
        most = self.settings.repo_memory_bytes * MEMORY_EXPORTS
        has_memory = self._memory_bytes < max(most, 1) and self._file_bytes < self.settings.repo_bytes
        return has_memory and len(self._downloaded) < MAX_DOWNLOADED * self._lanes.fetches

    def _keep(self, did: str, size: int) -> None:
        self._downloaded[did] = size
        self._count_bytes(size)

    def _let_go(self, did: str) -> None:
        size = self._downloaded.pop(did, 0)
        self._count_bytes(size, -1)

    def _count_bytes(self, size: int, sign: int = 1) -> None:
        if size > self._share:
            self._file_bytes += sign * size
        else:
            self._memory_bytes += sign * size

    def _is_done(self) -> bool:
        """Nothing is at hand, and the last look through all scopes found nothing."""
        is_idle = not self._jobs and not self._unsaved and not self._lanes.ready
        return is_idle and self._dry_scopes >= len(self.scopes)

    # ---- taking

    def _take(self) -> None:
        now = time.monotonic()
        if now < self._look_at or not self._has_room or len(self._unsaved) > 5 * SAVED_AT_ONCE:
            return
        if self.dids is not None:
            taken = self._with_database(self._take_given) or []
            self._add(taken)
        else:
            taken = self._take_from_scopes()
        if not taken and self._after == UNKNOWN_HOST:
            self._look_at = max(self._look_at, now + backoff.STOP_POLL_SECONDS)

    def _add(self, taken: Sequence[Queued]) -> None:
        # One whose last part is written is out of the queue, and may be in it again before that is noted here: it is
        # given back when it is.
        fresh = [it for it in taken if it.did not in self._jobs]
        for it in fresh:
            self._jobs[it.did] = _Job(it)
        if self.dids is not None:
            self._tried.update(it.did for it in taken)
        self._lanes.add(fresh)

    def _take_from_scopes(self) -> list[Queued]:
        """Takes from one scope after the other, until enough wait here or all scopes were looked through."""
        taken: list[Queued] = []
        if URGENT in self.scopes and self.scopes[self._scope] != URGENT and time.monotonic() >= self._urgent_at:
            self._urgent_at = time.monotonic() + backoff.BACKFILL_URGENT_SECONDS
            taken += self._with_database(self._take_urgent) or []
            self._add(taken)
            if taken:
                self._dry_scopes = 0
        for _ in self.scopes:
            found = self._with_database(self._take_of_scope)
            if found is None:
                break
            self._add(found)
            taken += found
            if found:
                self._dry_scopes = 0
            if self._after != UNKNOWN_HOST or (found and self._hosts):
                break  # it has more
            # What is left here is of hosts that have no room now: it must not hold up what is in other scopes.
            self._hosts = []
            self._dry_scopes += not found
            self._scope = (self._scope + 1) % len(self.scopes)
            if not self._has_room:
                break
        return taken

    def _take_given(self, connection: Connection) -> list[Queued]:
        left = [did for did in self.dids or () if did not in self._tried]
        taken = queue.take_given(connection, left[: self._lanes.fetches], backoff.BACKFILL_CLAIM_SECONDS)
        if not taken:
            # What another process has, or had when it was killed, is waited for: it gives it back, or finishes it. The
            # rest is not to be taken: of accounts that are excluded, say.
            elsewhere = {it.did for it in queue.waiting(connection, left) if it.is_taken and it.did not in self._jobs}
            self._tried.update(did for did in left if did not in elsewhere)
            left = list(elsewhere)
        self._dry_scopes = 0 if len(left) > len(taken) else len(self.scopes)
        self._meet(connection, {it.host for it in taken})
        return taken

    def _take_of_scope(self, connection: Connection) -> list[Queued]:
        """Takes of the hosts that are known to have something, and of the next ones that are found."""
        scope = self.scopes[self._scope]
        taken: list[Queued] = []
        if not self._hosts or self._after != UNKNOWN_HOST:
            more, after = queue.hosts_with_work(connection, scope, self._after)
            more = [host for host in more if host not in self._hosts]
            self._meet(connection, {host for host in more if not self._lanes.knows(host)})
            self._hosts += more
            self._after = after or UNKNOWN_HOST
        # Those whose host is not known have no host to be found by.
        room = {UNKNOWN_HOST: self._lanes.room(UNKNOWN_HOST)} | {it: self._lanes.room(it) for it in self._hosts}
        counts = {host: count for host, count in room.items() if count}
        if counts:
            taken = queue.take(connection, scope, counts, backoff.BACKFILL_CLAIM_SECONDS)
            found = Counter(it.host for it in taken)
            # A host that gave less than was asked for has no more.
            self._hosts = [it for it in self._hosts if found[it] >= counts.get(it, 0)]
        return taken

    def _take_urgent(self, connection: Connection) -> list[Queued]:
        """Takes what has become urgent while another scope is worked off: it does not wait for the rest."""
        hosts, after = queue.hosts_with_work(connection, URGENT, self._urgent_after)
        self._urgent_after = after or UNKNOWN_HOST
        self._meet(connection, {host for host in hosts if not self._lanes.knows(host)})
        room = {host: self._lanes.room(host, spare=1) for host in [UNKNOWN_HOST, *hosts]}
        counts = {host: count for host, count in room.items() if count}
        return queue.take(connection, URGENT, counts, backoff.BACKFILL_CLAIM_SECONDS) if counts else []

    def _meet(self, connection: Connection, hosts: Collection[str]) -> None:
        if hosts:
            known = host_store.read_hosts(connection, hosts).values()
            # Somebody waits for what was asked for by name: its host is asked once, parked or not.
            self._lanes.meet(known if self.dids is None else [replace(it, parked_seconds=0.0) for it in known])

    def _hand_out(self) -> None:
        while self._may_fetch and (it := self._lanes.start()) is not None:
            self._tasks.put(it)
            if self._threads < self._lanes.running:
                self._threads += 1
                self._thread(self._fetch, f"fetch {self._threads}")

    def _thread(self, run: Callable[[], object], name: str) -> None:
        # Not joined: one that hangs must not hold up the end of the process.
        threading.Thread(target=run, name=f"backfill {name}", daemon=True).start()

    def _renew(self) -> None:
        now = time.monotonic()
        if now - self._renewed_at < backoff.BACKFILL_CLAIM_SECONDS / 3 or not self._jobs:
            return
        dids = list(self._jobs)
        if self._tell(lambda connection: queue.renew(connection, dids, backoff.BACKFILL_CLAIM_SECONDS)):
            self._renewed_at = now

    # ---- the other threads

    def _fetch(self) -> None:
        while True:
            queued = self._tasks.get()
            try:
                self._messages.put(self._fetch_one(queued))
            except Exception as error:
                self._messages.put(_Failed(queued, _unexpected(queued, error), in_fetch=True))

    def _fetch_one(self, queued: Queued) -> _Message:
        try:
            host = self.fetcher.host_of(queued.did)
            if host != queued.host:
                return _Moved(queued, host)
            state = begin(self.database, queued.did)
            export = self.fetcher.repository(queued.did, newer_than=needed_rev(state))
        except FetchFailed as error:
            return _Failed(queued, error, in_fetch=True)
        if self._is_ending.is_set():
            export.close()
            return _Failed(queued, _interrupted(), in_fetch=True)
        return _Downloaded(queued, export, state)

    def _compare(self, source: SimpleQueue[_Downloaded | None]) -> None:
        while (it := source.get()) is not None:
            try:
                self._compare_one(it)
            except InvalidExport as error:
                self._messages.put(_Failed(it.queued, export_failed(error, it.queued.host), in_fetch=False))
            except FetchFailed as error:
                self._messages.put(_Failed(it.queued, error, in_fetch=False))
            except Abandoned:
                self._messages.put(_Failed(it.queued, _interrupted(), in_fetch=False))
            except Exception as error:
                self._messages.put(_Failed(it.queued, _unexpected(it.queued, error), in_fetch=False))

    def _compare_one(self, it: _Downloaded) -> None:
        if self._is_ending.is_set():
            raise Abandoned
        job = self._jobs[it.queued.did]
        asked_at = it.state.asked_at if not job.comparisons else begin(self.database, it.queued.did).asked_at
        if job.prepared is not None:
            job.earlier = job.prepared.counts.after(job.earlier)
        job.comparisons += 1
        days = self._days_of(it.queued)
        settings = replace(self.settings, backfill_rows=self._writing.rows)
        job.prepared = prepare(self.database, settings, it.export, days=days, asked_at=asked_at)
        for changes in job.prepared.parts:
            is_last = any(change.export is not None and change.export.is_last for change in changes)
            self._writing.put(Part(it.queued.did, changes, is_last))

    def _days_of(self, queued: Queued) -> int:
        if self.dids is not None:
            return -1 if self.days is None else self.days
        days = self.settings.backfill_days if self.days is None else self.days
        return days if days and queued.priority < queue.DESYNCHRONIZED else -1

    # ---- what came of it

    def _collect(self, patience: float) -> None:
        """Takes the messages that have come; waits so many seconds for the first."""
        try:
            message = self._messages.get(timeout=patience) if patience > 0 else self._messages.get_nowait()
            while True:
                self._receive(message)
                message = self._messages.get_nowait()
        except Empty:
            return

    def _receive(self, message: _Message) -> None:
        if isinstance(message, _Downloaded):
            queued = message.queued
            self._unresolved = 0
            self._lanes.end(queued.did)
            self._lanes.delivered(queued.host)
            self._keep(queued.did, message.export.size)
            self._jobs[queued.did].export = message.export
            self._jobs[queued.did].state = message.state
            self._begin_comparison(message)
            return
        if isinstance(message, _Failed):
            self._count_failed(message)
        elif isinstance(message, _Moved):
            self._lanes.end(message.queued.did)
        if not self._unsaved:
            self._unsaved_since = time.monotonic()
        self._unsaved.append(message)

    def _begin_comparison(self, it: _Downloaded) -> None:
        (self._large if it.export.size >= LARGE_BYTES else self._small).put(it)

    def _count_written(self, job: _Job) -> None:
        assert job.prepared is not None, "it was written, so it was compared"
        counts, summary = job.prepared.counts.after(job.earlier), self.summary
        summary.repositories += 1
        summary.records += counts.records
        summary.created += counts.creates
        summary.updated += counts.updates
        summary.deleted += counts.deletes
        summary.refused += counts.refused
        summary.bytes += job.prepared.size
        summary.left = max(0, summary.left - 1)
        summary.reasons.pop(job.queued.did, None)

    def _count_failed(self, message: _Failed) -> None:
        queued, error = message.queued, message.error
        if message.in_fetch:
            self._lanes.end(queued.did)
            self._note_of_host(queued, error)
        if error.kind == INTERRUPTED:
            return
        self.summary.failed += 1
        self.summary.failures[error.kind] = self.summary.failures.get(error.kind, 0) + 1
        reasons = self.summary.reasons
        reasons.pop(queued.did, None)
        reasons[queued.did] = error.reason
        if len(reasons) > MAX_REASONS:
            del reasons[next(iter(reasons))]

    def _note_of_host(self, queued: Queued, error: FetchFailed) -> None:
        """What a failure says about the host."""
        host = queued.host
        if error.kind in HOST_KINDS:
            waiting = self._lanes.failed(host, error.reason, error.retry_after)
            if self.dids is not None:
                for it in waiting:
                    self._messages.put(_Failed(it, error, in_fetch=False))
                waiting = []
            for it in waiting:
                self._jobs.pop(it.did, None)
            if waiting:
                dids = [it.did for it in waiting]
                self._tell(lambda connection: queue.release(connection, dids))
                self._tried.difference_update(dids)
            if host in self._hosts and not self._lanes.room(host):
                self._hosts.remove(host)
            news = self._lanes.news(only_parked=True)
            if news:
                self._tell(lambda connection: host_store.note_hosts(connection, news))
        elif error.kind in ANSWER_KINDS or error.kind.startswith("export: "):
            self._lanes.answered(host)
        elif error.kind == "identity" and not error.blames_account:
            # The directory does not answer: what is taken now would fail as well.
            self._unresolved += 1
            if self._unresolved >= UNRESOLVED:
                self._look_at = time.monotonic() + backoff.parked_pds(self._unresolved - UNRESOLVED + 1)

    def _save(self) -> bool:
        """Notes what came of repositories, the oldest first. Says whether it could."""
        some = self._unsaved[:SAVED_AT_ONCE]
        failed = {it.queued.did: it for it in some if isinstance(it, _Failed)}
        moved = {it.queued.did: it.host for it in some if isinstance(it, _Moved)}
        written = {it.did: self._jobs[it.did] for it in some if isinstance(it, _Written)}
        states = self._with_database(lambda connection: read_repos(connection, list(written))) if written else {}
        if states is None:
            return False
        again = {did for did, job in written.items() if self._compares_again(job, states.get(did))}
        fetched = [self._fetched(job) for did, job in written.items() if did not in again]
        if failed and not self._tell(lambda connection: self._write_failed(connection, failed)):
            return False
        if fetched and not self._tell(lambda connection: self._write_fetched(connection, fetched)):
            return False
        if moved and not self._tell(lambda connection: queue.set_hosts(connection, moved)):
            return False
        del self._unsaved[: len(some)]
        self._unsaved_since = time.monotonic()
        for did in again:
            job = self._jobs[did]
            assert job.export is not None and job.state is not None, "it is kept until it is done"
            self._begin_comparison(_Downloaded(job.queued, job.export, job.state))
        for it in fetched:
            self._count_written(self._jobs[it.did])
        for did in [*(it.did for it in fetched), *failed, *moved]:
            self._let_go(did)
            self._jobs.pop(did).close()
        if moved:
            self._look_at = 0.0
            self._tried.difference_update(moved)
        self._dry_scopes = 0
        return True

    def _compares_again(self, job: _Job, state: RepoState | None) -> bool:
        """Whether the stream has brought something meanwhile that the comparison may not have seen, and nothing else is
        missing: then the same export is compared once more."""
        if state is None or job.prepared is None or job.comparisons >= backoff.EXPORT_COMPARISONS:
            return False
        return not self._is_ending.is_set() and compare_again(state, job.prepared.rev, days=self._days_of(job.queued))

    def _fetched(self, job: _Job) -> Fetched:
        assert job.prepared is not None, "it was written, so it was compared"
        attempts = job.queued.attempts + 1
        parked = attempts >= backoff.BACKFILL_TRIES
        return Fetched(
            did=job.queued.did,
            enqueued_at=job.queued.enqueued_at,
            rev=job.prepared.rev,
            records=job.prepared.counts.records,
            bytes=job.prepared.size,
            seconds=backoff.parked_repository(1, is_gone=False) if parked else backoff.repository(attempts),
            parked=parked,
        )

    def _write_fetched(self, connection: Connection, fetched: list[Fetched]) -> None:
        parked = queue.finish(connection, fetched)
        connection.commit()  # locks of repositories come before those of the queue
        for did in parked:
            fail_resync(connection, did, INCOMPLETE, parked=True)
        self.summary.parked += len(parked)

    def _write_failed(self, connection: Connection, failed: dict[str, _Failed]) -> None:
        items = [_postponed(it) for _, it in sorted(failed.items())]
        for it in items:
            fail_resync(connection, it.did, it.error, parked=it.parked)
        queue.postpone(connection, items)
        self.summary.parked += sum(it.parked for it in items)

    # ---- reports, and the end

    def _report(self) -> None:
        """A row of `pipeline.backfill_batch`, and what was seen of hosts."""
        now, before, summary = time.monotonic(), self._noted, self.summary
        if summary.repositories == before.repositories and summary.failed == before.failed and not summary.fetching:
            self._reported_at = now
            return
        report = BackfillReport(
            bucket=self.bucket,
            seconds=now - self._reported_at,
            repositories=summary.repositories - before.repositories,
            records=summary.records - before.records,
            created=summary.created - before.created,
            updated=summary.updated - before.updated,
            deleted=summary.deleted - before.deleted,
            refused=summary.refused - before.refused,
            bytes=summary.bytes - before.bytes,
            failed=summary.failed - before.failed,
            parked=summary.parked - before.parked,
            fetching=summary.fetching,
            failures={
                kind: count - before.failures.get(kind, 0)
                for kind, count in summary.failures.items()
                if count > before.failures.get(kind, 0)
            },
        )
        news = self._lanes.news()

        def write(connection: Connection) -> None:
            host_store.note_hosts(connection, news)
            add_report(connection, report)

        if self._tell(write):
            self._reported_at = now
            self._noted = replace(summary, failures=dict(summary.failures))

    def _end(self) -> None:
        """Writes what is downloaded, gives everything else back. What is being downloaded is given up."""
        deadline = time.monotonic() + backoff.BACKFILL_END_SECONDS
        self._lanes.drain()
        while self._downloaded and time.monotonic() < deadline and self._writing.failure is None:
            self._collect(backoff.STOP_POLL_SECONDS)
            self._save_all()
            self._renew()
        self._is_ending.set()
        for source in (self._small, *[self._small] * (SMALL_COMPARED - 1), self._large):
            source.put(None)
        self._writing.end(max(0.0, deadline - time.monotonic()))
        self._collect(0.0)
        self._database_due = 0.0
        self._save_all()
        self.summary.fetching = 0
        self._report()
        if left := list(self._jobs):
            self._tell(lambda connection: queue.release(connection, left))
        self._writing.check()

    def _save_all(self) -> None:
        while self._unsaved and self._save():
            pass

    def _tell(self, action: Callable[[Connection], object]) -> bool:
        """Does `action` in a transaction of its own. Says whether it was done, as `_with_database`."""
        return self._with_database(lambda connection: (action(connection),)) is not None

    def _with_database(self, action: Callable[[Connection], _T]) -> _T | None:
        """What `action` gives, in a transaction of its own; None when the database is away or busy, and for a while
        after that."""
        if time.monotonic() < self._database_due:
            return None
        try:
            with self.loop_database.connect("writer") as connection:
                found = action(connection)
        except (Transient, OperatorError) as error:
            wait = self._away.next()
            self._database_due = time.monotonic() + wait
            sentence = str(error).strip().partition("\n")[0]
            log.warning("The database did not take a statement, trying again in %.1f s: %s", wait, sentence)
            return None
        self._away.failures = 0
        return found


INCOMPLETE = "its export does not have everything that is missing, however often it is fetched"
INTERRUPTED = "interrupted"
"""Kind of a failure that is none: the process ends."""
HOST_KINDS = frozenset(
    (
        "name",
        "refused address",
        "connection",
        "tls",
        "timeout",
        "redirect",
        "encoding",
        "status",
        "parked",
        "breaker open",
    )
)
"""Kinds of failures that say something about the host."""
UNRESOLVED = 10
"""Accounts in a row that could not be resolved because the directory does not answer: then taking pauses."""
ANSWER_KINDS = frozenset(("gone", "refused", "not found", "signature", "older rev", "too big"))
"""Kinds of failures of which the host has answered."""


def _interrupted() -> FetchFailed:
    return FetchFailed(INTERRUPTED, "the process that fetched it has ended", blames_account=False, retry_after=0.0)


def _unexpected(queued: Queued, error: Exception) -> FetchFailed:
    """The database is away, which says nothing of the account; or a defect of ours, which holds up this one alone."""
    if isinstance(error, OperatorError | DatabaseError):
        sentence = str(error).strip().partition("\n")[0]
        is_away = isinstance(error, OperatorError | Transient)
        return FetchFailed("database", sentence, blames_account=not is_away, retry_after=10.0)
    log.error("Fetching %s failed in an unexpected way", queued.did, exc_info=error)
    return FetchFailed("defect", f"this program failed: {type(error).__name__}: {error}"[:500])


def _postponed(it: _Failed) -> Postponed:
    """When a repository is tried again, and whether it is given up for now."""
    queued = it.queued
    error = it.error
    attempts = queued.attempts + error.blames_account
    parked = error.is_final or (error.blames_account and attempts >= backoff.BACKFILL_TRIES)
    if parked:
        seconds = backoff.parked_repository(
            1 if attempts <= backoff.BACKFILL_TRIES and not error.is_final else attempts, is_gone=error.is_final
        )
    elif error.blames_account:
        seconds = max(backoff.repository(attempts), error.retry_after or 0.0)
    else:
        seconds = backoff.repository(1) if error.retry_after is None else error.retry_after
    return Postponed(queued.did, queued.enqueued_at, error.reason, seconds, counts=error.blames_account, parked=parked)
