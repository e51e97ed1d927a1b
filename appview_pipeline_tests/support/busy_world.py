"""A stream in which everything happens often: few accounts, all kinds of records, many edits and duplicates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import libipld

from appview_pipeline_tests.simulated_network import content
from appview_pipeline_tests.simulated_network.repository import Write
from appview_pipeline_tests.simulated_network.world import Author, World
from appview_pipeline_tests.support.frames import START

_OFTEN = (
    *("like", "like", "post", "post", "post", "repost", "follow", "unfollow", "delete", "edit", "block", "foreign"),
    *("profile", "list", "list_item", "list_item", "list_block", "generator", "starter_pack", "verification"),
    *("status", "labeler", "chat_declaration", "notification_declaration", "duplicate", "duplicate", "again", "undo"),
    *("gate", "gate", "list_opt_out"),
)


class BusyWorld(World):
    """Few accounts; all kinds of records about equally often; many deletions, edits, duplicates and returns.

    `acts`: what a commit does, each about equally often.
    """

    acts: ClassVar[tuple[str, ...]] = _OFTEN

    def __init__(self, seed: int = 7, accounts: int = 12, *, p256_share: float = 0.0) -> None:
        super().__init__(seed, accounts, start=START / 1e6, rate=1.0, pasts=(), p256_share=p256_share)
        self.deleted: dict[str, list[Write]] = {}

    def _commit(self) -> list[bytes]:
        author = self._somebody_active()
        act = getattr(self, f"_{self.rng.choice(self.acts)}")(author) or self._post(author)
        gone = [
            Write("create", write.path, libipld.decode_dag_cbor(author.repository.get(write.path)[1]))  # type: ignore[index]
            for write in act
            if write.action == "delete"
        ]
        self.deleted.setdefault(author.did, []).extend(gone)
        return self._commit_frames(author, act)

    def _duplicate(self, author: Author) -> list[Write] | None:
        """A duplicate of an earlier record."""
        paths = [
            path
            for path in author.repository.own
            if path.split("/")[0].rsplit(".", 1)[1]
            in ("like", "repost", "follow", "block", "listitem", "listblock", "verification")
        ]
        if not paths:
            return None
        path = self.rng.choice(sorted(paths))
        return self._create(author, libipld.decode_dag_cbor(author.repository.own[path][1]))

    def _list_opt_out(self, author: Author) -> list[Write] | None:
        """The author does not want to be on a reference list."""
        found = self._some_curated("app.bsky.graph.list")
        if found is None:
            return None
        record = {"$type": "app.bsky.graph.referencelistoptout", "subject": found.uri, "createdAt": self._when()}
        return self._create(author, record)

    def _gate(self, author: Author) -> list[Write] | None:
        """A gate for a post of the author's own; an existing gate is replaced."""
        posts = sorted(path for path in author.repository.own if path.startswith("app.bsky.feed.post/"))
        if not posts:
            return None
        rkey = self.rng.choice(posts).split("/")[1]
        uri = author.uri("app.bsky.feed.post", rkey)
        if self.rng.random() < 0.5:
            record = content.post_gate(self.rng, uri, self._when())
        else:
            lists = author.curated.get("app.bsky.graph.list", ())
            record = content.thread_gate(self.rng, uri, self._when(), lists)
        path = f"{record['$type']}/{rkey}"
        found = author.repository.get(path)
        if found and found[1] == libipld.encode_dag_cbor(record):
            return None
        return [Write("update" if found else "create", path, record)]

    def _undo(self, author: Author) -> list[Write] | None:
        """The deletion of any record."""
        paths = sorted(author.repository.own)
        return [Write("delete", self.rng.choice(paths), None)] if paths else None

    def _again(self, author: Author) -> list[Write] | None:
        """A deleted record comes back under its old key."""
        while gone := self.deleted.get(author.did):
            write = gone.pop(self.rng.randrange(len(gone)))
            if author.repository.get(write.path) is None:
                return [write]
        return None


def busy_frames(count: int = 600, seed: int = 7) -> Iterator[bytes]:
    """Frames of such a world, the same for the same arguments; some #account, #identity and #sync among them."""
    return BusyWorld(seed).frames(count)
