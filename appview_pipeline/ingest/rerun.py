"""Reruns: derived tables are compared with the records they are derived from, and repaired, beside the live stream."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TypeVar

from appview_pipeline import backoff
from appview_pipeline.errors import OperatorError
from appview_pipeline.indexing.batch import build_again
from appview_pipeline.indexing.registry import EFFECTS
from appview_pipeline.ingest.pace import Pace
from appview_pipeline.store.batch import BatchToApply, StoredRecord
from appview_pipeline.store.database import Connection, Database
from appview_pipeline.store.errors import Busy, translated
from appview_pipeline.store.repair import (
    entries,
    forget_work,
    list_work,
    look_at,
    prepare_repair,
    recount_subjects,
    repair_records,
)
from appview_pipeline.store.repairs import Listed, Repairs

log = logging.getLogger(__name__)

DERIVED_COLLECTIONS: tuple[str, ...] = tuple(effect.nsid for effect in EFFECTS.in_order)
"""The collections whose records have rows in other tables."""

LOOK_CHUNK = 2_000
"""Records compared in one transaction that takes no locks."""
MAX_LOOKS = 3
"""How often they are compared, while what was wrong is repaired in between. Then all are repaired under locks."""
MAX_ORPHANS = 1_000
"""How many rows of each account and table are searched for ones without a record, when a rerun is of a span of time."""

_T = TypeVar("_T")


@dataclass
class RerunSummary(Repairs):
    """What a rerun did. `recounted`: subjects whose counters were compared; `unreadable`: records skipped."""

    recounted: int = 0
    unreadable: list[str] = field(default_factory=list)
    seconds: float = 0.0


Progress = Callable[[int, int, int], object]
"""Called with how much of the list is done, how long the list is, and how many rows were changed so far."""


def rerun_collections(
    database: Database,
    collections: Collection[str],
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    orphans: int | None = MAX_ORPHANS,
    chunk: int | None = None,
    progress: Progress = lambda done, total, changed: None,
) -> RerunSummary:
    """Compares what is derived from the records of `collections` that were applied in [since, until) (None: without
    bound) with them, and repairs what differs: rows, duplicates, evaluations, notifications, feed items, counters.

    Changes and locks nothing where nothing is wrong. Runs beside the live writer and gives way to its locks.
    `orphans`: how many rows of each account and table are searched for ones without a record, newest first; None: all.
    `chunk`: records compared in one transaction; None: as many as keep its locks to about `LOCK_SECONDS`. Raises
    `OperatorError` when the database stays too busy.
    """
    started = time.monotonic()
    summary = RerunSummary()

    def stage(records: Sequence[StoredRecord]) -> BatchToApply:
        batch, unreadable = build_again(records)
        summary.unreadable += [uri for uri in unreadable if uri not in summary.unreadable]
        return batch

    wanted = [collection for collection in DERIVED_COLLECTIONS if collection in collections]
    with database.connect("maintenance") as connection:
        prepare_repair(connection, EFFECTS)
        total = list_work(connection, EFFECTS, wanted, since=since, until=until, orphans=orphans)
        pace, done = Pace(chunk), 0
        while done < total:
            looked_at = min(done + (chunk or LOOK_CHUNK), total)
            summary.merge(compare_and_repair(connection, entries(connection, done, looked_at), stage, pace))
            done = looked_at
            progress(done, total, sum(summary.changed.values()))
        pace = Pace(chunk)
        while recounted := retry_while_busy(connection, partial(recount_subjects, connection, pace.next)):
            repairs = recounted
            pace.took(recounted.records, recounted.locked_seconds)
            summary.recounted += repairs.records
            repairs.records = 0
            summary.merge(repairs)
        forget_work(connection)
    if summary.unreadable:
        log.error("Records that can't be read are left alone: %s", ", ".join(summary.unreadable[:10]))
    summary.seconds = time.monotonic() - started
    return summary


def wrongly_derived(database: Database, listed: Listed) -> list[str]:
    """Those of these records (DIDs by URI) whose derived rows are not what they should be. Repairs nothing.

    What others write at the same time may hide which ones; then it looks again, and in the end says all of them.
    """

    def stage(records: Sequence[StoredRecord]) -> BatchToApply:
        return build_again(records)[0]

    with database.connect("maintenance") as connection:
        prepare_repair(connection, EFFECTS)
        wrong = listed
        for _ in range(MAX_LOOKS):
            wrong = retry_while_busy(connection, partial(look_at, connection, wrong, stage)).wrong
            if not wrong:
                break
    return sorted(wrong)


def compare_and_repair(
    connection: Connection, listed: Listed, stage: Callable[..., BatchToApply], pace: Pace
) -> Repairs:
    """Looks at entries of the list, repairs what is wrong, and looks again: a wrong row may have hidden another one."""
    repairs, records = Repairs(), None
    for _ in range(MAX_LOOKS):
        look = retry_while_busy(connection, partial(look_at, connection, listed, stage))
        records = look.records if records is None else records
        if not look.wrong:
            break
        repairs.merge(_repair(connection, look.wrong, stage, pace))
        if look.wrong == listed:
            break
    else:
        repairs.merge(_repair(connection, listed, stage, pace))
    if records is not None:
        repairs.records = records
    return repairs


def compare_once_and_repair(
    connection: Connection, listed: Listed, stage: Callable[..., BatchToApply], pace: Pace
) -> Repairs:
    """As `compare_and_repair`, where nothing else writes: what was found right is not looked at again, nor what was
    repaired."""
    repairs, left = Repairs(), dict(listed)
    for _ in range(MAX_LOOKS):
        look = retry_while_busy(connection, partial(look_at, connection, left, stage))
        repairs.merge(_repair(connection, look.wrong, stage, pace))
        left = {uri: did for uri, did in left.items() if uri not in look.wrong}
        if look.is_whole or not left:
            return repairs
    repairs.merge(_repair(connection, left, stage, pace))
    return repairs


def _repair(connection: Connection, wrong: Listed, stage: Callable[..., BatchToApply], pace: Pace) -> Repairs:
    repairs, left = Repairs(), list(wrong.items())
    while left:
        some = dict(left[: pace.next])
        repaired = retry_while_busy(connection, partial(repair_records, connection, some, stage))
        pace.took(len(some), repaired.locked_seconds)
        repairs.merge(repaired)
        del left[: len(some)]
    return repairs


def retry_while_busy(connection: Connection, do: Callable[[], _T]) -> _T:
    """What `do` gives, tried again with growing pauses while other sessions hold the rows that it needs.

    Raises `OperatorError` when they hold them each time.
    """
    pause = backoff.rerun()
    while True:
        try:
            with translated():
                return do()
        except Busy as error:  # somebody else has the locks: the rerun gives way
            connection.rollback()
            if pause.failures + 1 == backoff.RERUN_TRIES:
                raise OperatorError(
                    "Others held the same rows again and again: run this once more when less is going on."
                ) from error
            time.sleep(pause.next())
