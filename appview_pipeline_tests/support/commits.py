"""Commits and records in atproto JSON, as tests write them, and the collections that they are of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from appview_pipeline.protocol.syntax import normalize_datetime

POST = "app.bsky.feed.post"
LIKE = "app.bsky.feed.like"
REPOST = "app.bsky.feed.repost"
THREADGATE = "app.bsky.feed.threadgate"
POSTGATE = "app.bsky.feed.postgate"
GENERATOR = "app.bsky.feed.generator"
FOLLOW = "app.bsky.graph.follow"
BLOCK = "app.bsky.graph.block"
LIST = "app.bsky.graph.list"
LISTITEM = "app.bsky.graph.listitem"
LISTBLOCK = "app.bsky.graph.listblock"
OPTOUT = "app.bsky.graph.referencelistoptout"
STARTERPACK = "app.bsky.graph.starterpack"
VERIFICATION = "app.bsky.graph.verification"
PROFILE = "app.bsky.actor.profile"
LABELER = "app.bsky.labeler.service"
DECLARATION = "app.bsky.notification.declaration"


@dataclass(frozen=True)
class Op:
    """An operation of a commit. `action`: create, update, delete; `record` is atproto JSON."""

    action: str
    collection: str
    rkey: str
    cid: str | None = None
    record: dict[str, Any] | None = None


@dataclass(frozen=True)
class Commit:
    """A commit of the stream; `time` is the event's, and so the `indexedAt` of what it writes."""

    did: str
    rev: str
    time: str
    ops: tuple[Op, ...]


@dataclass(frozen=True)
class Record:
    uri: str
    did: str
    collection: str
    rkey: str
    rev: str
    cid: str
    value: dict[str, Any]
    indexed_at: str

    @property
    def created_at(self) -> str:
        return normalize_datetime(self.value.get("createdAt") or "")

    @property
    def sort_at(self) -> str:
        return min(self.created_at, self.indexed_at)


def host_of(uri: str) -> str:
    return uri.split("/")[2]


def collection_of(uri: str) -> str:
    return [*uri.split("/"), "", ""][3]
