"""A batch: many changes, folded into the rows that are copied into the staging tables.

Per record only the last state by rev is kept, per repository its newest commit and where its chain of commits begins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import orjson

from appview_pipeline.indexing.changes import AccountState, Change, DeadLetter, RecordDelete, RepoState
from appview_pipeline.indexing.collection import Collection, RecordWrite, Row, Rows
from appview_pipeline.indexing.record_fields import created_at
from appview_pipeline.indexing.registry import COLLECTIONS, STAGES
from appview_pipeline.protocol.record_json import record_from_json
from appview_pipeline.store.apply import HeirRecord, Report
from appview_pipeline.store.staging import copy_text


@dataclass(slots=True)
class _Chain:
    """The commits of one repository in a batch, as far as they follow one another."""

    first: RepoState
    newest: RepoState
    oldest_rev: str
    chain_from: str
    seq: int | None
    time: str
    """Of its first event in the batch: when the account was first seen, if it was not known."""


@dataclass
class Batch:
    """What `store.apply.apply` writes. Made by `build`."""

    report: Report
    rows: Rows
    seen: frozenset[str] = frozenset()
    columns: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {stage.table: stage.columns for stage in STAGES}
    )
    collections: Mapping[str, Collection] = field(default_factory=lambda: COLLECTIONS)
    texts: dict[str, bytes] = field(default_factory=dict)

    def encode(self) -> None:
        """Encodes the rows for COPY now, in the calling thread, and not when they are copied."""
        self.texts = {table: copy_text(rows) for table, rows in self.rows.items() if rows}

    def stage_again(self, collection: str, heirs: Sequence[HeirRecord]) -> Rows:
        """The staging rows of records that are stored already."""
        rows = _empty_rows()
        for heir in heirs:
            rkey = heir.uri.rpartition("/")[2]
            record = record_from_json(heir.json)
            write = RecordWrite(
                heir.uri,
                heir.cid,
                heir.did,
                collection,
                rkey,
                heir.rev,
                record,
                heir.json,
                heir.indexed_at,
                None,
                "create",
            )
            self.collections[collection].stage(write, rows)
        return {table: staged for table, staged in rows.items() if staged}


def _empty_rows() -> Rows:
    return {stage.table: [] for stage in STAGES}


def build(changes: Iterable[Change], source: str, *, shard: str = "0/1", dead_letter_bytes: int = 65_536) -> Batch:
    """Folds changes, in the order in which they arrived, into a batch from `source` (a relay's URL, a file)."""
    report = Report(source, shard)
    newest: dict[str, RecordWrite | RecordDelete] = {}
    superseded: list[RecordWrite | RecordDelete] = []
    chains: dict[str, _Chain] = {}
    accounts: dict[str, AccountState] = {}
    gaps: list[Row] = []
    letters: list[DeadLetter] = []
    ops: Counter[tuple[str, str]] = Counter()
    ignored: dict[tuple[str, str], list[tuple[str, str]]] = {}

    for change in changes:
        report.frames += not change.is_position
        report.bytes += change.size
        if change.seq is not None:
            report.first_seq = change.seq if report.first_seq is None else min(report.first_seq, change.seq)
            report.last_seq = change.seq if report.last_seq is None else max(report.last_seq, change.seq)
        report.events += change.is_event
        time = change.time if change.is_event or change.is_position else None
        if time is not None and (report.relay_time is None or time > report.relay_time):
            report.relay_time = time
        if change.already_applied:
            report.stale += 1
            continue
        if change.repo is not None:
            _chain(chains, change.repo, change, gaps)
        events: list[RecordWrite | RecordDelete] = [*change.writes, *change.deletes]
        for event in events:
            seen = newest.get(event.uri)
            if seen is None:
                newest[event.uri] = event
            elif seen.rev < event.rev:
                newest[event.uri] = event
                superseded.append(seen)
            elif seen.rev > event.rev:
                superseded.append(event)
        if change.account is not None:
            known = accounts.get(change.account.did)
            if known is None or known.time <= change.account.time:
                accounts[change.account.did] = change.account
        ops.update(change.ops)
        if change.repo is not None and change.ignored:
            ignored[change.repo.did, change.repo.rev] = change.ignored  # delivered twice, it counts once
        letters.extend(change.dead_letters)
        gaps.extend((gap.kind, None, gap.relay, gap.after, gap.until) for gap in change.gaps)

    rows = _empty_rows()
    _stage_records(newest.values(), rows)
    rows["stage_superseded"] = [_superseded_row(event) for event in superseded]
    rows["stage_repo"] = [_chain_row(chain) for chain in chains.values()]
    rows["stage_account"] = [(a.did, a.active, a.status, a.time, a.time) for a in accounts.values()]
    rows["stage_ignored"] = _ignored_rows(ignored)
    rows["stage_dead_letter"] = _letter_rows(letters, source, dead_letter_bytes)
    rows["stage_gap"] = gaps
    for (collection, action), count in ops.items():
        report.ops.setdefault(collection, {})[action] = count
    report.ignored = dict(Counter(collection for commit in ignored.values() for collection, _ in commit))
    report.rejected_by_kind = dict(Counter(letter.kind for letter in letters))
    return Batch(report, rows, frozenset(event.collection for event in newest.values()))


def build_again(records: Iterable[HeirRecord]) -> tuple[Batch, list[str]]:
    """Stored records as a batch, and the URIs of those that can't be read any more."""
    rows = _empty_rows()
    unreadable = []
    seen = set()
    for stored in records:
        collection, rkey = stored.uri.split("/")[3:5]
        own = _empty_rows()
        try:
            record = record_from_json(stored.json)
            write = RecordWrite(
                stored.uri,
                stored.cid,
                stored.did,
                collection,
                rkey,
                stored.rev,
                record,
                stored.json,
                stored.indexed_at,
                None,
                "create",
            )
            _stage_records([write], own)
        except (ValueError, KeyError, TypeError, AttributeError):
            unreadable.append(stored.uri)
            continue
        seen.add(collection)
        for table, staged in own.items():
            rows.setdefault(table, []).extend(staged)
    return Batch(Report("rerun"), rows, frozenset(seen)), unreadable


def _stage_records(events: Iterable[RecordWrite | RecordDelete], rows: Rows) -> None:
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
                )
            )
            if (collection := COLLECTIONS.get(event.collection)) is not None:
                collection.stage(event, rows)
        else:
            deletes.append((event.uri, event.did, event.collection, event.rev, event.seq, event.indexed_at))


def _superseded_row(event: RecordWrite | RecordDelete) -> Row:
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
    )


def _chain(chains: dict[str, _Chain], state: RepoState, change: Change, gaps: list[Row]) -> None:
    """Takes a repository's next commit into account; a commit that does not follow the one before it leaves a gap."""
    assert change.time is not None
    chain = chains.get(state.did)
    if chain is None:
        chains[state.did] = _Chain(state, state, state.rev, state.rev, change.seq, change.time)
        return
    if state.rev <= chain.newest.rev:
        chain.oldest_rev = min(chain.oldest_rev, state.rev)
        return  # delivered again, or late: it does not lengthen the chain, and its records are compared by rev
    if state.is_sync:
        missing = state.data != chain.newest.data
    else:
        missing = state.since not in (None, chain.newest.rev) or state.prev_data not in (
            None,
            chain.newest.data,
        )  # what an old commit does not say contradicts nothing
    if missing:
        gaps.append(("sync" if state.is_sync else "chain", state.did, None, chain.newest.rev, state.rev))
    if missing or state.since != chain.newest.rev:
        chain.chain_from = state.rev
    chain.newest, chain.seq = state, change.seq


def _chain_row(chain: _Chain) -> Row:
    first, newest = chain.first, chain.newest
    return (
        first.did,
        chain.oldest_rev,
        first.rev,
        first.since,
        first.prev_data,
        first.data,
        first.is_sync,
        chain.chain_from,
        newest.rev,
        newest.commit,
        newest.data,
        chain.seq,
        chain.time,
    )


def _ignored_rows(ignored: Mapping[tuple[str, str], Sequence[tuple[str, str]]]) -> list[Row]:
    rows: list[Row] = []
    for (did, rev), ops in ignored.items():
        counts = Counter(ops)
        rows.extend(
            (did, rev, name, counts[name, "create"], counts[name, "update"], counts[name, "delete"])
            for name in {collection for collection, _ in ops}
        )
    return rows


def _letter_rows(letters: Iterable[DeadLetter], source: str, kept_bytes: int) -> list[Row]:
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
        )
    return list(rows.values())


def fingerprint(letter: DeadLetter) -> bytes:
    """What makes a dead letter the same when it comes again: its sequence number, path and bytes."""
    return sha256(orjson.dumps([letter.seq, letter.path]) + letter.bytes).digest()
