"""What one event of the stream means for the index: from bytes to a `Change`, without touching a database.

Decodes, checks the structure, and validates each record against its lexicon and its collection's own rules. What fails
is a dead letter beside the rest, never an exception.
"""

from __future__ import annotations

from typing import Protocol

from appview_pipeline.indexing.changes import (
    AccountState,
    Change,
    DeadLetter,
    IdentityEvent,
    RecordDelete,
    RepoState,
    UncheckedCommit,
)
from appview_pipeline.indexing.collection import Collection, RecordWrite
from appview_pipeline.indexing.registry import IndexedCollections
from appview_pipeline.indexing.validators import Validators
from appview_pipeline.protocol.cbor import Record
from appview_pipeline.protocol.cid import to_text
from appview_pipeline.protocol.commit import (
    FUTURE_TOLERANCE,
    CommitContent,
    InvalidCommit,
    RecordOp,
    SyncContent,
    read_commit,
    read_sync,
)
from appview_pipeline.protocol.event_stream import FrameError
from appview_pipeline.protocol.frames import Account, Commit, Event, Identity, Sync, decode_frame
from appview_pipeline.protocol.lexicon import RecordValidator
from appview_pipeline.protocol.mst_node import EMPTY
from appview_pipeline.protocol.syntax import format_milliseconds, is_readable_did, normalize_datetime, tid_before


class Check(Protocol):
    """What is checked of a commit or a #sync beyond its structure."""

    def __call__(self, event: Commit | Sync, content: CommitContent | SyncContent) -> UncheckedCommit | None:
        """Raises InvalidCommit where the event must not be applied. Returns the commit where its signature is not
        checked yet: the account's key is not known here, or does not fit."""
        ...


def read_envelope(frame: bytes) -> Event | Change:
    """Decodes a frame: its event, or the change of an unreadable frame, which is a dead letter."""
    try:
        return decode_frame(frame)
    except FrameError as error:
        letter = DeadLetter(
            kind=error.kind,
            reason=error.reason,
            seq=error.seq,
            did=error.did,
            path=None,
            bytes=frame,
            rev=error.rev,
            since=error.since,
        )
        return Change(len(frame), error.seq, dead_letters=[letter])


def read_change(
    event: Event,
    frame: bytes,
    now_micros: int,
    validators: Validators,
    collections: IndexedCollections,
    check: Check | None = None,
) -> Change:
    """Reads what an event changes.

    `now_micros`: our clock, microseconds since 1970, for the check of future revs. Records of a collection
    without a validator pass. Without `check` only the structure of commits is checked; what it returns is the change's
    `unchecked`.
    """
    if isinstance(event, Commit):
        if not (event.repo.startswith("did:plc:") or is_readable_did(event.repo)):
            return _unreadable(event.repo, event.seq, frame)
        return _commit(event, frame, now_micros, collections, validators, check)
    if isinstance(event, Sync | Account | Identity) and not is_readable_did(event.did):
        return _unreadable(event.did, event.seq, frame)
    if isinstance(event, Sync):
        return _sync(event, frame, now_micros, check)
    change = Change(len(frame), getattr(event, "seq", None))
    if isinstance(event, Account):
        change.is_event = True
        change.time = normalize_datetime(event.time)
        since = _not_in_the_future(change.time, now_micros)
        change.account = AccountState(event.did, event.active, event.status, since, event.seq)
    elif isinstance(event, Identity):
        change.is_event = True
        change.time = normalize_datetime(event.time)
        change.identity = IdentityEvent(event.did, change.time, event.seq)
    return change


def _not_in_the_future(time: str, now_micros: int) -> str:
    """The time of an event, or now where its sender's clock is far ahead: otherwise no event after it would count."""
    if time <= format_milliseconds((now_micros + FUTURE_TOLERANCE) // 1_000):
        return time
    return format_milliseconds(now_micros // 1_000)


def _unreadable(did: str, seq: int, frame: bytes) -> Change:
    """The dead letter of an account that no reader can show: one record of it would break the pages of others."""
    reason = f"the account's DID {did[:200]} can't be part of an AT URI"
    letter = DeadLetter(kind="did", reason=reason, seq=seq, did=did, path=None, bytes=frame)
    return Change(len(frame), seq, dead_letters=[letter])


def position(frame: bytes) -> Change | None:
    """Reads the change of another shard's frame: the position of the stream. None without a sequence number."""
    event = read_envelope(frame)
    seq = getattr(event, "seq", None)
    if seq is None:
        return None
    time = getattr(event, "time", None)
    return Change(0, seq, normalize_datetime(time) if time is not None else None, is_position=True)


def skipped_commit(event: Commit, frame: bytes) -> Change:
    """The change of a commit that is known to be applied: none."""
    return Change(len(frame), event.seq, normalize_datetime(event.time), is_event=True, already_applied=True)


def refused_event(event: Commit | Sync, frame: bytes, error: InvalidCommit) -> Change:
    """The change of a commit or #sync that can't be used as a whole: a dead letter, which leaves a gap."""
    did, since = (event.repo, event.since) if isinstance(event, Commit) else (event.did, None)
    letter = DeadLetter(
        kind=error.kind,
        reason=error.reason,
        seq=event.seq,
        did=did,
        path=None,
        bytes=frame,
        rev=event.rev,
        since=since,
    )
    return Change(len(frame), event.seq, normalize_datetime(event.time), is_event=True, dead_letters=[letter])


def _commit(
    event: Commit,
    frame: bytes,
    now_micros: int,
    collections: IndexedCollections,
    validators: Validators,
    check: Check | None,
) -> Change:
    time = normalize_datetime(event.time)
    did, rev, seq = event.repo, event.rev, event.seq
    change = Change(len(frame), seq, time, is_event=True)
    try:
        content = read_commit(event, now_micros, collections)
        if check is not None:
            change.unchecked = check(event, content)
    except InvalidCommit as error:
        return refused_event(event, frame, error)
    prev_data = event.prev_data
    if prev_data is None and event.since is None:
        prev_data = EMPTY.cid  # it says that it is the first: of a repository that we know, everything else is gone
    change.repo = RepoState(
        did=did,
        rev=rev,
        since=event.since,
        prev_data=to_text(prev_data) if prev_data else None,
        commit=to_text(event.commit),
        data=to_text(content.data),
        is_sync=False,
    )
    for op in content.ops:
        # Each of several operations on a path has a rev of its own, the last one that of the commit.
        op_rev = tid_before(rev, op.followed_by) if op.followed_by else rev
        collection = collections.get(op.collection)
        if op.problem is not None:
            kind, reason = op.problem
            # A record by itself is enough to try again only where nothing but the record is wrong.
            form, offender = "frame", frame
            if kind == "record-invalid" and op.block is not None:
                form, offender = "block", op.block
            letter = DeadLetter(
                kind=kind,
                reason=reason,
                seq=seq,
                did=did,
                path=op.path or None,
                bytes=offender,
                form=form,
                rev=rev,
                cid=op.cid,
                action=op.action,
                time=time,
            )
            change.dead_letters.append(letter)
        elif collection is None:
            change.ignored.append((op.collection, op.action))
        elif op.action == "delete":
            delete = RecordDelete(
                uri=f"at://{did}/{op.path}",
                did=did,
                collection=op.collection,
                rev=op_rev,
                indexed_at=time,
                seq=seq,
            )
            change.deletes.append(delete)
            change.ops.append((op.collection, "delete"))
        else:
            _write(change, op, collection, validators.get(op.collection), did=did, rev=op_rev, time=time)
    return change


def _write(
    change: Change,
    op: RecordOp,
    collection: Collection,
    validate: RecordValidator | None,
    *,
    did: str,
    rev: str,
    time: str,
) -> None:
    """Adds a create or update to the change, or the dead letter of its record."""
    assert op.cid is not None and op.record is not None and op.json is not None and op.block is not None
    # By position, for this runs for every operation: by keyword it takes half a microsecond more.
    write = RecordWrite(
        f"at://{did}/{op.path}",
        op.cid,
        did,
        op.collection,
        op.rkey,
        rev,
        op.record,
        op.json,
        time,
        change.seq,
        op.action,
    )
    kind, reason = refusal(write, collection, validate, op.as_sent)
    if reason is None:
        change.writes.append(write)
        change.ops.append((op.collection, op.action))
    elif not op.followed_by:
        letter = DeadLetter(
            kind=kind,
            reason=reason,
            seq=change.seq,
            did=did,
            path=op.path,
            bytes=op.block,
            form="block",
            rev=rev,
            cid=op.cid,
            action=op.action,
            time=time,
        )
        change.dead_letters.append(letter)


def refusal(
    write: RecordWrite, collection: Collection, validate: RecordValidator | None, as_sent: Record | None = None
) -> tuple[str, str | None]:
    """Returns why a record may not be indexed: the kind of dead letter and the reason in words, None when it may.

    `as_sent`: the record with the U+0000 that its text had. It is validated as well,
    because an identifier that holds U+0000 is invalid.
    """
    if validate is not None:
        reason = validate(write.record)
        if reason is None and as_sent is not None:
            reason = validate(as_sent)
        if reason is not None:
            return "lexicon", reason
    return "collection-rule", collection.check(write)


def _sync(event: Sync, frame: bytes, now_micros: int, check: Check | None) -> Change:
    try:
        content = read_sync(event, now_micros)
        unchecked = None if check is None else check(event, content)
    except InvalidCommit as error:
        return refused_event(event, frame, error)
    change = Change(len(frame), event.seq, normalize_datetime(event.time), is_event=True, unchecked=unchecked)
    change.repo = RepoState(
        did=event.did,
        rev=content.rev,
        since=None,
        prev_data=None,
        commit=to_text(content.commit),
        data=to_text(content.data),
        is_sync=True,
    )
    return change
