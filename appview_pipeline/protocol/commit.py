"""The content of a `#commit` or `#sync` event: its limits, its signed commit object and its records.

These are the structure checks, constant work for a commit, which apply to every event: limits, the CAR's root, the
commit object's hash, version, DID and rev, and the hash of each record block that is used
(https://atproto.com/specs/sync, https://atproto.com/specs/repository). Beyond them, `prove` checks the operations
against `prevData`, and `signing.verify_commit` the signature. A bad record is a problem of its own operation, never of
its neighbours.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from appview_pipeline.protocol.car import Blocks, InvalidCar
from appview_pipeline.protocol.cbor import InvalidRecord, Record, decode_as_sent, decode_envelope
from appview_pipeline.protocol.cid import is_dag_cbor, to_text
from appview_pipeline.protocol.frames import Commit, Sync
from appview_pipeline.protocol.mst import get
from appview_pipeline.protocol.mst_node import EMPTY, InvalidTree, Load, MissingNode, as_root, root_cid
from appview_pipeline.protocol.mst_proof import TreeOp, invert
from appview_pipeline.protocol.mst_undo import undo
from appview_pipeline.protocol.syntax import is_did, is_record_key, is_tid, tid_from_micros

MAX_BLOCKS = 2_000_000
"""Bytes of a #commit's CAR (lexicon)."""
MAX_SYNC_BLOCKS = 10_000
"""Bytes of a #sync's CAR (lexicon)."""
MAX_OPS = 200
"""Operations of a commit (lexicon)."""
MAX_PATH = 1024
"""Bytes of `collection/rkey`, the key in the tree (specification)."""
MAX_URI = 2000
"""Bytes of an AT URI that we store: it is in B-tree indexes."""
MAX_COMMIT_BLOCK = 10_000
"""Bytes of a commit object; a DID of 2,048 characters fits several times."""
MAX_PROOF = 2 * MAX_BLOCKS
"""Bytes of nodes that the proof of a commit may read. A node is read once, or a few times where operations have to be
tried again; one that stands below many others, as no real tree has it, would be read, and kept, for each of them."""
FUTURE_TOLERANCE = 300_000_000
"""Microseconds that a rev, or the time of an event or operation, may be ahead of our clock (relays allow 5 minutes): a
rev a century ahead would block every later commit of its account."""

ACTIONS = frozenset(("create", "update", "delete"))

Problem = tuple[str, str]
"""(kind, reason): a short constant to count by, and the reason in words."""


class InvalidCommit(ValueError):
    """An event that can't be used at all. `kind` is a short constant to count by, `reason` says it in words.

    Kinds: `commit-too-big`, `commit-rebase`, `commit-limit`, `commit-future`, `commit-car`, `commit-block`,
    `commit-mismatch`, `commit-version`, `commit-proof`.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


@dataclass(slots=True)
class RecordOp:
    """One operation of a commit.

    With `problem` set (kinds `op-path`, `op-action`, `op-cid`, `record-block`, `record-invalid`) nothing may be indexed
    from it; the other fields then hold whatever could be read: `block` the bytes that were found, text free of U+0000.

    Without a problem, `create` and `update` of a wanted collection have `cid` (text), `record` (cleaned, as `cbor`
    says), `json` and `block`, and `as_sent` where text of the record had U+0000; `delete`, and every operation of other
    collections, has none of them.
    """

    action: str
    path: str
    collection: str
    rkey: str
    cid: str | None = None
    record: Record | None = None
    block: bytes | None = None
    problem: Problem | None = None
    json: str | None = None
    as_sent: Record | None = None
    followed_by: int = 0
    """How many later operations of the commit are on the same path."""


@dataclass(slots=True)
class CommitContent:
    """A commit that passed the structure checks. `data` is the CID of its tree's root; `block` the signed commit
    object, `sig` the signature in it; `blocks` are those that the event brought."""

    data: bytes
    block: bytes
    sig: bytes
    blocks: Blocks
    ops: list[RecordOp]


@dataclass(slots=True)
class SyncContent:
    """The state that a `#sync` announces: CIDs of the commit and of the tree's root (36 bytes each), and the rev.
    `block` is the signed commit object, `sig` the signature in it."""

    commit: bytes
    data: bytes
    rev: str
    block: bytes
    sig: bytes


def read_commit(event: Commit, now_micros: int, wanted: Container[str]) -> CommitContent:
    """The content of a commit event, structure checked, records of `wanted` collections decoded.

    `now_micros` is our clock in microseconds since the Unix epoch. Raises InvalidCommit.
    """
    if event.too_big:
        raise InvalidCommit(
            "commit-too-big", "tooBig is set: the frame leaves operations out, the repo must be fetched"
        )
    if event.rebase:
        raise InvalidCommit("commit-rebase", "rebase is set: the repo must be fetched")
    operations = event.ops
    if len(event.blocks) > MAX_BLOCKS:
        raise InvalidCommit("commit-limit", f"{len(event.blocks):,} bytes of blocks; the limit is {MAX_BLOCKS:,}")
    if len(operations) > MAX_OPS:
        raise InvalidCommit("commit-limit", f"{len(operations):,} operations; the limit is {MAX_OPS}")
    _check_rev(event.rev, now_micros)
    blocks = _blocks(event.blocks)
    if not blocks.roots or blocks.roots[0] != event.commit:
        raise InvalidCommit("commit-car", "the CAR's root is not the commit")
    block, data, sig = _signed_commit(blocks, event.commit, event.repo, event.rev)
    if len(operations) == 1:
        return CommitContent(data, block, sig, blocks, [_operation(operations[0], blocks, wanted)])
    ops = [_operation(operation, blocks, wanted) for operation in operations]
    if len({op.path for op in ops}) < len(ops):
        ops = _in_turn(ops)
    return CommitContent(data, block, sig, blocks, ops)


def _in_turn(ops: list[RecordOp]) -> list[RecordOp]:
    """The operations of a commit that has several on one path, of which the last one counts.

    The earlier ones get the number of those that follow. Earlier ones that can't be used are left out: a commit need
    not contain records that it replaces.
    """
    following: Counter[str] = Counter()
    kept = []
    for op in reversed(ops):
        if op.collection:  # else its path can't be trusted
            op.followed_by = following[op.path]
            following[op.path] += 1
        if not (op.followed_by and op.problem):
            kept.append(op)
    return kept[::-1]


def read_sync(event: Sync, now_micros: int) -> SyncContent:
    """The content of a sync event, structure checked. Raises InvalidCommit."""
    if len(event.blocks) > MAX_SYNC_BLOCKS:
        raise InvalidCommit("commit-limit", f"{len(event.blocks):,} bytes of blocks; the limit is {MAX_SYNC_BLOCKS:,}")
    _check_rev(event.rev, now_micros)
    blocks = _blocks(event.blocks)
    roots = blocks.roots
    if len(roots) != 1 or not is_dag_cbor(roots[0]):
        raise InvalidCommit("commit-car", "CAR without exactly one root that is a CID of DAG-CBOR")
    block, data, sig = _signed_commit(blocks, roots[0], event.did, event.rev)
    return SyncContent(roots[0], data, event.rev, block, sig)


@lru_cache(maxsize=8)
def _latest_rev(moment: int) -> str:
    """The greatest rev to accept, computed once for each 2^20 microseconds of our clock: TIDs compare as text."""
    return tid_from_micros((moment << 20) + FUTURE_TOLERANCE)


def prove(event: Commit, content: CommitContent) -> bool:
    """Proves the operations of a commit against its tree: with all of them undone, the tree must be `prevData` again.

    Several operations on one path are undone as one. A single operation, as nine of ten commits have it, takes about
    60 us, each further one about 80. A first commit (without `since`) that has no `prevData` must begin with the empty
    tree. False where another commit has none (from before Sync 1.1): there is nothing to compare with, only what
    the tree has at the paths of the operations is looked up. Raises InvalidCommit (kind `commit-proof`): something was
    left out of `ops`, made up or altered.
    """
    expected = event.prev_data
    if expected is None:
        if event.since is not None:
            _look_up(event, content)
            return False
        expected = EMPTY.cid
    blocks = content.blocks
    try:
        ops = [_tree_op(operation) for operation in event.ops]
        if len(ops) == 1 and undo(content.data, *ops[0], blocks.get) == expected:
            return True
        before = invert(content.data, _one_each(ops), _at_most(MAX_PROOF, blocks.get_of_many))
    except InvalidTree as error:
        raise InvalidCommit("commit-proof", f"the operations can't be undone: {error}") from None
    if root_cid(before) != expected:
        named = "prevData" if event.prev_data is not None else "empty, though the commit is the first"
        raise InvalidCommit("commit-proof", f"with the operations undone, the tree is not {named}")
    return True


def _look_up(event: Commit, content: CommitContent) -> None:
    """Looks up whether the tree has what the operations say, as far as the commit brings the nodes. Raises
    InvalidCommit."""
    load = _at_most(MAX_PROOF, content.blocks.get_of_many)
    last = {op.path: op for op in content.ops if op.collection}
    cids = {it.get("path"): it.get("cid") for it in event.ops if isinstance(it, dict) and type(it.get("path")) is str}
    try:
        root = as_root(content.data, load)
        for path, op in last.items():
            with suppress(MissingNode):
                if get(root, path, load) != (None if op.action == "delete" else cids[path]):
                    raise InvalidTree(f"the tree has another record at {path} than the operation")
    except MissingNode:
        return
    except InvalidTree as error:
        raise InvalidCommit("commit-proof", str(error)) from None


def _at_most(limit: int, load: Load) -> Load:
    """`load` for so many bytes of blocks; beyond them it raises InvalidTree."""
    left = limit

    def limited(cid: bytes) -> bytes | None:
        nonlocal left
        block = load(cid)
        if block is not None:
            left -= len(block)
            if left < 0:
                raise InvalidTree(f"its nodes are more than {limit:,} bytes to read")
        return block

    return limited


def _one_each(ops: Iterable[TreeOp]) -> list[TreeOp]:
    """One op for each path, from the record before the first op to the one after the last."""
    sums: dict[str, TreeOp] = {}
    for op in ops:
        first = sums.get(op.path)
        if first is None:
            sums[op.path] = op
            continue
        if first.cid != op.prev:
            raise InvalidTree(f"two operations on {op.path} that don't follow one another")
        sums[op.path] = TreeOp(op.path, op.cid, first.prev)
    return [op for op in sums.values() if op.cid != op.prev]


def _tree_op(operation: object) -> TreeOp:
    """An element of `ops` for the inversion. Raises InvalidTree."""
    if not isinstance(operation, dict):
        raise InvalidTree("operation is not a map")
    action, path, cid, prev = (operation.get(key) for key in ("action", "path", "cid", "prev"))
    if type(action) is not str or action not in ACTIONS or type(path) is not str or len(path) > MAX_PATH:
        raise InvalidTree("operation without a known action and a path")
    if not path.isascii():
        raise InvalidTree("path is not ASCII")
    needed = (action != "delete", action != "create")
    if (is_dag_cbor(cid), is_dag_cbor(prev)) != needed or (cid is not None, prev is not None) != needed:
        raise InvalidTree(f"{action} of {path} without the right ones of cid and prev")
    return TreeOp(path, cid, prev)


def _check_rev(rev: str, now_micros: int) -> None:
    if rev > _latest_rev(now_micros >> 20):
        raise InvalidCommit("commit-future", "rev is more than 5 minutes in the future")


def _blocks(car: bytes) -> Blocks:
    try:
        return Blocks(car)
    except InvalidCar as error:
        raise InvalidCommit("commit-car", f"CAR: {error}") from None


def _signed_commit(blocks: Blocks, cid: bytes, did: str, rev: str) -> tuple[bytes, bytes, bytes]:
    """The commit object's block, the root of the tree and the signature. Raises InvalidCommit."""
    block = blocks.get(cid)
    if block is None:
        raise InvalidCommit("commit-block", f"the commit's {blocks.absence(cid)[0]}")
    if len(block) > MAX_COMMIT_BLOCK:
        raise InvalidCommit("commit-block", f"commit object of {len(block):,} bytes")
    commit = _commit_object(block)
    if commit.get("did") != did:
        raise InvalidCommit("commit-mismatch", "the commit is of another DID than the event")
    if commit.get("rev") != rev:
        raise InvalidCommit("commit-mismatch", "the commit has another rev than the event")
    return block, commit["data"], commit["sig"]


def decode_commit(block: bytes) -> dict[str, Any]:
    """A signed commit object (version 3) from its block: `did`, `version`, `data` (CID bytes), `rev`, `prev`, `sig`,
    each of the right type. Raises InvalidCommit."""
    commit = _commit_object(block)
    did, rev = commit.get("did"), commit.get("rev")
    if type(did) is not str or not is_did(did) or type(rev) is not str or not is_tid(rev):
        raise InvalidCommit("commit-block", "the commit object has no valid DID or rev")
    return commit


def _commit_object(block: bytes) -> dict[str, Any]:
    """A commit object whose fields have the right types, except `did` and `rev`, which callers compare or check."""
    try:
        commit = decode_envelope(block)
    except ValueError as error:
        raise InvalidCommit("commit-block", f"the commit object is not DAG-CBOR: {error}") from None
    if type(commit) is not dict:
        raise InvalidCommit("commit-block", "the commit object is not a map")
    get = commit.get
    version, sig = get("version"), get("sig")
    if version != 3 or type(version) is not int:
        raise InvalidCommit("commit-version", "the commit object is not of version 3")
    if not is_dag_cbor(get("data")):
        raise InvalidCommit("commit-block", "the commit object has no tree")
    if type(sig) is not bytes or not sig:
        raise InvalidCommit("commit-block", "the commit object has no signature")
    return commit


# The charset of the tree's keys. A collection that is not wanted need not be a proper NSID.
_is_key_part = re.compile(r"[A-Za-z0-9._~:-]{1,317}").fullmatch


def _refused(kind: str, reason: str, action: object = "", path: object = "") -> RecordOp:
    """An operation of which not even action and path can be trusted."""
    return RecordOp(
        action=action.replace("\0", "")[:16] if isinstance(action, str) else "",
        path=path.replace("\0", "")[:MAX_PATH] if isinstance(path, str) else "",
        collection="",
        rkey="",
        problem=(kind, reason),
    )


def _operation(operation: object, blocks: Blocks, wanted: Container[str]) -> RecordOp:
    """Reads one element of `ops`."""
    if type(operation) is not dict:
        return _refused("op-action", "operation is not a map")
    action, path = operation.get("action"), operation.get("path")
    if type(action) is not str or action not in ACTIONS:
        return _refused("op-action", "action is not create, update or delete", action, path)
    if type(path) is not str or len(path) > MAX_PATH:
        return _refused("op-path", "path is not a string of at most 1,024 characters", action, path)
    collection, _, rkey = path.partition("/")
    if not is_record_key(rkey) or not (collection in wanted or _is_key_part(collection)):
        return _refused("op-path", "path is not collection/rkey", action, path)
    op = RecordOp(action=action, path=path, collection=collection, rkey=rkey)
    if action == "delete" or collection not in wanted:
        return op
    cid = operation.get("cid")
    if not is_dag_cbor(cid):
        op.problem = ("op-cid", f"{action} without the CID of a record")
        return op
    op.cid = to_text(cid)
    op.block = block = blocks.get(cid)
    if block is None:
        reason, op.block = blocks.absence(cid)
        op.problem = ("record-block", f"the record's {reason}")
        return op
    try:
        op.record, op.json, op.as_sent = decode_as_sent(block)
    except InvalidRecord as error:
        op.problem = ("record-invalid", str(error))
    return op
