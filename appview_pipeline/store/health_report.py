"""One cheap read of everything that the health of the pipeline is evaluated by, and that monitors plot.

Bounded on a database of any size: estimates of PostgreSQL, partial indexes, and counts that end at a limit. No table of
`bsky` is read. The caller's connection has the role `health`, whose statements end after a few seconds
(`store/database.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone

from psycopg2.extensions import connection as Connection

from appview_pipeline.settings import Settings
from appview_pipeline.store.backfill_queue import QueueState
from appview_pipeline.store.fetch_reports import LastFetchReport, Outcomes
from appview_pipeline.store.identities import QueueLength
from appview_pipeline.store.identity_reports import LastReport
from appview_pipeline.store.label_reports import LabelerReport
from appview_pipeline.store.sync_reports import OpenGaps
from appview_pipeline.store.upstreams import LeftAlone, StoredUpstream

MAX_COUNTED = 10_000
"""Rows of a queue that are counted; a count that reaches it means "so many or more"."""


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
    None: there is none. `oldest_other_seconds`: the same of the others, by a sample of each bucket."""

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
    `tables`: by `schema.name`.
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

    @property
    def in_use(self) -> list[StreamHealth]:
        """The streams that are consumed, or ought to be."""
        return [stream for stream in self.streams if stream.is_in_use]


def read_health(connection: Connection, settings: Settings) -> HealthReport:
    """Reads the health of the database behind `connection`, in one transaction of the role `health`.

    Raises `store.errors.DatabaseError` where a statement fails or exceeds its time.
    """
    return HealthReport(
        taken_at=datetime.now(timezone.utc),
        schema_version=None,
        streams=[],
        dead_letters_last_hour={},
        gaps={},
        open_gaps=OpenGaps(),
        repositories=RepositoryHealth(),
        pending=PendingHealth(),
        identities={},
        identity_report=None,
        fetch_report=None,
        outcomes=Outcomes(),
        queue=FetchQueueHealth(QueueState({}, 0, 0, 0, None)),
        backfill=BackfillHealth(0.0),
        hosts=HostHealth(),
        left_alone=LeftAlone(0, 0),
        upstreams=[],
        is_reading_labels=False,
        labelers=[],
        disk=DiskHealth(),
        server=ServerHealth(),
        tables={},
    )
