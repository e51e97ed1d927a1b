"""`app.bsky.feed.post`: a post with its reply references, embeds, mentions. Effects: sql/apply/post.sql.

A post becomes one row of `stage_post`, and rows of the other staging tables for what it embeds, quotes and mentions.
"""

from __future__ import annotations

from typing import Any

from appview_pipeline.indexing.collection import Collection, RecordWrite, Rows
from appview_pipeline.indexing.record_fields import (
    at_uri_collection,
    blob_cid,
    created_at,
    json_or_none,
    strong_ref,
    without_did,
)
from appview_pipeline.store.effects import History, Notifies, Stage, Step

STAGE_POST = Stage(
    "stage_post",
    (
        "uri",
        "cid",
        "creator",
        "rev",
        "text",
        "reply_root",
        "reply_root_cid",
        "reply_parent",
        "reply_parent_cid",
        "created_at",
        "indexed_at",
        "langs",
        "tags",
    ),
)
STAGE_IMAGE = Stage("stage_post_image", ("post_uri", "position", "image_cid", "alt"))
STAGE_GALLERY_IMAGE = Stage("stage_post_gallery_image", ("post_uri", "position", "image_cid", "alt"))
STAGE_EXTERNAL = Stage("stage_post_external", ("post_uri", "uri", "title", "description", "thumb_cid"))
STAGE_VIDEO = Stage("stage_post_video", ("post_uri", "video_cid", "alt"))
STAGE_EMBED_RECORD = Stage("stage_post_record", ("post_uri", "embed_uri", "embed_cid", "is_quote"))
STAGE_MENTION = Stage("stage_post_mention", ("post_uri", "did"))

_IMAGE = "app.bsky.embed.gallery#image"


def check(write: RecordWrite) -> str | None:
    """The URIs of a post's thread and embeds must name DIDs."""
    reply, embed = write.record.get("reply"), write.record.get("embed")
    if reply is None and embed is None:
        return None
    uris = [] if reply is None else [reply["root"]["uri"], reply["parent"]["uri"]]
    if embed is not None:
        uris += _uris_of(embed)
    return without_did(write.collection, *uris)


def _uris_of(embed: dict[str, Any]) -> list[str]:
    """The records that an embed shows."""
    kind = embed.get("$type")
    uris = []
    if kind == "app.bsky.embed.recordWithMedia":
        uris.append(embed["record"]["record"]["uri"])
        embed = embed["media"]
        kind = embed.get("$type")
    elif kind == "app.bsky.embed.record":
        uris.append(embed["record"]["uri"])
    if kind == "app.bsky.embed.external":
        uris += [ref["uri"] for ref in embed["external"].get("associatedRefs") or ()]
    return uris


def stage(write: RecordWrite, rows: Rows) -> None:
    record = write.record
    root = root_cid = parent = parent_cid = None
    if reply := record.get("reply"):
        root, root_cid = strong_ref(reply["root"])
        parent, parent_cid = strong_ref(reply["parent"])
    rows["stage_post"].append(
        (
            write.uri,
            write.cid,
            write.did,
            write.rev,
            record["text"],
            root,
            root_cid,
            parent,
            parent_cid,
            created_at(record),
            write.indexed_at,
            json_or_none(record.get("langs")),
            json_or_none(record.get("tags")),
        )
    )
    for did in _mentions(record):
        rows["stage_post_mention"].append((write.uri, did))
    if embed := record.get("embed"):
        _stage_embed(write.uri, embed, rows)


def _mentions(record: dict[str, Any]) -> dict[str, None]:
    """The DIDs that facets mention, each once, in order."""
    return {
        feature["did"]: None
        for facet in record.get("facets") or ()
        for feature in facet["features"]
        if feature.get("$type") == "app.bsky.richtext.facet#mention"
    }


def _stage_embed(post_uri: str, embed: dict[str, Any], rows: Rows) -> None:
    kind = embed.get("$type")
    if kind == "app.bsky.embed.recordWithMedia":
        _stage_embed_record(post_uri, embed["record"], rows)
        embed = embed["media"]
        kind = embed.get("$type")
    elif kind == "app.bsky.embed.record":
        _stage_embed_record(post_uri, embed, rows)
    if kind == "app.bsky.embed.images":
        rows["stage_post_image"].extend(
            (post_uri, str(position), blob_cid(image["image"]), image["alt"])
            for position, image in enumerate(embed["images"])
        )
    elif kind == "app.bsky.embed.gallery":
        # The union is open: what is no image is skipped, and its position with it.
        rows["stage_post_gallery_image"].extend(
            (post_uri, str(position), blob_cid(item["image"]), item["alt"])
            for position, item in enumerate(embed["items"])
            if item.get("$type") == _IMAGE
        )
    elif kind == "app.bsky.embed.external":
        external = embed["external"]
        rows["stage_post_external"].append(
            (
                post_uri,
                external["uri"],
                external["title"],
                external["description"],
                blob_cid(external.get("thumb")),
            )
        )
    elif kind == "app.bsky.embed.video":
        rows["stage_post_video"].append((post_uri, blob_cid(embed["video"]), embed.get("alt")))


def _stage_embed_record(post_uri: str, embed: dict[str, Any], rows: Rows) -> None:
    uri, cid = strong_ref(embed["record"])
    rows["stage_post_record"].append((post_uri, uri, cid, at_uri_collection(uri or "") == COLLECTION.nsid))


COLLECTION = Collection(
    "app.bsky.feed.post",
    name="post",
    table="post",
    stages=(
        STAGE_POST,
        STAGE_IMAGE,
        STAGE_GALLERY_IMAGE,
        STAGE_EXTERNAL,
        STAGE_VIDEO,
        STAGE_EMBED_RECORD,
        STAGE_MENTION,
    ),
    stage=stage,
    check=check,
    follows=(
        Step("feed", writes="feed_item"),
        Step("count"),
        Step("op_thread", writes="op_thread_reply"),
        Step("add_embeds"),
        Step("add_quotes", writes="quote"),
    ),
    under_lock=(Step("forget"),),
    is_evaluated=True,
    decides_on_posts=True,
    history=History(columns=("root", "parent", "mentions")),
    notifies=Notifies(("reply", "mention", "quote")),
    counters=("post_agg", "profile_agg"),
    misses=("root", "quote", "embed"),
    expires=True,
)
