"""Back from the JSON form of a record to its decoded form (https://atproto.com/specs/data-model#json-representation)."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import orjson

from appview_pipeline.protocol.cbor import Link, Record
from appview_pipeline.protocol.cid import from_text


def record_from_json(text: str) -> Record:
    """A record as `cbor.decode_record` gave it, from the JSON that `cbor.record_json` made of it.

    Raises ValueError for text that no record was made into.
    """
    record = orjson.loads(text)
    if '"$link"' in text or '"$bytes"' in text:
        record = _decoded(record)
    if not isinstance(record, dict):
        raise ValueError("not a record")
    return record


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        if isinstance(link := value.get("$link"), str):
            return Link(from_text(link))
        if isinstance(encoded := value.get("$bytes"), str):
            return b64decode(encoded + "=" * (-len(encoded) % 4))
    return {key: _decoded(item) for key, item in value.items()}
