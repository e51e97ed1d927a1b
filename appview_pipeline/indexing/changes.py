"""What one event of the stream means for the index: a `Change`.

From bytes to meaning without touching a database: decode, check the structure, validate each record against its lexicon
and its collection's own rules. What fails is a dead letter beside the rest, never an exception.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from appview_pipeline.indexing.collection import Collection, RecordWrite
from appview_pipeline.indexing.registry import IndexedCollections
from appview_pipeline.indexing.validators import Validators
from appview_pipeline.protocol.cbor import Record
from appview_pipeline.protocol.cid import to_text
from appview_pipeline.protocol.commit import InvalidCommit, RecordOp, read_commit, read_sync
from appview_pipeline.protocol.event_stream import FrameError
from appview_pipeline.protocol.frames import Account, Commit, Event, Identity, Sync, decode_frame
from appview_pipeline.protocol.lexicon import RecordValidator
from appview_pipeline.protocol.syntax import is_readable_did, normalize_datetime, tid_before


class DeadLetter(NamedTuple):
    """What could not be used: `kind` to count by, `reason` in words, `bytes` the offending ones.

    `form` says what `bytes` is: a "frame", a record's DAG-CBOR "block", a record's "json", or "other", which can't be
    retried. For a retry of a record by itself the rest says what the commit said of it; `time` is the event's.
    """

    kind: str
    reason: str
    seq: int | None
    did: str | None
    path: str | None
    bytes: bytes
    form: str = "frame"
    rev: str | None = None
    cid: str | None = None
    action: str | None = None
    time: str | None = None
    since: str | None = None
    """The rev that a refused commit says it follows."""


class RecordDelete(NamedTuple):
    """A record that is gone from `rev` on."""

    uri: str
    did: str
    collection: str
    rev: str
    indexed_at: str
    seq: int | None


class Gap(NamedTuple):
    """Something is missing (`pipeline.gap` says what the kinds are): of a repository `did` between two revs, or of a
    shard's stream from `relay` between two sequence numbers (text).

    `links`: for `chain` and `sync` the commits at both ends, JSON as in `pipeline.gap`. `resolved`: it turned out that
    nothing is missing there.
    """

    kind: str
    did: str | None = None
    relay: str | None = None
    shard: str | None = None
    after: str | None = None
    until: str | None = None
    links: str | None = None
    resolved: bool = False


NOT_MISSING = frozenset(("record-invalid", "lexicon", "collection-rule", "did"))
"""Kinds of dead letters whose record we have whole and must not index: the network holds nothing else."""

MAX_GAP_TEXT = 2_000
"""Bytes of DID and path together that a gap names: they are in a B-tree index."""


def gap_of(letter: DeadLetter) -> Gap | None:
    """What is missing because of a dead letter; None where nothing is, or where it is not known of which repository.

    Of a refused commit (or another event of the repository) the gap names the rev and the one before it, of a refused
    operation the record's path and the commit's rev.
    """
    if letter.did is None or letter.kind in NOT_MISSING:
        return None
    if letter.path is None and not letter.kind.startswith(("op-", "record-")):
        since = letter.since
        if since is not None and (letter.rev is None or since >= letter.rev):
            since = None
        return Gap("commit", letter.did, after=since, until=letter.rev)
    path = letter.path
    if path is not None and len(letter.did) + len(path.encode()) > MAX_GAP_TEXT:
        path = None
    return Gap("record", letter.did, after=path, until=letter.rev)


class RepoState(NamedTuple):
    """The state of a repository after a commit, and (`since`, `prev_data`) the one before it. CIDs are text."""

    did: str
    rev: str
    since: str | None
    prev_data: str | None
    commit: str
    data: str
    is_sync: bool


class AccountState(NamedTuple):
    """An account's hosting status as of `time`."""

    did: str
    active: bool
    status: str | None
    time: str


@dataclass(slots=True)
class Change:
    """One frame's contribution to a batch. `size` in bytes; `time` is the event's, ISO 8601 with milliseconds."""

    size: int
    seq: int | None = None
    time: str | None = None
    is_event: bool = False
    repo: RepoState | None = None
    account: AccountState | None = None
    writes: list[RecordWrite] = field(default_factory=list)
    deletes: list[RecordDelete] = field(default_factory=list)
    ops: list[tuple[str, str]] = field(default_factory=list)
    """(collection, action) of the operations that `writes` and `deletes` come from."""
    ignored: list[tuple[str, str]] = field(default_factory=list)
    """(collection, action) of operations on collections that are not indexed."""
    dead_letters: list[DeadLetter] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    restarts_at: int | None = None
    """From the event with this sequence number on the stream is numbered anew (the relay was reset)."""
    is_position: bool = False
    """No frame of ours: says only how far the stream has got, for the cursor."""
    is_doubtful: bool = False
    """Its sequence number fits nothing before it: it does not move the cursor."""
    skipped: int = 0
    doubtful: int = 0
    """With `is_position`: numbers that the relay left out, and frames whose numbers fit nothing before them."""
    already_applied: bool = False
    """The commit was passed over because its rev is known to be applied."""


def read_envelope(frame: bytes) -> Event | Change:
    """A frame's event, or the change (a dead letter) that an unreadable frame amounts to."""
    try:
        return decode_frame(frame)
    except FrameError as error:
        letter = DeadLetter(
            error.kind, error.reason, error.seq, error.did, None, frame, rev=error.rev, since=error.since
        )
        return Change(len(frame), error.seq, dead_letters=[letter])


def read_change(
    event: Event,
    frame: bytes,
    now_micros: int,
    validators: Validators,
    collections: IndexedCollections,
) -> Change:
    """What an event changes.

    `now_micros`: our clock, microseconds since 1970, for the check of future revs. Records of a collection
    without a validator pass.
    """
    if isinstance(event, Commit):
        if not (event.repo.startswith("did:plc:") or is_readable_did(event.repo)):
            return _unreadable(event.repo, event.seq, frame)
        return _commit(event, frame, now_micros, collections, validators)
    if isinstance(event, Sync | Account | Identity) and not is_readable_did(event.did):
        return _unreadable(event.did, event.seq, frame)
    change = Change(len(frame), getattr(event, "seq", None))
    if isinstance(event, Sync):
        _sync(event, frame, now_micros, change)
    elif isinstance(event, Account):
        change.is_event = True
        change.time = normalize_datetime(event.time)
        change.account = AccountState(event.did, event.active, event.status, change.time)
    elif hasattr(event, "time"):
        # #identity: a hint to look the handle up again, which identity resolution does off this path.
        change.is_event = True
        change.time = normalize_datetime(event.time)
    return change


def _unreadable(did: str, seq: int, frame: bytes) -> Change:
    """The dead letter of an account that no reader could show: one record of it would break the pages of others."""
    reason = f"the account's DID {did[:200]} can't be part of an AT URI"
    return Change(len(frame), seq, dead_letters=[DeadLetter("did", reason, seq, did, None, frame)])


def position(frame: bytes) -> Change | None:
    """The change of a frame that another shard takes: how far the stream has got. None where the frame does not say."""
    event = read_envelope(frame)
    seq = getattr(event, "seq", None)
    if seq is None:
        return None
    time = getattr(event, "time", None)
    return Change(0, seq, normalize_datetime(time) if time is not None else None, is_position=True)


def passed_over(event: Commit, frame: bytes) -> Change:
    """The change of a commit that is applied already: none."""
    return Change(len(frame), event.seq, normalize_datetime(event.time), is_event=True, already_applied=True)


def _commit(
    event: Commit,
    frame: bytes,
    now_micros: int,
    collections: IndexedCollections,
    validators: Validators,
) -> Change:
    time = normalize_datetime(event.time)
    did, rev, seq = event.repo, event.rev, event.seq
    change = Change(len(frame), seq, time, is_event=True)
    try:
        content = read_commit(event, now_micros, collections)
    except InvalidCommit as error:
        change.dead_letters.append(
            DeadLetter(error.kind, error.reason, seq, did, None, frame, rev=rev, since=event.since)
        )
        return change
    change.repo = RepoState(
        did,
        rev,
        event.since,
        to_text(event.prev_data) if event.prev_data else None,
        to_text(event.commit),
        to_text(content.data),
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
            change.dead_letters.append(
                DeadLetter(kind, reason, seq, did, op.path or None, offender, form, rev, op.cid, op.action, time)
            )
        elif collection is None:
            change.ignored.append((op.collection, op.action))
        elif op.action == "delete":
            change.deletes.append(RecordDelete(f"at://{did}/{op.path}", did, op.collection, op_rev, time, seq))
            change.ops.append((op.collection, "delete"))
        else:
            _write(change, op, collection, validators.get(op.collection), did, op_rev, time)
    return change


def _write(
    change: Change,
    op: RecordOp,
    collection: Collection,
    validate: RecordValidator | None,
    did: str,
    rev: str,
    time: str,
) -> None:
    """Adds a create or update to the change, or the dead letter that its record amounts to."""
    assert op.cid is not None and op.record is not None and op.json is not None and op.block is not None
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
        change.dead_letters.append(
            DeadLetter(kind, reason, change.seq, did, op.path, op.block, "block", rev, op.cid, op.action, time)
        )


def refusal(
    write: RecordWrite, collection: Collection, validate: RecordValidator | None, as_sent: Record | None = None
) -> tuple[str, str | None]:
    """Why a record may not be indexed: the kind of dead letter and the reason in words, None when it may.

    `as_sent`: the record with the U+0000 that its text had. It must be valid, too: an identifier is none with U+0000.
    """
    if validate is not None:
        reason = validate(write.record)
        if reason is None and as_sent is not None:
            reason = validate(as_sent)
        if reason is not None:
            return "lexicon", reason
    return "collection-rule", collection.check(write)


def _sync(event: Sync, frame: bytes, now_micros: int, change: Change) -> None:
    change.is_event = True
    change.time = normalize_datetime(event.time)
    try:
        content = read_sync(event, now_micros)
    except InvalidCommit as error:
        change.dead_letters.append(
            DeadLetter(error.kind, error.reason, event.seq, event.did, None, frame, rev=event.rev)
        )
        return
    change.repo = RepoState(
        event.did, content.rev, None, None, to_text(content.commit), to_text(content.data), is_sync=True
    )
