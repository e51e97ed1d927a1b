"""Single frames, well-formed unless a test replaces a field; and the real ones of the conformance corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from libipld import encode_dag_cbor

from appview_pipeline.protocol import car, cid, mst, mst_node, signing
from appview_pipeline.protocol.commit import read_commit
from appview_pipeline.protocol.frames import Commit, decode_frame
from appview_pipeline.protocol.mst_node import Load
from appview_pipeline.protocol.mst_proof import TreeOp
from appview_pipeline_tests.simulated_network.corpus import read_corpus

CORPUS_TIME = 1_783_175_888_000_000
KEY = bytes(31) + b"\x07"
DID = "did:plc:" + "a" * 24
REV = "3mptbypluud2a"
WHEN = "2026-07-04T14:38:07.517Z"
POST = "app.bsky.feed.post"


class Everything:
    """Every collection is wanted."""

    def __contains__(self, collection: object) -> bool:
        return True


EVERYTHING = Everything()


def make_frame(body: dict[str, Any], kind: str = "#commit") -> bytes:
    encoded: bytes = encode_dag_cbor({"op": 1, "t": kind}) + encode_dag_cbor(body)
    return encoded


def make_body(records: dict[str, bytes], **changes: Any) -> dict[str, Any]:
    """The body of a well-formed, signed `#commit` that creates records (path -> block), `changes` replace fields."""
    links = {path: cid.cid_for_cbor(block) for path, block in records.items()}
    tree = mst.build(links)
    block = signing.sign_commit(KEY, did=DID, rev=REV, data=tree.cid)
    commit = cid.cid_for_cbor(block)
    blocks = {commit: block, **dict(mst.blocks(tree)), **{links[path]: records[path] for path in records}}
    body = {
        "seq": 1,
        "repo": DID,
        "rev": REV,
        "since": None,
        "time": "2026-07-04T14:38:07.517Z",
        "commit": commit,
        "prevData": mst_node.EMPTY.cid,
        "ops": [{"action": "create", "path": path, "cid": link} for path, link in links.items()],
        "blocks": car.write_car(commit, blocks),
        "blobs": [],
        "tooBig": False,
        "rebase": False,
    }
    return {**body, **changes}


def commit_event(body: dict[str, Any]) -> Commit:
    event = decode_frame(make_frame(body))
    assert isinstance(event, Commit)
    return event


RECORD: bytes = encode_dag_cbor({"$type": POST, "text": "hello"})


def corpus_frames(conformance: Path) -> list[bytes]:
    return list(read_corpus(conformance / "frames" / "jetstream-corpus" / "frames.bin.zst"))


def corpus_commits(conformance: Path) -> list[Commit]:
    events = map(decode_frame, corpus_frames(conformance))
    return [event for event in events if isinstance(event, Commit)]


def single_operation(event: Commit) -> tuple[bytes, TreeOp, Load]:
    """The tree of a commit, its only operation, and its blocks."""
    (op,) = event.ops
    content = read_commit(event, 2 * CORPUS_TIME, ())
    return content.data, TreeOp(op["path"], op.get("cid"), op.get("prev")), content.blocks.get
