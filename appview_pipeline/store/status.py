"""Where the index stands, for `appview-pipeline status`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from psycopg2.extensions import connection as Connection

from appview_pipeline import __version__
from appview_pipeline.store import database_url, migrate
from appview_pipeline.store.backfill_queue import QueueState
from appview_pipeline.store.backfill_queue import queue_state as fetch_queue_state
from appview_pipeline.store.identities import MAX_COUNTED, QueueLength, queue_state
from appview_pipeline.store.label_reports import LabelStatus, label_status
from appview_pipeline.store.sql import sections
from appview_pipeline.store.sync_reports import SYNC_STATES, repository_states

SHOWN_PARKED = 5
"""Parked labelers that are named for people."""


@dataclass(frozen=True)
class Stream:
    """A stream's cursor; `lag_seconds` between its newest event and its application, `idle_seconds` since then.

    `in_use`: False for a cursor that a former layout of shards left. `skipped_last_hour`: sequence numbers that the
    relay left out; `doubtful_last_hour`: frames whose number does not fit its neighbours.
    """

    relay: str
    shard: str
    in_use: bool
    seq: int
    idle_seconds: float
    lag_seconds: float | None
    events_last_hour: int
    events_per_second: float
    rejected_last_hour: int
    skipped_last_hour: int
    doubtful_last_hour: int


@dataclass(frozen=True)
class PipelineStatus:
    """What `status` shows. `version` is this code's, `schema_version` the database's.

    Row counts are PostgreSQL's estimates (from its statistics).

    By kind: `dead_letters` not resolved, `dead_letter_bytes_today` (UTC) of the `dead_letter_day_bytes` allowed, and
    `dead_letters_left_out`, which were only counted in the last 24 hours. `incomplete_repositories` have open gaps.
    `oldest_gap_seconds`: for how long the oldest open gap of each kind has been open. `repository_states`: repositories
    by `sync_state`, counted where there are few; else those that are not complete are counted up to `MAX_COUNTED`, and
    the others are PostgreSQL's estimate. `queue`: the repositories that wait to be fetched.
    `opted_out`: accounts that forbid the collection of their data. `identities`: accounts that wait to be resolved, by
    queue, each counted up to `identities.MAX_COUNTED`. `labels`: what has come of the labelers' streams.
    """

    version: str
    database: str
    schema_version: str | None
    bytes: int
    streams: list[Stream]
    dead_letters: dict[str, int]
    dead_letter_day_bytes: int
    dead_letter_bytes_today: dict[str, int]
    dead_letters_left_out: dict[str, int]
    gaps: dict[str, int]
    oldest_gap_seconds: dict[str, float]
    incomplete_repositories: int
    pending: int
    repositories: int
    repository_states: dict[str, int]
    queue: QueueState
    opted_out: int
    identities: dict[str, QueueLength]
    labels: LabelStatus
    ignored_collections: dict[str, int]
    rows: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        found = asdict(self)
        found["queue"]["waiting"] = {str(priority): count for priority, count in self.queue.waiting.items()}
        return found

    def lines(self) -> list[str]:
        """All of it, for people."""
        lines = [
            f"Version       appview-pipeline {self.version}",
            f"Database      {self.database}, schema {self.schema_version}, {self.bytes / 1e6:,.1f} MB",
        ]
        if not self.streams:
            lines.append("Streams       none yet: nothing has been consumed")
        for stream in self.streams:
            if not stream.in_use:
                lines.append(
                    f"Stream        {stream.relay} ({stream.shard}) at {stream.seq:,}: of a former layout, kept until "
                    "all shards of the present one have started"
                )
                continue
            lag = "lag unknown" if stream.lag_seconds is None else f"lag {stream.lag_seconds:,.1f} s"
            lines.append(
                f"Stream        {stream.relay} ({stream.shard}) at {stream.seq:,}: {lag}, last batch "
                f"{stream.idle_seconds:,.0f} s ago, {stream.events_last_hour:,} events in the last hour "
                f"({stream.events_per_second:,.1f}/s), {stream.rejected_last_hour:,} rejected, "
                f"{stream.skipped_last_hour:,} numbers skipped, {stream.doubtful_last_hour:,} doubtful"
            )
        states = f" ({_counts(self.repository_states)})" if self.repository_states else ""
        lines.append(f"Repositories  {self.repositories:,}{states}")
        lines.append(f"To be fetched {_fetches(self.queue)}")
        lines.append(f"Opted out     {self.opted_out:,}")
        lines.append(f"Identities    {_queues(self.identities)}")
        lines.append(f"Labels        {_labels(self.labels)}")
        shown = list(self.labels.parked.items())[:SHOWN_PARKED]
        lines += [f"  parked      {did}: {reason}" for did, reason in shown]
        if more := len(self.labels.parked) - len(shown):
            lines.append(f"  parked      and {more:,} more")
        lines.append(f"Dead letters  {_counts(self.dead_letters)}")
        if self.dead_letter_bytes_today or self.dead_letters_left_out:
            today = ", ".join(
                f"{kind} {size / 1e6:,.1f}" for kind, size in self.dead_letter_bytes_today.items() if size
            )
            lines.append(
                f"  stored      today, in MB of {self.dead_letter_day_bytes / 1e6:,.1f} a kind: {today or 'none'}; "
                f"only counted in 24 h: {_counts(self.dead_letters_left_out)}"
            )
        of = f" (of {self.incomplete_repositories:,} repositories)" if self.incomplete_repositories else ""
        oldest = max(self.oldest_gap_seconds.values(), default=None)
        age = "" if oldest is None else f"; the oldest is open for {_duration(oldest)}"
        lines.append(f"Gaps          {_counts(self.gaps)}{of}{age}")
        lines.append(f"Pending       {self.pending:,}")
        lines.append(f"Not indexed   {_counts(self.ignored_collections)}")
        lines.append(f"Rows (about)  {_counts(self.rows)}")
        return lines


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


def _duration(seconds: float) -> str:
    """A time for people, of which seconds matter only when there are few."""
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:,.0f} s"


def _fetches(queue: QueueState) -> str:
    """The repositories that wait to be fetched, by why."""
    names = {3: "asked for", 2: "incomplete", 1: "new", 0: "the rest"}
    waiting = {names.get(priority, str(priority)): count for priority, count in sorted(queue.waiting.items())[::-1]}
    parts = [_counts({name: count for name, count in waiting.items() if count})]
    if queue.oldest_seconds is not None:
        parts.append(f"the first for {_duration(queue.oldest_seconds)}")
    if queue.fetching:
        parts.append(f"{queue.fetching:,} being fetched")
    if queue.parked:
        parts.append(f"{queue.parked:,} given up for now")
    return "; ".join(parts)


def _queues(queues: dict[str, QueueLength]) -> str:
    """Who waits to be resolved, by queue: accounts, and how long the first one has waited that may be resolved now."""
    parts = []
    for name, it in queues.items():
        if it.length:
            more = " or more" if it.length >= MAX_COUNTED else ""
            wait = "" if it.oldest_seconds is None else f" (for {it.oldest_seconds:,.0f} s)"
            parts.append(f"{name} {it.length:,}{more}{wait}")
    return f"to be resolved: {', '.join(parts) or 'none'}"


def _labels(labels: LabelStatus) -> str:
    """The labelers that are read, their labels in effect, and how far behind they are."""
    if not labels.labelers:
        return f"no labelers are read; {labels.in_effect:,} in effect"
    lag = ""
    if not labels.is_running:
        lag = "; no label process runs"
    elif labels.lag_seconds is not None:
        whose = f" ({labels.lag_of})" if labels.lag_seconds and sum(labels.labelers.values()) > 1 else ""
        lag = f"; lag {_duration(labels.lag_seconds)}{whose}"
    return (
        f"labelers: {_counts(labels.labelers)}; {labels.in_effect:,} in effect{lag}; "
        f"rejected today: {_counts(labels.rejected_today)}"
    )


def read_status(connection: Connection, url: str, dead_letter_day_bytes: int = 0) -> PipelineStatus:
    """Reads the status; `url` is only named in it, without its password."""
    statements = sections("report/status.sql")

    def rows(name: str) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(statements[name], {"limit": MAX_COUNTED} if "%(limit)s" in statements[name] else None)
            return cursor.fetchall()

    (size, pending, repositories, opted_out) = rows("totals")[0]
    gaps = rows("gaps")
    states = repository_states(connection)
    if not states.is_estimate:
        repositories = sum(states.counts.values())
    else:  # those that are not complete are counted all the same
        states.counts.update(rows("incomplete_states"))
    of_day = rows("dead_letters_of_day")
    return PipelineStatus(
        version=__version__,
        database=database_url.describe(url),
        schema_version=migrate.current(url),
        bytes=size,
        streams=[Stream(*row) for row in rows("streams")],
        dead_letters=dict(rows("dead_letters")),
        dead_letter_day_bytes=dead_letter_day_bytes,
        dead_letter_bytes_today={kind: size for kind, size, _ in of_day if size},
        dead_letters_left_out={kind: count for kind, _, count in of_day if count},
        gaps={kind: count for kind, count, _ in gaps},
        oldest_gap_seconds={kind: seconds for kind, _, seconds in gaps},
        incomplete_repositories=rows("incomplete")[0][0],
        pending=pending,
        repositories=repositories,
        repository_states={state: states.counts[state] for state in SYNC_STATES if states.counts.get(state)},
        queue=fetch_queue_state(connection),
        opted_out=opted_out,
        identities=queue_state(connection).queues,
        labels=label_status(connection),
        ignored_collections=dict(rows("ignored")),
        rows=dict(rows("rows")),
    )
