"""Commits that arrive before a measured batch, or in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from appview_pipeline.protocol import cid
from appview_pipeline.protocol.syntax import tid_from_micros
from appview_pipeline_tests.support.changes import encode
from appview_pipeline_tests.support.commits import (
    POST,
    Commit,
    Op,
)
from appview_pipeline_tests.support.frames import did_of

START = 1_750_000_000_000_000
WHEN = "2025-06-15T15:06:40.000Z"
PROFILE_PATH = "app.bsky.actor.profile/self"


@dataclass
class Story:
    """Commits in the order of their revs, and when they arrive: before the measured batch, or in it."""

    before: list[Commit] = field(default_factory=list)
    batch: list[Commit] = field(default_factory=list)
    mutes: list[tuple[str, str]] = field(default_factory=list)
    subscriptions: list[tuple[str, str]] = field(default_factory=list)
    moment: int = 0

    def tid(self) -> str:
        """The next rev."""
        self.moment += 1
        return tid_from_micros(START + self.moment * 1_000_000)

    def commit(self, name: str, *ops: tuple[str, str, dict[str, Any] | None]) -> Commit:
        """The next commit of an account; ops are (action, path, record without `$type`)."""
        made = []
        for action, path, value in ops:
            collection, rkey = path.split("/")
            record = {"$type": collection, **value} if value is not None else None
            named = None if record is None else cid.to_text(cid.cid_for_cbor(encode(record)))
            made.append(Op(action, collection, rkey, named, record))
        return Commit(did_of(name), self.tid(), WHEN, tuple(made))

    def post(
        self,
        name: str,
        rkey: str,
        parent: str | None = None,
        root: str | None = None,
        *,
        action: str = "create",
        **more: Any,
    ) -> Commit:
        """A post, or a reply to `parent` in the thread of `root` (default: the parent)."""
        value: dict[str, Any] = {"text": f"{name} {rkey} {self.moment}", "createdAt": WHEN, **more}
        if parent is not None:
            value["reply"] = {"root": ref(root or parent), "parent": ref(parent)}
        return self.commit(name, (action, f"{POST}/{rkey}", value))


SOME_CID = "bafyreiclp443lavogvhj3d2ob2cxbfuscni2k5jk7bebjzg7khl3esabwq"


def ref(uri: str) -> dict[str, str]:
    return {"uri": uri, "cid": SOME_CID}


def uri_of(name: str, path: str) -> str:
    return f"at://{did_of(name)}/{path}"


def post_uri(name: str, rkey: str) -> str:
    return uri_of(name, f"{POST}/{rkey}")


def flip(story: Story, number: int, collection: str, value: dict[str, Any], name: str) -> Commit:
    """A record comes (even numbers) or goes again."""
    path = f"{collection}/f{number // 2}"
    return story.commit(name, ("delete", path, None) if number % 2 else ("create", path, value))
