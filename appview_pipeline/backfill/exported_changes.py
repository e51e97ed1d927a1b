"""The differences between an export and the index as changes, in parts that are a transaction each.

Revs. An export says what a repository holds at its rev, and not since when. A record that the index knows nothing of
has the TID of its record key as its rev, so that it is evaluated as of the time when it was written; another rev than
that of the export needs a proof that nothing else was known at the path, so all other writes and all deletions have the
rev of the export. So have records whose TID is not newer than an export that was applied before: they were not there
then, but may have been before that, and their tombstones need not be there any more.

Times. `indexedAt` of a record that is new to the index is the time at which it says it was written, and of a changed
one the time of the export's rev; neither is in the future.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from appview_pipeline.backfill.compare import Counts, Difference, ExportedRepository, compare
from appview_pipeline.indexing.changes import Change, DeadLetter, ExportState, RecordDelete
from appview_pipeline.indexing.collection import RecordWrite
from appview_pipeline.indexing.events import refusal
from appview_pipeline.indexing.registry import IndexedCollections
from appview_pipeline.indexing.validators import Validators, record_validators
from appview_pipeline.ingest.old_records import OldRecords
from appview_pipeline.protocol.cbor import InvalidRecord, Record, decode_as_sent
from appview_pipeline.protocol.cid import to_text
from appview_pipeline.protocol.export import InvalidExport, Kind
from appview_pipeline.protocol.syntax import (
    EPOCH,
    datetime_to_micros,
    format_milliseconds,
    is_record_key,
    is_tid,
    normalize_datetime,
    tid_after,
    tid_to_micros,
)
from appview_pipeline.settings import Settings
from appview_pipeline.store.indexed_records import IndexedState

CHANGE_ROWS = 500
"""Records of one change: a batch that takes too long, or that PostgreSQL refuses, is halved by changes."""
MAX_PART_BYTES = 16_000_000
"""Bytes of the records of one part; decoded they take some ten times as much memory."""

DAY_MICROS = 86_400_000_000


class ExportReader:
    """Makes writes of the records of exports, by the settings, the lexicons and the clock of now."""

    def __init__(self, settings: Settings, now_micros: int) -> None:
        self.validators: Validators = record_validators(settings.lexicon_dir)
        self.collections = IndexedCollections(settings.extra_collections)
        self.now_micros = now_micros
        self._now = format_milliseconds(now_micros // 1_000)
        self._notify_from = now_micros - int(settings.notify_window * DAY_MICROS)

    def of(self, did: str, rev: str, floor: str | None = None) -> RecordReader:
        """The reader of one repository's records, in an export of `rev`. `floor`: the rev of the newest export that was
        applied whole before (`RepoState.export_rev`)."""
        return RecordReader(self, did, rev, floor)

    def not_in_the_future(self, time: str) -> str:
        """A time (ISO 8601, UTC, milliseconds), or now where it is later; no earlier than 1970."""
        return EPOCH if time < EPOCH else min(time, self._now)

    def is_quiet(self, own_micros: int) -> bool:
        """Whether a record of this time is too old to notify anybody."""
        return own_micros < self._notify_from


@dataclass(frozen=True)
class Refused:
    """Why a record of an export may not be indexed: kind and reason of its dead letter."""

    kind: str
    reason: str


class RecordReader:
    """Reads records of one repository's export. Made by `ExportReader.of`."""

    def __init__(self, reader: ExportReader, did: str, rev: str, floor: str | None = None) -> None:
        self._floor = floor or ""
        self._reader = reader
        self._did = did
        self._rev = rev
        self._rev_micros = tid_to_micros(rev)
        self._rev_time = reader.not_in_the_future(format_milliseconds(self._rev_micros // 1_000))

    def write(
        self, path: str, collection: str, cid: str, block: bytes, known: IndexedState | None
    ) -> RecordWrite | Refused:
        """The write of a record, or why there is none. `known`: what the index holds at the path."""
        declared = self._reader.collections.get(collection)
        assert declared is not None
        rkey = path[len(collection) + 1 :]
        if not is_record_key(rkey):
            return Refused("op-path", "path is not collection/rkey")
        try:
            record, text, as_sent = decode_as_sent(block)
        except InvalidRecord as error:
            return Refused("record-invalid", str(error))
        own_micros = self.own_micros(rkey, record)
        # By position, for this runs for every record: by keyword it takes half a microsecond more.
        write = RecordWrite(
            f"at://{self._did}/{path}",
            cid,
            self._did,
            collection,
            rkey,
            self._rev_of(rkey, known),
            record,
            text,
            self._rev_time if known is not None and known.cid is not None else self._created_at(rkey, record),
            None,
            "create" if known is None or known.cid is None else "update",
            self._reader.is_quiet(own_micros),
        )
        kind, reason = refusal(write, declared, self._reader.validators.get(collection), as_sent)
        return write if reason is None else Refused(kind, reason)

    def delete(self, difference: Difference) -> RecordDelete:
        """The deletion of a record that the export lacks."""
        return RecordDelete(
            uri=f"at://{self._did}/{difference.path}",
            did=self._did,
            collection=difference.collection,
            rev=self._rev_of("", difference.known),
            indexed_at=self._rev_time,
            seq=None,
        )

    def letter(self, path: str, cid: str, block: bytes, refused: Refused, known: IndexedState | None) -> DeadLetter:
        """The dead letter of a record that may not be indexed."""
        rkey = path.partition("/")[2]
        return DeadLetter(
            kind=refused.kind,
            reason=refused.reason,
            seq=None,
            did=self._did,
            path=path,
            bytes=block,
            form="block",
            rev=self._rev_of(rkey, known),
            cid=cid,
            action="create" if known is None or known.cid is None else "update",
            time=self._rev_time,
            is_quiet=self._reader.is_quiet(tid_to_micros(rkey) if is_tid(rkey) else self._rev_micros),
        )

    def own_micros(self, rkey: str, record: Record) -> int:
        """The record's own time, microseconds since 1970: that of its key, else what it says, else the export's."""
        if is_tid(rkey):
            return tid_to_micros(rkey)
        created = record.get("createdAt")
        if type(created) is str and (said := normalize_datetime(created)) > EPOCH:
            return datetime_to_micros(said) or 0
        return self._rev_micros

    def _rev_of(self, rkey: str, known: IndexedState | None) -> str:
        if known is None:
            return rkey if is_tid(rkey) and self._floor < rkey <= self._rev else self._rev
        # What has the same rev and differs, a commit said that does not belong to this history of the repository. The
        # next TID is newer than that, and older than the next commit.
        return tid_after(self._rev) if known.rev == self._rev else self._rev

    def _created_at(self, rkey: str, record: Record) -> str:
        created = record.get("createdAt")
        if type(created) is str and (said := normalize_datetime(created)) != EPOCH:
            return self._reader.not_in_the_future(said)
        if is_tid(rkey):
            return self._reader.not_in_the_future(format_milliseconds(tid_to_micros(rkey) // 1_000))
        return self._rev_time


def changes_of_export(
    export: ExportedRepository,
    indexed: Iterable[IndexedState],
    reader: ExportReader,
    counts: Counts,
    *,
    part_rows: int,
    days: int = -1,
    asked_at: str | None = None,
    is_fetched: bool = True,
    floor: str | None = None,
    too_old: OldRecords | None = None,
) -> Iterator[list[Change]]:
    """Yields the parts of what has to be written for the index to hold what the export holds, each of at most
    `part_rows` records; the last one, which may be empty, says so (`ExportState.is_last`).

    `days`: with 0 or more, only records of the last so many days are written, and nothing is deleted. `asked_at`,
    `is_fetched`: as of `ExportState`; `floor`: as of `ExportReader.of`. `too_old`: records that are
    not indexed any more because of their age, and are not missing. `counts` grows while it is iterated.

    Raises `InvalidExport` where the export is invalid further on: what was yielded before is proved all the same. Where
    only blocks of records are missing or damaged, it raises after all else was yielded.
    """
    records = reader.of(export.did, export.rev, floor)
    oldest = None if days < 0 else reader.now_micros - days * DAY_MICROS
    state = ExportState(
        did=export.did,
        rev=export.rev,
        commit=to_text(export.commit),
        data=to_text(export.data),
        is_last=False,
        is_whole=days < 0,
        is_partial=days >= 0,
        asked_at=asked_at,
        is_fetched=is_fetched,
    )
    parts = _Parts(state, part_rows)
    first_damage: tuple[str, Kind, str] | None = None
    damaged = 0  # counted, not collected: of a CAR that is cut short it is most records
    for difference in compare(export.records(), indexed, export.rev, reader.collections, counts):
        path, collection, cid, known = difference
        if cid is None:
            if oldest is None:
                counts.deletes += 1
                parts.delete(records.delete(difference))
        else:
            rkey = path[len(collection) + 1 :]
            if oldest is not None and is_tid(rkey) and tid_to_micros(rkey) < oldest:
                counts.old += 1
                continue
            is_new = known is None or known.cid is None
            if too_old is not None and is_new and too_old.has_old_key(export.did, collection, rkey):
                counts.old += 1
                continue
            try:
                block = export.block(cid)
            except InvalidExport as error:
                if error.kind not in ("missing", "hash"):
                    raise
                damaged += 1
                first_damage = first_damage or (path, error.kind, error.reason)
                continue
            write = records.write(path, collection, to_text(cid), block, known)
            if isinstance(write, Refused):
                counts.refused += 1
                parts.letter(records.letter(path, to_text(cid), block, write, known))
            elif (oldest is not None and records.own_micros(rkey, write.record) < oldest) or (
                too_old is not None and is_new and too_old.is_old(write)
            ):
                counts.old += 1
            else:
                if write.action == "create":
                    counts.creates += 1
                else:
                    counts.updates += 1
                parts.write(write, len(block))
        if parts.is_full:
            yield parts.take()
    if first_damage is not None:
        if not parts.is_empty:
            yield parts.take()
        path, kind, reason = first_damage
        more = f" and of {damaged - 1:,} more records" if damaged > 1 else ""
        raise InvalidExport(kind, f"the record at {path}{more}: {reason}")
    yield parts.take(is_last=True)


class _Parts:
    """Collects rows as changes of `CHANGE_ROWS`, until they are `rows` or many bytes."""

    def __init__(self, state: ExportState, rows: int) -> None:
        self._state = state
        self._limit = rows
        self._rows = self._bytes = self._in_change = 0
        self._changes = [self._empty()]

    def _empty(self) -> Change:
        return Change(size=0, export=self._state)

    def _add(self, size: int) -> Change:
        if self._in_change == CHANGE_ROWS:
            self._changes.append(self._empty())
            self._in_change = 0
        self._in_change += 1
        self._rows += 1
        self._bytes += size
        change = self._changes[-1]
        change.size += size
        return change

    def write(self, write: RecordWrite, size: int) -> None:
        change = self._add(size)
        change.writes.append(write)
        change.ops.append((write.collection, write.action))

    def delete(self, delete: RecordDelete) -> None:
        change = self._add(0)
        change.deletes.append(delete)
        change.ops.append((delete.collection, "delete"))

    def letter(self, letter: DeadLetter) -> None:
        self._add(len(letter.bytes)).dead_letters.append(letter)

    @property
    def is_empty(self) -> bool:
        return not self._rows

    @property
    def is_full(self) -> bool:
        return self._rows >= self._limit or self._bytes >= MAX_PART_BYTES

    def take(self, *, is_last: bool = False) -> list[Change]:
        """The part, of which the last change says whether it is the last one; a new part begins."""
        taken = self._changes
        if is_last:
            taken[-1].export = self._state._replace(is_last=True)
        self._rows = self._bytes = self._in_change = 0
        self._changes = [self._empty()]
        return taken
