"""Records that the reference has stored, read as if they had just come: what may not be indexed becomes a dead letter.

The reference stores each record as JSON, and accepts some that its own readers can't show (docs/differences.md). The
rest is compared with what follows from it, and repaired, as by a rerun.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from appview_pipeline.indexing.batch import build_again
from appview_pipeline.indexing.changes import Change, DeadLetter, RecordDelete
from appview_pipeline.indexing.collection import RecordWrite
from appview_pipeline.indexing.events import refusal
from appview_pipeline.indexing.registry import IndexedCollections
from appview_pipeline.indexing.validators import Validators, record_validators
from appview_pipeline.ingest.pace import Pace
from appview_pipeline.ingest.rerun import compare_once_and_repair, retry_while_busy
from appview_pipeline.ingest.writer import Writer
from appview_pipeline.protocol.record_json import as_stored
from appview_pipeline.protocol.syntax import is_readable_did, is_record_key, is_tid, tid_after
from appview_pipeline.settings import Settings
from appview_pipeline.store.adoption_steps import forget_subjects, next_records, rewrite_record
from appview_pipeline.store.batch import BatchToApply, StoredRecord
from appview_pipeline.store.database import Connection, Database
from appview_pipeline.store.repair import repair_records
from appview_pipeline.store.repairs import Listed

SOURCE = "adoption"
"""Name of this source in `pipeline.batch` and of its dead letters."""
UNLIMITED = 2**31 - 1
"""Dead letters a minute, and bytes of them, where all are kept."""
FIRST_REV = "2222222222222"
"""Rev of a record whose own is none."""


class AdoptedRecords:
    """Reads and repairs records of an adopted database, chunk by chunk."""

    def __init__(self, settings: Settings, database: Database, connection: Connection) -> None:
        """`connection`: on which `store.repair.prepare_repair` has been called; all of the adoption uses it."""
        self._connection = connection
        # What is refused is stored already, so it can't flood the table; and nothing else has it.
        unlimited = replace(settings, dead_letters_per_minute=UNLIMITED, dead_letter_day_bytes=UNLIMITED)
        self._writer = Writer(database, unlimited, SOURCE)
        self._validators: Validators = record_validators(settings.lexicon_dir)
        self._collections = IndexedCollections(settings.extra_collections)
        self._pace = Pace()

    def repair_next(self, after: str, until: str | None, limit: int) -> tuple[str | None, Counter[str]]:
        """Reads the next `limit` records after the URI `after` up to `until` (None: to the end), and repairs what
        follows from them.

        Returns the last one's URI (None: there are no more) and what was done. May be repeated.
        """
        done: Counter[str] = Counter()
        stored = next_records(self._connection, after, until, limit)
        if not stored:
            return None, done
        done["records"] = len(stored)
        listed: dict[str, str] = {}
        changes: list[Change] = []
        for record in stored:
            refused = self._read(record, done)
            if refused is None:
                listed[record.uri] = record.did
            else:
                changes.append(refused)
        self._connection.commit()
        if changes:
            self._writer.write(changes, time.time())
            done["refused records"] = len(changes)
        done.update(self._compare(listed))
        return stored[-1].uri, done

    def remove_rows(self, uris: Sequence[str]) -> Counter[str]:
        """Removes all rows of records that are gone, as the deletion of these records would have."""
        done: Counter[str] = Counter()
        left = {uri: uri.split("/")[2] for uri in uris if uri.count("/") >= 4}
        while left:
            some = dict(list(left.items())[: self._pace.next])
            repaired = retry_while_busy(self._connection, partial(repair_records, self._connection, some, self._stage))
            done.update({f"repaired {table}": rows for table, rows in repaired.changed.items()})
            for uri in some:
                del left[uri]
        self._forget()
        return done

    def _compare(self, listed: Listed) -> Counter[str]:
        if not listed:
            return Counter()
        repairs = compare_once_and_repair(self._connection, listed, self._stage, self._pace)
        self._forget()
        return Counter({f"repaired {table}": rows for table, rows in repairs.changed.items()})

    def _stage(self, records: Sequence[StoredRecord]) -> BatchToApply:
        return build_again(records)[0]

    def _forget(self) -> None:
        forget_subjects(self._connection)
        self._connection.commit()

    def _read(self, stored: StoredRecord, done: Counter[str]) -> Change | None:
        """Rewrites a record that needs it. Returns the change that takes it away, where it may not be indexed."""
        parts = stored.uri.split("/")
        collection, rkey = (parts[3], parts[4]) if len(parts) == 5 else ("", "")
        declared = self._collections.get(collection)
        if declared is None:
            return None  # of a collection that the operator has added: nothing follows from it
        if not is_readable_did(stored.did):
            return self._refused(stored, "op-path", "the DID is one that readers refuse")
        if not is_record_key(rkey):
            return self._refused(stored, "op-path", "path is not collection/rkey")
        try:
            record, text, as_sent = as_stored(stored.json)
        except ValueError as error:
            return self._refused(stored, "record-invalid", str(error))
        write = RecordWrite(
            uri=stored.uri,
            cid=stored.cid,
            did=stored.did,
            collection=collection,
            rkey=rkey,
            rev=stored.rev,
            record=record,
            json=text,
            indexed_at=stored.indexed_at,
            seq=None,
            action="create",
        )
        kind, reason = refusal(write, declared, self._validators.get(collection), as_sent)
        if reason is not None:
            return self._refused(stored, kind, reason)
        if text != stored.json:
            rewrite_record(self._connection, stored.uri, text)
            done["rewritten records"] += 1
        return None

    def _refused(self, stored: StoredRecord, kind: str, reason: str) -> Change:
        collection, _, rkey = stored.uri.removeprefix(f"at://{stored.did}/").partition("/")
        rev = stored.rev if is_tid(stored.rev) else FIRST_REV
        return Change(
            size=len(stored.json),
            deletes=[
                RecordDelete(
                    uri=stored.uri,
                    did=stored.did,
                    collection=collection,
                    rev=tid_after(rev),
                    indexed_at=stored.indexed_at,
                    seq=None,
                    is_quiet=True,
                )
            ],
            dead_letters=[
                DeadLetter(
                    kind=kind,
                    reason=reason,
                    seq=None,
                    did=stored.did,
                    path=f"{collection}/{rkey}",
                    bytes=stored.json.encode(),
                    form="json",
                    rev=tid_after(tid_after(rev)),
                    cid=stored.cid,
                    action="create",
                    time=stored.indexed_at,
                    is_quiet=True,
                )
            ],
        )
