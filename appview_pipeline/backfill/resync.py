"""One repository, from its export into the index.

A resync may be interrupted at any instruction: what was written stays and is right, the repository stays `resyncing`
and in the queue, and the next one finds what is left to be done.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from appview_pipeline import backoff
from appview_pipeline.backfill.compare import Counts, ExportedRepository
from appview_pipeline.backfill.exported_changes import ExportReader, Refused, changes_of_export
from appview_pipeline.backfill.fetch import FetchedRecord, FetchFailed, export_failed
from appview_pipeline.indexing.changes import Change, ExportState
from appview_pipeline.indexing.collection import RecordWrite
from appview_pipeline.ingest.dead_letters import EXCLUDED
from appview_pipeline.ingest.old_records import old_records
from appview_pipeline.ingest.writer import Writer
from appview_pipeline.protocol.cid import to_text
from appview_pipeline.protocol.export import Export, InvalidExport
from appview_pipeline.protocol.syntax import is_readable_did
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline.store.indexed_records import indexed_state, indexed_states
from appview_pipeline.store.repo_states import RepoState, begin_resync, fail_resync, read_repos


@dataclass
class Prepared:
    """What an export changes. `parts`: for the writer, a transaction each; `counts` is complete when they have been
    iterated to their end. `size`: bytes of the export."""

    did: str
    rev: str
    parts: Iterator[list[Change]]
    counts: Counts
    size: int


@dataclass(frozen=True)
class Outcome:
    """What a resync came to. `state`: the repository's `sync_state` afterwards, and `reason` why it is in it. `size`:
    bytes of the export; `rejected`: dead letters among its records by kind."""

    did: str
    rev: str
    counts: Counts
    state: str
    reason: str | None
    size: int
    rejected: dict[str, int]
    seconds: float


class Repositories(Protocol):
    """What is needed of a `Fetcher`."""

    def repository(self, did: str, *, newer_than: str | None = None) -> Export:
        """The export of an account's repository, its signature checked. Raises `FetchFailed`."""
        ...


Progress = Callable[[Counts], object]

UNREADABLE = "its DID can't be part of an AT URI: readers of the database would fail at its records"


def prepare(
    database: Database,
    settings: Settings,
    export: ExportedRepository,
    *,
    days: int = -1,
    asked_at: str | None = None,
    is_fetched: bool = True,
) -> Prepared:
    """Compares an export with the index, while the `parts` of the result are iterated.

    The export's signature is the caller's to check, before. `days`: with 0 or more only records of the last so many
    days are taken, and nothing is deleted. `asked_at`: of the `begin_resync` before; `is_fetched`: False for a file.
    Iterating raises `InvalidExport`.
    """
    counts = Counts()
    with database.connect("reader") as connection:
        known = read_repos(connection, [export.did]).get(export.did)
    parts = changes_of_export(
        export,
        indexed_states(database, export.did),
        ExportReader(settings, time.time_ns() // 1_000),
        counts,
        part_rows=settings.backfill_rows,
        days=days,
        asked_at=asked_at,
        is_fetched=is_fetched,
        floor=None if known is None else known.export_rev,
        too_old=old_records(settings, database),
    )
    return Prepared(export.did, export.rev, parts, counts, export.size)


def resync(
    settings: Settings,
    database: Database,
    fetcher: Repositories,
    writer: Writer,
    did: str,
    *,
    days: int = -1,
    progress: Progress = lambda counts: None,
) -> Outcome:
    """Fetches a repository, compares it with the index and writes the difference.

    Raises `FetchFailed`, also for an export that turns out to be invalid while it is compared; the repository is then
    `desynchronized` with that reason. When to try again is the caller's to decide (`backfill.worker`).
    """
    state = begin(database, did)
    try:
        with fetcher.repository(did, newer_than=needed_rev(state)) as export:
            return write_export(settings, database, writer, export, state, days=days, progress=progress)
    except (FetchFailed, InvalidExport) as error:
        failed = error if isinstance(error, FetchFailed) else export_failed(error, None)
        fail(database, did, failed.reason)
        raise failed from error


def write_export(
    settings: Settings,
    database: Database,
    writer: Writer,
    export: ExportedRepository,
    state: RepoState,
    *,
    days: int = -1,
    is_fetched: bool = True,
    progress: Progress = lambda counts: None,
) -> Outcome:
    """Compares an export with the index and writes the difference, part by part.

    `state`: of `begin`, before the export was fetched. `progress` gets the counts so far after each part. Raises
    `InvalidExport`.
    """
    started = time.monotonic()
    rejected = Counter[str]()
    earlier = Counts()
    for number in range(1, backoff.EXPORT_COMPARISONS + 1):
        prepared = prepare(database, settings, export, days=days, asked_at=state.asked_at, is_fetched=is_fetched)
        for part in prepared.parts:
            for report in writer.write(part, time.time()):
                rejected.update(report.rejected_by_kind)
            progress(prepared.counts.after(earlier))
        earlier = prepared.counts.after(earlier)
        with database.connect("reader") as connection:
            after = read_repos(connection, [export.did])[export.did]
        if number == backoff.EXPORT_COMPARISONS or not compare_again(after, export.rev, days=days):
            break
        state = begin(database, export.did)
    return Outcome(
        did=export.did,
        rev=export.rev,
        counts=earlier,
        state=after.sync_state,
        reason=after.sync_reason,
        size=export.size,
        rejected=dict(rejected),
        seconds=time.monotonic() - started,
    )


def compare_again(state: RepoState, rev: str, *, days: int = -1) -> bool:
    """Whether an export of `rev` that was written leaves its repository incomplete for no other reason than that the
    stream brought something older meanwhile: then comparing it once more, after another `begin`, is enough.

    `state`: read after the last part was written.
    """
    needed = needed_rev(state)
    is_old = needed is not None and rev < needed
    return days < 0 and state.sync_state == "desynchronized" and not state.excluded and not is_old


def needed_rev(state: RepoState) -> str | None:
    """The oldest rev of an export that is of use: none of it is older than what was applied whole before, and it
    reaches the place from which on the commits are known to follow one another. None: any is."""
    revs = (state.export_rev, state.chain_since or state.chain_from)
    return max((rev for rev in revs if rev is not None), default=None)


def begin(database: Database, did: str) -> RepoState:
    """Notes that a repository is being fetched. Raises `FetchFailed` where nothing of it may be stored."""
    if not is_readable_did(did):
        raise FetchFailed("did", UNREADABLE, is_final=True)
    with database.connect("writer") as connection:
        state = begin_resync(connection, did)
    if state is None:
        raise FetchFailed("excluded", EXCLUDED, is_final=True)
    return state


def fail(database: Database, did: str, reason: str) -> None:
    """Notes why a repository could not be fetched or used."""
    with database.connect("writer") as connection:
        fail_resync(connection, did, reason, parked=False)


def record_change(database: Database, settings: Settings, fetched: FetchedRecord) -> Change | None:
    """The change of a single record that its repository proves; None where the index has it, or something newer, where
    it is too old to be indexed, where there is no such record, and where its collection is not indexed or readers can't
    show its account.

    A record that may not be indexed is a dead letter in the change.
    """
    collection = fetched.path.partition("/")[0]
    reader = ExportReader(settings, time.time_ns() // 1_000)
    if fetched.cid is None or fetched.block is None or reader.collections.get(collection) is None:
        return None
    if not is_readable_did(fetched.did):
        return None
    with database.connect("reader") as connection:
        known = indexed_state(connection, fetched.did, fetched.path)
        repo = read_repos(connection, [fetched.did]).get(fetched.did)
    floor = None if repo is None else repo.export_rev
    cid = to_text(fetched.cid)
    if known is None and floor is not None and fetched.rev < floor:
        return None  # it was gone by then
    if known is not None and (known.cid == cid or (known.rev is not None and known.rev > fetched.rev)):
        return None
    state = ExportState(
        did=fetched.did,
        rev=fetched.rev,
        commit=to_text(fetched.commit),
        data=to_text(fetched.data),
        is_last=True,
        is_whole=False,
    )
    change = Change(size=len(fetched.block), export=state)
    records = reader.of(fetched.did, fetched.rev, floor)
    write = records.write(fetched.path, collection, cid, fetched.block, known)
    too_old = old_records(settings, database)
    if isinstance(write, RecordWrite) and write.action == "create" and too_old is not None and too_old.is_old(write):
        return None
    if isinstance(write, Refused):
        change.dead_letters.append(records.letter(fetched.path, cid, fetched.block, write, known))
    else:
        change.writes.append(write)
        change.ops.append((collection, write.action))
    return change
