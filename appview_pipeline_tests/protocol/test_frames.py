"""Frames and commits: the real corpus against what another implementation served for it, damaged frames, limits."""

from __future__ import annotations

import base64
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from libipld import decode_dag_cbor, decode_dag_cbor_multi, encode_dag_cbor

from appview_pipeline.protocol import car, cid, mst, signing
from appview_pipeline.protocol.commit import (
    InvalidCommit,
    RecordOp,
    decode_commit,
    prove,
    read_commit,
    read_sync,
)
from appview_pipeline.protocol.event_stream import FrameError, Info, StreamError, control_of, seq_of
from appview_pipeline.protocol.frames import Account, Commit, Event, Identity, Ignored, Sync, decode_frame
from appview_pipeline.protocol.peek import peek_did
from appview_pipeline_tests.properties.stories import POST
from appview_pipeline_tests.simulated_network.corpus import read_corpus
from appview_pipeline_tests.support.made_frames import (
    CORPUS_TIME,
    DID,
    EVERYTHING,
    KEY,
    RECORD,
    REV,
    WHEN,
    commit_event,
    corpus_commits,
    corpus_frames,
    make_body,
    make_frame,
)

FAR_FUTURE = 2_000_000_000_000_000


def from_json(value: Any) -> Any:
    """A value in the protocol's JSON as libipld encodes it."""
    if isinstance(value, dict):
        if value.keys() == {"$bytes"}:
            return base64.b64decode(value["$bytes"] + "==")
        if value.keys() == {"$link"}:
            return cid.from_text(value["$link"])
        return {key: from_json(inner) for key, inner in value.items()}
    return [from_json(inner) for inner in value] if isinstance(value, list) else value


# --- the corpus ------------------------------------------------------------------------------------------------------


def test_corpus_decodes_to_what_production_jetstream_served(conformance: Path) -> None:
    lines = (conformance / "frames" / "jetstream-corpus" / "expected_v1.jsonl").read_text().splitlines()
    expected = {}
    for line in map(json.loads, lines):
        if line["kind"] == "commit":
            op = line["commit"]
            expected[line["did"], op["rev"], op["collection"], op["rkey"]] = (
                op["operation"],
                op.get("cid"),
                op.get("record"),
            )
    got = {}
    kinds: list[type[Event]] = []
    for event in map(decode_frame, corpus_frames(conformance)):
        kinds.append(type(event))
        if isinstance(event, Commit):
            for op in read_commit(event, CORPUS_TIME, EVERYTHING).ops:
                assert op.problem is None
                record = json.loads(op.json) if op.json else None
                got[event.repo, event.rev, op.collection, op.rkey] = (op.action, op.cid, record)
    assert got == expected
    assert (kinds.count(Commit), kinds.count(Identity), kinds.count(Account)) == (148, 1, 1)


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


def test_unwanted_collections_are_listed_and_their_blocks_not_touched(conformance: Path) -> None:
    ops = [op for event in corpus_commits(conformance) for op in read_commit(event, CORPUS_TIME, {POST}).ops]
    assert {op.record is None for op in ops if op.collection == POST and op.action != "delete"} == {False}
    others = [op for op in ops if op.collection != POST]
    assert others
    assert all((op.problem, op.record, op.block, op.cid) == (None,) * 4 for op in others)


def test_scenario_frames(conformance: Path) -> None:
    """Signed Sync 1.1 frames made by the reference's own repository code."""
    problems = []
    unproved = set()
    for path in sorted((conformance / "scenarios" / "frames").glob("*.frames.bin.zst")):
        for event in map(decode_frame, read_corpus(path)):
            if isinstance(event, Commit):
                content = read_commit(event, FAR_FUTURE, EVERYTHING)
                problems += [(path.name[:2], op.path.partition("/")[0], op.problem) for op in content.ops if op.problem]
                try:
                    assert prove(event, content)
                except InvalidCommit:
                    unproved.add(path.name[:2])
    assert [(name, collection, problem[0]) for name, collection, problem in problems] == [("48", POST, "record-block")]
    # 35 deletes records that the repository never had, which no tree can prove.
    assert unproved == {"35"}


def test_relay_scenarios(conformance: Path) -> None:
    seen = []
    for path in sorted((conformance / "relay-scenarios").glob("*.json")):
        for message in json.loads(path.read_text())["messages"]:
            frame = from_json(message["frame"])
            event = decode_frame(encode_dag_cbor(frame["header"]) + encode_dag_cbor(frame["body"]))
            if isinstance(event, Commit):
                content = read_commit(event, FAR_FUTURE, {POST})
                assert all(op.problem is None for op in content.ops)
                assert prove(event, content) == ("legacy" not in path.name)
            elif isinstance(event, Sync):
                assert read_sync(event, FAR_FUTURE).rev == event.rev
            seen.append(type(event))
    assert (seen.count(Commit), seen.count(Sync)) == (12, 1)


# --- damaged and odd frames ------------------------------------------------------------------------------------------

MALFORMED: dict[str, Any] = {
    "a-bitflip-car": ["record-block"],
    "a-deep-nesting": "frame-cbor",
    "a-empty": "frame-cbor",
    "a-error-consumer-too-slow": StreamError("ConsumerTooSlow", "Stream consumer too slow"),
    "a-error-future-cursor": StreamError("FutureCursor", "Cursor in the future."),
    "a-half-header": "frame-cbor",
    "a-header-only": "frame-cbor",
    "a-huge-length": "frame-cbor",
    "a-info-outdated-cursor": Info("OutdatedCursor", "Requested cursor exceeded limit. Possibly missing events"),
    "a-json-text": "frame-cbor",
    "a-legacy-handle": Ignored("type #handle", 99),
    "a-legacy-tombstone": Ignored("type #tombstone", 99),
    "a-no-type": Ignored("type None", 99),
    "a-random": "frame-cbor",
    "a-record-text-altered": ["record-block"],
    "a-trailing-garbage": "frame-cbor",
    "a-truncated-one-byte": "frame-cbor",
    "a-truncated-two-thirds": "frame-cbor",
    "a-unknown-op": Ignored("operation 2", 99),
    "a-unknown-type": Ignored("type #futureThing", 99),
    "b-commit-bad-signature": [None],
    "b-commit-car-root-mismatch": "commit-car",
    "b-commit-control-valid": [None],
    "b-commit-did-mismatch": "commit-mismatch",
    "b-commit-future-rev": "commit-future",
    "b-commit-many-ops": "commit-limit",
    "b-commit-missing-seq": "frame-body",
    "b-commit-no-since-no-prevdata": [None],
    "b-commit-path-bad-nsid": ["op-path"],
    "b-commit-path-dotdot-rkey": ["op-path"],
    "b-commit-path-long-rkey": ["op-path"],
    "b-commit-path-nul-rkey": ["op-path"],
    "b-commit-rev-mismatch": "commit-mismatch",
    "b-commit-wrong-key": [None],
    "b-record-unsorted-keys": [None, None],
}


def outcome(data: bytes, now: int) -> Any:
    """The event, the kind of the refusal, or the kinds of the operations' problems."""
    try:
        event = decode_frame(data)
        if not isinstance(event, Commit):
            return event
        return [op.problem and op.problem[0] for op in read_commit(event, now, {POST}).ops]
    except (FrameError, InvalidCommit) as error:
        return error.kind


def test_malformed_frames(conformance: Path) -> None:
    folder = conformance / "malformed"
    entries = json.loads((folder / "index.json").read_text())
    assert len(entries) >= 48
    for entry in entries:
        name = entry["file"].removesuffix(".frame")
        # The made commits are of late 2026; the one a century ahead, and the other rev that differs, are after it.
        now = 3_000_000_000_000_000 if name == "b-commit-rev-mismatch" else FAR_FUTURE
        # A bad record has a good neighbour, which lives.
        expected = MALFORMED.get(name, [None, "record-invalid"])
        assert outcome((folder / entry["file"]).read_bytes(), now) == expected, name


def test_a_frame_of_2023_has_no_rev(conformance: Path) -> None:
    data = (conformance / "frames" / "single" / "commit_legacy_2023_carbox.frame").read_bytes()
    with pytest.raises(FrameError, match="rev is not a TID") as error:
        decode_frame(data)
    assert error.value.seq
    assert error.value.did


# --- the envelope ----------------------------------------------------------------------------------------------------


def test_a_well_formed_commit() -> None:
    event = commit_event(make_body({f"{POST}/3mptbyplj5d2a": RECORD}))
    content = read_commit(event, CORPUS_TIME, {POST})
    assert prove(event, content)
    assert signing.verify_commit(signing.public_key_of(KEY), content.block, decode_commit(content.block)["sig"])
    (op,) = content.ops
    assert op == RecordOp(
        "create",
        f"{POST}/3mptbyplj5d2a",
        POST,
        "3mptbyplj5d2a",
        cid.to_text(cid.cid_for_cbor(RECORD)),
        {"$type": POST, "text": "hello"},
        RECORD,
        None,
        '{"text":"hello","$type":"app.bsky.feed.post"}',
    )


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("seq", [None, 0, -1, 2**53, True, "1", 1.5]),
        ("repo", [None, "alice.test", 3, "did:plc:", b"did:plc:abc", "did:plc:" + "x" * 3000]),
        ("rev", [None, "", "zzzzzzzzzzzzz", 2222222222222, REV + "\n"]),
        ("since", [" ", "yesterday", 2222222222222, [REV]]),
        ("time", [None, "", "2026-07-04", "2026-07-04T14:38:07.517", 1]),
        ("commit", [None, "bafy", b"", cid.cid_for_raw(b"")]),
        ("prevData", ["bafy", b"", cid.cid_for_raw(b"")]),
        ("ops", [None, {}, "ops"]),
        ("blocks", [None, "", []]),
    ],
)
def test_every_field_of_a_commit_is_checked(field: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(FrameError, match=field) as error:
            decode_frame(make_frame(make_body({}, **{field: value})))
        assert error.value.kind == "frame-body"
        assert error.value.seq == (None if field == "seq" else 1)


def test_fields_that_are_new_or_gone_do_not_matter() -> None:
    body = make_body({}, novelty={"a": [1]})
    for key in ("blobs", "tooBig", "rebase", "prevData", "since"):
        del body[key]
    event = commit_event(body)
    assert (event.too_big, event.rebase, event.prev_data, event.since) == (False, False, None, None)


def test_frame_size_limit() -> None:
    with pytest.raises(FrameError, match="limit is 5,000,000") as error:
        decode_frame(bytes(5_000_001))
    assert error.value.kind == "frame-size"


@pytest.mark.parametrize(
    ("kind", "body", "event"),
    [
        ("#identity", {"handle": "Alice.Test"}, Identity(1, DID, "Alice.Test", "2026-07-04T14:38:07.517Z")),
        ("#identity", {"handle": "no handle"}, Identity(1, DID, None, "2026-07-04T14:38:07.517Z")),
        ("#account", {"active": True}, Account(1, DID, True, None, "2026-07-04T14:38:07.517Z")),
        ("#account", {"active": False, "status": "a\0b"}, Account(1, DID, False, "ab", "2026-07-04T14:38:07.517Z")),
        ("#info", {"name": "OutdatedCursor"}, Info("OutdatedCursor", None)),
    ],
)
def test_other_events(kind: str, body: dict[str, Any], event: Event) -> None:
    envelope = {"seq": 1, "did": DID, "time": "2026-07-04T14:38:07.517Z"}
    assert decode_frame(make_frame({**envelope, **body}, kind)) == event


def test_an_account_event_must_say_whether_it_is_active() -> None:
    with pytest.raises(FrameError, match="active"):
        decode_frame(make_frame({"seq": 1, "did": DID, "time": "2026-07-04T14:38:07.517Z"}, "#account"))


@pytest.mark.parametrize("header", [{}, {"op": "1"}, {"op": True, "t": "#commit"}, [1], "op"])
def test_headers_without_an_operation(header: Any) -> None:
    with pytest.raises(FrameError) as error:
        decode_frame(encode_dag_cbor(header) + encode_dag_cbor({}))
    assert error.value.kind == "frame-header"


# --- the commit ------------------------------------------------------------------------------------------------------


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
    fields = {"did": DID, "rev": REV, "data": mst.EMPTY.cid, "prev": None, "version": 3, "sig": bytes(64)}
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
    assert (content.commit, content.data, content.rev) == (body["commit"], mst.EMPTY.cid, REV)
    event.blocks = bytes(10_001)
    with pytest.raises(InvalidCommit, match="limit"):
        read_sync(event, CORPUS_TIME)


def test_envelope_of_real_frames_is_two_objects(conformance: Path) -> None:
    """The harness itself: what is compared above really are frames."""
    assert {len(decode_dag_cbor_multi(frame)) for frame in corpus_frames(conformance)} == {2}


# --- keys in another order -------------------------------------------------------------------------------------------


def head(major: int, length: int) -> bytes:
    if length < 24:
        return bytes((major << 5 | length,))
    size = next(size for size in (1, 2, 4) if length < 1 << 8 * size)
    return bytes((major << 5 | 23 + {1: 1, 2: 2, 4: 3}[size],)) + length.to_bytes(size, "big")


def written(value: Any, shuffle: Callable[[list[str]], None]) -> bytes:
    """DAG-CBOR whose maps have their keys in the order that `shuffle` leaves them in."""
    if isinstance(value, dict):
        keys = list(value)
        shuffle(keys)
        return head(5, len(keys)) + b"".join(encode_dag_cbor(key) + written(value[key], shuffle) for key in keys)
    if isinstance(value, list):
        return head(4, len(value)) + b"".join(written(item, shuffle) for item in value)
    return bytes(encode_dag_cbor(value))


ORDERS: dict[str, Callable[[list[str]], None]] = {
    "reversed": list.reverse,
    "alphabetical": list.sort,
    "shuffled": random.Random(5).shuffle,
}
EVENTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "commit": ({"t": "#commit", "op": 1}, make_body({f"{POST}/3mptbyplj5d2a": RECORD})),
    "sync": ({"t": "#sync", "op": 1}, {"seq": 7, "did": DID, "rev": REV, "time": WHEN, "blocks": b"x"}),
    "identity": ({"t": "#identity", "op": 1}, {"seq": 7, "did": DID, "time": WHEN, "handle": "a.test"}),
    "account": ({"t": "#account", "op": 1}, {"seq": 7, "did": DID, "time": WHEN, "active": True, "status": "x"}),
    "info": ({"t": "#info", "op": 1}, {"name": "OutdatedCursor", "message": "old"}),
    "error": ({"op": -1}, {"error": "FutureCursor", "message": "ahead"}),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", EVENTS)
def test_a_frame_says_the_same_whatever_the_order_of_its_keys(name: str, order: str) -> None:
    """To the decoder and to the subscription, which must agree on what a frame is."""
    header, body = EVENTS[name]
    canonical = encode_dag_cbor(header) + encode_dag_cbor(body)
    frame = written(header, ORDERS[order]) + written(body, ORDERS[order])
    assert len(frame) == len(canonical) and decode_frame(frame) == decode_frame(canonical)
    for read in (seq_of, peek_did, control_of):
        assert read(frame) == read(canonical)
    assert seq_of(frame) == body.get("seq")
    assert peek_did(frame) == (DID.encode() if "did" in body or "repo" in body else None)


@pytest.mark.parametrize("order", ORDERS)
def test_a_commit_says_the_same_whatever_the_order_of_its_keys(order: str) -> None:
    """The keys of the commit object and of the CAR's header."""
    body = make_body({f"{POST}/3mptbyplj5d2a": RECORD})
    roots, blocks = car.read_car(body["blocks"])
    commit = decode_dag_cbor(blocks.pop(roots[0]))
    keys = list(commit)
    ORDERS[order](keys)
    block = head(5, len(keys))
    for key in keys:
        value = b"\x58\x40" + commit[key] if key == "sig" else encode_dag_cbor(commit[key])
        block += encode_dag_cbor(key) + value
    link = cid.cid_for_cbor(block)
    header = b"\xa2\x67version\x01\x65roots\x81" + encode_dag_cbor(link)
    archive = bytes((len(header),)) + header
    for key, data in ((link, block), *blocks.items()):
        size = len(key) + len(data)
        archive += bytes((size & 127 | 128, size >> 7)) + key + data
    event = commit_event({**body, "commit": link, "blocks": archive})
    content = read_commit(event, CORPUS_TIME, {POST})
    assert [op.record for op in content.ops] == [{"$type": POST, "text": "hello"}]
    assert content.data == commit["data"] and content.block == block
    assert car.read_car(archive)[0] == [link]


def test_a_key_that_comes_twice_is_refused_everywhere() -> None:
    header, body = EVENTS["identity"]
    for key in body:
        for first in (body[key], None):
            twice = head(5, len(body) + 1) + encode_dag_cbor(key) + encode_dag_cbor(first) + encode_dag_cbor(body)[1:]
            frame = encode_dag_cbor(header) + twice
            with pytest.raises(FrameError) as error:
                decode_frame(frame)
            assert error.value.kind == "frame-cbor"
            assert (seq_of(frame), peek_did(frame)) == (None, None)
    assert control_of(b"\xa2\x62op\x20\x62op\x20" + encode_dag_cbor({"error": "x"})) is None
    with pytest.raises(car.InvalidCar):
        car.Blocks(b"\x1a\xa3\x67version\x01\x67version\x01\x65roots\x80")


def test_bytes_that_are_no_frame_cost_little() -> None:
    """What only the exact decoder can read is limited: a frame of millions of values is none."""
    for data in (b"\x9a\x00\x4c\x4b\x00" + b"\x00" * 4_900_000 + b"\xff", b"\xa1\x61a" * 1_000_000):
        started = time.monotonic()
        with pytest.raises(FrameError):
            decode_frame(data)
        assert seq_of(data) is None
        assert time.monotonic() - started < 3


def test_an_empty_since_is_none() -> None:
    assert commit_event(make_body({}, since="")).since is None
    assert commit_event(make_body({}, since=REV)).since == REV
