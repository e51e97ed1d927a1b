"""Repositories: a tree of records under signed commits, and the blocks that prove each commit's change.

The trees are those of `appview_pipeline.protocol.mst`. A tree's keys and values don't depend on whose repository it is,
so many repositories may begin with one `History`: its nodes and records are stored once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

import libipld

from appview_pipeline.protocol import cid, mst, mst_node, mst_proof
from appview_pipeline.protocol.car import write_car
from appview_pipeline_tests.simulated_network.accounts import Key, sign


class Write(NamedTuple):
    """One operation: "create", "update" or "delete"; `collection/rkey`; the record's value (None for delete)."""

    action: str
    path: str
    record: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit as the fields of a `#commit` event; CIDs are 36 bytes, `blocks` a CAR."""

    did: str
    commit: bytes
    rev: str
    since: str | None
    prev_data: bytes | None
    ops: list[dict[str, Any]]
    blocks: bytes

    def event(self) -> dict[str, Any]:
        """The event's body but for `seq` and `time`."""
        body: dict[str, Any] = {
            "repo": self.did,
            "rev": self.rev,
            "since": self.since,
            "commit": self.commit,
            "ops": self.ops,
            "blobs": [],
            "blocks": self.blocks,
            "rebase": False,
            "tooBig": False,
        }
        if self.prev_data is not None:
            body["prevData"] = self.prev_data
        return body


def encode_commit(did: str, rev: str, data: bytes, signature: bytes | None) -> bytes:
    """A commit object, version 3, as DAG-CBOR; without `sig` (what is signed) if `signature` is None.

    Written out because `libipld` takes byte strings that happen to look like a CID for links, and a signature may.
    """
    return b"".join(
        (
            b"\xa5\x63did\x78" if signature is None else b"\xa6\x63did\x78",
            bytes((len(did),)),
            did.encode(),
            b"\x63rev\x6d",
            rev.encode(),
            b"" if signature is None else b"\x63sig\x58\x40" + signature,
            b"\x64data\xd8\x2a\x58\x25\x00",
            data,
            b"\x64prev\xf6\x67version\x03",
        )
    )


Stored = tuple[bytes, bytes]  # CID and block of a record


class Paths:
    """Paths by collection, to draw some from; removal is lazy."""

    owned = True  # whether a path that is gone may be forgotten

    def __init__(self) -> None:
        self.by_collection: dict[str, list[str]] = {}

    def add(self, path: str) -> None:
        self.by_collection.setdefault(path.split("/", 1)[0], []).append(path)

    def count(self, collection: str) -> int:
        return len(self.by_collection.get(collection, ()))

    def draw(self, rng: Random, collection: str, exists: Callable[[str], bool]) -> str | None:
        """Some path of the collection that still exists, None if there is none (or it is hard to find)."""
        paths = self.by_collection.get(collection, [])
        for _ in range(6):
            if not paths:
                return None
            at = rng.randrange(len(paths))
            if exists(paths[at]):
                return paths[at]
            if self.owned:
                paths[at] = paths[-1]
                paths.pop()
        return None


class SharedPaths(Paths):
    """Paths of a history: one repository's deletion is not another's."""

    owned = False


class History:
    """Records that many repositories begin with. Filled with `add`, then `close`d; never changed after."""

    def __init__(self) -> None:
        self.records: dict[str, Stored] = {}
        self.paths = SharedPaths()
        self.tree: mst_node.Node = mst_node.EMPTY
        self.done: frozenset[str] = frozenset()  # what its authors did in it (`world.Author.done`)

    def add(self, write: Write) -> bytes:
        """Adds what `write` creates (or replaces) and returns its CID."""
        block = libipld.encode_dag_cbor(write.record)
        record_cid = cid.cid_for_cbor(block)
        if write.path not in self.records:
            self.paths.add(write.path)
        self.records[write.path] = record_cid, block
        return record_cid

    def close(self, done: Iterable[str]) -> None:
        self.tree = mst.build({path: record_cid for path, (record_cid, _) in self.records.items()})
        mst.new_blocks(self.tree)  # encodes and hashes it once: no repository finds anything new in it
        self.done = frozenset(done)


class Repository:
    """One account's repository: a history, what the account has written since, and the signed head.

    `len` is the number of records of its own.
    """

    def __init__(self, did: str, key: Key, history: History) -> None:
        self.did = did
        self.key = key
        self.history = history
        self.own: dict[str, Stored] = {}
        self.own_paths = Paths()
        self.removed: set[str] = set()  # paths of the history that were deleted
        self.tree: mst_node.Node = history.tree
        self.rev: str | None = None
        self._head: Stored | None = None

    def __len__(self) -> int:
        return len(self.own)

    def found(self, rev: str) -> None:
        """Makes the history's end the first commit, which no event announced."""
        self.rev, self.tree, self._head = rev, self.history.tree, None

    @property
    def head(self) -> Stored:
        """CID and block of the newest commit."""
        if self._head is None:
            assert self.rev is not None
            self._head = self._signed(self.rev)
        return self._head

    @property
    def commit_cid(self) -> bytes:
        return self.head[0]

    def _signed(self, rev: str) -> Stored:
        data = self.tree.cid
        block = encode_commit(self.did, rev, data, sign(self.key, encode_commit(self.did, rev, data, None)))
        return cid.cid_for_cbor(block), block

    # ---- reading

    def get(self, path: str) -> Stored | None:
        """CID and block of the record at a path."""
        if found := self.own.get(path):
            return found
        return None if path in self.removed else self.history.records.get(path)

    def paths(self) -> list[str]:
        """All paths, in no order."""
        kept = [path for path in self.history.records if path not in self.removed and path not in self.own]
        return [*self.own, *kept]

    def some_path(self, rng: Random, collection: str) -> str | None:
        """Some existing path of a collection."""
        own, shared = self.own_paths.count(collection), self.history.paths.count(collection)
        pools = [self.own_paths, self.history.paths]
        if own + shared and rng.random() * (own + shared) > own:
            pools.reverse()
        for pool in pools:
            if path := pool.draw(rng, collection, lambda path: self.get(path) is not None):
                return path
        return None

    def some_own_path(self, rng: Random, collections: Sequence[str]) -> str | None:
        """Some existing path that the account wrote after its history, of one of the collections."""
        for collection in rng.sample(collections, len(collections)):
            if path := self.own_paths.draw(rng, collection, self.own.__contains__):
                return path
        return None

    # ---- writing

    def commit(self, writes: Sequence[Write], rev: str) -> Commit:
        """Applies the writes as one signed commit. Creates must be of absent paths, the others of present ones."""
        since, prev_data = self.rev, None if self.rev is None else self.tree.cid
        tree: mst_node.Tree = self.tree
        ops: list[dict[str, Any]] = []
        records: list[Stored] = []
        for action, path, record in writes:
            prev: bytes | None
            if record is None:
                record_cid = None
                tree, prev = mst.remove(tree, path)
                self.own.pop(path, None)
                if path in self.history.records:
                    self.removed.add(path)
            else:
                block = libipld.encode_dag_cbor(record)
                record_cid = cid.cid_for_cbor(block)
                tree, prev = mst.put(tree, path, record_cid)
                records.append((record_cid, block))
                if path not in self.own:
                    self.own_paths.add(path)
                self.own[path] = record_cid, block
            assert (action == "create") == (prev is None), (action, path)
            assert prev != record_cid, path
            ops.append({"action": action, "path": path, "cid": record_cid} | ({} if prev is None else {"prev": prev}))
        assert isinstance(tree, mst_node.Node)
        self.tree = tree
        changed = mst.new_blocks(tree)
        proof = mst_proof.covering_proof(tree, [write.path for write in writes])
        self.rev = rev
        self._head = self._signed(rev)
        # The order of blocks that servers write today: what is new, the records, the commit, and what only proves.
        # The root comes first even when it is not new (the empty tree is one object, shared by all).
        blocks = {tree.cid: tree.block} | changed | dict(records) | dict([self._head]) | proof
        return Commit(self.did, self._head[0], rev, since, prev_data, ops, write_car(self._head[0], blocks))

    def clear(self) -> None:
        """Forgets everything: the account was deleted."""
        self.own.clear()
        self.own_paths = Paths()
        self.history = History()
        self.removed.clear()
        self.tree = mst_node.EMPTY

    # ---- showing

    def sync_event(self) -> dict[str, Any]:
        """The body of a `#sync` event but for `seq` and `time`."""
        return {"did": self.did, "rev": self.rev, "blocks": write_car(self.commit_cid, [self.head])}

    def export(self) -> bytes:
        """The whole repository as a CAR."""
        records: dict[bytes, bytes] = {}
        for path, _ in mst.walk(self.tree):
            found = self.get(path)
            assert found is not None
            records[found[0]] = found[1]
        return write_car(self.commit_cid, dict([self.head]) | dict(mst.blocks(self.tree)) | records)

    def proof(self, path: str) -> bytes:
        """A CAR with the commit, the nodes that prove that a record is at the path or that none is, and the record."""
        blocks = dict([self.head]) | mst_proof.covering_proof(self.tree, [path])
        found = self.get(path)
        if found is not None:
            blocks[found[0]] = found[1]
        return write_car(self.commit_cid, blocks)
