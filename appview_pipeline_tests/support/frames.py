"""Accounts on a relay's stream, and the signed commits that they make, as frames."""

from __future__ import annotations

import hashlib
from typing import Any

import libipld
from coincurve import PrivateKey

from appview_pipeline.protocol import cid, mst, mst_node, mst_proof
from appview_pipeline.protocol.car import read_car, write_car
from appview_pipeline.protocol.syntax import tid_from_micros
from appview_pipeline_tests.simulated_network.accounts import sign
from appview_pipeline_tests.simulated_network.content import iso
from appview_pipeline_tests.simulated_network.repository import History, Repository, Write, encode_commit

START = 1_750_000_000_000_000
"""Microseconds since 1970: the beginning of every stream."""
WHEN = "2025-06-15T15:06:40.000Z"


def did_of(name: str) -> str:
    """A did:plc made from a name."""
    alphabet = "abcdefghijklmnopqrstuvwxyz234567"
    digest = hashlib.sha256(name.encode()).digest()
    return "did:plc:" + "".join(alphabet[byte % 32] for byte in digest[:24])


def rev(number: int) -> str:
    """The n-th moment of a stream, as a TID."""
    return tid_from_micros(START + number * 1_000_000)


class Stream:
    """A relay's stream: each frame gets the next second and sequence number."""

    def __init__(self, first_seq: int = 1) -> None:
        self.seq = first_seq - 1
        self.moment = 0

    def frame(self, kind: str, body: dict[str, Any]) -> bytes:
        """An event of a kind (`#commit`); `seq` and `time` are added unless the body has them."""
        self.seq += 1
        self.moment += 1
        body = {"seq": self.seq, "time": iso(START + self.moment * 1_000_000), **body}
        return bytes(libipld.encode_dag_cbor({"op": 1, "t": kind}) + libipld.encode_dag_cbor(body))

    def account(self, did: str, active: bool, status: str | None = None, **more: Any) -> bytes:
        """An `#account` event."""
        return self.frame("#account", {"did": did, "active": active, **({"status": status} if status else {}), **more})


class Person:
    """An account with a repository of its own on a stream."""

    def __init__(self, stream: Stream, name: str) -> None:
        self.stream = stream
        self.did = did_of(name)
        self.key = PrivateKey(hashlib.sha256(name.encode()).digest())
        self.repository = Repository(self.did, self.key, History())

    def uri(self, path: str) -> str:
        return f"at://{self.did}/{path}"

    def commit(self, *writes: Write, **body: Any) -> bytes:
        """A commit of `writes`, as a frame; `body` overrides fields of the event."""
        made = self.repository.commit(writes, rev(self.stream.moment + 1))
        return self.stream.frame("#commit", {**made.event(), **body})

    def sync(self) -> bytes:
        return self.stream.frame("#sync", self.repository.sync_event())

    def commit_blocks(self, *operations: tuple[str, str, bytes | None]) -> bytes:
        """A commit of (action, path, bytes of the record, whatever they are), proven and signed like any other.

        Where the actions do not fit what is in the repository, the commit proves nothing.
        """
        now = rev(self.stream.moment + 1)
        repository = self.repository
        since, prev_data = repository.rev, None if repository.rev is None else repository.tree.cid
        tree: mst_node.Tree = repository.tree
        records: dict[bytes, bytes] = {}
        ops: list[dict[str, Any]] = []
        for action, path, block in operations:
            made: bytes | None = None
            if block is None:
                tree, prev = mst.remove(tree, path)
            else:
                made = cid.cid_for_cbor(block)
                records[made] = block
                tree, prev = mst.put(tree, path, made)
            ops.append({"action": action, "path": path, "cid": made} | ({} if prev is None else {"prev": prev}))
        assert isinstance(tree, mst_node.Node)
        repository.tree, repository.rev = tree, now
        changed = mst.new_blocks(tree)
        proof = mst_proof.covering_proof(tree, [path for _, path, _ in operations])
        unsigned = encode_commit(self.did, now, tree.cid, None)
        signed = encode_commit(self.did, now, tree.cid, sign(repository.key, unsigned))
        commit = cid.cid_for_cbor(signed)
        blocks = {tree.cid: tree.block} | changed | records | {commit: signed} | proof
        body: dict[str, Any] = {
            "repo": self.did,
            "rev": now,
            "since": since,
            "commit": commit,
            "ops": ops,
            "blobs": [],
            "blocks": write_car(commit, blocks),
            "rebase": False,
            "tooBig": False,
        }
        return self.stream.frame("#commit", body if prev_data is None else {**body, "prevData": prev_data})


def create(path: str, record: dict[str, Any]) -> Write:
    return Write("create", path, {"$type": path.split("/")[0], **record})


def update(path: str, record: dict[str, Any]) -> Write:
    return Write("update", path, {"$type": path.split("/")[0], **record})


def delete(path: str) -> Write:
    return Write("delete", path, None)


def post(rkey: str, text: str, **more: Any) -> Write:
    return create(f"app.bsky.feed.post/{rkey}", {"text": text, "createdAt": WHEN, **more})


def altered(frame: bytes, **body: Any) -> bytes:
    """The frame with fields of its body replaced (None: left out)."""
    header, fields = libipld.decode_dag_cbor_multi(frame)
    fields = {name: value for name, value in {**fields, **body}.items() if value is not None}
    return bytes(libipld.encode_dag_cbor(header) + libipld.encode_dag_cbor(fields))


def without_block(frame: bytes, path: str) -> bytes:
    """The commit without the block of the record at `path`."""
    body = libipld.decode_dag_cbor_multi(frame)[1]
    (left_out,) = (op["cid"] for op in body["ops"] if op["path"] == path)
    roots, blocks = read_car(body["blocks"])
    return altered(frame, blocks=write_car(roots[0], {cid: block for cid, block in blocks.items() if cid != left_out}))
