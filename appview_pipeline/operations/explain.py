"""`appview-pipeline explain`: what the index knows of one record or account, and why (docs/explain.md).

Everything is read from the database: nothing is asked of the network, and nothing is written. What follows from a
record is found by the statements of the write path (`store/trial.py`). `operations/explain_words.py` says it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import orjson

from appview_pipeline.errors import OperatorError
from appview_pipeline.identity.show import show_account
from appview_pipeline.indexing.batch import build_again
from appview_pipeline.indexing.registry import COLLECTIONS, EFFECTS, IndexedCollections
from appview_pipeline.ingest.old_records import old_records
from appview_pipeline.operations.explanation import AccountExplanation, Explanation, RecordExplanation
from appview_pipeline.operations.subjects import Subject, find_subject, post_gate_of
from appview_pipeline.protocol.syntax import is_did
from appview_pipeline.settings import Settings
from appview_pipeline.store import explain as store
from appview_pipeline.store.batch import BatchToApply, StoredRecord
from appview_pipeline.store.database import Connection, Database
from appview_pipeline.store.errors import Busy, DatabaseError
from appview_pipeline.store.trial import Trial, try_record

MAX_NAMED = 100
"""Accounts and records named in a record that are looked at."""


def explain(settings: Settings, database: Database, name: str) -> Explanation:
    """Explains what `name` stands for: a record (AT URI, page of bsky.app) or an account (DID, handle).

    Raises `OperatorError` where it stands for nothing; a record or account that is not indexed is explained, too.
    """
    subject = find_subject(database, name)
    if subject.collection is None:
        return _explain_account(settings, database, subject)
    return _explain_record(settings, database, subject, subject.collection)


def _explain_account(settings: Settings, database: Database, subject: Subject) -> AccountExplanation:
    try:
        identity = show_account(database, settings, subject.did)
    except OperatorError:  # nothing is known of its identity
        identity = None
    with database.connect("reader") as connection:
        return AccountExplanation(
            subject=subject,
            account=store.read_account(connection, subject.did),
            identity=identity,
            counters=store.counters(connection, "profile_agg", [subject.did]),
        )


def _explain_record(settings: Settings, database: Database, subject: Subject, collection: str) -> RecordExplanation:
    with database.connect("reader") as connection:
        rows = store.read_record(connection, EFFECTS, subject.uri)
        account = store.read_repository(connection, subject.did)
        ignored = store.not_indexed(connection, collection)
    old = old_records(settings, database)
    trial, untried = None, None
    if rows.record is not None and collection in COLLECTIONS and COLLECTIONS[collection].stages:
        trial, untried = _try(database, subject, rows.record)
    found = RecordExplanation(
        subject=subject,
        rows=rows,
        account=account,
        is_indexed_collection=collection in IndexedCollections(settings.extra_collections),
        not_indexed=ignored,
        is_too_old=old is not None and old.has_old_key(subject.did, collection, subject.rkey or ""),
        trial=trial,
        untried=untried,
    )
    with database.connect("reader") as connection:
        return _with_others(connection, found)


def _try(database: Database, subject: Subject, state: store.StoredState) -> tuple[Trial | None, str | None]:
    """What follows from a record, or why that can't be said now."""
    assert subject.rkey is not None
    record = StoredRecord(
        uri=subject.uri,
        cid=state.cid,
        did=subject.did,
        rev=state.rev or subject.rkey,
        json=state.json,
        indexed_at=state.indexed_at,
    )
    unreadable: list[str] = []

    def stage(records: Sequence[StoredRecord]) -> BatchToApply:
        batch, left_out = build_again(records)
        unreadable.extend(left_out)
        return batch

    try:
        with database.connect("maintenance") as connection:
            trial = try_record(connection, EFFECTS, record, stage)
    except Busy as error:
        return None, f"Others hold rows that are needed for it ({error}). Try again in a moment."
    except DatabaseError as error:  # a server that only reads, say
        return None, f"PostgreSQL refused that: {error}."
    if unreadable:
        return None, "The stored record can't be read as a record of its collection."
    return trial, None


def _with_others(connection: Connection, found: RecordExplanation) -> RecordExplanation:
    """The same with what is known of the posts and accounts that the record names."""
    if found.rows.record is None:
        return found
    author, rev = found.subject.did, found.rows.record.rev or found.subject.rkey or ""
    references = list(dict.fromkeys(_references(orjson.loads(found.rows.record.json))))[:MAX_NAMED]
    named = list(dict.fromkeys(_account_of(it) for it in references))
    others = [did for did in named if did != author]
    uris = [it for it in references if it.startswith("at://") and it.count("/") == 4]
    reply = None if found.trial is None else found.trial.reply
    quote = None if found.trial is None else found.trial.quote
    counted_in = [] if found.trial is None else found.trial.counted_in
    values = {
        key: counts
        for table in ("post_agg", "profile_agg")
        for key, counts in store.counters(
            connection, table, [*{it.key for it in counted_in if it.table == table}, found.uri]
        ).items()
    }
    return replace(
        found,
        parent=None if reply is None else store.parent_as_of(connection, reply.parent, rev),
        post_gate_rev=None if quote is None else store.gate_as_of(connection, post_gate_of(quote.subject), rev),
        named=named,
        missing=store.missing_records(connection, uris),
        removed=store.removed_accounts(connection, others),
        blocks=store.blocks_between(connection, author, others),
        counters=values,
    )


def _references(value: Any) -> Iterator[str]:
    """The DIDs and AT URIs in a record."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)
    elif isinstance(value, str) and (is_did(value) or (value.startswith("at://did:") and is_did(_account_of(value)))):
        yield value


def _account_of(reference: str) -> str:
    return reference.removeprefix("at://").partition("/")[0]
