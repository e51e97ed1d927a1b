"""Commits and syncs: their limits, their proofs, and what is wrong with one operation of many."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
import zstandard
from libipld import encode_dag_cbor

from appview_pipeline.protocol import car, cid, mst_node, signing
from appview_pipeline.protocol.commit import (
    InvalidCommit,
    decode_commit,
    prove,
    read_commit,
    read_sync,
)
from appview_pipeline.protocol.frames import Sync, decode_frame
from appview_pipeline_tests.properties.stories import POST
from appview_pipeline_tests.support.made_frames import (
    CORPUS_TIME,
    DID,
    KEY,
    RECORD,
    REV,
    commit_event,
    corpus_commits,
    make_body,
    make_frame,
)


def test_corpus_operations_invert_to_prev_data(conformance: Path) -> None:
    commits = corpus_commits(conformance)
    assert [prove(event, read_commit(event, CORPUS_TIME, ())) for event in commits] == [True] * 148


def test_corpus_signatures_verify(conformance: Path) -> None:
    folder = conformance / "frames" / "jetstream-corpus"
    with (folder / "did_docs.json.zst").open("rb") as file:
        documents = json.loads(zstandard.ZstdDecompressor().stream_reader(file).read())
    for event in corpus_commits(conformance):
        method = next(m for m in documents[event.repo]["verificationMethod"] if m["id"].endswith("#atproto"))
        key = signing.parse_verification_method(method["type"], method["publicKeyMultibase"])
        block = read_commit(event, CORPUS_TIME, ()).block
        sig = decode_commit(block)["sig"]
        assert signing.verify_commit(key, block, sig)
        assert not signing.verify_commit(key, block, sig[:-1] + bytes((sig[-1] ^ 1,)))


def test_a_hidden_operation_fails_the_proof(conformance: Path) -> None:
    caught = 0
    for event in corpus_commits(conformance):
        content = read_commit(event, CORPUS_TIME, ())
        event.ops = event.ops[1:]
        with pytest.raises(InvalidCommit) as error:
            prove(event, content)
        assert error.value.kind == "commit-proof"
        caught += 1
    assert caught == 148


def test_a_large_node_below_many_others_is_not_read_for_each_of_them() -> None:
    """No real tree has that: 200 operations would cost 20 s and 1 GB."""
    value = cid.cid_for_cbor(RECORD)

    def keys(height: int, prefix: str) -> Iterator[bytes]:
        found = (f"{prefix}{number:05d}".encode() for number in count())
        return (key for key in found if mst_node.height_of_key(key) == height)

    def node(height: int, keys: list[bytes], below: bytes | None) -> mst_node.Node:
        return mst_node.Node(height, tuple(keys), (value,) * len(keys), (below,) * (len(keys) + 1))

    large = node(0, [*islice(keys(0, "a.b/"), 20_000)], None)
    places = [*islice(keys(1, "b.b/"), 20)]
    root = node(1, places, large.cid)
    between = [next(keys(0, place.decode() + "-")).decode() for place in places]
    block = signing.sign_commit(KEY, did=DID, rev=REV, data=root.cid)
    commit = cid.cid_for_cbor(block)
    blocks = car.write_car(commit, {commit: block, root.cid: root.block, large.cid: large.block})
    for number, reason in (2, "the tree is not prevData"), (20, "4,000,000 bytes"):
        ops = [{"action": "delete", "path": path, "cid": None, "prev": value} for path in between[:number]]
        event = commit_event(make_body({}, commit=commit, blocks=blocks, ops=ops))
        with pytest.raises(InvalidCommit, match=reason):
            prove(event, read_commit(event, CORPUS_TIME, ()))


def test_unwanted_collections_are_listed_and_their_blocks_not_touched(conformance: Path) -> None:
    ops = [op for event in corpus_commits(conformance) for op in read_commit(event, CORPUS_TIME, {POST}).ops]
    assert {op.record is None for op in ops if op.collection == POST and op.action != "delete"} == {False}
    others = [op for op in ops if op.collection != POST]
    assert others
    assert all((op.problem, op.record, op.block, op.cid) == (None,) * 4 for op in others)


def refusal(body: dict[str, Any], now: int = CORPUS_TIME) -> str:
    with pytest.raises(InvalidCommit) as error:
        read_commit(commit_event(body), now, {POST})
    return error.value.kind


def test_limits_of_a_commit() -> None:
    assert refusal(make_body({}, tooBig=True)) == "commit-too-big"
    assert refusal(make_body({}, rebase=True)) == "commit-rebase"
    assert refusal(make_body({}, blocks=bytes(2_000_001))) == "commit-limit"
    assert refusal(make_body({}, ops=[None] * 201)) == "commit-limit"
    assert refusal(make_body({}, blocks=b"")) == "commit-car"
    assert refusal(make_body({}), CORPUS_TIME - 600_000_000) == "commit-future"
    read_commit(commit_event(make_body({})), CORPUS_TIME - 200_000_000, {POST})


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"version": 2}, "commit-version"),
        ({"version": True}, "commit-version"),
        ({"did": "did:plc:other"}, "commit-mismatch"),
        ({"rev": "3mptbypluud2b"}, "commit-mismatch"),
        ({"data": None}, "commit-block"),
        ({"sig": b""}, "commit-block"),
        ({"sig": "x"}, "commit-block"),
        ({"more": "x" * 10_000}, "commit-block"),
    ],
)
def test_the_commit_object_is_checked(change: dict[str, Any], kind: str) -> None:
    fields = {"did": DID, "rev": REV, "data": mst_node.EMPTY.cid, "prev": None, "version": 3, "sig": bytes(64)}
    block = encode_dag_cbor({**fields, **change})
    commit = cid.cid_for_cbor(block)
    body = make_body({}, commit=commit, blocks=car.write_car(commit, {commit: block}))
    assert refusal(body) == kind


def test_problems_leave_their_neighbours_alone() -> None:
    good = f"{POST}/3mptbyplj5d2a"
    body = make_body({good: RECORD, f"{POST}/3mptbyplj5d2b": b"\xa1\x61a\xfb" + bytes(8)})
    link = body["ops"][0]["cid"]
    body["ops"] += [
        {"action": "move", "path": f"{POST}/a", "cid": link},
        {"action": ["create"], "path": f"{POST}/a", "cid": link},
        {"action": "create", "path": POST, "cid": link},
        {"action": "create", "path": f"{POST}/a/b", "cid": link},
        {"action": "create", "path": f"{POST}/" + "a" * 513, "cid": link},
        {"action": "create", "path": 7, "cid": link},
        {"action": "create", "path": f"{POST}/b", "cid": None},
        {"action": "update", "path": f"{POST}/c", "cid": cid.cid_for_raw(RECORD)},
        {"action": "update", "path": f"{POST}/d", "cid": cid.cid_for_cbor(b"elsewhere")},
        {"action": "delete", "path": f"{POST}/e", "cid": None},
        {"action": "create", "path": "com.example.other/f", "cid": "whatever"},
        "no map",
    ]
    ops = read_commit(commit_event(body), CORPUS_TIME, {POST}).ops
    assert [op.problem and op.problem[0] for op in ops] == [
        None,
        "record-invalid",
        "op-action",
        "op-action",
        "op-path",
        "op-path",
        "op-path",
        "op-path",
        "op-cid",
        "op-cid",
        "record-block",
        None,
        None,
        "op-action",
    ]
    assert ops[0].record == {"$type": POST, "text": "hello"}
    assert ops[1].block == b"\xa1\x61a\xfb" + bytes(8)
    assert all(op.record is None and op.json is None for op in ops[1:])


def test_a_proof_needs_every_operation_to_fit() -> None:
    path = f"{POST}/3mptbyplj5d2a"
    link = cid.cid_for_cbor(RECORD)
    other = cid.cid_for_cbor(b"other")
    for ops in (
        [{"action": "create", "path": path, "cid": other}],
        [{"action": "create", "path": path, "cid": link, "prev": other}],
        [{"action": "update", "path": path, "cid": link}],
        [{"action": "update", "path": path, "cid": link, "prev": link}],
        [{"action": "delete", "path": path, "prev": link}],
        [{"action": "delete", "path": f"{POST}/a"}],
        [{"action": "create", "path": path, "cid": link}] * 2,
        [None],
        [],
    ):
        event = commit_event(make_body({path: RECORD}, ops=ops))
        content = read_commit(event, CORPUS_TIME, ())
        with pytest.raises(InvalidCommit) as error:
            prove(event, content)
        assert error.value.kind == "commit-proof"


def test_sync_events() -> None:
    body = make_body({})
    sync = {key: body[key] for key in ("seq", "rev", "time")} | {"did": DID, "blocks": body["blocks"]}
    event = decode_frame(make_frame(sync, "#sync"))
    assert isinstance(event, Sync)
    content = read_sync(event, CORPUS_TIME)
    assert (content.commit, content.data, content.rev) == (body["commit"], mst_node.EMPTY.cid, REV)
    event.blocks = bytes(10_001)
    with pytest.raises(InvalidCommit, match="limit"):
        read_sync(event, CORPUS_TIME)
