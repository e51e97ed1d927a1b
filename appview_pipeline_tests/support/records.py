"""Records of every collection; records with an AT URI in every field that readers of the database parse."""

from __future__ import annotations

from typing import Any

import libipld

from appview_pipeline.protocol.cid import cid_for_cbor, to_text
from appview_pipeline_tests.simulated_network.repository import Write
from appview_pipeline_tests.support.frames import WHEN, Person, create, post


def strong_ref(uri: str) -> dict[str, str]:
    """A reference to a record, whatever it holds."""
    return {"uri": uri, "cid": to_text(cid_for_cbor(b"x"))}


def one_of_each(ann: Person) -> list[Write]:
    """A record of every collection that has rows of its own."""
    strong = strong_ref(ann.uri("app.bsky.feed.post/a"))
    members, dated = ann.uri("app.bsky.graph.list/a"), {"createdAt": WHEN}
    return [
        post("a", "x"),
        create("app.bsky.feed.like/a", {"subject": strong, **dated}),
        create("app.bsky.feed.repost/a", {"subject": strong, **dated}),
        create("app.bsky.feed.threadgate/a", {"post": strong["uri"], **dated}),
        create("app.bsky.feed.postgate/a", {"post": strong["uri"], **dated}),
        create("app.bsky.feed.generator/a", {"did": ann.did, "displayName": "x", **dated}),
        create("app.bsky.graph.follow/a", {"subject": ann.did, **dated}),
        create("app.bsky.graph.block/a", {"subject": ann.did, **dated}),
        create("app.bsky.graph.list/a", {"name": "x", "purpose": "app.bsky.graph.defs#curatelist", **dated}),
        create("app.bsky.graph.listitem/a", {"list": members, "subject": ann.did, **dated}),
        create("app.bsky.graph.listblock/a", {"subject": members, **dated}),
        create("app.bsky.graph.starterpack/a", {"name": "x", "list": members, **dated}),
        create("app.bsky.graph.verification/a", {"subject": ann.did, "handle": "a.test", "displayName": "x", **dated}),
        create("app.bsky.actor.profile/self", {"displayName": "x"}),
        create("app.bsky.actor.status/self", {"status": "app.bsky.actor.status#live", **dated}),
        create("app.bsky.labeler.service/self", {"policies": {"labelValues": []}, **dated}),
        create("chat.bsky.actor.declaration/self", {"allowIncoming": "all"}),
        create("app.bsky.notification.declaration/self", {"allowSubscriptions": "none"}),
    ]


def posts_with(uri: str) -> list[dict[str, Any]]:
    """Posts with an AT URI in every field that readers parse."""
    strong = {"uri": uri, "cid": to_text(cid_for_cbor(b"x"))}
    fine = {"uri": "at://did:plc:" + "a" * 24 + "/app.bsky.feed.post/a", "cid": strong["cid"]}
    said = {"$type": "app.bsky.feed.post", "text": "x", "createdAt": WHEN}
    quote = {"$type": "app.bsky.embed.record", "record": strong}
    external = {"uri": "https://example.com", "title": "", "description": "", "associatedRefs": [fine, strong]}
    link = {"$type": "app.bsky.embed.external", "external": external}
    with_media = {"$type": "app.bsky.embed.recordWithMedia"}
    return [
        {**said, "reply": {"root": strong, "parent": strong}},
        {**said, "reply": {"root": strong, "parent": fine}},
        {**said, "reply": {"root": fine, "parent": strong}},
        {**said, "embed": quote},
        {**said, "embed": {**with_media, "record": {"record": strong}, "media": {"$type": "com.example.media"}}},
        {**said, "embed": link},
        {**said, "embed": {**with_media, "record": {"record": fine}, "media": link}},
    ]


def records_with(ann: Person, uri: str) -> list[dict[str, Any]]:
    """Records of other collections with an AT URI in a field that readers parse."""
    strong = {"uri": uri, "cid": to_text(cid_for_cbor(b"x"))}
    fine, dated = ann.uri("app.bsky.graph.list/l"), {"createdAt": WHEN}
    rule = {"$type": "app.bsky.feed.threadgate#listRule", "list": uri}
    pack = {"$type": "app.bsky.graph.starterpack", "name": "x", **dated}
    return [
        {"$type": "app.bsky.feed.repost", "subject": strong, **dated},
        {"$type": "app.bsky.feed.threadgate", "post": ann.uri("app.bsky.feed.post/bad"), "allow": [rule], **dated},
        {**pack, "list": uri},
        {**pack, "list": fine, "feeds": [{"uri": uri}]},
        {"$type": "app.bsky.actor.profile", "pinnedPost": strong},
        {"$type": "app.bsky.actor.profile", "joinedViaStarterPack": strong},
    ]


UNREADABLE_DIDS = ["did:web:a_b.example", "did:web:a.example%3A80", "did:x:_", "did:x:%25."]


def block_of(**fields: Any) -> bytes:
    """A post's block; `fields` override what it has."""
    record = {"$type": "app.bsky.feed.post", "text": "x", "createdAt": WHEN, **fields}
    return bytes(libipld.encode_dag_cbor({key: value for key, value in record.items() if value is not None}))


def without_odd_keys(value: Any) -> Any:
    if isinstance(value, list):
        return [without_odd_keys(item) for item in value]
    if isinstance(value, dict):
        return {key: without_odd_keys(item) for key, item in value.items() if "\0" not in key and key != "__proto__"}
    return value


NOWHERE = to_text(cid_for_cbor(b"nothing"))


def ref(uri: str) -> dict[str, str]:
    return {"uri": uri, "cid": NOWHERE}


def like(rkey: str, uri: str, **more: Any) -> Write:
    return create(f"app.bsky.feed.like/{rkey}", {"subject": ref(uri), "createdAt": WHEN, **more})
