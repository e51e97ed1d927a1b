"""Readings of record fields that several collections share."""

from __future__ import annotations

from typing import Any

import orjson

from appview_pipeline.protocol.cid import to_text
from appview_pipeline.protocol.syntax import normalize_datetime


def created_at(record: dict[str, Any]) -> str:
    """The record's own time, as UTC with milliseconds; 1970-01-01 when it can't be read."""
    return normalize_datetime(record.get("createdAt") or "")


def blob_cid(blob: Any) -> str | None:
    """The CID of a blob reference in text form, None without one."""
    if isinstance(blob, dict) and isinstance(blob.get("ref"), bytes):
        return to_text(blob["ref"])
    return None


def strong_ref(ref: Any) -> tuple[str | None, str | None]:
    """The (uri, cid) of a `com.atproto.repo.strongRef`, both None without one."""
    if isinstance(ref, dict):
        return ref.get("uri"), ref.get("cid")
    return None, None


def json_or_none(value: Any) -> str | None:
    """JSON text of a non-empty value, None of an empty or absent one."""
    return orjson.dumps(value).decode() if value else None


def at_uri_host(uri: str) -> str:
    """The authority of an AT-URI: `at://HOST/...`."""
    return uri[5:].partition("/")[0]


def at_uri_collection(uri: str) -> str:
    """The collection of an AT-URI, empty when it names none."""
    parts = uri.split("/", 4)
    return parts[3] if len(parts) > 3 else ""


def without_did(collection: str, *uris: str) -> str | None:
    """Why readers could not show a record with these (valid) AT URIs: one of them names a handle in place of a DID.

    Readers take the DID of the account out of the URI, and fail on every page with the record where there is none.
    """
    for uri in uris:
        if not uri.startswith("at://did:"):
            return f"{collection}: {uri[:200]} names no DID"
    return None


def gates_its_own_post(collection: str, post_uri: str, did: str, rkey: str) -> str | None:
    """Why a gate record may not gate `post_uri`: only the post's author may, under the post's record key."""
    if at_uri_host(post_uri) != did:
        return f"{collection}: the gate's repository is not that of its post {post_uri}"
    if post_uri.rpartition("/")[2] != rkey:
        return f"{collection}: the gate's record key is not that of its post {post_uri}"
    return None
