"""Back from the JSON form of a record to its decoded form (https://atproto.com/specs/data-model#json-representation)."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

import orjson
from libipld import decode_multibase

from appview_pipeline.protocol.cbor import Link, Record, is_link, record_json
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


def as_stored(text: str) -> tuple[Record, str, Record | None]:
    """The results of `cbor.decode_as_sent` for a record that somebody else has stored as JSON: the record without what
    readers can't read, its JSON, and the record as it was where U+0000 was taken out of its text.

    The text stays as it is where nothing has to be taken out. Raises ValueError for what is no record.
    """
    record = record_from_json(text)
    if "\\u0000" not in text and '"__proto__"' not in text:
        return record, text, None
    as_sent = record_from_json(text)
    has_nul = _clean_inside(record)
    cleaned = record_json(record)
    return record, text if record == as_sent else cleaned, as_sent if has_nul else None


def _clean_inside(record: Record) -> bool:
    """Takes U+0000 out of the text of a record, and keys with it or called `__proto__` with their values, as
    `cbor.decode_record` does. Returns whether any text had it. Raises ValueError where a map could get another meaning.
    """
    has_nul = False
    unseen: list[Any] = [record]
    while unseen:
        container = unseen.pop()
        is_map, is_cleaned = type(container) is dict, False
        entries: list[tuple[Any, Any]] = list(container.items() if is_map else enumerate(container))
        for key, value in entries:
            if is_map and ("\0" in key or key == "__proto__"):
                del container[key]
                is_cleaned = True
            elif type(value) is str and "\0" in value:
                container[key] = value.replace("\0", "")
                has_nul = is_cleaned = True
            elif type(value) is dict or type(value) is list:
                unseen.append(value)
        if is_map and is_cleaned and ("$link" in container or "$bytes" in container):
            raise ValueError("a map with a key $link or $bytes holds something that can't be stored")
    return has_nul


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
