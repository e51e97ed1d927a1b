"""One repository, from its export into the index.

A resync may be interrupted at any instruction: what was written stays and is right, the repository stays `resyncing`
and in the queue, and the next one finds what is left to be done.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from appview_pipeline.backfill.compare import Counts, ExportedRepository
from appview_pipeline.backfill.exported_changes import ExportReader, Refused, changes_of_export
from appview_pipeline.backfill.fetch import FetchedRecord
from appview_pipeline.indexing.changes import Change, ExportState
from appview_pipeline.protocol.cid import to_text
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline.store.indexed_records import indexed_state, indexed_states


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
    """What a resync came to. `state`: the repository's `sync_state` afterwards, and `reason` why it is in it."""

    did: str
    rev: str
    counts: Counts
    state: str
    reason: str | None
    bytes: int
    seconds: float


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
    days are taken, and nothing is deleted. `asked_at`: what `begin_resync` returned before; `is_fetched`: False for an
    export that was not asked for since then, but read from a file. Iterating raises `InvalidExport`.

    Where commits up to the export's rev are applied between `begin_resync` and the last part, the comparison may not
    have seen them: the repository stays `desynchronized`, and the same export is to be compared again, after another
    `begin_resync`.
    """
    counts = Counts()
    parts = changes_of_export(
        export,
        indexed_states(database, export.did),
        ExportReader(settings, time.time_ns() // 1_000),
        counts,
        part_rows=settings.backfill_rows,
        days=days,
        asked_at=asked_at,
        is_fetched=is_fetched,
    )
    return Prepared(export.did, export.rev, parts, counts, export.size)


def record_change(database: Database, settings: Settings, fetched: FetchedRecord) -> Change | None:
    """The change of a single record that its repository proves; None where the index has it, or something newer, where
    there is no such record, and where its collection is not indexed.

    A record that may not be indexed is a dead letter in the change.
    """
    collection = fetched.path.partition("/")[0]
    reader = ExportReader(settings, time.time_ns() // 1_000)
    if fetched.cid is None or fetched.block is None or reader.collections.get(collection) is None:
        return None
    with database.connect("reader") as connection:
        known = indexed_state(connection, fetched.did, fetched.path)
    cid = to_text(fetched.cid)
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
    records = reader.of(fetched.did, fetched.rev)
    write = records.write(fetched.path, collection, cid, fetched.block, known)
    if isinstance(write, Refused):
        change.dead_letters.append(records.letter(fetched.path, cid, fetched.block, write, known))
    else:
        change.writes.append(write)
        change.ops.append((collection, write.action))
    return change
