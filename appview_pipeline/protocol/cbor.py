"""Record blocks: strict decoding of DRISL (the DAG-CBOR of the AT Protocol) into Python and into JSON.

A record is a map of strings, integers within 53 bits, booleans, null, arrays, maps, byte strings and CID links
(https://atproto.com/specs/data-model). Anything else, floats above all, makes the block invalid. Two decoders:

- `libipld` for the many records that hold neither links nor bytes. It lets floats, big integers and depth pass; those
  are seen from the block's bytes and the JSON at almost no cost.
- `decode_exact`, written here, for every block that has, or might have, what libipld's result can't tell apart (it
  gives links and byte strings both as `bytes`), lets pass, or refuses without need. It is the definition; the fast way
  must agree with it.

Two rules of DRISL are not enforced, as the reference does not: keys in order, and lengths and integers in their
shortest form. Such a block has one meaning all the same, and its CID is that of the bytes as sent.

U+0000 is dropped from every string, because PostgreSQL stores none in text or jsonb: the record stays usable.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import orjson
from libipld import decode_dag_cbor

from appview_pipeline.protocol import cid as cids

MAX_RECORD = 1_000_000
"""Bytes of a record block (specification)."""
MAX_DEPTH = 32
"""Levels of maps and arrays, the record itself being the first (data validation guide)."""
MAX_INTEGER = 2**53 - 1

Record = dict[str, Any]
"""A decoded record. Links are `Link`, byte strings plain `bytes`."""

_TAG_42 = b"\xd8\x2a"
_LINK_HEAD = b"\xd8\x2a\x58\x25\x00"
# The bytes of UTF-8 are never these two: they are a float's header, or part of a length, an integer, a CID or bytes.
_FLOAT_32 = b"\xfa"
_FLOAT_64 = b"\xfb"

_JSON = orjson.OPT_STRICT_INTEGER


class InvalidRecord(ValueError):
    """A block that is not a record; the message is the reason in words."""


class Link(bytes):
    """A CID link in a decoded record: the 36 bytes of the CID. A byte string is plain `bytes`."""

    __slots__ = ()


def _plain(value: object) -> dict[str, str]:
    """What orjson asks for values it doesn't know: links and byte strings in the protocol's JSON form."""
    if isinstance(value, Link):
        return {"$link": cids.to_text(value)}
    if isinstance(value, bytes):
        return {"$bytes": b64encode(value).rstrip(b"=").decode("ascii")}
    raise TypeError(f"a record holds no {type(value).__name__}")


def decode_record_json(block: bytes) -> tuple[Record, str]:
    """A record block as Python value and as JSON text, both free of U+0000. Raises InvalidRecord.

    In the JSON, links are `{"$link": "bafy..."}` and byte strings `{"$bytes": "<base64 without padding>"}`.
    """
    if len(block) > MAX_RECORD:
        raise InvalidRecord(f"record of {len(block):,} bytes; the limit is {MAX_RECORD:,}")
    try:
        record = decode_dag_cbor(block)
    except (ValueError, RecursionError):
        return _exactly(block)
    if type(record) is not dict:
        raise InvalidRecord("not a map")
    try:
        if _TAG_42 in block or _FLOAT_64 in block or _FLOAT_32 in block:
            _mark_links(record, block)
        json = orjson.dumps(record, _link_json, _JSON).decode()
    except (_Doubt, RecursionError, orjson.JSONEncodeError):
        # A byte string, an integer past 53 bits, a float, extreme depth: only the exact way tells them apart.
        return _exactly(block)
    if "\\u0000" in json or json.count("{") + json.count("[") > MAX_DEPTH:
        return _exactly(block)
    return record, json


class _Doubt(Exception):
    """The fast way can't tell what a value is."""


def _mark_links(values: Any, block: bytes) -> None:
    """Replaces the links in what libipld made of a block by `Link`, in place. Raises _Doubt at floats and at bytes that
    are not certainly links."""
    for key, value in values.items() if type(values) is dict else enumerate(values):
        kind = type(value)
        if kind is dict or kind is list:
            _mark_links(value, block)
        elif kind is bytes:
            # Were one of these a byte string, its length would stand before it, and not the tag and prefix of a link.
            if not _is_link(value) or block.count(value) != block.count(_LINK_HEAD + value):
                raise _Doubt
            values[key] = Link(value)
        elif kind is float:
            raise _Doubt


def _is_link(cid: bytes) -> bool:
    """Whether bytes are a CIDv1 with SHA-256, of any codec with a number below 128."""
    return len(cid) == cids.LENGTH and cid[0] == 1 and cid[1] < 128 and cid[2:4] == b"\x12\x20"


def _link_json(value: object) -> dict[str, str]:
    if type(value) is Link:
        return {"$link": cids.to_text(value)}
    raise TypeError


def _exactly(block: bytes) -> tuple[Record, str]:
    record = decode_exact(block)
    return record, record_json(record)


def decode_record(block: bytes) -> Record:
    """A record block as Python value, free of U+0000; links are `Link`. Raises InvalidRecord."""
    return decode_record_json(block)[0]


def record_json(record: Record) -> str:
    """JSON of a decoded record, as `decode_record_json` gives it."""
    return orjson.dumps(record, _plain, _JSON).decode()


def as_lexicon(record: Record) -> Record:
    """What a lexicon validator is given: the record itself, in which `isinstance(value, Link)` tells a CID link from a
    byte string (`bytes` that is no `Link`)."""
    return record


# --- the exact decoder -----------------------------------------------------------------------------------------------


def decode_exact(block: bytes) -> Record:
    """Decodes a block with every rule checked. Raises InvalidRecord.

    Refused: floats, integers past 53 bits, simple values other than false, true and null, tags other than 42, links
    that are not CIDv1 with SHA-256, map keys that are no strings or come twice, indefinite lengths, invalid UTF-8, more
    than 32 levels, bytes after the end.
    """
    try:
        value, end = _value(block, 0, 0)
    except IndexError:
        raise InvalidRecord("ends too early") from None
    except UnicodeDecodeError as error:
        raise InvalidRecord(f"text is not UTF-8: {error.reason}") from None
    if end != len(block):
        raise InvalidRecord(f"{len(block) - end} bytes follow the record")
    if not isinstance(value, dict):
        raise InvalidRecord("not a map")
    return value


def _head(block: bytes, position: int) -> tuple[int, int, int]:
    """Major type, argument, and the position after both. IndexError at the end of the block."""
    initial = block[position]
    position += 1
    argument = initial & 31
    if argument < 24:
        return initial >> 5, argument, position
    if argument > 27:
        raise InvalidRecord("indefinite or reserved length")
    size = 1 << (argument - 24)
    end = position + size
    if end > len(block):
        raise IndexError
    return initial >> 5, int.from_bytes(block[position:end], "big"), end


def _string(block: bytes, position: int, length: int) -> tuple[str, int]:
    end = position + length
    if end > len(block):
        raise IndexError
    return block[position:end].decode("utf-8"), end


def _value(block: bytes, position: int, depth: int) -> tuple[Any, int]:
    """The value at a position, within `depth` containers, and the position after it."""
    initial = block[position]
    major, argument, position = _head(block, position)
    if major == 3:
        text, position = _string(block, position, argument)
        return text.replace("\0", "") if "\0" in text else text, position
    if major == 5 or major == 4:
        if depth == MAX_DEPTH:
            raise InvalidRecord(f"nested deeper than {MAX_DEPTH} levels")
        if argument > len(block) - position:
            raise IndexError  # before anything is built
        return (_map if major == 5 else _array)(block, position, argument, depth + 1)
    if major == 0 or major == 1:
        number = argument if major == 0 else -1 - argument
        if not -MAX_INTEGER <= number <= MAX_INTEGER:
            raise InvalidRecord("integer beyond 53 bits")
        return number, position
    if major == 2:
        end = position + argument
        if end > len(block):
            raise IndexError
        return block[position:end], end
    if major == 6:
        return _link(block, position, argument)
    if initial == 0xF4 or initial == 0xF5:
        return initial == 0xF5, position
    if initial == 0xF6:
        return None, position
    raise InvalidRecord("a float, or a simple value other than false, true and null")


def _map(block: bytes, position: int, length: int, depth: int) -> tuple[Record, int]:
    result: Record = {}
    keys = set()
    for _ in range(length):
        major, size, start = _head(block, position)
        if major != 3:
            raise InvalidRecord("map key is not a string")
        key, position = _string(block, start, size)
        if key in keys:
            raise InvalidRecord(f"map key {key[:100]!r} comes twice")
        keys.add(key)
        result[key.replace("\0", "")], position = _value(block, position, depth)
    return result, position


def _array(block: bytes, position: int, length: int, depth: int) -> tuple[list[Any], int]:
    result = []
    for _ in range(length):
        value, position = _value(block, position, depth)
        result.append(value)
    return result, position


def _link(block: bytes, position: int, tag: int) -> tuple[Link, int]:
    if tag != 42:
        raise InvalidRecord(f"tag {tag}; only 42 (CID link) is allowed")
    major, length, position = _head(block, position)
    end = position + length
    if end > len(block):
        raise IndexError
    if major != 2 or length != cids.LENGTH + 1 or block[position]:
        raise InvalidRecord("CID link without its 00 prefix or of another length than 36 bytes")
    link = Link(block[position + 1 : end])
    if not _is_link(link):
        raise InvalidRecord("CID link that is not CIDv1 with SHA-256")
    return link, end
