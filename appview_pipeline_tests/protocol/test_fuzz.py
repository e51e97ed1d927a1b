"""Whatever bytes come, reading a frame raises its own errors and no others."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libipld import encode_dag_cbor

from appview_pipeline.protocol.commit import InvalidCommit, prove, read_commit, read_sync
from appview_pipeline.protocol.event_stream import FrameError
from appview_pipeline.protocol.frames import Commit, Sync, decode_frame
from appview_pipeline_tests.support.made_frames import (
    CORPUS_TIME,
    EVERYTHING,
    RECORD,
    corpus_frames,
    make_body,
    make_frame,
)


def use(data: bytes) -> str:
    """Reads a frame in every way; the name of what came of it."""
    try:
        event = decode_frame(data)
        if isinstance(event, Commit):
            content = read_commit(event, CORPUS_TIME, EVERYTHING)
            for op in content.ops:
                assert (op.problem is None) or (op.record is None and op.json is None)
                assert "\0" not in op.path + op.collection + op.rkey + op.action + (op.json or "")
            prove(event, content)
        elif isinstance(event, Sync):
            read_sync(event, CORPUS_TIME)
    except (FrameError, InvalidCommit) as error:
        assert error.reason
        return error.kind
    return type(event).__name__


@given(st.binary(max_size=500))
def test_arbitrary_bytes(data: bytes) -> None:
    use(data)
    for header in ({"op": 1, "t": "#commit"}, {"op": 1, "t": "#sync"}, {"op": 1, "t": "#account"}, {"op": -1}):
        use(encode_dag_cbor(header) + data)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.text(max_size=9)
    | st.binary(max_size=40)
    | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
BODY = make_body({"app.bsky.feed.post/3mptbyplj5d2a": RECORD})


@given(st.sampled_from(sorted(BODY)), values, st.sampled_from(["#commit", "#sync", "#identity", "#account", "#info"]))
def test_fields_of_any_type(field: str, value: object, kind: str) -> None:
    try:
        data = make_frame({**BODY, "did": BODY["repo"], "handle": "a.test", "active": True, field: value}, kind)
    except ValueError:
        return  # libipld writes no NaN
    use(data)


@given(st.dictionaries(st.sampled_from(["action", "path", "cid", "prev"]), values | st.just(BODY["ops"][0]["cid"])))
def test_operations_of_any_shape(operation: dict[str, object]) -> None:
    for known in ({}, {"action": "create"}, {"action": "update", "path": "app.bsky.feed.post/a"}):
        try:
            data = make_frame({**BODY, "ops": [{**operation, **known}, *BODY["ops"]]})
        except ValueError:
            return
        use(data)


@pytest.mark.parametrize("rounds", [4, pytest.param(100, marks=pytest.mark.thorough)])
def test_mutated_real_frames(conformance: Path, rounds: int) -> None:
    frames = corpus_frames(conformance)
    source = random.Random(20260704)
    outcomes = set()
    for _ in range(rounds):
        for frame in frames:
            data = bytearray(frame)
            for _ in range(source.choice((1, 1, 2, 8))):
                place = source.randrange(len(data))
                how = source.randrange(4)
                if how == 0:
                    data[place] = source.randrange(256)
                elif how == 1:
                    data[place] ^= 1 << source.randrange(8)
                elif how == 2:
                    del data[place : place + source.randrange(1, 40)]
                else:
                    data[place:place] = source.randbytes(source.randrange(1, 9))
                if not data:
                    break
            outcomes.add(use(bytes(data)))
    assert {"Commit", "frame-cbor", "frame-body", "commit-proof"} <= outcomes
