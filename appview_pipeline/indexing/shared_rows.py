"""Rows of the staging tables that all collections share (`SHARED_STAGES` of store/batch.py)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256

import orjson

from appview_pipeline.indexing.changes import DeadLetter, ExportState, RecordDelete
from appview_pipeline.indexing.collection import Collection, RecordWrite, Row, Rows
from appview_pipeline.indexing.record_fields import created_at


def stage_records(
    events: Iterable[RecordWrite | RecordDelete], rows: Rows, collections: Mapping[str, Collection]
) -> None:
    """Appends the rows of writes and deletes, those of their collections' staging tables included."""
    writes = rows.setdefault("stage_write", [])
    deletes = rows.setdefault("stage_delete", [])
    for event in events:
        if isinstance(event, RecordWrite):
            writes.append(
                (
                    event.uri,
                    event.cid,
                    event.did,
                    event.collection,
                    event.action,
                    event.rev,
                    event.json,
                    event.indexed_at,
                    _quiet(event.is_quiet),
                )
            )
            if (collection := collections.get(event.collection)) is not None:
                collection.stage(event, rows)
        else:
            deletes.append(
                (
                    event.uri,
                    event.did,
                    event.collection,
                    event.rev,
                    event.seq,
                    event.indexed_at,
                    _quiet(event.is_quiet),
                )
            )


def superseded_row(event: RecordWrite | RecordDelete) -> Row:
    """The row of `stage_superseded` of an event that another one of the same batch supersedes."""
    write = event if isinstance(event, RecordWrite) else None
    return (
        event.uri,
        event.did,
        event.collection,
        write.action if write else "delete",
        event.rev,
        write.cid if write else None,
        write.json if write else None,
        event.seq,
        created_at(write.record) if write else None,
        event.indexed_at,
        _quiet(event.is_quiet),
    )


def _quiet(is_quiet: bool) -> str | None:
    """A value of the columns `quiet`: text, because a batch of nothing but text is encoded fastest."""
    return "t" if is_quiet else None


def export_row(export: ExportState, known: Row | None = None) -> Row:
    """The row of `stage_export` of a part of an export. `known`: that of other parts of the same repository, of which
    the newer export counts."""
    is_end = export.is_last and (export.is_whole or export.is_partial)
    row: Row = (
        export.did,
        export.rev,
        export.commit,
        export.data,
        is_end,
        export.is_whole,
        export.asked_at,
        export.is_fetched,
    )
    if known is None:
        return row
    # The rev orders them, and the end of an export is more than its other parts.
    return max(known, row, key=lambda it: (str(it[1]), bool(it[4])))


def ignored_rows(ignored: Mapping[tuple[str, str], Sequence[tuple[str, str]]]) -> list[Row]:
    """The rows of `stage_ignored`: operations on collections that are not indexed, by (DID, rev) of their commit."""
    rows: list[Row] = []
    for (did, rev), ops in ignored.items():
        counts = Counter(ops)
        rows.extend(
            (did, rev, name, counts[name, "create"], counts[name, "update"], counts[name, "delete"])
            for name in {collection for collection, _ in ops}
        )
    return rows


def letter_rows(letters: Iterable[DeadLetter], source: str, kept_bytes: int) -> list[Row]:
    """The rows of `stage_dead_letter`, one for each fingerprint; of a letter's bytes the first `kept_bytes`."""
    rows: dict[bytes, Row] = {}
    for letter in letters:
        rows[fingerprint(letter)] = (
            fingerprint(letter),
            source,
            letter.seq,
            letter.did,
            letter.path,
            letter.kind,
            letter.reason,
            letter.bytes[:kept_bytes],
            len(letter.bytes),
            letter.form,
            letter.rev,
            letter.cid,
            letter.action,
            letter.time,
            _quiet(letter.is_quiet),
        )
    return list(rows.values())


def fingerprint(letter: DeadLetter) -> bytes:
    """What makes a dead letter the same when it comes again: its sequence number, path and bytes."""
    return sha256(orjson.dumps([letter.seq, letter.path]) + letter.bytes).digest()
