"""A batch: many changes, folded into the rows that are copied into the staging tables.

Per record only the last state by rev is kept, per repository its newest commit and where its chain of commits begins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from hashlib import sha256

import orjson

from appview_pipeline.indexing.changes import (
    AccountState,
    Change,
    DeadLetter,
    Gap,
    RecordDelete,
    RepoState,
    gap_of,
)
from appview_pipeline.indexing.collection import Collection, RecordWrite, Row, Rows
from appview_pipeline.indexing.record_fields import created_at
from appview_pipeline.indexing.registry import COLLECTIONS, DECLARED, Declarations
from appview_pipeline.protocol.record_json import record_from_json
from appview_pipeline.store.batch import Report, StoredRecord
from appview_pipeline.store.effects import Effects
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
    chain_since: str | None = None
    chain_prev_data: str | None = None
    gaps: list[Gap] | None = None
    disordered: bool = False
    """An older commit came after a newer one."""


@dataclass
class Batch:
    """What `store.apply.apply` writes. Made by `build`."""

    report: Report
    rows: Rows
    seen: frozenset[str] = frozenset()
    declared: Declarations = DECLARED
    texts: dict[str, bytes] = field(default_factory=dict)
    changes: Sequence[Change] = ()

    @property
    def effects(self) -> Effects:
        """What the collections declare."""
        return self.declared.effects

    def encode(self) -> None:
        """Encodes the rows for COPY now, in the calling thread, and not when they are copied."""
        self.texts = {table: copy_text(rows) for table, rows in self.rows.items() if rows}

    def links_of(self, dids: Set[str]) -> list[Row]:
        """The rows of `stage_link` of the batch's commits of these repositories."""
        states = [change.repo for change in self.changes if change.repo is not None and change.repo.did in dids]
        return [(it.did, it.rev, it.since, it.prev_data, it.data) for it in states if not it.is_sync]

    def stage_again(self, collection: str, records: Sequence[StoredRecord]) -> Rows:
        """The staging rows of records that are stored already."""
        rows = self.declared.empty_rows()
        for stored in records:
            rkey = stored.uri.rpartition("/")[2]
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
            self.declared.collections[collection].stage(write, rows)
        return {table: staged for table, staged in rows.items() if staged}


def build(
    changes: Sequence[Change],
    source: str,
    *,
    shard: str = "0/1",
    dead_letter_bytes: int = 65_536,
    declared: Declarations = DECLARED,
) -> Batch:
    """Builds a batch of changes, in the order in which they arrived, from `source` (a relay's URL, a file)."""
    report = Report(source, shard)
    newest: dict[str, RecordWrite | RecordDelete] = {}
    superseded: list[RecordWrite | RecordDelete] = []
    chains: dict[str, _Chain] = {}
    accounts: dict[str, AccountState] = {}
    gaps: list[Gap] = []
    letters: list[DeadLetter] = []
    ops: Counter[tuple[str, str]] = Counter()
    ignored: dict[tuple[str, str], list[tuple[str, str]]] = {}

    for change in changes:
        report.frames += not change.is_position
        report.bytes += change.size
        if change.is_position:
            report.skipped += change.skipped
            report.doubtful += change.doubtful
        if change.seq is not None and not change.is_doubtful:
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
            _chain(chains, change.repo, change)
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
        gaps.extend(change.gaps)

    gaps.extend(gap for gap in map(gap_of, letters) if gap is not None)
    for chain in _in_order(chains, changes):
        gaps.extend(chain.gaps or ())
    rows = declared.empty_rows()
    _stage_records(newest.values(), rows, declared.collections)
    rows["stage_superseded"] = [_superseded_row(event) for event in superseded]
    rows["stage_repo"] = [_chain_row(chain) for chain in chains.values()]
    rows["stage_account"] = [(a.did, a.active, a.status, a.time, a.time) for a in accounts.values()]
    rows["stage_ignored"] = _ignored_rows(ignored)
    rows["stage_dead_letter"] = _letter_rows(letters, source, dead_letter_bytes)
    rows["stage_gap"] = list(gaps)
    for (collection, action), count in ops.items():
        report.ops.setdefault(collection, {})[action] = count
    report.ignored = dict(Counter(collection for commit in ignored.values() for collection, _ in commit))
    report.rejected_by_kind = dict(Counter(letter.kind for letter in letters))
    return Batch(report, rows, frozenset(event.collection for event in newest.values()), declared, changes=changes)


def build_again(records: Iterable[StoredRecord]) -> tuple[Batch, list[str]]:
    """Stored records as a batch, and the URIs of those that can't be read any more."""
    rows = DECLARED.empty_rows()
    unreadable = []
    seen = set()
    for stored in records:
        collection, rkey = stored.uri.split("/")[3:5]
        own = DECLARED.empty_rows()
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
            _stage_records([write], own, COLLECTIONS)
        except (ValueError, KeyError, TypeError, AttributeError):
            unreadable.append(stored.uri)
            continue
        seen.add(collection)
        for table, staged in own.items():
            rows.setdefault(table, []).extend(staged)
    return Batch(Report("rerun"), rows, frozenset(seen)), unreadable


def _stage_records(
    events: Iterable[RecordWrite | RecordDelete], rows: Rows, collections: Mapping[str, Collection]
) -> None:
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
            if (collection := collections.get(event.collection)) is not None:
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


def _chain(chains: dict[str, _Chain], state: RepoState, change: Change) -> None:
    """Takes a repository's next commit into account; a commit that does not follow the one before it leaves a gap."""
    assert change.time is not None
    chain = chains.get(state.did)
    if chain is None:
        chains[state.did] = _Chain(state, state, state.rev, state.rev, change.seq, change.time)
        return
    if state.rev <= chain.newest.rev:
        chain.disordered = chain.disordered or state.rev < chain.newest.rev
        return
    _lengthen(chain, state, change.seq)


def _lengthen(chain: _Chain, state: RepoState, seq: int | None) -> None:
    if state.is_sync:
        missing = state.data != chain.newest.data
    else:
        missing = state.since not in (None, chain.newest.rev) or state.prev_data not in (
            None,
            chain.newest.data,
        )  # what an old commit does not say contradicts nothing
    if missing:
        before = chain.newest
        links = {before.rev: (None, None, before.data), state.rev: (state.since, state.prev_data, state.data)}
        gap = Gap(
            "sync" if state.is_sync else "chain",
            state.did,
            after=before.rev,
            until=state.rev,
            links=orjson.dumps(links).decode(),
        )
        chain.gaps = [*(chain.gaps or ()), gap]
    if missing or state.since != chain.newest.rev:
        chain.chain_from, chain.chain_since, chain.chain_prev_data = state.rev, state.since, state.prev_data
    chain.newest, chain.seq = state, seq


def _in_order(chains: dict[str, _Chain], changes: Sequence[Change]) -> Iterable[_Chain]:
    """The chains; those whose commits arrived out of order are linked anew, in order of rev."""
    disordered = {did for did, chain in chains.items() if chain.disordered}
    if disordered:
        first_seen = {did: chains.pop(did).time for did in disordered}
        states = [
            (change.repo, change.seq)
            for change in changes
            if change.repo is not None and not change.already_applied and change.repo.did in disordered
        ]
        for state, seq in sorted(states, key=lambda it: it[0].rev):
            chain = chains.get(state.did)
            if chain is None:
                chains[state.did] = _Chain(state, state, state.rev, state.rev, seq, first_seen[state.did])
            elif state.rev > chain.newest.rev:
                _lengthen(chain, state, seq)
    return chains.values()


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
        chain.chain_since,
        chain.chain_prev_data,
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
