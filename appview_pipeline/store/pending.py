"""Single records that are missing and worth fetching (`pipeline.pending`; docs/on-demand.md says what and why).

The write path adds the rows (sql/apply/evaluation.sql, sql/apply/pending.sql), resolution those of profiles
(sql/identity/save.sql). Whoever fetches takes what is due, and says what could not be had. Nobody says what was had:
the record is written by the write path, and its rows go when it is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from appview_pipeline import backoff
from appview_pipeline.store.batch import BatchToApply
from appview_pipeline.store.placeholders import filled
from appview_pipeline.store.sql import sections

ON_DEMAND = "records"
"""`source` of the `Writer` that writes records that were fetched one by one. Parents of replies among them are fetched
in turn, up to the root of the thread; those of replies in a repository's export are not."""


@dataclass(frozen=True)
class Missing:
    """A record that is not indexed, by its `uri`. `kinds`: what it is to the records that depend on it, as the table
    says; `waiting`: how many these are; `attempts`: attempts to fetch it that failed."""

    uri: str
    kinds: frozenset[str]
    waiting: int
    attempts: int


class Miss(NamedTuple):
    """A record that could not be had, by its `uri`: why, and in how many `seconds` it may be tried again. `is_final`:
    trying again is useless, because there is no such record, or its repository is gone."""

    uri: str
    error: str
    seconds: float
    is_final: bool


@dataclass(frozen=True)
class PendingState:
    """What is missing now. `open`: rows whose record is still fetched, of which `due` may be fetched now, the first of
    them for `oldest_seconds` (None: none is due). `given_up`: rows whose record is not fetched (any more): it can't be
    had, it is too old, or its account asked for too many. `by_kind`: open rows."""

    open: int
    due: int
    oldest_seconds: float | None
    given_up: int
    by_kind: dict[str, int]


def note_missing(cursor: Cursor, batch: BatchToApply) -> None:
    """A step of a batch: adds what its records show of others and is not indexed."""
    if any(batch.rows.get(table) for table in batch.effects.missing_stages):
        cursor.execute(filled(batch.effects, "apply/pending.sql")["note"])


def fetch_parents(cursor: Cursor, batch: BatchToApply) -> None:
    """A step of a batch after its replies were evaluated: where they were fetched one by one, so are their parents."""
    if batch.report.source == ON_DEMAND:
        cursor.execute(filled(batch.effects, "apply/evaluation.sql")["fetch_parents"])


def take_missing(connection: Connection, limit: int, claim_seconds: float) -> list[Missing]:
    """Takes up to `limit` records that are due, those that have waited longest first: nobody else gets them for
    `claim_seconds`.

    Looks at `limit` rows, so it returns fewer where several rows name one record. On the way it ends what need not be
    fetched: rows older than 24 hours, and records that have arrived, were deleted, or whose account is excluded. An
    empty list can therefore mean that there is more: `pending_state` says whether anything is due. The caller commits.
    """
    statements = sections("backfill/pending.sql")
    with connection.cursor() as cursor:
        cursor.execute(statements["take"], {"limit": limit, "claim_seconds": claim_seconds})
        return [
            Missing(uri, frozenset(kinds), waiting, attempts) for uri, kinds, waiting, attempts in cursor.fetchall()
        ]


def missed(connection: Connection, failures: Sequence[Miss | tuple[str, str, float, bool]]) -> None:
    """Notes failed attempts. After the third one, or a final one, the record is not fetched any more. The rows of
    replies stay all the same: should the parent arrive late, they are evaluated again. A record that is here by now is
    no failure, and its other rows go. The caller commits."""
    if not failures:
        return
    parameters = {
        "uris": [it[0] for it in failures],
        "errors": [it[1].replace("\0", "") for it in failures],
        "seconds": [it[2] for it in failures],
        "finals": [it[3] for it in failures],
        "tries": backoff.MISSING_RECORD_TRIES,
    }
    with connection.cursor() as cursor:
        cursor.execute(sections("backfill/pending.sql")["missed"], parameters)


def postpone(connection: Connection, uris: Sequence[str], seconds: float) -> None:
    """Puts records off that were taken and not asked for (their host is parked, the process ends): no attempt is
    counted. The caller commits."""
    if uris:
        with connection.cursor() as cursor:
            cursor.execute(sections("backfill/pending.sql")["postpone"], {"uris": list(uris), "seconds": seconds})


def pending_state(connection: Connection) -> PendingState:
    """Counts what is missing. Reads the whole table: for reports, not for every look."""
    statements = sections("backfill/pending.sql")
    with connection.cursor() as cursor:
        cursor.execute(statements["state"])
        by_kind: dict[str, int] = {}
        due = given_up = 0
        oldest: float | None = None
        for kind, open_rows, due_rows, oldest_seconds, ended in cursor.fetchall():
            if open_rows:
                by_kind[kind] = open_rows
            due += due_rows
            given_up += ended
            if oldest_seconds is not None:
                oldest = max(oldest or 0.0, oldest_seconds)
    return PendingState(sum(by_kind.values()), due, oldest, given_up, by_kind)
