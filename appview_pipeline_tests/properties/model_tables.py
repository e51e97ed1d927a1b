"""The tables that follow from the model, in the shape of the conformance data (shared/conformance/golden/README.md)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from appview_pipeline_tests.properties.model import Model, Row
from appview_pipeline_tests.properties.record_rules import embedded, names_list, natural_key, quoted, quoted_ref
from appview_pipeline_tests.support.commits import POSTGATE, REPOST, THREADGATE, Record


def tables_of(model: Model) -> dict[str, Any]:
    """All tables but `actor`, which the model knows nothing of."""
    rows = _rows(model)
    return {
        "notifications": model.all_notifications(),
        "postAgg": _post_agg(rows),
        "profileAgg": _profile_agg(rows),
        "records": [
            {"uri": record.uri, "cid": record.cid, "indexedAt": record.indexed_at} for record in model.records.values()
        ],
        "duplicates": [
            {"uri": uri, "duplicateOf": model.live(key)}
            for key, uris in model.claims.items()
            for uri in uris
            if uri != model.live(key)
        ],
        "rows": {table: found for table, found in rows.items() if found},
    }


def _rows(model: Model) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {"op_thread_reply": [dict(row) for row in model.op_thread.values()]}
    for record in model.records.values():
        if (key := natural_key(record)) and model.live(key) != record.uri:
            continue
        for table, row in rows_of(model, record):
            rows.setdefault(table, []).append(row)
    return rows


def rows_of(model: Model, record: Record) -> Iterator[tuple[str, Row]]:
    """A record's rows, each with its table."""
    value = record.value
    common = {
        "uri": record.uri,
        "cid": record.cid,
        "creator": record.did,
        "createdAt": record.created_at,
        "indexedAt": record.indexed_at,
    }
    sorted_ = {**common, "sortAt": record.sort_at}
    match record.collection:
        case "app.bsky.feed.post":
            yield "post", {**sorted_, **_post_columns(model, record)}
            yield "feed_item", _feed_item(record, "post", record.uri)
            yield from _embeds(record)
            if (subject := quoted(record)) and record.uri not in model.removed_quotes:
                row = {**sorted_, "subject": subject, "subjectCid": quoted_ref(record)["cid"]}
                del row["creator"]
                yield "quote", row
        case "app.bsky.feed.like" | "app.bsky.feed.repost":
            subject, via = value["subject"], value.get("via", {})
            row = {**sorted_, "subject": subject["uri"], "subjectCid": subject["cid"]}
            row |= {"via": via.get("uri"), "viaCid": via.get("cid")}
            yield record.collection.rpartition(".")[2], row
            if record.collection == REPOST and record.uri not in model.removed_reposts:
                yield "feed_item", _feed_item(record, "repost", subject["uri"])
        case "app.bsky.feed.threadgate":
            yield "thread_gate", {**common, "postUri": value["post"]}
        case "app.bsky.feed.postgate":
            yield "post_gate", {**common, "postUri": value["post"]}
        case "app.bsky.graph.follow":
            yield "follow", {**sorted_, "subjectDid": value["subject"]}
        case "app.bsky.graph.block":
            yield "actor_block", {**sorted_, "subjectDid": value["subject"]}
        case "app.bsky.graph.listblock":
            yield "list_block", {**sorted_, "subjectUri": value["subject"]}
        case "app.bsky.graph.referencelistoptout":
            if names_list(value["subject"]):
                yield "reference_list_opt_out", {**sorted_, "subjectUri": value["subject"]}
        case "app.bsky.graph.listitem":
            yield "list_item", {**sorted_, "subjectDid": value["subject"], "listUri": value["list"]}
        case "app.bsky.graph.list":
            row = {**sorted_, "name": value["name"], "purpose": value["purpose"]}
            yield "list", {**row, **_described(value)}
        case "app.bsky.feed.generator":
            row = {**sorted_, "feedDid": value["did"], "displayName": value["displayName"]}
            yield "feed_generator", {**row, **_described(value)}
        case "app.bsky.graph.starterpack":
            yield "starter_pack", {**sorted_, "name": value["name"]}
        case "app.bsky.labeler.service":
            if record.rkey == "self":
                yield "labeler", sorted_
        case "app.bsky.graph.verification":
            row = {**common, "sortedAt": record.sort_at, "rkey": record.rkey}
            row |= {column: value[column] for column in ("subject", "handle", "displayName")}
            yield "verification", row
        case "app.bsky.actor.profile":
            if record.rkey == "self":
                yield (
                    "profile",
                    {
                        **common,
                        "createdAt": value.get("createdAt") or record.indexed_at,
                        "displayName": value.get("displayName"),
                        "description": value.get("description"),
                        "avatarCid": _blob(value.get("avatar")),
                        "bannerCid": _blob(value.get("banner")),
                        "joinedViaStarterPackUri": value.get("joinedViaStarterPack", {}).get("uri"),
                        "pinnedPost": None,
                        "pinnedPostCid": None,
                    },
                )


def _post_columns(model: Model, post: Record) -> Row:
    value, evaluation = post.value, model.evaluations[post.uri]
    reply = value.get("reply") or {"root": {}, "parent": {}}
    return {
        "text": value["text"],
        "replyRoot": reply["root"].get("uri"),
        "replyRootCid": reply["root"].get("cid"),
        "replyParent": reply["parent"].get("uri"),
        "replyParentCid": reply["parent"].get("cid"),
        "langs": value.get("langs") or None,
        "tags": value.get("tags") or None,
        "invalidReplyRoot": evaluation.invalid_root,
        "violatesThreadGate": evaluation.violates_gate,
        "violatesEmbeddingRules": evaluation.violates_embedding,
        "hasThreadGate": model.has_gate(post.uri, THREADGATE),
        "hasPostGate": model.has_gate(post.uri, POSTGATE),
    }


def _feed_item(record: Record, kind: str, post_uri: str) -> Row:
    return {
        "uri": record.uri,
        "cid": record.cid,
        "type": kind,
        "postUri": post_uri,
        "originatorDid": record.did,
        "sortAt": record.sort_at,
    }


def _post_agg(rows: dict[str, list[Row]]) -> dict[str, dict[str, int]]:
    agg: dict[str, dict[str, int]] = {}

    def count(uri: str, what: str) -> None:
        zero = {"likeCount": 0, "repostCount": 0, "replyCount": 0, "quoteCount": 0}
        agg.setdefault(uri, zero)[what] += 1

    for row in rows.get("like", ()):
        count(row["subject"], "likeCount")
    for row in rows.get("repost", ()):
        count(row["subject"], "repostCount")
    for row in rows.get("quote", ()):
        count(row["subject"], "quoteCount")
    for row in rows.get("post", ()):
        if row["replyParent"] is not None and not row["violatesThreadGate"]:
            count(row["replyParent"], "replyCount")
    return agg


def _profile_agg(rows: dict[str, list[Row]]) -> dict[str, dict[str, int]]:
    agg: dict[str, dict[str, int]] = {}

    def count(did: str, what: str) -> None:
        agg.setdefault(did, {"followersCount": 0, "followsCount": 0, "postsCount": 0})[what] += 1

    for row in rows.get("follow", ()):
        count(row["creator"], "followsCount")
        count(row["subjectDid"], "followersCount")
    for row in rows.get("post", ()):
        count(row["creator"], "postsCount")
    return agg


def _embeds(post: Record) -> Iterator[tuple[str, Row]]:
    for embed in embedded(post):
        match embed["$type"]:
            case "app.bsky.embed.record":
                ref = embed["record"]
                yield "post_embed_record", {"postUri": post.uri, "embedUri": ref["uri"], "embedCid": ref["cid"]}
            case "app.bsky.embed.images":
                for position, image in enumerate(embed["images"]):
                    row = {"postUri": post.uri, "position": str(position), "imageCid": _blob(image["image"])}
                    yield "post_embed_image", {**row, "alt": image["alt"]}
            case "app.bsky.embed.gallery":
                for position, image in enumerate(embed["items"]):
                    if image["$type"] == "app.bsky.embed.gallery#image":
                        row = {"postUri": post.uri, "position": str(position), "imageCid": _blob(image["image"])}
                        yield "post_embed_gallery_image", {**row, "alt": image["alt"]}
            case "app.bsky.embed.external":
                external = embed["external"]
                row = {"postUri": post.uri, "thumbCid": _blob(external.get("thumb"))}
                row |= {column: external[column] for column in ("uri", "title", "description")}
                yield "post_embed_external", row
            case "app.bsky.embed.video":
                row = {"postUri": post.uri, "videoCid": _blob(embed["video"]), "alt": embed.get("alt")}
                yield "post_embed_video", row


def _described(value: dict[str, Any]) -> Row:
    facets = value.get("descriptionFacets")
    return {
        "description": value.get("description"),
        "descriptionFacets": orjson.dumps(facets).decode() if facets else None,
        "avatarCid": _blob(value.get("avatar")),
    }


def _blob(blob: dict[str, Any] | None) -> str | None:
    return blob["ref"]["$link"] if blob is not None else None
