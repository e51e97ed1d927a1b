"""A batch: the rows of many changes, which are copied into the staging tables.

Per record only the last state by rev is kept, per repository its newest commit and where its chain of commits begins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field

from appview_pipeline.indexing.chains import Chain, chain_row, follow, in_order
from appview_pipeline.indexing.changes import (
    AccountState,
    Change,
    DeadLetter,
    Gap,
    IdentityEvent,
    RecordDelete,
    UncheckedCommit,
    gap_of,
)
from appview_pipeline.indexing.collection import RecordWrite, Row, Rows
from appview_pipeline.indexing.exclusion import content_of
from appview_pipeline.indexing.registry import DECLARED, Declarations
from appview_pipeline.indexing.shared_rows import (
    export_row,
    ignored_rows,
    letter_rows,
    stage_records,
    superseded_row,
)
from appview_pipeline.protocol.record_json import record_from_json
from appview_pipeline.store.batch import Report, StoredRecord
from appview_pipeline.store.effects import Effects
from appview_pipeline.store.staging import copy_text

FIRST_TIME = "0001-01-01T00:00:00.000Z"
"""The first time of ours that PostgreSQL's timestamps can hold: they have no year 0."""


@dataclass
class Batch:
    """What `store.apply.apply` writes. Made by `build`."""

    report: Report
    rows: Rows
    seen: frozenset[str] = frozenset()
    declared: Declarations = DECLARED
    texts: dict[str, bytes] = field(default_factory=dict)
    changes: Sequence[Change] = ()
    withheld: Set[str] = frozenset()
    """Excluded accounts whose content was taken out of the changes."""
    others: Set[str] = frozenset()
    """Accounts that the batch has content of and no commit or export."""

    @property
    def effects(self) -> Effects:
        """What the collections declare."""
        return self.declared.effects

    def encode(self) -> None:
        """Encodes the rows for COPY now, in the calling thread, and not when they are copied."""
        self.texts = {table: copy_text(rows) for table, rows in self.rows.items() if rows}

    def content_of(self, dids: Set[str]) -> set[str]:
        """Those of these accounts that the batch has content of."""
        return {
            did
            for change in self.changes
            # Most changes are a commit of another account, and nothing else.
            if change.repo is None or change.repo.did in dids or change.dead_letters or change.gaps
            if not change.already_applied
            for did in content_of(change) & dids
        }

    def links_of(self, dids: Set[str]) -> list[Row]:
        """The rows of `stage_link` of the batch's commits of these repositories."""
        states = [change.repo for change in self.changes if change.repo is not None and change.repo.did in dids]
        return [(it.did, it.rev, it.since, it.prev_data, it.data) for it in states if not it.is_sync]

    def stage_again(self, collection: str, records: Sequence[StoredRecord]) -> Rows:
        """The staging rows of records that are stored already."""
        rows = self.declared.empty_rows()
        for stored in records:
            write = _stored_write(stored, collection)
            self.declared.collections[collection].stage(write, rows)
        return {table: staged for table, staged in rows.items() if staged}

    def restage(self, collection: str, records: Sequence[StoredRecord]) -> Rows:
        """The same, for records that the transaction stages again as writes: `rows` has them from now on."""
        staged = self.declared.empty_rows()
        stage_records([_stored_write(stored, collection) for stored in records], staged, self.declared.collections)
        for table, added in staged.items():
            self.rows[table] = [*self.rows.get(table, ()), *added]
        return staged


def build(
    changes: Sequence[Change],
    source: str,
    *,
    shard: str = "0/1",
    dead_letter_bytes: int = 65_536,
    declared: Declarations = DECLARED,
) -> Batch:
    """Builds a batch of changes, in the order in which they arrived, from `source` (a relay's URL, a file).

    Commits and exports of one repository can't be in one batch: the revs of exported records may be guessed.
    """
    report = Report(source, shard)
    newest: dict[str, RecordWrite | RecordDelete] = {}
    superseded: list[RecordWrite | RecordDelete] = []
    chains: dict[str, Chain] = {}
    exports: dict[str, Row] = {}
    accounts: dict[str, AccountState] = {}
    identities: dict[str, IdentityEvent] = {}
    unchecked: dict[str, UncheckedCommit] = {}
    gaps: list[Gap] = []
    letters: list[DeadLetter] = []
    withheld: set[str] = set()
    others: set[str] = set()
    ops: Counter[tuple[str, str]] = Counter()
    ignored: dict[tuple[str, str], list[tuple[str, str]]] = {}

    for change in changes:
        _count_frame(change, report)
        if change.already_applied:
            continue
        if change.repo is not None:
            follow(chains, change.repo, change)
        if change.unchecked is not None:
            older = unchecked.get(change.unchecked.did)
            if older is None or older.rev < change.unchecked.rev:
                unchecked[change.unchecked.did] = change.unchecked
        deletes = change.deletes
        if change.export is not None:
            exports[change.export.did] = export_row(change.export, exports.get(change.export.did))
            # When they were deleted nobody knows, so nobody is notified of it now.
            deletes = [gone._replace(is_quiet=True) for gone in deletes]
        events: list[RecordWrite | RecordDelete] = [*change.writes, *deletes]
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
            if known is None or (known.time, known.seq or 0) <= (change.account.time, change.account.seq or 0):
                accounts[change.account.did] = change.account
        if change.identity is not None:
            event_before = identities.get(change.identity.did)
            if event_before is None or event_before.time <= change.identity.time:
                identities[change.identity.did] = change.identity
        ops.update(change.ops)
        if change.repo is not None and change.ignored:
            ignored[change.repo.did, change.repo.rev] = change.ignored  # delivered twice, it counts once
        if change.dead_letters or change.gaps or change.repo is None:
            others |= content_of(change)
            letters.extend(change.dead_letters)
            gaps.extend(change.gaps)
            if change.export is None:  # what an export holds and may not be indexed is not missing
                gaps.extend(gap for gap in map(gap_of, change.dead_letters) if gap is not None)
        if change.withheld:
            withheld.update(change.withheld)

    for chain in in_order(chains, changes):
        gaps.extend(chain.gaps or ())
    rows = declared.empty_rows()
    stage_records(newest.values(), rows, declared.collections)
    rows["stage_superseded"] = [superseded_row(event) for event in superseded]
    rows["stage_repo"] = [chain_row(chain) for chain in chains.values()]
    rows["stage_export"] = list(exports.values())
    rows["stage_account"] = [
        (a.did, a.active, a.status, max(a.time, FIRST_TIME), a.seq, a.time) for a in accounts.values()
    ]
    rows["stage_identity"] = [(it.did, max(it.time, FIRST_TIME), it.seq) for it in identities.values()]
    rows["stage_ignored"] = ignored_rows(ignored)
    rows["stage_dead_letter"] = letter_rows(letters, source, dead_letter_bytes)
    rows["stage_gap"] = list(gaps)
    rows["stage_unchecked"] = [(it.did, it.rev, it.seq, it.block) for it in unchecked.values()]
    for (collection, action), count in ops.items():
        report.ops.setdefault(collection, {})[action] = count
    locked = chains.keys() | exports.keys()
    report.accounts = len(chains) + len(exports) + len(identities.keys() - chains.keys())
    report.ignored = dict(Counter(collection for commit in ignored.values() for collection, _ in commit))
    report.rejected_by_kind = dict(Counter(letter.kind for letter in letters))
    return Batch(
        report,
        rows,
        seen=frozenset(event.collection for event in newest.values()),
        declared=declared,
        changes=changes,
        withheld=withheld,
        # A DID that PostgreSQL can't hold is no account's.
        others={did for did in others if did not in locked and "\0" not in did},
    )


def _count_frame(change: Change, report: Report) -> None:
    """Adds a change's frame to the report."""
    report.frames += not change.is_position and change.export is None
    report.bytes += change.size
    report.events += change.is_event
    report.stale += change.already_applied
    report.withheld += bool(change.withheld)
    if change.is_position:
        report.skipped += change.skipped
        report.doubtful += change.doubtful
    if change.seq is not None and not change.is_doubtful:
        report.first_seq = change.seq if report.first_seq is None else min(report.first_seq, change.seq)
        report.last_seq = change.seq if report.last_seq is None else max(report.last_seq, change.seq)
    time = change.time if change.is_event or change.is_position else None
    if time is not None and (report.relay_time is None or time > report.relay_time):
        report.relay_time = max(time, FIRST_TIME)


def build_again(records: Iterable[StoredRecord], declared: Declarations = DECLARED) -> tuple[Batch, list[str]]:
    """Builds a batch of stored records. Returns it, and the URIs of those that can't be read any more."""
    rows = declared.empty_rows()
    unreadable = []
    seen = set()
    for stored in records:
        collection = stored.uri.split("/")[3]
        own = declared.empty_rows()
        try:
            write = _stored_write(stored, collection)
            stage_records([write], own, declared.collections)
        except (ValueError, KeyError, TypeError, AttributeError):
            unreadable.append(stored.uri)
            continue
        seen.add(collection)
        for table, staged in own.items():
            if staged:
                rows.setdefault(table, []).extend(staged)
    return Batch(Report("rerun"), rows, frozenset(seen), declared), unreadable


def _stored_write(stored: StoredRecord, collection: str) -> RecordWrite:
    return RecordWrite(
        uri=stored.uri,
        cid=stored.cid,
        did=stored.did,
        collection=collection,
        rkey=stored.uri.rpartition("/")[2],
        rev=stored.rev,
        record=record_from_json(stored.json),
        json=stored.json,
        indexed_at=stored.indexed_at,
        seq=None,
        action="create",
    )
