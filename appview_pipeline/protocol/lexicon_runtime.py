"""What the generated validators (`lexicon_source.py`) call: lengths, string formats, blobs, values of any kind."""

from __future__ import annotations

from typing import Any

from appview_pipeline.protocol import graphemes
from appview_pipeline.protocol.cbor import Link
from appview_pipeline.protocol.lexicon_formats import FORMATS, USUAL

SAFE_INTEGER = 2**53 - 1
_RAW_SHA256 = b"\x01\x55\x12\x20"
_BLOB_FIELDS = frozenset({"$type", "ref", "mimeType", "size"})


def _utf8_length(text: str) -> int:
    """Length in UTF-8; a lone surrogate, which no decoder of ours lets through, counts as the three bytes it fills."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _blob_reason(value: Any) -> str | None:
    """Why a value is no blob; None if it is one (a legacy blob, of `cid` and `mimeType`, is none)."""
    if type(value) is not dict or value.get("$type") != "blob":
        return " is not a blob"
    if value.keys() != _BLOB_FIELDS:
        return " is a blob with fields missing or too many"
    mime_type, size, ref = value["mimeType"], value["size"], value["ref"]
    if type(mime_type) is not str or "/" not in mime_type or "\0" in mime_type:
        return ".mimeType is not a MIME type"
    if type(size) is not int or not 0 <= size <= SAFE_INTEGER:
        return ".size is not a size"
    if type(ref) is not Link or len(ref) != 36 or not ref.startswith(_RAW_SHA256):
        return ".ref is not a CID link to raw bytes"
    return None


def _unknown_reason(value: Any) -> str | None:
    """Why a value is no object of the data model; None if it is one."""
    if type(value) is not dict:
        return " is not an object"
    # A stack of our own: depth is bounded by the record's size alone.
    unseen: list[Any] = [value]
    while unseen:
        item = unseen.pop()
        kind = type(item)
        if kind is dict:
            unseen.extend(item.values())
        elif kind is list:
            unseen.extend(item)
        elif kind is int:
            if not -SAFE_INTEGER <= item <= SAFE_INTEGER:
                return " holds an integer of more than 53 bits"
        elif kind not in _OTHER_DATA:
            return f" holds a {kind.__name__}, which the data model does not have"
    return None


_OTHER_DATA = frozenset({str, bool, type(None), bytes, Link})


def function_name(prefix: str, format_: str) -> str:
    """The name under which generated functions call the check of a string format."""
    return f"{prefix}_{format_.replace('-', '_')}"


RUNTIME: dict[str, Any] = {
    "Link": Link,
    "utf8_length": _utf8_length,
    "graphemes": graphemes.count,
    "blob": _blob_reason,
    "unknown": _unknown_reason,
    **{function_name("is", format_): check for format_, check in FORMATS.items()},
    **{function_name("usual", format_): check for format_, check in USUAL.items()},
}
"""The names that generated functions know."""
