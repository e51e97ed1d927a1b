"""One cheap read of everything that the health of the pipeline is evaluated by, and that monitors plot.

Bounded on a database of any size: estimates of PostgreSQL, partial indexes, and counts that end at a limit. No table of
`bsky` is read. The caller's connection has the role `health`, whose statements end after a few seconds
(`store/database.py`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Concatenate, ParamSpec, TypeVar

from psycopg2.extensions import connection as Connection

from appview_pipeline import backoff
from appview_pipeline.settings import Settings
from appview_pipeline.store import backfill_queue, identities
from appview_pipeline.store.backfill_queue import QueueState
from appview_pipeline.store.errors import DatabaseError
from appview_pipeline.store.fetch_reports import LastFetchReport, Outcomes, last_fetch_report, recent_outcomes
from appview_pipeline.store.identities import QueueLength
from appview_pipeline.store.identity_reports import LastReport, last_report
from appview_pipeline.store.label_reports import LabelerReport, labeler_reports
from appview_pipeline.store.labelers import LOCK as LABEL_LOCK
from appview_pipeline.store.session_lock import lock_key
from appview_pipeline.store.sql import sections
from appview_pipeline.store.stream_lock import stream_lock_name
from appview_pipeline.store.sweeps import SWEEPS
from appview_pipeline.store.sync_reports import OpenGaps, open_gaps, repository_states
from appview_pipeline.store.upstreams import LeftAlone, StoredUpstream, left_alone, list_upstreams

MAX_COUNTED = 10_000
"""Rows of a queue that are counted; a count that reaches it means "so many or more"."""
OUTCOME_SECONDS = 3_600.0
"""How far back attempts to fetch missing records count."""
MIN_GROWTH_SECONDS = 10_800.0
"""Measurements that are nearer to each other say nothing about growth."""
NAMED_HOSTS = 3

P = ParamSpec("P")
T = TypeVar("T")

_STREAM_SECONDS = {"recent_seconds": 60, "usual_seconds": 600}
"""Seconds of the relay's time that a rate needs, to say something."""


@dataclass(frozen=True, slots=True)
class StreamHealth:
    """A stream's cursor, and what was applied of it lately.

    `is_in_use`: False for a cursor that a former layout of shards left, or of another relay than the settings name.
    `is_consumed`: a consumer holds the stream's lock. `idle_seconds`: since its last batch. `lag_seconds`: between the
    newest event and its application; None: unknown. `events_per_second`: in the last 10 minutes, by the relay's clock,
    so that catching up does not look like a busy network; None: nothing was applied. `usual_events_per_second`: the
    same in the hour before; None: unknown. `*_last_hour`: sums over the batches of the last hour.
    """

    relay: str
    shard: str
    is_in_use: bool
    is_consumed: bool
    seq: int
    idle_seconds: float
    lag_seconds: float | None = None
    events_per_second: float | None = None
    usual_events_per_second: float | None = None
    batches_last_hour: int = 0
    events_last_hour: int = 0
    rejected_last_hour: int = 0
    skipped_last_hour: int = 0
    doubtful_last_hour: int = 0
    bytes_last_hour: int = 0
    decode_seconds_last_hour: float = 0.0
    apply_seconds_last_hour: float = 0.0


@dataclass(frozen=True, slots=True)
class GapHealth:
    """Open gaps of a kind, counted up to a limit, and seconds since the oldest was found."""

    count: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class RepositoryHealth:
    """Repositories. `total` and `by_state` are PostgreSQL's estimates where there are many. `incomplete`: those that
    are not complete (desynchronized, resyncing, error); an estimate where there are more than `MAX_COUNTED`."""

    total: int = 0
    by_state: Mapping[str, int] = field(default_factory=dict)
    incomplete: int = 0


@dataclass(frozen=True, slots=True)
class PendingHealth:
    """Rows of `pipeline.pending`. `rows`: PostgreSQL's estimate. `due`: those whose missing record may be fetched now,
    counted up to `MAX_COUNTED`; `oldest_due_seconds`: for how long the first of them (None: there is none)."""

    rows: int = 0
    due: int = 0
    oldest_due_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class FetchQueueHealth:
    """The queue of repositories. `state`: counts, up to `MAX_COUNTED` each. `oldest_urgent_seconds`: for how long the
    first repository may be fetched that something is missing of or that was asked for, those of parked hosts left out;
    None: there is none. `oldest_other_seconds`: the same of the others, by the largest hosts and a sample of all."""

    state: QueueState
    oldest_urgent_seconds: float | None = None
    oldest_other_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class BackfillHealth:
    """What all processes that fetch repositories did in the last `seconds`; `last_seconds`: since a repository was last
    finished (None: never, or longer ago than reports are kept)."""

    seconds: float
    repositories: int = 0
    records: int = 0
    bytes: int = 0
    failed: int = 0
    last_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class HostHealth:
    """Hosts of repositories, and accounts there as the relay says. `paused`: hosts that are left alone now, by those
    who fetch repositories or by resolution (an open circuit breaker, or a pause that they asked for). `largest`: the
    paused hosts with the most accounts, each with why."""

    hosts: int = 0
    accounts: int = 0
    paused: int = 0
    paused_accounts: int = 0
    largest: Mapping[str, str] = field(default_factory=dict)

    @property
    def paused_share(self) -> float:
        """Share of the accounts that are on paused hosts."""
        return self.paused_accounts / self.accounts if self.accounts else 0.0


@dataclass(frozen=True, slots=True)
class TableHealth:
    """A table. `rows` and `dead_rows`: PostgreSQL's estimates. `bytes`: on the disk, with indexes and TOAST, as of the
    last hour's measurement (None: not measured yet)."""

    rows: int
    dead_rows: int
    bytes: int | None = None
    vacuumed_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class SweepHealth:
    """A sweep. `seconds`: since it last found nothing more to delete. `error`: what was in the way of its last run."""

    seconds: float
    error: str | None = None


@dataclass(frozen=True, slots=True)
class DiskHealth:
    """How long the disk of the database will last.

    `bytes`: of the database. `volume_bytes` and `free_bytes`: of its volume; None: unknown, because the server is
    elsewhere and APPVIEW_DISK_BYTES is not set. `growth`: bytes a day, of all tables, by the measurements of the last
    `growth_seconds`; None: there are too few. `days_left`: None where one of these is unknown, or nothing grows.
    """

    bytes: int = 0
    volume_bytes: int | None = None
    free_bytes: int | None = None
    growth: float | None = None
    growth_seconds: float = 0.0

    @property
    def days_left(self) -> float | None:
        """Days until the volume is full, if the tables go on growing as they did."""
        if self.free_bytes is None or self.growth is None or self.growth <= 0:
            return None
        return self.free_bytes / self.growth


@dataclass(frozen=True, slots=True)
class ServerHealth:
    """PostgreSQL itself. `connections` of all databases and roles, of at most `max_connections` (those that are
    reserved for superusers left out). `oldest_transaction_seconds`: None: none is open besides ours;
    `oldest_transaction`: whose it is. `transaction_id_age`: of the oldest row version that is not frozen, in
    transactions."""

    version: str = ""
    started_at: datetime | None = None
    connections: int = 0
    max_connections: int = 0
    oldest_transaction_seconds: float | None = None
    oldest_transaction: str | None = None
    transaction_id_age: int = 0


@dataclass(frozen=True, slots=True)
class HealthReport:
    """How the pipeline is, as far as its database knows.

    `dead_letters_last_hour` by kind, those that were only counted among them. `labelers`: all that are or were read;
    `is_reading_labels`: a label process holds its lock. `identities`: accounts that wait to be resolved, by queue;
    `identity_report`, `fetch_report`: the newest report of these processes; None: none yet. `outcomes`: of the attempts
    of the last hour to fetch missing records. `upstreams`: servers that resolution asks, those left alone first.
    `tables`: by `schema.name`. `sweeps`: those that have begun, by name.
    """

    taken_at: datetime
    schema_version: str | None
    streams: Sequence[StreamHealth]
    dead_letters_last_hour: Mapping[str, int]
    gaps: Mapping[str, GapHealth]
    open_gaps: OpenGaps
    repositories: RepositoryHealth
    pending: PendingHealth
    identities: Mapping[str, QueueLength]
    identity_report: LastReport | None
    fetch_report: LastFetchReport | None
    outcomes: Outcomes
    queue: FetchQueueHealth
    backfill: BackfillHealth
    hosts: HostHealth
    left_alone: LeftAlone
    upstreams: Sequence[StoredUpstream]
    is_reading_labels: bool
    labelers: Sequence[LabelerReport]
    disk: DiskHealth
    server: ServerHealth
    tables: Mapping[str, TableHealth]
    sweeps: Mapping[str, SweepHealth]

    @property
    def in_use(self) -> list[StreamHealth]:
        """The streams that are consumed, or ought to be."""
        return [stream for stream in self.streams if stream.is_in_use]


def read_health(connection: Connection, settings: Settings) -> HealthReport:
    """Reads the health of the database behind `connection`, in one transaction of the role `health`.

    Raises `store.errors.DatabaseError` where a statement fails or exceeds its time, and where all together exceed
    `HEALTH_READ_SECONDS`.
    """
    began = time.monotonic()

    def ask(question: Callable[Concatenate[Connection, P], T], *values: P.args, **more: P.kwargs) -> T:
        seconds = time.monotonic() - began
        if seconds > backoff.HEALTH_READ_SECONDS:
            raise DatabaseError(f"it has not answered all questions within {seconds:,.0f} s")
        return question(connection, *values, **more)

    def rows(name: str, **parameters: Any) -> list[tuple[Any, ...]]:
        return ask(_rows, name, parameters)

    held = {key for (key,) in rows("locks")}
    ((version,),) = rows("version")
    ((total, incomplete, estimate),) = rows("repositories", limit=MAX_COUNTED)
    if incomplete >= MAX_COUNTED:
        incomplete = max(incomplete, estimate)
    ((urgent, other),) = rows("queue")
    ((done, records, fetched_bytes, failed, last),) = rows("backfill", seconds=settings.backfill_warning_seconds)
    ((hosts, accounts, paused, paused_accounts, largest),) = rows("hosts", shown=NAMED_HOSTS)
    states = ask(repository_states)
    return HealthReport(
        taken_at=datetime.now(timezone.utc),
        schema_version=version,
        streams=[_stream(row, held) for row in rows("streams", **_STREAM_SECONDS, relay=settings.relay_url)],
        dead_letters_last_hour=dict(rows("dead_letters")),
        gaps={kind: GapHealth(count, seconds) for kind, count, seconds in rows("gaps", limit=MAX_COUNTED)},
        open_gaps=ask(open_gaps, MAX_COUNTED),
        repositories=RepositoryHealth(
            total=total if states.is_estimate else sum(states.counts.values()),
            by_state=states.counts,
            incomplete=incomplete,
        ),
        pending=PendingHealth(*rows("pending", limit=MAX_COUNTED)[0]),
        identities=ask(identities.queue_state, MAX_COUNTED).queues,
        identity_report=ask(last_report),
        fetch_report=ask(last_fetch_report),
        outcomes=ask(recent_outcomes, OUTCOME_SECONDS),
        queue=FetchQueueHealth(ask(backfill_queue.queue_state, MAX_COUNTED), urgent, other),
        backfill=BackfillHealth(
            seconds=settings.backfill_warning_seconds,
            repositories=done,
            records=records,
            bytes=fetched_bytes,
            failed=failed,
            last_seconds=last,
        ),
        hosts=HostHealth(
            hosts=hosts, accounts=accounts, paused=paused, paused_accounts=paused_accounts, largest=largest
        ),
        left_alone=ask(left_alone),
        upstreams=ask(list_upstreams),
        is_reading_labels=lock_key(LABEL_LOCK) in held,
        labelers=ask(labeler_reports),
        disk=_disk(connection, settings, rows("disk")[0], rows("growth")),
        server=_server(rows("server")[0], rows("transactions")),
        tables={
            name: TableHealth(rows=live, dead_rows=dead, bytes=size, vacuumed_seconds=vacuumed)
            for name, live, dead, size, vacuumed in rows("tables")
        },
        sweeps={
            name: SweepHealth(seconds, error)
            for name, seconds, error in rows("sweeps", names=[sweep.name for sweep in SWEEPS])
        },
    )


def _rows(connection: Connection, name: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sections("report/health.sql")[name], parameters or None)
        return cursor.fetchall()


def _stream(row: tuple[Any, ...], held: Collection[int]) -> StreamHealth:
    relay, shard, is_in_use, seq, idle, lag, rate, usual, *sums = row
    batches, events, rejected, skipped, doubtful, size, decode, apply = sums
    return StreamHealth(
        relay=relay,
        shard=shard,
        is_in_use=is_in_use,
        is_consumed=lock_key(stream_lock_name(relay, shard)) in held,
        seq=seq,
        idle_seconds=idle,
        lag_seconds=lag,
        events_per_second=rate,
        usual_events_per_second=usual,
        batches_last_hour=batches,
        events_last_hour=events,
        rejected_last_hour=rejected,
        skipped_last_hour=skipped,
        doubtful_last_hour=doubtful,
        bytes_last_hour=size,
        decode_seconds_last_hour=decode,
        apply_seconds_last_hour=apply,
    )


def _disk(
    connection: Connection, settings: Settings, row: tuple[int, str | None], measured: Sequence[tuple[datetime, int]]
) -> DiskHealth:
    size, folder = row
    volume: int | None = None
    free: int | None = None
    if settings.disk_bytes is not None:
        volume, free = settings.disk_bytes, max(settings.disk_bytes - size, 0)
    elif folder is not None and (settings.database_url is None or (connection.info.host or "/").startswith("/")):
        volume, free = _volume(folder)
    growth, seconds = _growth(measured)
    return DiskHealth(bytes=size, volume_bytes=volume, free_bytes=free, growth=growth, growth_seconds=seconds)


def _volume(folder: str) -> tuple[int | None, int | None]:
    """Bytes of the volume that the folder is on, and those that are free for its owner; None, where it is elsewhere or
    this process may not look. (A server that is reached by a socket may be in another container.)"""
    try:
        found = os.statvfs(folder)
    except OSError:
        return None, None
    return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize


def _growth(measured: Sequence[tuple[datetime, int]]) -> tuple[float | None, float]:
    """Bytes a day by the newest measurement and earlier ones, and the seconds between: the larger of what the last day
    and the last week say, since a backfill that has begun says more than the quiet days before."""
    if not measured:
        return None, 0.0
    newest, size = measured[-1]
    spans = [((newest - hour).total_seconds(), size - before) for hour, before in measured[:-1]]
    rates = [(added / seconds * 86_400.0, seconds) for seconds, added in spans if seconds >= MIN_GROWTH_SECONDS]
    return max(rates, default=(None, 0.0))


def _server(row: tuple[Any, ...], transactions: Sequence[tuple[float, str]]) -> ServerHealth:
    version, started_at, connections, most, age = row
    seconds, whose = transactions[0] if transactions else (None, None)
    return ServerHealth(
        version=version,
        started_at=started_at,
        connections=connections,
        max_connections=most,
        oldest_transaction_seconds=seconds,
        oldest_transaction=whose,
        transaction_id_age=age,
    )
