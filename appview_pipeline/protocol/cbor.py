"""Record blocks: strict decoding of DRISL (the DAG-CBOR of the AT Protocol) into Python and into JSON.

A record is a map of strings, integers within 53 bits, booleans, null, arrays, maps, byte strings and CID links
(https://atproto.com/specs/data-model). Anything else, floats above all, makes the block invalid. Two decoders:

- `libipld` for the many records that hold neither links nor bytes. It accepts floats, big integers and any depth; the
  block's bytes and the JSON show those at almost no cost.
- `decode_exact`, written here, for every block where libipld's result may be ambiguous (it gives links and byte strings
  both as `bytes`), too lenient or too strict. It is the definition; the fast decoder must agree with it.

Two rules of DRISL are not enforced: keys in order (the reference does not enforce it either), and lengths and integers
in their shortest form. Such a block has one meaning all the same, and its CID is that of the bytes as sent.

Text and keys that can't be stored or read are left out, and never in a way that gives a key of the record another
value:

- U+0000 is dropped from text, because PostgreSQL stores none in text or jsonb. The record as sent is kept beside the
  cleaned one (`decode_as_sent`), because text that is no identifier must not become one.
- A map key that holds U+0000, or is `__proto__`, is left out with its value, at any depth: without its U+0000 it could
  be another key, and readers written in JavaScript refuse `__proto__`.
- A record is refused where either would change a map with a key `$link` or `$bytes`: it could become a link or bytes.
"""

from __future__ import annotations

import json as standard_json
from base64 import b64encode
from typing import Any

import orjson
from libipld import decode_dag_cbor

from appview_pipeline.protocol import cid as cids

MAX_RECORD = 1_000_000
"""Bytes of a record block (specification)."""
MAX_DEPTH = 512
"""Levels of maps and arrays, the record itself being the first. The data validation guide recommends 32 to servers, and
the reference has no limit of its own; this one keeps Python and PostgreSQL far from the limits of their recursion."""
MAX_ENVELOPE_VALUES = 20_000
"""Limit of the values in a frame, CAR header or commit object that libipld refuses; 200 operations are some 2,000."""
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
    """Links and byte strings, which orjson doesn't know, in the protocol's JSON form."""
    if isinstance(value, Link):
        return {"$link": cids.to_text(value)}
    if isinstance(value, bytes):
        return {"$bytes": b64encode(value).rstrip(b"=").decode("ascii")}
    raise TypeError(f"a record holds no {type(value).__name__}")


def decode_record_json(block: bytes) -> tuple[Record, str]:
    """A record block as Python value and as JSON text, both cleaned (see above). Raises InvalidRecord.

    In the JSON, links are `{"$link": "bafy..."}` and byte strings `{"$bytes": "<base64 without padding>"}`.
    """
    record, json, _ = decode_as_sent(block)
    return record, json


def decode_as_sent(block: bytes) -> tuple[Record, str, Record | None]:
    """The results of `decode_record_json`, and the record with the U+0000 in its text as sent; None without any.

    Raises InvalidRecord.
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
        # A byte string, an integer past 53 bits, a float, depth: only the exact decoder distinguishes them.
        return _exactly(block)
    if "\\u0000" in json or '"__proto__"' in json:
        return _exactly(block)
    return record, json, None


class _Doubt(Exception):
    """The fast decoder's result is ambiguous."""


def _mark_links(values: Any, block: bytes) -> None:
    """Replaces the links in libipld's result by `Link`, in place. Raises _Doubt at floats and at bytes that are not
    certainly links."""
    for key, value in values.items() if type(values) is dict else enumerate(values):
        kind = type(value)
        if kind is dict or kind is list:
            _mark_links(value, block)
        elif kind is bytes:
            # Were one of these a byte string, its length would stand before it, and not the tag and prefix of a link.
            if not is_link(value) or block.count(value) != block.count(_LINK_HEAD + value):
                raise _Doubt
            values[key] = Link(value)
        elif kind is float:
            raise _Doubt


def is_link(cid: bytes) -> bool:
    """Whether bytes are a CIDv1 with SHA-256, of any codec with a number below 128."""
    return len(cid) == cids.LENGTH and cid[0] == 1 and cid[1] < 128 and cid[2:4] == b"\x12\x20"


def _link_json(value: object) -> dict[str, str]:
    if type(value) is Link:
        return {"$link": cids.to_text(value)}
    raise TypeError


def _exactly(block: bytes) -> tuple[Record, str, Record | None]:
    values = _Decoder(block, keep_nul=True)
    as_sent = values.record()
    if not values.has_nul:
        return as_sent, record_json(as_sent), None
    record = decode_exact(block)
    return record, record_json(record), as_sent


def decode_record(block: bytes) -> Record:
    """A record block as Python value, cleaned; links are `Link`. Raises InvalidRecord."""
    return decode_record_json(block)[0]


def record_json(record: Record) -> str:
    """JSON of a decoded record, as `decode_record_json` gives it."""
    try:
        return orjson.dumps(record, _plain, _JSON).decode()
    except orjson.JSONEncodeError:
        # Nested deeper than the 254 levels that orjson writes. The standard library writes the same text.
        return standard_json.dumps(record, default=_plain, ensure_ascii=False, separators=(",", ":"))


def as_lexicon(record: Record) -> Record:
    """The record as lexicon validators take it: `isinstance(value, Link)` distinguishes a CID link from a byte string
    (`bytes` that is no `Link`)."""
    return record


# --- the exact decoder -----------------------------------------------------------------------------------------------


def decode_exact(block: bytes) -> Record:
    """Decodes a block with every rule checked, and cleans it. Raises InvalidRecord.

    Refused: floats, integers past 53 bits, simple values other than false, true and null, tags other than 42, links
    that are not CIDv1 with SHA-256, map keys that are no strings or come twice, indefinite lengths, invalid UTF-8, more
    than 512 levels, bytes after the end.
    """
    return _Decoder(block).record()


def decode_envelope(block: bytes) -> Any:
    """The one value of a CAR's header or a commit object, map keys in any order. Raises InvalidRecord."""
    try:
        return decode_dag_cbor(block)
    except (ValueError, RecursionError):
        values = decode_unordered(block)
    if len(values) != 1:
        raise InvalidRecord(f"{len(values)} values instead of one")
    return values[0]


def decode_unordered(data: bytes, limit: int = 1) -> list[Any]:
    """The values that follow one another in a frame, a CAR's header or a commit object that libipld refuses.

    It refuses them because keys are not in canonical order, or for a better reason. Links and byte strings are both
    `bytes`.

    Returns at most one value more than `limit`. Raises InvalidRecord, also for a key that comes twice.
    """
    return _Decoder(data, is_envelope=True).values(limit)


class _Decoder:
    """Reads values from a block, without recursion, which a block could exhaust.

    `keep_nul`: leaves U+0000 in text; `has_nul` then says whether there was any. `is_envelope`: links are plain bytes,
    nothing is left out, and the number of values is limited.
    """

    def __init__(self, block: bytes, *, keep_nul: bool = False, is_envelope: bool = False) -> None:
        self._block = block
        self._position = 0
        self._keeps_nul = keep_nul or is_envelope
        self._is_envelope = is_envelope
        self._left = MAX_ENVELOPE_VALUES if is_envelope else len(block)
        self.has_nul = False

    def record(self) -> Record:
        """The block as one record. Raises InvalidRecord."""
        value = self._checked()
        if self._position != len(self._block):
            raise InvalidRecord(f"{len(self._block) - self._position} bytes follow the record")
        if not isinstance(value, dict):
            raise InvalidRecord("not a map")
        return value

    def values(self, limit: int) -> list[Any]:
        """The values that make up the block, stopping one after `limit`. Raises InvalidRecord."""
        found: list[Any] = []
        while self._position < len(self._block) and len(found) <= limit:
            found.append(self._checked())
        return found

    def _checked(self) -> Any:
        try:
            return self._nested()
        except IndexError:
            raise InvalidRecord("ends too early") from None
        except UnicodeDecodeError as error:
            raise InvalidRecord(f"text is not UTF-8: {error.reason}") from None

    def _nested(self) -> Any:
        """The value at the position, with all that it contains."""
        value, length = self._value()
        if length is None:
            return value
        top = value
        open_containers = [_Open(value, length)]
        while open_containers:
            container = open_containers[-1]
            if not container.left:
                open_containers.pop()
                self._close(container)
                continue
            container.left -= 1
            key = self._key(container) if type(container.value) is dict else None
            had_nul, self.has_nul = self.has_nul, False
            value, length = self._value()
            container.is_cleaned |= self.has_nul and not self._keeps_nul
            self.has_nul |= had_nul
            if key is None:
                container.value.append(value)
            elif self._is_envelope or not ("\0" in key or key == "__proto__"):
                container.value[key] = value
            else:
                container.is_cleaned = True
            if length is not None:
                if len(open_containers) == MAX_DEPTH:
                    raise InvalidRecord(f"nested deeper than {MAX_DEPTH} levels")
                open_containers.append(_Open(value, length))
        return top

    def _close(self, container: _Open) -> None:
        value = container.value
        if container.is_cleaned and type(value) is dict and ("$link" in value or "$bytes" in value):
            raise InvalidRecord("a map with a key $link or $bytes holds something that can't be stored")

    def _key(self, container: _Open) -> str:
        major, size = self._head()
        if major != 3:
            raise InvalidRecord("map key is not a string")
        key = self._text(size)
        if key in container.keys:
            raise InvalidRecord(f"map key {key[:100]!r} comes twice")
        container.keys.add(key)
        return key

    def _head(self) -> tuple[int, int]:
        """Major type and argument. IndexError at the end of the block."""
        position = self._position
        initial = self._block[position]
        argument = initial & 31
        end = position + 1
        if argument > 27:
            raise InvalidRecord("indefinite or reserved length")
        if argument >= 24:
            end += 1 << (argument - 24)
            if end > len(self._block):
                raise IndexError
            argument = int.from_bytes(self._block[position + 1 : end], "big")
        self._position = end
        return initial >> 5, argument

    def _bytes(self, length: int) -> bytes:
        end = self._position + length
        if end > len(self._block):
            raise IndexError
        found = self._block[self._position : end]
        self._position = end
        return found

    def _text(self, length: int) -> str:
        return self._bytes(length).decode("utf-8")

    def _value(self) -> tuple[Any, int | None]:
        """The value at the position; of an array or a map an empty one and the number of entries that follow."""
        self._left -= 1
        if self._left < 0:
            raise InvalidRecord("too many values")
        initial = self._block[self._position]
        major, argument = self._head()
        if major == 3:
            text = self._text(argument)
            if "\0" in text:
                self.has_nul = True
                if not self._keeps_nul:
                    text = text.replace("\0", "")
            return text, None
        if major == 5 or major == 4:
            if argument > len(self._block) - self._position:
                raise IndexError  # before anything is built
            return ({} if major == 5 else []), argument
        if major == 0 or major == 1:
            number = argument if major == 0 else -1 - argument
            if not -MAX_INTEGER <= number <= MAX_INTEGER:
                raise InvalidRecord("integer beyond 53 bits")
            return number, None
        if major == 2:
            return self._bytes(argument), None
        if major == 6:
            return self._link(argument), None
        if initial == 0xF4 or initial == 0xF5:
            return initial == 0xF5, None
        if initial == 0xF6:
            return None, None
        raise InvalidRecord("a float, or a simple value other than false, true and null")

    def _link(self, tag: int) -> bytes:
        if tag != 42:
            raise InvalidRecord(f"tag {tag}; only 42 (CID link) is allowed")
        major, length = self._head()
        value = self._bytes(length)
        if major != 2 or length != cids.LENGTH + 1 or value[0]:
            raise InvalidRecord("CID link without its 00 prefix or of another length than 36 bytes")
        link = Link(value[1:])
        if not is_link(link):
            raise InvalidRecord("CID link that is not CIDv1 with SHA-256")
        return bytes(link) if self._is_envelope else link


class _Open:
    """An array or a map that is being read: `left` entries to come, the keys seen, whether something was left out."""

    __slots__ = ("is_cleaned", "keys", "left", "value")

    def __init__(self, value: Any, left: int) -> None:
        self.value = value
        self.left = left
        self.keys: set[str] = set()
        self.is_cleaned = False
