"""A frame says the same whatever the order of its keys."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from libipld import decode_dag_cbor, encode_dag_cbor

from appview_pipeline.protocol import car, cid
from appview_pipeline.protocol.commit import (
    read_commit,
)
from appview_pipeline.protocol.event_stream import FrameError, control_of, seq_of
from appview_pipeline.protocol.frames import decode_frame
from appview_pipeline.protocol.peek import peek_did
from appview_pipeline_tests.properties.stories import POST
from appview_pipeline_tests.support.made_frames import (
    CORPUS_TIME,
    DID,
    RECORD,
    REV,
    WHEN,
    commit_event,
    make_body,
)


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
