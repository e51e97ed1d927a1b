"""Missing records, fetched one by one: what records in the index depend on and the stream has not brought.

`pipeline.pending` says what is missing (store/pending.py). One thread runs the loop of `OnDemand`: it takes what is
due, decides what is fetched next, and writes what came. Other threads each fetch what is missing of one repository, and
may hang: no host has more of them than `APPVIEW_HOST_REPO_FETCHES`, and what waits too long for its host is given back,
so one host never holds up another.

Of a repository of which much is missing nothing is fetched record by record: it is queued to be fetched whole.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from queue import Empty, SimpleQueue
from typing import Protocol

from appview_pipeline import backoff
from appview_pipeline.backfill.fetch import FetchedRecord, FetchFailed
from appview_pipeline.backfill.resync import record_change
from appview_pipeline.errors import OperatorError
from appview_pipeline.indexing.changes import Change
from appview_pipeline.indexing.collections import post, postgate, threadgate
from appview_pipeline.ingest.old_records import KnownOldRecords
from appview_pipeline.ingest.writer import Writer
from appview_pipeline.protocol.syntax import is_did, parse_at_uri
from appview_pipeline.settings import Settings
from appview_pipeline.store.backfill_queue import DESYNCHRONIZED, enqueue
from appview_pipeline.store.database import Database
from appview_pipeline.store.errors import DatabaseError
from appview_pipeline.store.pending import Miss, Missing, missed, postpone, take_missing
from appview_pipeline.store.repo_states import read_repos

log = logging.getLogger("appview_pipeline.fetching")

TAKEN_AT_ONCE = 500
"""Missing records that are taken from `pipeline.pending` together."""
MAX_OPEN = 1_000
"""Missing records in memory beyond which nothing more is taken."""
MAX_WAITING_AT_HOST = 100
"""Repositories that wait for their host's turn; more than these are given back, to be due a little later."""
RESYNC_RECORDS = 5
"""So many missing records of one repository, none asked for before, make it one that is fetched whole."""
WRITTEN_AT_ONCE = 200
"""Answers that one transaction writes."""
THREAD_KINDS, QUOTE_KINDS = frozenset(("reply", "root")), frozenset(("quote",))
"""What a missing post is to those that wait for it, where its thread gate or its post gate decides about them."""
UNREACHABLE = frozenset(("name", "refused address", "connection", "tls", "timeout", "parked", "breaker open"))
"""Kinds of `FetchFailed` in which no host said anything about the record."""
ABSENT = frozenset(("gone", "not found", "excluded"))
"""Kinds of `FetchFailed` in which it said that there is none."""


class RecordFetcher(Protocol):
    """What is needed of a `backfill.fetch.Fetcher`."""

    def host_of(self, did: str) -> str:
        """The origin of the account's PDS."""
        ...

    def record(self, did: str, collection: str, rkey: str) -> FetchedRecord:
        """The record, proved, or the proof that there is none."""
        ...


@dataclass(frozen=True)
class Wanted:
    """A missing record that may be asked for."""

    missing: Missing
    did: str
    collection: str
    rkey: str


@dataclass
class Answer:
    """What became of one missing record.

    `changes`: what is to be written, the record first and its gates after it. `outcome`: a column of
    `pipeline.fetch_batch`, or "" where it was not asked for. `reason`: why there is nothing to write, or why what was
    written settles nothing. `is_final`: asking again is useless.
    """

    wanted: Wanted
    outcome: str = ""
    changes: list[Change] = field(default_factory=list)
    reason: str = ""
    is_final: bool = False
    retry_after: float | None = None


@dataclass
class Task:
    """Missing records of one repository. `host`: its PDS, once that is known."""

    did: str
    wanted: list[Wanted]
    host: str | None = None
    answers: list[Answer] = field(default_factory=list)
    failure: FetchFailed | None = None
    """Why the host is not known."""
    broken: BaseException | None = None
    """A defect of ours that ended the task."""


@dataclass
class Counts:
    """What was done: the columns of the same names of `pipeline.fetch_batch` have comments."""

    found: int = 0
    absent: int = 0
    refused: int = 0
    invalid: int = 0
    unreachable: int = 0
    queued_repositories: int = 0
    asked_by_collection: Counter[str] = field(default_factory=Counter)

    @property
    def asked(self) -> int:
        """Records that were asked for."""
        return self.found + self.absent + self.refused + self.invalid + self.unreachable

    @property
    def is_empty(self) -> bool:
        """Whether nothing was done."""
        return not self.asked and not self.queued_repositories

    def add(self, answer: Answer) -> None:
        """Counts an answer."""
        if answer.outcome:
            setattr(self, answer.outcome, getattr(self, answer.outcome) + 1)
            self.asked_by_collection[answer.wanted.collection] += 1


class OnDemand:
    """Fetches missing records until it is no longer called. For one thread; `writer` is its own."""

    def __init__(self, settings: Settings, database: Database, fetcher: RecordFetcher, writer: Writer) -> None:
        self.counts = Counts()
        self._settings = settings
        self._database = database
        self._fetcher = fetcher
        self._writer = writer
        self._too_old = KnownOldRecords(settings, database)
        self._ready: deque[Task] = deque()
        self._waiting: defaultdict[str, deque[Task]] = defaultdict(deque)
        self._at_host: Counter[str] = Counter()
        self._at_work = 0
        self._known: set[str] = set()
        self._unwritten: list[Answer] = []
        self._unwritten_since = 0.0
        self._tasks: SimpleQueue[Task] = SimpleQueue()
        self._done: SimpleQueue[Task] = SimpleQueue()
        self._threads = 0
        self._look_at = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being fetched, and nothing waits in memory."""
        return not self._known

    def step(self) -> None:
        """Waits a moment for an answer; then writes what has come, takes what is due, and hands out.

        Raises `Stopped` where the writer was asked to stop, `OperatorError` and `DatabaseError` where the database
        can't be read.
        """
        self._collect(backoff.STOP_POLL_SECONDS)
        due = time.monotonic() - self._unwritten_since >= backoff.RESOLUTION_SAVE_SECONDS
        if self._unwritten and (due or len(self._unwritten) >= WRITTEN_AT_ONCE):
            self._write()
        self._take()
        self._hand_out()

    def finish(self) -> None:
        """Waits a moment for what is under way, writes what came, and gives the rest back: it is due at once."""
        deadline = time.monotonic() + backoff.RESOLUTION_END_SECONDS
        self._ready.clear()
        self._waiting.clear()
        while self._at_work and (left := deadline - time.monotonic()) > 0:
            self._collect(left)
        while self._unwritten:
            self._write()
        with self._database.connect("writer") as connection:
            postpone(connection, sorted(self._known), 0.0)

    # What is fetched next.

    def _take(self) -> None:
        now = time.monotonic()
        if now < self._look_at or len(self._known) >= MAX_OPEN:
            return
        with self._database.connect("writer") as connection:
            taken = take_missing(connection, TAKEN_AT_ONCE, backoff.MISSING_RECORDS_CLAIM_SECONDS)
        if len(taken) < TAKEN_AT_ONCE:
            self._look_at = now + backoff.MISSING_RECORDS_SECONDS
        by_did: defaultdict[str, list[Wanted]] = defaultdict(list)
        failures: list[Miss] = []
        too_old = self._too_old.get()
        for missing in taken:
            if missing.uri in self._known:
                continue
            wanted = read_missing(missing)
            if wanted is None:
                failures.append(Miss(missing.uri, "nothing can be fetched by this name", 0.0, is_final=True))
            elif too_old is not None and too_old.has_old_key(wanted.did, wanted.collection, wanted.rkey):
                failures.append(Miss(missing.uri, "it is older than APPVIEW_RETENTION_DAYS", 0.0, is_final=True))
            else:
                by_did[wanted.did].append(wanted)
        whole = self._incomplete([did for did, wanted in by_did.items() if is_fetched_whole(wanted)])
        for did in whole:
            failures += [
                Miss(one.missing.uri, "its repository is fetched whole", backoff.missing_record(1), is_final=False)
                for one in by_did.pop(did)
            ]
        if failures or whole:
            with self._database.connect("writer") as connection:
                queued = enqueue(connection, whole, reason="requested", priority=DESYNCHRONIZED)
                missed(connection, failures)
            self.counts.queued_repositories += queued
        for did, found in by_did.items():
            self._ready.append(Task(did, found))
            self._known.update(one.missing.uri for one in found)

    def _incomplete(self, dids: list[str]) -> list[str]:
        """Those of these repositories that may have what is missing. Where everything is here there is none such, and
        whoever names what does not exist can't have whole repositories fetched again and again."""
        if not dids:
            return []
        with self._database.connect("reader") as connection:
            known = read_repos(connection, dids)
        return [did for did in dids if did not in known or not known[did].is_complete]

    def _hand_out(self) -> None:
        while self._ready and self._at_work < self._settings.repo_fetches:
            self._start(self._ready.popleft())

    def _start(self, task: Task) -> None:
        self._at_work += 1
        self._tasks.put(task)
        if self._threads < self._at_work:
            self._threads += 1
            # Not joined: one that hangs must not hold up the end of the process.
            threading.Thread(target=self._fetch, name=f"fetch {self._threads}", daemon=True).start()

    # What came.

    def _collect(self, patience: float) -> None:
        """Takes the tasks that are done; waits so many seconds for the first."""
        try:
            task = self._done.get(timeout=patience) if self._at_work else _pause(patience)
            while True:
                self._at_work -= 1
                self._settle(task)
                task = self._done.get_nowait()
        except Empty:
            return

    def _settle(self, task: Task) -> None:
        """A task came back: its host is known now, or it has been asked."""
        if task.answers:
            assert task.host is not None
            self._at_host[task.host] -= 1
            self._next_at(task.host)
            self._keep(task.answers)
        elif task.broken is not None:
            raise task.broken
        elif task.failure is not None:
            self._keep([_failed(one, task.failure) for one in task.wanted])
        else:
            assert task.host is not None
            waiting = self._waiting[task.host]
            if len(waiting) < MAX_WAITING_AT_HOST:
                waiting.append(task)
            else:
                self._keep([Answer(one) for one in task.wanted])
            self._next_at(task.host)

    def _next_at(self, host: str) -> None:
        """The next repository that waits for this host, if the host has a free place."""
        waiting = self._waiting[host]
        while waiting and self._at_host[host] < self._settings.host_repo_fetches:
            self._at_host[host] += 1
            self._ready.appendleft(waiting.popleft())
        if not waiting:
            del self._waiting[host]
            if not self._at_host[host]:
                del self._at_host[host]

    def _keep(self, answers: Sequence[Answer]) -> None:
        if not self._unwritten:
            self._unwritten_since = time.monotonic()
        self._unwritten += answers

    def _write(self) -> None:
        """Writes the oldest answers in one batch, and notes what is still missing."""
        some, self._unwritten = self._unwritten[:WRITTEN_AT_ONCE], self._unwritten[WRITTEN_AT_ONCE:]
        changes = [change for answer in some for change in answer.changes]
        if changes:
            self._writer.write(changes, time.time())
        failures = [
            Miss(answer.wanted.missing.uri, answer.reason[:500], _wait(answer), answer.is_final)
            for answer in some
            if answer.reason
        ]
        not_asked = [answer for answer in some if not answer.outcome]
        with self._database.connect("writer") as connection:
            missed(connection, failures)
            for seconds, answers in groupby(sorted(not_asked, key=_pause_of), key=_pause_of):
                postpone(connection, [answer.wanted.missing.uri for answer in answers], seconds)
        for answer in some:
            self.counts.add(answer)
            self._known.discard(answer.wanted.missing.uri)

    # On the other threads.

    def _fetch(self) -> None:
        while True:
            task = self._tasks.get()
            try:
                if task.host is None:
                    task.host = self._fetcher.host_of(task.did)
                else:
                    task.answers = self._answers(task.wanted)
            except FetchFailed as failure:
                task.failure = failure
            except (DatabaseError, OperatorError) as error:
                log.warning("What was fetched of %s is fetched again later: %s", task.did, error)
                task.answers = [Answer(one) for one in task.wanted] if task.host is not None else []
                task.failure = FetchFailed("identity", str(error), blames_account=False)
            except BaseException as error:  # a defect of ours: raised again by the loop
                task.broken = error
            self._done.put(task)

    def _answers(self, wanted: Sequence[Wanted]) -> list[Answer]:
        """Fetches one record after the other; where the host does not answer, the others are not asked for."""
        answers: list[Answer] = []
        for at, one in enumerate(wanted):
            answer = self._answer(one)
            if isinstance(answer, FetchFailed):
                answers.append(_failed(one, answer))
                if answer.kind in UNREACHABLE:
                    return [*answers, *map(Answer, wanted[at + 1 :])]
            else:
                answers.append(answer)
        return answers

    def _answer(self, one: Wanted) -> Answer | FetchFailed:
        try:
            fetched = self._fetcher.record(one.did, one.collection, one.rkey)
        except FetchFailed as failure:
            return failure
        if fetched.cid is None:
            return Answer(one, "absent", reason="its repository has no such record", is_final=True)
        change = record_change(self._database, self._settings, fetched)
        if change is None:
            return Answer(one, "found", reason="the index has it, or does not keep its collection", is_final=True)
        if not change.writes:
            letter = change.dead_letters[0]
            return Answer(one, "refused", [change], f"it may not be indexed: {letter.reason}", is_final=True)
        gates = self._gates(one, change)
        if isinstance(gates, FetchFailed):
            return gates
        # The next look finds it, and it is no longer missing. Where it was not stored all the same, it was an attempt.
        return Answer(one, "found", [change, *gates], reason="it was fetched, and is not stored")

    def _gates(self, one: Wanted, change: Change) -> list[Change] | FetchFailed:
        """The gates of a fetched post that decide about what waits for it.

        Without them a reply or a quote that is forbidden would count, so a post whose gates can't be asked for is
        fetched again, except in its last attempt.
        """
        changes = []
        for collection in gates_of(one, change):
            try:
                fetched = self._fetcher.record(one.did, collection, one.rkey)
            except FetchFailed as failure:
                if failure.is_final or failure.kind in ABSENT:
                    continue
                if one.missing.attempts + 1 < backoff.MISSING_RECORD_TRIES:
                    return failure
                log.info("%s is indexed without its gate: %s", one.missing.uri, failure)
                continue
            gate = None if fetched.cid is None else record_change(self._database, self._settings, fetched)
            if gate is not None:
                changes.append(gate)
        return changes


def read_missing(missing: Missing) -> Wanted | None:
    """The record that is missing; None where it has no name by which it could be asked for."""
    uri = parse_at_uri(missing.uri)
    if uri is None or uri.collection is None or uri.rkey is None or not is_did(uri.authority):
        return None
    return Wanted(missing, uri.authority, uri.collection, uri.rkey)


def is_fetched_whole(wanted: Sequence[Wanted]) -> bool:
    """Whether a repository of which these records are missing is fetched whole. Where that was tried, and something is
    still missing, the rest is asked for by itself."""
    return sum(one.missing.attempts == 0 for one in wanted) >= RESYNC_RECORDS


def gates_of(one: Wanted, change: Change) -> list[str]:
    """The collections of the gates that may decide about what waits for a fetched post, and have its record key.

    Only the root of a thread has a thread gate.
    """
    if one.collection != post.COLLECTION.nsid or not change.writes:
        return []
    gates = []
    if one.missing.kinds & THREAD_KINDS and "reply" not in change.writes[0].record:
        gates.append(threadgate.COLLECTION.nsid)
    if one.missing.kinds & QUOTE_KINDS:
        gates.append(postgate.COLLECTION.nsid)
    return gates


def _failed(one: Wanted, failure: FetchFailed) -> Answer:
    """What a failure means for a missing record. Where its host was not asked, it was no attempt."""
    if failure.is_final or failure.kind in ABSENT:
        return Answer(one, "absent", reason=failure.reason, is_final=True)
    outcome = "unreachable" if failure.kind in UNREACHABLE or failure.kind == "identity" else "invalid"
    if not failure.blames_account:
        return Answer(one, retry_after=failure.retry_after)
    return Answer(one, outcome, reason=failure.reason, retry_after=failure.retry_after)


def _wait(answer: Answer) -> float:
    """Seconds until a record that is still missing is asked for again; one that was fetched is looked for at once."""
    if answer.outcome == "found":
        return 0.0
    return max(backoff.missing_record(answer.wanted.missing.attempts + 1), answer.retry_after or 0.0)


def _pause_of(answer: Answer) -> float:
    """Seconds until a record that was not asked for is due again."""
    return max(backoff.MISSING_RECORDS_SECONDS, answer.retry_after or 0.0)


def _pause(seconds: float) -> Task:
    time.sleep(seconds)
    raise Empty
