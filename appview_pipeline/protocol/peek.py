"""What a consumer of `com.atproto.sync.subscribeRepos` can read of a frame without decoding it.

Each answer is the one that decoding gives, except for frames that were made to look like others.
"""

from __future__ import annotations

from appview_pipeline.protocol.event_stream import MAX_SEQ, FrameError, read_frame, seq_of

COMMIT_HEADER = b"\xa2atg#commitbop\x01"
"""Canonical header `{t: "#commit", op: 1}`; frames that start with it are never about the stream itself."""

# In a canonical commit: the key `repo` and a text string with its length (24 to 255) in the next byte; then `time`.
_REPO = b"\x64repo\x78"
_REPO_SIZE = len(_REPO) + 1
_TIME = b"\x64time"
_SEQ = b"\x63seq"
_SEQ_SIZE = len(_SEQ)
_INTEGER_SIZES = {0x18: 1, 0x19: 2, 0x1A: 4, 0x1B: 8}


def peek_seq(frame: bytes) -> int | None:
    """`seq_of`, without decoding a commit: in canonical order `seq` is the key right before the first `repo`.

    A record key that was made to look like both only makes the number of its own commit doubtful
    (`network/sequence.py`).
    """
    if frame.startswith(COMMIT_HEADER) and (end := frame.find(_REPO)) > 0:
        at = frame.rfind(_SEQ, max(0, end - _SEQ_SIZE - 9), end) + _SEQ_SIZE
        if at >= _SEQ_SIZE:
            head = frame[at]
            size = _INTEGER_SIZES.get(head)
            if size is not None and at + 1 + size == end and (seq := int.from_bytes(frame[at + 1 : end], "big")) > 0:
                return seq if seq <= MAX_SEQ else None
            if 0 < head < 24 and at + 1 == end:
                return head
    return seq_of(frame)


def peek_did(frame: bytes) -> bytes | None:
    """The DID that a frame is about (`repo` of a commit, else `did`), as bytes; None where it has none. Never raises.

    Every caller gets the same answer, whatever the bytes. A commit is not decoded: its first `repo: did:...` followed
    by the key that comes next in canonical order is taken. Before that there are only the operations, and a record key
    that was made to look like it only moves its own commit to another shard, which applies it as well.
    """
    if frame.startswith(COMMIT_HEADER) and (at := frame.find(_REPO)) > 0:
        start = at + _REPO_SIZE
        if frame.startswith(b"did:", start) and frame.startswith(_TIME, end := start + frame[start - 1]):
            return frame[start:end]
    try:
        header, body = read_frame(frame)
    except FrameError:
        return None
    if type(body) is not dict:
        return None
    did = body.get("repo" if header.get("t") == "#commit" else "did")
    return did.encode("utf-8", "surrogatepass") if isinstance(did, str) and did else None
