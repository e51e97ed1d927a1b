"""What a record says by itself: its natural key, its thread, its gate, its quote, its mentions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from appview_pipeline_tests.support.commits import LIST, POST, POSTGATE, THREADGATE, Record, collection_of, host_of

Key = tuple[str, str, str]


def natural_key(record: Record) -> Key | None:
    """The natural key of a record, where of several records of an account with one key only one counts."""
    value = record.value
    match record.collection:
        case "app.bsky.feed.like" | "app.bsky.feed.repost":
            return record.collection, record.did, value["subject"]["uri"]
        case "app.bsky.graph.follow" | "app.bsky.graph.block" | "app.bsky.graph.listblock":
            return record.collection, record.did, value["subject"]
        case "app.bsky.graph.referencelistoptout" if names_list(value["subject"]):
            return record.collection, record.did, value["subject"]
        case "app.bsky.graph.verification":
            return record.collection, record.did, value["subject"]
        case "app.bsky.graph.listitem":
            return record.collection, value["list"], value["subject"]
    return None


def is_refused(uri: str, value: dict[str, Any] | None) -> bool:
    """Whether a gate is refused: it must name a post of its own account, and have the post's record key."""
    if value is None or collection_of(uri) not in (THREADGATE, POSTGATE):
        return False
    return (host_of(value["post"]), value["post"].rpartition("/")[2]) != (host_of(uri), uri.rpartition("/")[2])


def names_list(uri: str) -> bool:
    return host_of(uri).startswith("did:") and uri.split("/")[3:4] == [LIST] and uri.count("/") == 4


def gate_of(post_uri: str, collection: str) -> str:
    """The gate of a post lies under the post's own record key."""
    return f"at://{host_of(post_uri)}/{collection}/{post_uri.rpartition('/')[2]}"


def thread_gate_of(root_uri: str) -> str:
    """The URI of a thread's gate; a root that is no post stands for its own gate, as in the reference."""
    return gate_of(root_uri, THREADGATE) if collection_of(root_uri) == POST else root_uri


def parent_of(post: Record) -> str | None:
    return post.value["reply"]["parent"]["uri"] if "reply" in post.value else None


def mentioned(post: Record) -> list[str]:
    """The DIDs that facets mention, in order."""
    return [
        feature["did"]
        for facet in post.value.get("facets", ())
        for feature in facet["features"]
        if feature["$type"] == "app.bsky.richtext.facet#mention"
    ]


def embedded(post: Record) -> Iterator[dict[str, Any]]:
    """A post's embed; of a record with media both, the record first."""
    embed = post.value.get("embed")
    if embed is None:
        return
    if embed["$type"] == "app.bsky.embed.recordWithMedia":
        yield {"$type": "app.bsky.embed.record", **embed["record"]}
        yield embed["media"]
    else:
        yield embed


def quoted_ref(post: Record) -> dict[str, str]:
    """URI and CID of the quoted post; empty when there is none."""
    for embed in embedded(post):
        if embed["$type"] == "app.bsky.embed.record" and collection_of(embed["record"]["uri"]) == POST:
            return {"uri": embed["record"]["uri"], "cid": embed["record"]["cid"]}
    return {}


def quoted(post: Record) -> str | None:
    """URI of the post that a post quotes."""
    return quoted_ref(post).get("uri")
