"""What a subscription must see of a frame without decoding what the frame carries.

A frame is two concatenated DAG-CBOR objects, header and body (https://atproto.com/specs/event-stream). The subscription
needs the body's `seq` to resume, and must notice the two kinds of frames that speak about the stream itself: error
frames (`op` -1) and `#info`. A consumer of a shard needs the repository's DID.
"""

from __future__ import annotations

from dataclasses import dataclass

import libipld

from appview_pipeline.protocol.cbor import InvalidRecord, decode_unordered

MAX_FRAME_BYTES = 5_000_000
"""Largest frame that the specification allows (https://atproto.com/specs/sync)."""

COMMIT_HEADER = b"\xa2atg#commitbop\x01"
"""Canonical header `{t: "#commit", op: 1}`; frames that start with it are never control frames."""

# In a canonical commit: the key `repo` and a text string with its length (24 to 255) in the next byte; then `time`.
_REPO = b"\x64repo\x78"
_REPO_SIZE = len(_REPO) + 1
_TIME = b"\x64time"
_SEQ = b"\x63seq"
_SEQ_SIZE = len(_SEQ)
_INTEGER_SIZES = {0x18: 1, 0x19: 2, 0x1A: 4, 0x1B: 8}

_MAX_SEQ = 2**53 - 1
_MAX_TEXT = 200


@dataclass(frozen=True)
class Control:
    """An error frame (`is_error`; the server closes after it) or an `#info` frame, its text bounded and printable."""

    is_error: bool
    name: str
    message: str


def seq_of(frame: bytes) -> int | None:
    """The sequence number of a frame, None where it has none or can't be decoded. Never raises."""
    decoded = _decode(frame)
    if decoded is None:
        return None
    seq = decoded[1].get("seq")
    return seq if isinstance(seq, int) and not isinstance(seq, bool) and 0 < seq <= _MAX_SEQ else None


def seq_among_many(frame: bytes) -> int | None:
    """`seq_of`, without decoding a commit: in canonical order `seq` is the key right before the first `repo`.

    A record key made to look like both makes but the number of its own commit doubtful (`sequence.py`).
    """
    if frame.startswith(COMMIT_HEADER) and (end := frame.find(_REPO)) > 0:
        at = frame.rfind(_SEQ, max(0, end - _SEQ_SIZE - 9), end) + _SEQ_SIZE
        if at >= _SEQ_SIZE:
            head = frame[at]
            size = _INTEGER_SIZES.get(head)
            if size is not None and at + 1 + size == end and (seq := int.from_bytes(frame[at + 1 : end], "big")) > 0:
                return seq if seq <= _MAX_SEQ else None
            if 0 < head < 24 and at + 1 == end:
                return head
    return seq_of(frame)


def did_of(frame: bytes) -> bytes | None:
    """The DID that a frame is about (`repo` of a commit, else `did`), as bytes; None where it has none. Never raises.

    Everybody who asks gets the same answer, whatever the bytes. A commit is not decoded: its first `repo: did:...`
    followed by the key that comes next in canonical order is taken. Before that there are only the operations, and a
    record key made to look like it moves nothing but its own commit to another shard, where it is applied as well.
    """
    if frame.startswith(COMMIT_HEADER) and (at := frame.find(_REPO)) > 0:
        start = at + _REPO_SIZE
        if frame.startswith(b"did:", start) and frame.startswith(_TIME, end := start + frame[start - 1]):
            return frame[start:end]
    decoded = _decode(frame)
    if decoded is None:
        return None
    header, body = decoded
    did = body.get("repo" if header.get("t") == "#commit" else "did")
    return did.encode("utf-8", "surrogatepass") if isinstance(did, str) and did else None


def control_of(frame: bytes) -> Control | None:
    """The control message in a frame, None where it is an ordinary or an undecodable one. Never raises."""
    decoded = _decode(frame)
    if decoded is None:
        return None
    header, body = decoded
    if header.get("op") == -1:
        return Control(True, printable(body.get("error")) or "an unnamed error", printable(body.get("message")))
    if header.get("op") == 1 and header.get("t") == "#info":
        return Control(False, printable(body.get("name")) or "an unnamed notice", printable(body.get("message")))
    return None


def printable(text: object) -> str:
    """Upstream text for a log line or a sentence: one line, no control characters, at most 200 characters."""
    if not isinstance(text, str):
        return ""
    return "".join(c if c.isprintable() else " " for c in text[:_MAX_TEXT]).strip()


def _decode(frame: bytes) -> tuple[dict[str, object], dict[str, object]] | None:
    try:
        objects = libipld.decode_dag_cbor_multi(frame)
    except (ValueError, RecursionError, OverflowError):
        try:
            objects = decode_unordered(frame, most=2)
        except InvalidRecord:
            return None
    if len(objects) != 2 or not isinstance(objects[0], dict) or not isinstance(objects[1], dict):
        return None
    return objects[0], objects[1]
