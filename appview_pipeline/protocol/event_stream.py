"""Frames of an event stream, whichever it is: bytes to header and body (https://atproto.com/specs/event-stream).

A frame is one WebSocket message: two DAG-CBOR objects end to end, the header `{op, t}` and the body. Two kinds of them
are about the stream itself: error frames (`op` -1) and `#info`. Every other kind is an event, which the stream's own
module reads, such as `frames.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from libipld import decode_dag_cbor_multi

from appview_pipeline.protocol.cbor import InvalidRecord, decode_unordered

MAX_FRAME_BYTES = 5_000_000
"""Size limit of a frame (https://atproto.com/specs/sync)."""
MAX_SEQ = 2**53 - 1
MAX_TEXT = 1024
"""Characters kept of the free text in a frame."""
MAX_PRINTED = 200


class FrameError(ValueError):
    """A frame that is no event. `kind` is a short constant to count by, `reason` says it in words; `seq`, `did`, `rev`
    and `since` are given as far as the frame could be read."""

    def __init__(
        self,
        kind: str,
        reason: str,
        seq: int | None = None,
        did: str | None = None,
        *,
        rev: str | None = None,
        since: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.seq = seq
        self.did = did
        self.rev = rev
        self.since = since


@dataclass(slots=True)
class Info:
    """`#info`: the stream about itself, e.g. `OutdatedCursor`."""

    name: str
    message: str | None


@dataclass(slots=True)
class StreamError:
    """An error frame, e.g. `FutureCursor` or `ConsumerTooSlow`; the server closes the connection after it."""

    name: str
    message: str | None


def read_frame(frame: bytes) -> tuple[dict[str, Any], Any]:
    """The header and the body of a frame. Raises FrameError.

    Map keys may be in any order. Memory is bounded by the frame's size (about 65 bytes a byte in the worst case), depth
    by the decoders' limits. The caller checks the size, and the body's type.
    """
    try:
        items = decode_dag_cbor_multi(frame)
    except (ValueError, RecursionError, OverflowError):
        try:
            items = decode_unordered(frame, limit=2)
        except InvalidRecord as error:
            raise FrameError("frame-cbor", str(error)) from None
    if len(items) != 2:
        raise FrameError("frame-cbor", f"{len(items)} CBOR objects instead of header and body")
    header, body = items
    if type(header) is not dict:
        raise FrameError("frame-header", "header is not a map")
    return header, body


def seq_in(body: dict[str, Any]) -> int | None:
    """The sequence number in a body; None where it has none, or none that is possible."""
    seq = body.get("seq")
    return seq if type(seq) is int and 0 < seq <= MAX_SEQ else None


def seq_of(frame: bytes) -> int | None:
    """The sequence number of a frame; None where it has none or can't be decoded. Never raises."""
    try:
        _, body = read_frame(frame)
    except FrameError:
        return None
    return seq_in(body) if type(body) is dict else None


def control_of(frame: bytes) -> Info | StreamError | None:
    """What a frame says about the stream; None where it is an event or can't be decoded. Never raises."""
    try:
        header, body = read_frame(frame)
    except FrameError:
        return None
    if type(body) is not dict:
        return None
    if header.get("op") == -1:
        return stream_error(body)
    return info(body) if header.get("op") == 1 and header.get("t") == "#info" else None


def info(body: dict[str, Any]) -> Info:
    """The body of an `#info` frame."""
    return Info(free_text(body.get("name")) or "", free_text(body.get("message")))


def stream_error(body: dict[str, Any]) -> StreamError:
    """The body of an error frame."""
    return StreamError(free_text(body.get("error")) or "", free_text(body.get("message")))


def free_text(value: object) -> str | None:
    """Text of a frame that may be anything, safe to store: without NUL, at most `MAX_TEXT` characters."""
    return value.replace("\0", "")[:MAX_TEXT] if isinstance(value, str) else None


def printable(text: object) -> str:
    """Upstream text for a log line or a sentence: one line, no control characters, at most `MAX_PRINTED` characters."""
    if not isinstance(text, str):
        return ""
    return "".join(c if c.isprintable() else " " for c in text[:MAX_PRINTED]).strip()
