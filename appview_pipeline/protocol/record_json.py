"""Back from the JSON form of a record to its decoded form (https://atproto.com/specs/data-model#json-representation)."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

import orjson
from libipld import decode_multibase

from appview_pipeline.protocol.cbor import Link, Record, is_link
from appview_pipeline.protocol.cid import to_text


def record_from_json(text: str) -> Record:
    """A record as `cbor.decode_record` gave it, from the JSON that `cbor.record_json` made of it.

    A map that only looks like a link or bytes stays the map that it is. Raises ValueError for text that no record was
    made into.
    """
    record = orjson.loads(text)
    if not isinstance(record, dict):
        raise ValueError("not a record")
    if '"$link"' in text or '"$bytes"' in text:
        _decode_inside(record)
    return record


def _decode_inside(record: Record) -> None:
    """Puts links and byte strings into a record for the maps that stand for them. The record itself is neither."""
    # A stack of our own: a record may be nested deeper than Python can recurse.
    unseen: list[Any] = [record]
    while unseen:
        container = unseen.pop()
        for key, value in container.items() if type(container) is dict else enumerate(container):
            if type(value) is dict:
                value = container[key] = _decoded(value)
            if type(value) is dict or type(value) is list:
                unseen.append(value)


def _decoded(value: dict[str, Any]) -> Any:
    """The link or byte string that a map stands for, else the map."""
    if len(value) == 1:
        if isinstance(text := value.get("$link"), str):
            link = _link(text)
            return value if link is None else link
        if isinstance(text := value.get("$bytes"), str):
            decoded = _bytes(text)
            return value if decoded is None else decoded
    return value


def _link(text: str) -> Link | None:
    """The link that `cbor.record_json` writes so."""
    try:
        link = Link(decode_multibase(text)[1])
    except ValueError:
        return None
    return link if is_link(link) and to_text(link) == text else None


def _bytes(text: str) -> bytes | None:
    """The byte string that `cbor.record_json` writes so."""
    try:
        decoded = b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        return None
    return decoded if b64encode(decoded).rstrip(b"=").decode("ascii") == text else None
