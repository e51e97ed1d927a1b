"""The lexicons that the product loads, records by them, and validators of small documents."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import pytest

from appview_pipeline.indexing.lexicons import load_documents
from appview_pipeline.protocol import cid
from appview_pipeline.protocol.cbor import Link
from appview_pipeline.protocol.lexicon import compile_lexicons
from appview_pipeline_tests.conformance.reference.plugins import PLUGINS
from appview_pipeline_tests.support.checkout import SHARED

CONFORMANCE = SHARED / "conformance"
needs_conformance = pytest.mark.skipif(
    not CONFORMANCE.is_dir(), reason="the conformance data (../shared/conformance) is not there"
)

MAIN_TYPES = sorted(
    PLUGINS
    | {
        "app.bsky.actor.contentVisibilityDeclaration",
        "com.atproto.lexicon.schema",
        "site.standard.document",
        "site.standard.graph.recommend",
        "site.standard.graph.subscription",
        "site.standard.publication",
        "site.standard.theme.basic",
    }
)
"""The record types that an AppView indexes or keeps: the reference's, and those that it keeps as records only."""

DOCUMENTS = load_documents()
LEXICONS = compile_lexicons(DOCUMENTS)
RAW = Link(cid.cid_for_raw(b"picture"))
NOT_RAW = Link(cid.cid_for_cbor(b"\xa0"))
NOW = "2026-07-04T12:34:56.789Z"
DID = "did:plc:ewvi7nxzyoun6zhxrhs64oiz"
POST_URI = f"at://{DID}/app.bsky.feed.post/3kznmn7xqxl22"
STRONG_REF = {"uri": POST_URI, "cid": cid.to_text(NOT_RAW)}


def reason(record: dict[str, Any]) -> str | None:
    return LEXICONS.record_validator(record["$type"])(record)


def post(**fields: Any) -> dict[str, Any]:
    return {"$type": "app.bsky.feed.post", "text": "hello", "createdAt": NOW, **fields}


def image(**fields: Any) -> dict[str, Any]:
    blob = {"$type": "blob", "ref": RAW, "mimeType": "image/jpeg", "size": 1000}
    return {"alt": "", "image": blob | fields}


def images(*items: dict[str, Any]) -> dict[str, Any]:
    return {"$type": "app.bsky.embed.images", "images": list(items)}


def document(definitions: dict[str, Any], nsid: str = "com.example.thing") -> dict[str, Any]:
    return {"lexicon": 1, "id": nsid, "defs": definitions}


def validator_of(properties: dict[str, Any], **definitions: Any) -> Any:
    record = {"type": "record", "key": "tid", "record": {"type": "object", "properties": properties}}
    return compile_lexicons([document({"main": record, **definitions})]).record_validator("com.example.thing")


def from_json(value: Any) -> Any:
    """JSON form of the data model to what the decoder gives."""
    if isinstance(value, dict):
        if value.keys() == {"$link"}:
            return Link(cid.from_text(value["$link"]))
        if value.keys() == {"$bytes"}:
            return b64decode(value["$bytes"] + "=" * (-len(value["$bytes"]) % 4))
        return {key: from_json(item) for key, item in value.items()}
    return [from_json(item) for item in value] if isinstance(value, list) else value
