"""What one event of the stream asks of the index: a `Change`, with the records, states and gaps that it is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from appview_pipeline.indexing.collection import RecordWrite


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
    is_quiet: bool = False
    """As of the record that it holds (`RecordWrite.is_quiet`): a retry notifies nobody either."""


class RecordDelete(NamedTuple):
    """A record that is gone from `rev` on."""

    uri: str
    did: str
    collection: str
    rev: str
    indexed_at: str
    seq: int | None
    is_quiet: bool = False
    """It notifies nobody: the record is not in a repository's export (`build` sets this for changes with one)."""


class Gap(NamedTuple):
    """Something is missing (`pipeline.gap` has the meaning of the kinds): of a repository `did` between two revs, or of
    a shard's stream from `relay` between two sequence numbers (text).

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
    """Returns the gap that a dead letter leaves; None where nothing is missing, or where its repository is unknown.

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


class ExportState(NamedTuple):
    """What a repository's export says: its state at `rev`. CIDs are text.

    The writes and deletes of a change with one are what the export holds, as far as it differs from the index, or a
    part of that. `is_whole`: with the last part (`is_last`) everything up to `rev` is applied, so the repository is
    synchronized. Otherwise the parts are some records only, fetched by themselves or the newest ones, which prove
    nothing about the rest. `is_partial`: they are the newest ones, all since some day (APPVIEW_BACKFILL_DAYS), and with
    the last part the repository is as complete as was asked for.

    `asked_at` names the fetching (`store.repo_states.begin_resync` returns it). The last part is refused, and the
    repository stays `desynchronized`, where something up to `rev` was applied since then: the comparison may not have
    seen it. The export has to be compared again, after another `begin_resync`. None: nobody can have come between.
    `is_fetched`: it was asked for after that moment, and not read from a file that somebody had.
    """

    did: str
    rev: str
    commit: str
    data: str
    is_last: bool
    is_whole: bool
    is_partial: bool = False
    asked_at: str | None = None
    is_fetched: bool = True


class UncheckedCommit(NamedTuple):
    """A commit that was applied before its signature could be checked, because the account's key is not known yet.
    `block` is the signed commit object."""

    did: str
    rev: str
    seq: int | None
    block: bytes


class AccountState(NamedTuple):
    """An account's hosting status as of `time`; of two of the same time the one with the larger `seq` counts."""

    did: str
    active: bool
    status: str | None
    time: str
    seq: int | None = None


class IdentityEvent(NamedTuple):
    """An #identity event: something about an account's DID document or handle may have changed. The handle that the
    event names is only a hint, and is not kept."""

    did: str
    time: str
    seq: int | None


@dataclass(slots=True)
class Change:
    """One frame's contribution to a batch. `size` in bytes; `time` is the event's, ISO 8601 with milliseconds."""

    size: int
    seq: int | None = None
    time: str | None = None
    is_event: bool = False
    repo: RepoState | None = None
    export: ExportState | None = None
    account: AccountState | None = None
    identity: IdentityEvent | None = None
    writes: list[RecordWrite] = field(default_factory=list)
    deletes: list[RecordDelete] = field(default_factory=list)
    ops: list[tuple[str, str]] = field(default_factory=list)
    """(collection, action) of the operations that `writes` and `deletes` come from."""
    ignored: list[tuple[str, str]] = field(default_factory=list)
    """(collection, action) of operations on collections that are not indexed."""
    dead_letters: list[DeadLetter] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    unchecked: UncheckedCommit | None = None
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
    """The commit was skipped because its rev is known to be applied."""
    withheld: tuple[str, ...] = ()
    """Excluded accounts whose content was taken out of the change (exclusion.py)."""
