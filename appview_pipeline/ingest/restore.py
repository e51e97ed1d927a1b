"""Records whose block is missing from their commit, restored from another copy of the same record.

A server may leave out a block that the repository held already: the same record under another key, or one that comes
back. The commit names the block by its CID, so any record with that CID will do: of the same batch, or stored.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from appview_pipeline.errors import OperatorError
from appview_pipeline.indexing.changes import Change, DeadLetter
from appview_pipeline.indexing.collection import RecordWrite
from appview_pipeline.indexing.registry import COLLECTIONS
from appview_pipeline.protocol.record_json import record_from_json
from appview_pipeline.store.database import Database
from appview_pipeline.store.errors import DatabaseError
from appview_pipeline.store.stored_blocks import Wanted, stored_blocks

log = logging.getLogger(__name__)

MISSING_BLOCK = "record-block"
"""Kind of dead letter of a record whose block is missing."""


def restore(database: Database, changes: Sequence[Change]) -> Sequence[Change]:
    """`changes` with the records whose block was missing, without their dead letters, as far as another copy is found.

    Where the database can't be asked, the dead letters stay, which loses nothing.
    """
    wanted: dict[tuple[str, str], Wanted] = {}
    for change in changes:
        for letter in change.dead_letters:
            if (found := _wanted(letter)) is not None:
                wanted[found.did, found.cid] = found
    if not wanted:
        return changes
    known = {
        (write.did, write.collection, write.cid): write.json
        for change in changes
        for write in change.writes
        if (write.did, write.cid) in wanted
    }
    unknown = [it for it in wanted.values() if (it.did, it.collection, it.cid) not in known]
    if unknown:
        try:
            with database.connect("reader") as connection:
                known = {**stored_blocks(connection, unknown), **known}
        except (DatabaseError, OperatorError) as error:
            log.warning("Missing record blocks can't be looked up: %s", error)
    return [_restored(change, known) if change.dead_letters else change for change in changes] if known else changes


def _wanted(letter: DeadLetter) -> Wanted | None:
    if letter.kind != MISSING_BLOCK or letter.did is None or letter.path is None or letter.cid is None:
        return None
    return Wanted(letter.did, letter.path.partition("/")[0], letter.cid, f"at://{letter.did}/{letter.path}")


def _restored(change: Change, known: dict[tuple[str, str, str], str]) -> Change:
    letters, writes, ops = [], [*change.writes], [*change.ops]
    for letter in change.dead_letters:
        write = _write(letter, known)
        if write is None:
            letters.append(letter)
        else:
            writes.append(write)
            ops.append((write.collection, write.action))
    return replace(change, dead_letters=letters, writes=writes, ops=ops)


def _write(letter: DeadLetter, known: dict[tuple[str, str, str], str]) -> RecordWrite | None:
    """The write that a dead letter stands for; None where no copy of its record is known, or its key forbids it."""
    wanted = _wanted(letter)
    text = None if wanted is None else known.get((wanted.did, wanted.collection, wanted.cid))
    if wanted is None or text is None or letter.rev is None or letter.time is None or letter.action is None:
        return None
    write = RecordWrite(
        uri=wanted.uri,
        cid=wanted.cid,
        did=wanted.did,
        collection=wanted.collection,
        rkey=wanted.uri.rpartition("/")[2],
        rev=letter.rev,
        record=record_from_json(text),
        json=text,
        indexed_at=letter.time,
        seq=letter.seq,
        action=letter.action,
    )
    collection = COLLECTIONS.get(wanted.collection)
    return write if collection is None or collection.check(write) is None else None
