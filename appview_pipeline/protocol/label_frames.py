"""Frames of `com.atproto.label.subscribeLabels`: read, and made (https://atproto.com/specs/event-stream).

A frame has the labels of one sequence number. A labeler's numbers rise, and leap: they are often the numbers of its
database's rows. The labels are read by `label.py`, each by itself: a bad one is no reason to reject its neighbours.
"""

from __future__ import annotations

from typing import Any

from libipld import encode_dag_cbor

from appview_pipeline.protocol.event_stream import MAX_FRAME_BYTES, FrameError, read_frame, seq_in

LABELS_HEADER = b"\xa2atg#labelsbop\x01"
"""Canonical header `{t: "#labels", op: 1}`."""
MAX_LABELS = 100_000
"""Labels of a frame: the smallest valid ones that have room in it are fewer. What has no more than a byte or two each
is made to cost memory and time."""


def read_labels_frame(frame: bytes) -> tuple[int, list[object]] | None:
    """The sequence number and the labels, as decoded, of a frame; None for one of another type or operation.

    Those about the stream itself (`#info`, errors) are not for this function: a subscription keeps them back. Raises
    FrameError, and nothing else, whatever the bytes. `seq` is an integer from 1 to 2^53-1.
    """
    if len(frame) > MAX_FRAME_BYTES:
        raise FrameError("frame-size", f"frame of {len(frame):,} bytes; the limit is {MAX_FRAME_BYTES:,}")
    header, body = read_frame(frame)
    op = header.get("op")
    if type(op) is not int:
        raise FrameError("frame-header", "header without an operation")
    if op != 1 or header.get("t") != "#labels":
        return None
    if type(body) is not dict:
        raise FrameError("frame-body", "body of #labels is not a map")
    seq = seq_in(body)
    if seq is None:
        raise FrameError("frame-body", "seq is not an integer from 1 to 2^53-1")
    labels = body.get("labels")
    if type(labels) is not list:
        raise FrameError("frame-body", "labels is not a list", seq)
    if len(labels) > MAX_LABELS:
        raise FrameError("frame-body", f"{len(labels):,} labels; the limit is {MAX_LABELS:,}", seq)
    return seq, labels


def labels_frame(seq: int, labels: list[dict[str, Any]]) -> bytes:
    """A frame of labels, each as `label.as_wire` gives it."""
    body: bytes = encode_dag_cbor({"seq": seq, "labels": labels})
    return LABELS_HEADER + body


def info_frame(name: str, message: str) -> bytes:
    """A frame of the stream about itself: `OutdatedCursor`, the only name so far."""
    return _frame({"t": "#info", "op": 1}, {"name": name, "message": message})


def error_frame(name: str, message: str) -> bytes:
    """The last frame of a stream that the server ends: `FutureCursor`, `ConsumerTooSlow`."""
    return _frame({"op": -1}, {"error": name, "message": message})


def _frame(header: dict[str, Any], body: dict[str, Any]) -> bytes:
    encoded: bytes = encode_dag_cbor(header) + encode_dag_cbor(body)
    return encoded
