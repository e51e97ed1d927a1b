"""Frames of labels: those of the conformance data, damaged ones, and the ones that we make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from libipld import encode_dag_cbor

from appview_pipeline.protocol.event_stream import MAX_FRAME_BYTES, FrameError, Info, StreamError, control_of, seq_of
from appview_pipeline.protocol.label import as_json, read_label, verify_label
from appview_pipeline.protocol.label_frames import (
    LABELS_HEADER,
    error_frame,
    info_frame,
    labels_frame,
    read_labels_frame,
)
from appview_pipeline.protocol.signing import VerifyingKey, parse_multikey

NOW = 1_800_000_000_000_000


def framed(body: object, header: object = None) -> bytes:
    encoded: bytes = encode_dag_cbor({"op": 1, "t": "#labels"} if header is None else header) + encode_dag_cbor(body)
    return encoded


def test_a_real_frame(conformance: Path) -> None:
    frame = (conformance / "labels" / "labels_bladerunner_seq42.frame").read_bytes()
    assert frame.startswith(LABELS_HEADER) and seq_of(frame) == 42 and control_of(frame) is None
    read = read_labels_frame(frame)
    assert read is not None
    seq, (value,) = read
    assert seq == 42 and isinstance(value, dict)
    vector = json.loads((conformance / "labels" / "real_signed_label.json").read_text())
    label = read_label(value, NOW)
    key = VerifyingKey(parse_multikey(vector["labeler_key_multibase"]))
    assert as_json(label) == vector["label"] and verify_label(key, label, value) is label
    assert labels_frame(42, [value]) == frame


def test_frames_about_the_stream(conformance: Path) -> None:
    outdated = (conformance / "labels" / "info_outdated_cursor.frame").read_bytes()
    assert control_of(outdated) == Info("OutdatedCursor", "too old")
    assert info_frame("OutdatedCursor", "too old") == outdated and read_labels_frame(outdated) is None
    future = (conformance / "labels" / "error_future_cursor.frame").read_bytes()
    assert control_of(future) == StreamError("FutureCursor", "Cursor in the future.")
    assert error_frame("FutureCursor", "Cursor in the future.") == future and read_labels_frame(future) is None


def test_what_is_made_is_read() -> None:
    labels: list[dict[str, Any]] = [{"ver": 1, "val": str(i), "sig": b"x"} for i in range(100)]
    assert read_labels_frame(labels_frame(2**53 - 1, labels)) == (2**53 - 1, labels)
    assert read_labels_frame(labels_frame(1, [])) == (1, [])


def test_labels_that_are_none_are_left_to_whoever_reads_them() -> None:
    values: list[object] = [None, 1, "label", [], {}, {"ver": 2}]
    assert read_labels_frame(framed({"seq": 7, "labels": values})) == (7, values)


def test_keys_may_be_in_any_order_and_more_of_them() -> None:
    body = b"\xa3\x66labels\x80\x63seq\x07\x63new\x01"
    assert read_labels_frame(b"\xa2\x62op\x01\x61t\x67#labels" + body) == (7, [])


@pytest.mark.parametrize(
    "header", [{"op": 1, "t": "#other"}, {"op": 1}, {"op": 1, "t": 7}, {"op": 2, "t": "#labels"}, {"op": -1}]
)
def test_other_types_and_operations_are_ignored(header: dict[str, Any]) -> None:
    assert read_labels_frame(framed({"seq": 7, "labels": []}, header)) is None


@pytest.mark.parametrize(
    ("frame", "kind", "seq"),
    [
        (b"", "frame-cbor", None),
        (b"\xff" * 30, "frame-cbor", None),
        (LABELS_HEADER, "frame-cbor", None),
        (framed({"seq": 1, "labels": []}) + b"\x01", "frame-cbor", None),
        (LABELS_HEADER + b"\x81" * 200_000, "frame-cbor", None),
        (b"\x01\x01", "frame-header", None),
        (framed({}, {"op": "1", "t": "#labels"}), "frame-header", None),
        (framed({}, {"op": True, "t": "#labels"}), "frame-header", None),
        (framed({}, {"t": "#labels"}), "frame-header", None),
        (framed([1]), "frame-body", None),
        (framed({"labels": []}), "frame-body", None),
        (framed({"seq": 0, "labels": []}), "frame-body", None),
        (framed({"seq": -1, "labels": []}), "frame-body", None),
        (framed({"seq": True, "labels": []}), "frame-body", None),
        (framed({"seq": 1.0, "labels": []}), "frame-body", None),
        (framed({"seq": "1", "labels": []}), "frame-body", None),
        (framed({"seq": 2**53, "labels": []}), "frame-body", None),
        (framed({"seq": 9}), "frame-body", 9),
        (framed({"seq": 9, "labels": {}}), "frame-body", 9),
        (framed({"seq": 9, "labels": None}), "frame-body", 9),
        (labels_frame(1, [{"x": b"\0" * MAX_FRAME_BYTES}]), "frame-size", None),
        (framed({"seq": 9, "labels": [0] * 100_001}), "frame-body", 9),
    ],
)
def test_damaged_frames(frame: bytes, kind: str, seq: int | None) -> None:
    with pytest.raises(FrameError) as caught:
        read_labels_frame(frame)
    assert (caught.value.kind, caught.value.seq) == (kind, seq) and caught.value.reason


def test_a_frame_of_5_mb_is_read() -> None:
    value = {"ver": 1, "src": "did:plc:a", "uri": "did:plc:b", "val": "x", "cts": "2026-07-04T14:38:07.517Z"}
    frame = labels_frame(1, [value] * 71_000)
    assert MAX_FRAME_BYTES > len(frame) > 4_900_000
    assert read_labels_frame(frame) == (1, [value] * 71_000)


@given(st.binary(max_size=60), st.integers(0, 400), st.integers(0, 255))
@example(b"", 0, 0)
def test_any_bytes_are_read_or_refused(tail: bytes, at: int, byte: int) -> None:
    whole = labels_frame(7, [{"ver": 1, "src": "did:plc:a", "val": "spam", "sig": bytes(64)}] * 3)
    changed = whole[:at] + bytes((byte,)) + whole[at + 1 :]
    for frame in (tail, LABELS_HEADER + tail, changed, whole[:at] + tail):
        try:
            read = read_labels_frame(frame)
        except FrameError as error:
            assert error.kind.startswith("frame-")
        else:
            assert read is None or (read[0] > 0 and isinstance(read[1], list))
