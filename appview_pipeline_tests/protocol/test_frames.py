"""Frames: the real corpus against what another implementation served for it, damaged frames, the envelope."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest
from libipld import decode_dag_cbor_multi, encode_dag_cbor

from appview_pipeline.protocol import cid, signing
from appview_pipeline.protocol.commit import (
    InvalidCommit,
    RecordOp,
    decode_commit,
    prove,
    read_commit,
    read_sync,
)
from appview_pipeline.protocol.event_stream import FrameError, Info, StreamError, seq_of
from appview_pipeline.protocol.frames import Account, Commit, Event, Identity, Ignored, Sync, decode_frame
from appview_pipeline_tests.properties.stories import POST
from appview_pipeline_tests.simulated_network.corpus import read_corpus
from appview_pipeline_tests.support.made_frames import (
    CORPUS_TIME,
    DID,
    EVERYTHING,
    KEY,
    RECORD,
    REV,
    commit_event,
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


def test_envelope_of_real_frames_is_two_objects(conformance: Path) -> None:
    """The harness itself: what is compared above really are frames."""
    assert {len(decode_dag_cbor_multi(frame)) for frame in corpus_frames(conformance)} == {2}


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
