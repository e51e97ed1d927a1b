"""What clients must be shown of a network, by what its accounts wrote: the views of the AppView's HTTP API.

A view is reduced to what the index decides: which records, in which order, with which counts and states. The rows come
from the model (properties/model.py, model_tables.py), which has read the network's commits and no database. The rules
of showing (who is hidden from whom) are those of the reference's API.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from appview_pipeline_tests.properties.model import Model, Row
from appview_pipeline_tests.properties.model_tables import tables_of
from appview_pipeline_tests.properties.record_rules import embedded, gate_of
from appview_pipeline_tests.support.commits import LABELER, LIST, POST, PROFILE, THREADGATE, Record, host_of

Label = tuple[str, str]
"""The labeler and the value of a label."""

MODLIST, CURATELIST, REFERENCELIST = (f"app.bsky.graph.defs#{kind}list" for kind in ("mod", "curate", "reference"))


class Profile(NamedTuple):
    """A profile in detail. `lists`, `feeds`, `packs`: how many the account has made."""

    did: str
    handle: str
    name: str | None
    description: str | None
    followers: int
    follows: int
    posts: int
    lists: int
    feeds: int
    packs: int
    is_labeler: bool


class Relation(NamedTuple):
    """How a viewer and an account stand: URIs of the viewer's follow and block and of the account's follow."""

    following: str | None
    followed_by: str | None
    blocking: str | None
    is_blocked: bool


class Counts(NamedTuple):
    """The counters of a post."""

    replies: int
    reposts: int
    likes: int
    quotes: int


class Item(NamedTuple):
    """A post in a feed, and the repost that brought it there."""

    post: str
    repost: str | None


class Thread(NamedTuple):
    """A post with the replies below it, in their order; None: a post that the viewer may not see."""

    uri: str
    replies: tuple[Thread | None, ...] = ()


class Notified(NamedTuple):
    """A notification."""

    reason: str
    record: str
    author: str
    subject: str | None
    at: str


def newest_first(rows: Iterable[Row]) -> list[Row]:
    """Rows in the order of nearly all lists: the newest first, then by CID."""
    return sorted(rows, key=lambda row: (row["sortAt"], row["cid"]), reverse=True)


@dataclass
class Views:
    """The views of a network. `handles`: of all accounts; `hidden`: those that are inactive or taken down; `taken`:
    URIs of records that are taken down; `labels`: by subject."""

    model: Model
    handles: dict[str, str]
    hidden: Collection[str] = ()
    taken: Collection[str] = ()
    labels: dict[str, set[Label]] = field(default_factory=dict)

    @cached_property
    def _tables(self) -> dict[str, Any]:
        return tables_of(self.model)

    def rows(self, table: str) -> list[Row]:
        """The rows of a table."""
        found: list[Row] = self._tables["rows"].get(table, [])
        return found

    @cached_property
    def posts(self) -> dict[str, Row]:
        """The rows of posts by URI."""
        return {row["uri"]: row for row in self.rows("post")}

    @cached_property
    def _blocks(self) -> dict[tuple[str, str], str]:
        return {(row["creator"], row["subjectDid"]): row["uri"] for row in self.rows("actor_block")}

    @cached_property
    def _follows(self) -> dict[tuple[str, str], str]:
        return {(row["creator"], row["subjectDid"]): row["uri"] for row in self.rows("follow")}

    # ---- who sees whom

    def exists(self, did: str) -> bool:
        """Whether an account is shown at all."""
        return did in self.handles and did not in self.hidden

    def _is_shown(self, uri: str) -> bool:
        """Whether a record of any kind is there and its account is shown."""
        return uri in self.model.records and uri not in self.taken and self.exists(host_of(uri))

    def apart(self, one: str | None, other: str) -> bool:
        """Whether one of the two blocks the other. None: nobody, whom no account blocks."""
        return one is not None and one != other and ((one, other) in self._blocks or (other, one) in self._blocks)

    def relation(self, viewer: str, did: str) -> Relation:
        """How they stand. Where one blocks the other, follows are not shown."""
        if viewer == did:
            return Relation(None, None, None, False)
        blocking, is_blocked = self._blocks.get((viewer, did)), (did, viewer) in self._blocks
        if blocking or is_blocked:
            return Relation(None, None, blocking, is_blocked)
        return Relation(self._follows.get((viewer, did)), self._follows.get((did, viewer)), None, False)

    # ---- accounts

    def _of(self, table: str, did: str) -> list[Row]:
        return [row for row in self.rows(table) if row["creator"] == did]

    def profile(self, did: str) -> Profile:
        """An account."""
        record = self.model.records.get(f"at://{did}/{PROFILE}/self")
        value = record.value if record else {}
        counts = self._tables["profileAgg"].get(did, {"followersCount": 0, "followsCount": 0, "postsCount": 0})
        # The reference counts what an account made only where it has one of the three counters.
        made = [len(self._of(table, did)) for table in ("list", "feed_generator", "starter_pack")]
        lists, feeds, packs = made if did in self._tables["profileAgg"] else (0, 0, 0)
        return Profile(
            did,
            self.handles[did],
            value.get("displayName"),
            value.get("description") or None,
            counts["followersCount"],
            counts["followsCount"],
            counts["postsCount"],
            lists,
            feeds,
            packs,
            is_labeler=f"at://{did}/{LABELER}/self" in self.model.records,
        )

    def labels_of(self, *subjects: str, by: Collection[str]) -> set[Label]:
        """The labels of subjects by these labelers, and those that the records give themselves."""
        found = {label for subject in subjects for label in self.labels.get(subject, ()) if label[0] in by}
        for subject in subjects:
            record = self.model.records.get(subject)
            values = record.value.get("labels", {}).get("values", ()) if record else ()
            found |= {(host_of(subject), it["val"]) for it in values}
        return found

    def labels_of_account(self, did: str, by: Collection[str]) -> set[Label]:
        """The labels on an account's profile."""
        return self.labels_of(did, f"at://{did}/{PROFILE}/self", by=by)

    def followers(self, did: str, viewer: str | None = None) -> list[str]:
        """Who follows the account, the newest first."""
        found = newest_first(row for row in self.rows("follow") if row["subjectDid"] == did)
        return self._seen((row["creator"] for row in found), viewer, did)

    def follows(self, did: str, viewer: str | None = None) -> list[str]:
        """Whom the account follows, the newest first."""
        return self._seen((row["subjectDid"] for row in newest_first(self._of("follow", did))), viewer, did)

    def known_followers(self, did: str, viewer: str) -> set[str]:
        """Those that the viewer follows and who follow the account."""
        ours = {subject for creator, subject in self._follows if creator == viewer}
        theirs = {creator for creator, subject in self._follows if subject == did}
        return {it for it in ours & theirs if self.exists(it) and not self.apart(viewer, it)}

    def _seen(self, dids: Iterable[str], viewer: str | None, beside: str | None = None) -> list[str]:
        """Those that are shown to the viewer, and beside an account."""
        return [did for did in dids if self.exists(did) and not self.apart(viewer, did) and not self.apart(beside, did)]

    # ---- posts

    def counts(self, uri: str) -> Counts:
        """The counters of a post."""
        found = self._tables["postAgg"].get(uri)
        if not found:
            return Counts(0, 0, 0, 0)
        return Counts(found["replyCount"], found["repostCount"], found["likeCount"], found["quoteCount"])

    def _about(self, table: str, uri: str) -> list[Row]:
        return newest_first(row for row in self.rows(table) if row["subject"] == uri)

    def likes(self, uri: str, viewer: str | None = None) -> list[str]:
        """Who likes a record, the newest first."""
        return self._seen((row["creator"] for row in self._about("like", uri)), viewer, host_of(uri))

    def reposted_by(self, uri: str, viewer: str | None = None) -> list[str]:
        """Who reposted a post, the newest first."""
        return self._seen((row["creator"] for row in self._about("repost", uri)), viewer)

    def quotes(self, uri: str, viewer: str | None = None) -> list[str]:
        """The posts that quote a post, the newest first."""
        quoting = (row["uri"] for row in self._about("quote", uri))
        return [
            it
            for it in quoting
            if self._is_shown(it) and not self.apart(viewer, host_of(it)) and not self.apart(host_of(it), host_of(uri))
        ]

    def own(self, table: str, viewer: str, uri: str) -> str | None:
        """The viewer's like or repost of a post."""
        return next((row["uri"] for row in self._about(table, uri) if row["creator"] == viewer), None)

    # ---- feeds

    def _items(self, rows: Iterable[Row], viewer: str | None, *, ancestors: bool = False) -> list[Item]:
        """Rows of `feed_item` as they are shown. `ancestors`: not where the viewer and an author above are apart."""
        found = []
        for row in newest_first(rows):
            uri = row["postUri"]
            above = self._authors_above(uri) if ancestors else []
            authors = (row["originatorDid"], host_of(uri), *above)
            if (
                not any(self.apart(viewer, did) for did in authors)
                and self._is_shown(uri)
                and self._is_shown(row["uri"])
            ):
                found.append(Item(uri, row["uri"] if row["type"] == "repost" else None))
        return found

    def _authors_above(self, uri: str) -> list[str]:
        """The authors of the posts that a post answers, and that the answered one answers."""
        parent = self.posts[uri]["replyParent"] if uri in self.posts else None
        grandparent = (
            self.posts[parent]["replyParent"] if self._is_shown(parent or "") and parent in self.posts else None
        )
        return [host_of(it) for it in (parent, grandparent) if it is not None]

    def author_feed(self, did: str, chosen: str = "posts_with_replies", viewer: str | None = None) -> list[Item]:
        """What an account posted and reposted. `chosen`: the API's filter."""
        rows = [row for row in self.rows("feed_item") if row["originatorDid"] == did and row["postUri"] in self.posts]
        kinds = {
            "posts_with_replies": lambda row: True,
            "posts_no_replies": lambda row: self.posts[row["postUri"]]["replyParent"] is None,
            "posts_and_author_threads": lambda row: (
                self.posts[row["postUri"]]["replyParent"] is None
                or self.posts[row["postUri"]]["replyRoot"].startswith(f"at://{did}/")
            ),
            "posts_with_media": lambda row: (
                row["postUri"] in self._with("post_embed_image", "post_embed_gallery_image")
            ),
            "posts_with_video": lambda row: row["postUri"] in self._with("post_embed_video"),
        }
        keep: Callable[[Row], bool] = kinds[chosen]
        reposts = "media" not in chosen and "video" not in chosen
        rows = [row for row in rows if (reposts if row["type"] == "repost" else keep(row))]
        items = self._items(rows, viewer)
        if chosen != "posts_and_author_threads":
            return items
        own = {row["uri"] for row in rows if row["type"] == "post"}
        return [item for item in items if item.repost or self._is_whole_thread(item.post, own)]

    def _with(self, *tables: str) -> set[str]:
        return {row["postUri"] for table in tables for row in self.rows(table)}

    def _is_whole_thread(self, uri: str, own: set[str]) -> bool:
        """Whether a post and all those above it are in the author's own feed."""
        while uri in own and self._is_shown(uri):
            parent = self.posts[uri]["replyParent"]
            if parent is None:
                return True
            uri = parent
        return False

    def timeline(self, viewer: str, limit: int) -> list[Item]:
        """The first page of what those that the viewer follows, and the viewer, posted and reposted.

        Of the viewer's own it has at most ten, or as many as fill the page.
        """
        followed = {subject for creator, subject in self._follows if creator == viewer}
        items = newest_first(self.rows("feed_item"))
        theirs = [row for row in items if row["originatorDid"] in followed][: limit + 1]
        own = [row for row in items if row["originatorDid"] == viewer]
        own = own[: max(min(limit, 10), limit - min(len(theirs), limit))]
        return self._items(newest_first([*theirs, *own])[:limit], viewer, ancestors=True)

    def posts_with(self, word: str) -> list[str]:
        """Posts whose text has a word, the newest first."""
        return [
            row["uri"] for row in newest_first(self.rows("post")) if word in row["text"] and self._is_shown(row["uri"])
        ]

    # ---- threads

    def thread(self, uri: str, viewer: str | None = None, depth: int = 6) -> Thread:
        """The replies below a post."""
        root = self.posts[uri]["replyRoot"] or uri
        if self.posts[uri]["violatesThreadGate"]:
            return Thread(uri)
        return Thread(uri, tuple(self._replies(uri, root, viewer, depth)))

    def _replies(self, uri: str, root: str, viewer: str | None, depth: int) -> Iterator[Thread | None]:
        if depth < 1:
            return
        below = sorted((row for row in self.posts.values() if row["replyParent"] == uri), key=lambda it: it["sortAt"])
        for row in reversed(below):
            is_out = row["violatesThreadGate"] or row["replyRoot"] != root or not self._is_shown(row["uri"])
            if is_out or self.apart(row["creator"], host_of(uri)):
                continue
            if self.apart(viewer, row["creator"]):
                yield None
            else:
                yield Thread(row["uri"], tuple(self._replies(row["uri"], root, viewer, depth - 1)))

    def thread_uris(self, uri: str, viewer: str | None = None, depth: int = 6) -> set[str]:
        """The posts below a post as the second version of the API shows them: without those that the gate hides."""
        root = self.posts[uri]["replyRoot"] or uri
        gate = self.model.records.get(gate_of(root, THREADGATE))
        hidden = set(gate.value.get("hiddenReplies", ())) if gate and host_of(root) == host_of(gate.uri) else set()

        def walk(thread: Thread | None) -> Iterator[str]:
            for reply in thread.replies if thread else ():
                is_hidden = reply is None or (reply.uri in hidden and viewer != host_of(reply.uri))
                if reply is not None and not is_hidden:
                    yield reply.uri
                    yield from walk(reply)

        return set(walk(self.thread(uri, viewer, depth)))

    def ancestors(self, uri: str) -> list[str]:
        """The posts above a post, the nearest first, up to one that is not shown or of another thread."""
        found: list[str] = []
        root = self.posts[uri]["replyRoot"] or uri
        if self.posts[uri]["violatesThreadGate"]:
            return found
        while (parent := self.posts[uri]["replyParent"]) in self.posts and self._is_shown(parent):
            if (self.posts[parent]["replyRoot"] or parent) != root or self.apart(host_of(uri), host_of(parent)):
                break
            found.append(parent)
            uri = parent
        return found

    # ---- lists, starter packs, feed generators

    def made(self, table: str, did: str) -> list[str]:
        """The lists, starter packs or feed generators of an account, the newest first."""
        key = "createdAt" if table == "feed_generator" else "sortAt"
        found = sorted(self._of(table, did), key=lambda row: (row[key], row["cid"]), reverse=True)
        return [row["uri"] for row in found if self._is_shown(row["uri"])]

    def lists(self, did: str) -> list[str]:
        """An account's lists for moderation and for reading."""
        purposes = {row["uri"]: row["purpose"] for row in self.rows("list")}
        return [uri for uri in self.made("list", did) if purposes[uri] in (MODLIST, CURATELIST)]

    def _purpose(self, uri: str) -> str | None:
        return next((row["purpose"] for row in self.rows("list") if row["uri"] == uri), None)

    def _opted_out(self, uri: str) -> set[str]:
        if self._purpose(uri) != REFERENCELIST:
            return set()
        return {row["creator"] for row in self.rows("reference_list_opt_out") if row["subjectUri"] == uri}

    def list_size(self, uri: str) -> int:
        """The entries of a list, shown or not."""
        return sum(row["listUri"] == uri for row in self.rows("list_item"))

    def members(self, uri: str, viewer: str | None = None) -> list[str]:
        """The accounts on a list, the newest first. Accounts may take themselves off lists for reference."""
        owner = host_of(uri)
        found = [row["subjectDid"] for row in newest_first(it for it in self.rows("list_item") if it["listUri"] == uri)]
        out = self._opted_out(uri) if viewer != owner else set()
        beside = None if viewer == owner or self._purpose(uri) == MODLIST else owner
        return [did for did in found if did not in out and self.exists(did) and not self.apart(beside, did)]

    def list_feed(self, uri: str, viewer: str | None = None) -> list[str]:
        """The posts of the accounts on a list, the newest first."""
        owner, out = host_of(uri), self._opted_out(uri)
        listed = {row["subjectDid"] for row in self.rows("list_item") if row["listUri"] == uri} - out
        found = newest_first(row for row in self.rows("post") if row["creator"] in listed)
        return [
            row["uri"]
            for row in found
            if self._is_shown(row["uri"])
            and not self.apart(owner, row["creator"])
            and not any(self.apart(viewer, did) for did in (row["creator"], *self._authors_above(row["uri"])))
        ]

    def joined(self, pack: str) -> int:
        """How many accounts joined by a starter pack."""
        return sum(row["joinedViaStarterPackUri"] == pack for row in self.rows("profile"))

    def record(self, uri: str) -> Record:
        """A record."""
        return self.model.records[uri]

    # ---- notifications

    def notifications(self, viewer: str) -> list[Notified]:
        """Those of an account, the newest first."""
        found = [
            Notified(row["reason"], row["recordUri"], row["author"], row["reasonSubject"], row["sortAt"])
            for row in self._notified(viewer)
            if (row["reasonSubject"] is None or row["reasonSubject"] in self.model.records)
            and self.exists(row["author"])
            and not self.apart(viewer, row["author"])
            and self._has_record(row)
            and not self._is_hidden_reply(row, viewer)
        ]
        return sorted(found, key=lambda it: it.at, reverse=True)

    def unread(self, viewer: str) -> int:
        """How many an account has that never looked: all whose record is there."""
        return sum(
            row["recordUri"] in self.model.records and row["recordUri"] not in self.taken
            for row in self._notified(viewer)
        )

    def _notified(self, viewer: str) -> list[Row]:
        return [row for row in self._tables["notifications"] if row["recipient"] == viewer]

    def _has_record(self, row: Row) -> bool:
        """Notifications of verifications outlive their record."""
        return "verified" in row["reason"] or self._is_shown(row["recordUri"])

    def _is_hidden_reply(self, row: Row, viewer: str) -> bool:
        if row["reason"] != "reply":
            return False
        root = self.record(row["recordUri"]).value["reply"]["root"]["uri"]
        gate = self.model.records.get(gate_of(root, THREADGATE))
        return host_of(root) == viewer and gate is not None and row["recordUri"] in gate.value.get("hiddenReplies", ())

    # ---- embeds

    def embed(self, uri: str) -> tuple[str, str] | None:
        """The record that a post embeds, as it is shown to nobody in particular: the kind of its view, and its URI."""
        for embed in embedded(self.record(uri)):
            if embed["$type"] == "app.bsky.embed.record":
                return self._embedded_view(uri, embed["record"]["uri"])
        return None

    def _embedded_view(self, uri: str, subject: str) -> tuple[str, str]:
        if self.apart(host_of(uri), host_of(subject)):
            return "blocked", subject
        if self.posts[uri]["violatesEmbeddingRules"]:
            return "detached", subject
        if not self._is_shown(subject):
            return "not found", subject
        return {POST: "post", LIST: "list"}.get(subject.split("/")[3], "record"), subject
