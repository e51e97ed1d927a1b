"""Events of `com.atproto.sync.subscribeRepos`: frames from the relay to dataclasses (https://atproto.com/specs/sync).

This is the envelope; `commit.py` looks into the blocks. Unknown types, operations and fields are ignored, as the
specification asks, so that the network can grow.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from appview_pipeline.protocol.cid import is_dag_cbor
from appview_pipeline.protocol.event_stream import (
    MAX_FRAME_BYTES,
    MAX_SEQ,
    FrameError,
    Info,
    StreamError,
    free_text,
    info,
    read_frame,
    seq_in,
    stream_error,
)
from appview_pipeline.protocol.syntax import is_datetime, is_did, is_handle, is_tid


@dataclass(slots=True)
class Commit:
    """`#commit`: a change of a repository. CIDs are 36 bytes, `ops` the list as sent, `size` the frame's bytes."""

    seq: int
    repo: str
    rev: str
    since: str | None
    time: str
    commit: bytes
    prev_data: bytes | None
    ops: list[Any]
    blocks: bytes
    too_big: bool
    rebase: bool
    size: int


@dataclass(slots=True)
class Sync:
    """`#sync`: the current state of a repository, without the changes that led to it; `blocks` holds its commit."""

    seq: int
    did: str
    rev: str
    time: str
    blocks: bytes


@dataclass(slots=True)
class Identity:
    """`#identity`: something about an identity may have changed. `handle` is a hint, None if absent or no handle."""

    seq: int
    did: str
    handle: str | None
    time: str


@dataclass(slots=True)
class Account:
    """`#account`: the hosting status of an account; `status` (as sent, any text) says why it is not active."""

    seq: int
    did: str
    active: bool
    status: str | None
    time: str


@dataclass(slots=True)
class Ignored:
    """A frame of a type or operation that we don't know or that was removed; `what` names it."""

    what: str
    seq: int | None


Event = Commit | Sync | Identity | Account | Info | StreamError | Ignored


def decode_frame(data: bytes) -> Event:
    """One WebSocket message as an event. Raises FrameError, nothing else, whatever the bytes.

    Checked: size, framing, and of the fields that are used their presence, types and syntax: `seq` 1 to 2^53-1, DIDs,
    revs (TIDs), datetimes, CIDs. Map keys may be in any order. Memory is bounded by the frame's size (about 65 bytes a
    byte in the worst case), depth by the decoders' limits.
    """
    if len(data) > MAX_FRAME_BYTES:
        raise FrameError("frame-size", f"frame of {len(data):,} bytes; the limit is {MAX_FRAME_BYTES:,}")
    header, body = read_frame(data)
    if type(header.get("op")) is not int:
        raise FrameError("frame-header", "header without an operation")
    if header == _COMMIT_HEADER and type(body) is dict:
        return _commit(body, len(data))
    op = header["op"]
    if op == -1:
        if type(body) is not dict or type(body.get("error")) is not str:
            raise FrameError("frame-body", "error frame without an error name")
        return stream_error(body)
    kind = header.get("t")
    read = _READERS.get(kind) if op == 1 and type(kind) is str else None
    if read is None:
        what = f"type {free_text(kind)}" if op == 1 else f"operation {op}"
        return Ignored(what, seq_in(body) if type(body) is dict else None)
    if type(body) is not dict:
        raise FrameError("frame-body", f"body of {kind} is not a map")
    return read(body, len(data))


def _refuse(body: dict[str, Any], reason: str) -> NoReturn:
    did = body.get("repo") or body.get("did")
    rev, since = (it if isinstance(it, str) and is_tid(it) else None for it in (body.get("rev"), body.get("since")))
    raise FrameError(
        "frame-body", reason, seq_in(body), did if isinstance(did, str) and is_did(did) else None, rev=rev, since=since
    )


def _envelope(body: dict[str, Any], key: str) -> tuple[int, str, str]:
    """Sequence number, DID and time, which all events of the stream have."""
    seq = body.get("seq")
    if type(seq) is not int or not 0 < seq <= MAX_SEQ:
        _refuse(body, "seq is not an integer from 1 to 2^53-1")
    did = body.get(key)
    if type(did) is not str or not is_did(did):
        _refuse(body, f"{key} is not a DID")
    time = body.get("time")
    if type(time) is not str or not is_datetime(time):
        _refuse(body, "time is not a datetime")
    return seq, did, time


# A DID, two TIDs and a datetime as nearly all commits have them, in one pass; none of them can hold the line feeds that
# join them, so a match of the whole is a match of each part.
_match_usual = re.compile(
    r"did:plc:[a-z2-7]{24}\n[2-7a-j][2-7a-z]{12}\n[2-7a-j][2-7a-z]{12}\n"
    r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{3}Z"
).fullmatch


def _commit(body: dict[str, Any], size: int) -> Commit:
    get = body.get
    seq: Any = get("seq")
    repo: Any = get("repo")
    rev: Any = get("rev")
    since: Any = get("since")
    time: Any = get("time")
    try:
        usual = type(seq) is int and 0 < seq <= MAX_SEQ and _match_usual("\n".join((repo, rev, since, time)))
    except TypeError:
        usual = None
    if not usual:
        seq, repo, time = _envelope(body, "repo")
        if type(rev) is not str or not is_tid(rev):
            _refuse(body, "rev is not a TID")
        if since == "":  # what some servers send for "none"
            since = None
        if since is not None and (type(since) is not str or not is_tid(since)):
            _refuse(body, "since is neither null nor a TID")
    commit = get("commit")
    if not is_dag_cbor(commit):
        _refuse(body, "commit is not a CID")
    prev_data = get("prevData")
    if prev_data is not None and not is_dag_cbor(prev_data):
        _refuse(body, "prevData is neither absent nor a CID")
    ops = get("ops")
    if type(ops) is not list:
        _refuse(body, "ops is not a list")
    blocks = get("blocks")
    if type(blocks) is not bytes:
        _refuse(body, "blocks is not a byte string")
    # Deprecated, and absent from some servers' frames: false unless said otherwise.
    too_big, rebase = get("tooBig") is True, get("rebase") is True
    # By position, against our rule: keywords cost 0.4 us a commit.
    return Commit(seq, repo, rev, since, time, commit, prev_data, ops, blocks, too_big, rebase, size)


def _sync(body: dict[str, Any], size: int) -> Sync:
    seq, did, time = _envelope(body, "did")
    rev, blocks = body.get("rev"), body.get("blocks")
    if type(rev) is not str or not is_tid(rev):
        _refuse(body, "rev is not a TID")
    if type(blocks) is not bytes:
        _refuse(body, "blocks is not a byte string")
    return Sync(seq, did, rev, time, blocks)


def _identity(body: dict[str, Any], size: int) -> Identity:
    seq, did, time = _envelope(body, "did")
    handle = body.get("handle")
    return Identity(seq, did, handle if isinstance(handle, str) and is_handle(handle) else None, time)


def _account(body: dict[str, Any], size: int) -> Account:
    seq, did, time = _envelope(body, "did")
    active = body.get("active")
    if type(active) is not bool:
        _refuse(body, "active is not a boolean")
    return Account(seq, did, active, free_text(body.get("status")), time)


def _info(body: dict[str, Any], size: int) -> Info:
    return info(body)


_COMMIT_HEADER = {"op": 1, "t": "#commit"}
_READERS: dict[str, Callable[[dict[str, Any], int], Event]] = {
    "#commit": _commit,
    "#sync": _sync,
    "#identity": _identity,
    "#account": _account,
    "#info": _info,
}
