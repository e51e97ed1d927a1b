"""Random networks: a few accounts that post, reply, gate, like twice, edit and delete, one commit after the other.

A network is made from a list of moves. A move is some small numbers, which choose among the records that exist by then.
Every move does something, so that any of them can be left out: hypothesis shrinks a failure to the few that matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from hypothesis import strategies as st

from appview_pipeline_tests.properties import record_rules
from appview_pipeline_tests.properties.model import Subscription
from appview_pipeline_tests.properties.network_builder import NetworkBuilder
from appview_pipeline_tests.properties.networks import NAMES, Move, Network, did_of
from appview_pipeline_tests.support.commits import (
    BLOCK,
    DECLARATION,
    FOLLOW,
    GENERATOR,
    LIKE,
    LIST,
    LISTBLOCK,
    LISTITEM,
    OPTOUT,
    POST,
    POSTGATE,
    PROFILE,
    REPOST,
    STARTERPACK,
    THREADGATE,
    VERIFICATION,
    Commit,
    collection_of,
    host_of,
)

KINDS = (
    *("post", "post", "reply", "reply", "reply", "answer", "answer", "quote"),
    *("like", "repost", "follow", "follow", "block", "verify", "list", "listitem", "listblock", "optout"),
    *("threadgate", "threadgate", "postgate", "pack", "profile", "declare"),
    *("edit", "edit pair", "edit post", "delete", "delete", "delete post", "again", "twice"),
)


class RandomNetwork(NetworkBuilder):
    """The network so far; each move adds to it."""

    # --- what a move is about ----------------------------------------------------------------------------------------

    def own(self, move: Move, collection: str | None = None) -> str | None:
        did = did_of(move.who)
        uris = [
            uri
            for uri in self.alive
            if host_of(uri) == did and (collection is None or collection_of(uri) == collection)
        ]
        return uris[move.pick % len(uris)] if uris else None

    def some(self, collection: str, number: int) -> str | None:
        uris = [uri for uri in self.content if collection_of(uri) == collection]
        return uris[number % len(uris)] if uris else None

    def some_post(self, number: int, move: Move) -> str | None:
        """Any post, deleted ones included; sometimes a post that is not written yet."""
        if move.twist == 13:
            author = did_of(move.other)
            self.promised[author].append(self.new_uri(author, POST))
            return self.promised[author][-1]
        return self.posts[number % len(self.posts)] if self.posts else None

    def reply_to(self, parent: str, move: Move) -> dict[str, Any]:
        """Parent and root; the root is sometimes a wrong one."""
        root = parent
        if parent in self.content and "reply" in self.content[parent][1]:
            root = self.content[parent][1]["reply"]["root"]["uri"]
        if move.twist == 11:
            root = parent
        elif move.twist == 12:
            root = self.posts[move.other % len(self.posts)] if self.posts else parent
        return {"root": self.ref(root), "parent": self.ref(parent)}

    def text(self, move: Move) -> dict[str, Any]:
        self.said += 1
        if move.twist not in (3, 4, 13):
            return {"text": f"said {self.said}"}
        mention = {"$type": "app.bsky.richtext.facet#mention", "did": did_of(move.other)}
        facet = {"index": {"byteStart": 0, "byteEnd": 4}, "features": [mention]}
        return {"text": f"said {self.said}", "facets": [facet]}

    # --- moves -------------------------------------------------------------------------------------------------------

    def make(self, move: Move) -> None:
        kind = move.kind.replace(" ", "_")
        act: Callable[[Move], bool] = getattr(self, f"_{kind}")
        if not act(move):
            self._post(move)

    def _write_post(self, move: Move, record: dict[str, Any]) -> bool:
        did = did_of(move.who)
        promised = self.promised[did]
        uri = promised.pop(0) if promised and move.pick % 2 == 0 else self.new_uri(did, POST)
        if uri in self.alive:
            uri = self.new_uri(did, POST)
        self.put(move, uri, record)
        return True

    def _post(self, move: Move) -> bool:
        return self._write_post(move, self.text(move))

    def some_other(self, move: Move) -> str | None:
        """Any record that is no post, deleted ones included, or a list that may not exist yet."""
        if move.pick % 8 == 7:
            return f"at://{did_of(move.other)}/{LIST}/list{1 + move.other % 2}"
        uris = [uri for uri in self.content if collection_of(uri) != POST]
        return uris[move.pick % len(uris)] if uris else None

    def _reply(self, move: Move) -> bool:
        parent = (self.some_other(move) if move.twist in (14, 15) else None) or self.some_post(move.pick, move)
        if parent is None:
            return False
        return self._write_post(move, {**self.text(move), "reply": self.reply_to(parent, move)})

    def _answer(self, move: Move) -> bool:
        if not self.posts:
            return False
        return self._write_post(move, {**self.text(move), "reply": self.reply_to(self.posts[-1], move)})

    def _quote(self, move: Move) -> bool:
        subject = self.some_post(move.pick, move)
        if subject is None:
            return False
        record = {**self.text(move), "embed": {"$type": "app.bsky.embed.record", "record": self.ref(subject)}}
        if move.twist in (8, 9) and self.posts:
            record["reply"] = self.reply_to(self.posts[move.other % len(self.posts)], move)
        return self._write_post(move, record)

    def _subject(self, move: Move, collection: str) -> bool:
        subject = self.some(LIST, move.pick) if move.twist in (2, 14) else None
        subject = subject or self.some_post(move.pick, move)
        if subject is None:
            return False
        record: dict[str, Any] = {"subject": self.ref(subject)}
        via = self.some(REPOST, move.other)
        if via is not None and move.twist % 2:
            record["via"] = self.ref(via)
        self.add(move, collection, record)
        return True

    def _like(self, move: Move) -> bool:
        return self._subject(move, LIKE)

    def _repost(self, move: Move) -> bool:
        return self._subject(move, REPOST)

    def _follow(self, move: Move) -> bool:
        self.add(move, FOLLOW, {"subject": did_of(move.other)})
        return True

    def _block(self, move: Move) -> bool:
        self.add(move, BLOCK, {"subject": did_of(move.other)})
        return True

    def _verify(self, move: Move) -> bool:
        subject = {"subject": did_of(move.other), "handle": "somebody.test", "displayName": f"name {move.twist}"}
        self.add(move, VERIFICATION, subject)
        return True

    def _list(self, move: Move) -> bool:
        self.add(move, LIST, {"name": "a list", "purpose": "app.bsky.graph.defs#curatelist"})
        return True

    def _listitem(self, move: Move) -> bool:
        did = did_of(move.who)
        item = {"list": f"at://{did}/{LIST}/list{1 + move.pick % 2}", "subject": did_of(move.other)}
        self.add(move, LISTITEM, item)
        return True

    def _listblock(self, move: Move) -> bool:
        self.add(move, LISTBLOCK, {"subject": f"at://{did_of(move.other)}/{LIST}/list{1 + move.pick % 2}"})
        return True

    def _optout(self, move: Move) -> bool:
        lists = f"at://{did_of(move.other)}/{LIST}/list{1 + move.pick % 2}"
        self.add(move, OPTOUT, {"subject": lists if move.twist % 8 else f"at://{did_of(move.other)}"})
        return True

    def _gated(self, move: Move) -> str:
        """A post of the account's own: written, deleted, or not written yet."""
        did = did_of(move.who)
        if move.pick % 8 == 7:
            self.promised[did].append(self.new_uri(did, POST))
        posts = [uri for uri in (*self.posts, *self.promised[did]) if host_of(uri) == did]
        if not posts:
            posts = self.promised[did] = [self.new_uri(did, POST)]
        return posts[move.pick % len(posts)]

    def _named(self, move: Move, post: str) -> str:
        """The post that a gate names; sometimes another account's, so that the gate is refused, or no post."""
        if move.pick == 17:
            return post.replace(host_of(post), did_of(move.who + 1))
        return post.replace(POST, GENERATOR) if move.pick == 18 else post

    def _threadgate(self, move: Move) -> bool:
        post = self._gated(move)
        record: dict[str, Any] = {"post": self._named(move, post)}
        members = {"list": f"at://{did_of(move.who)}/{LIST}/list{1 + move.other % 2}"}
        allow = (
            *(None, (), (), ("mention",), ("follower",), ("following",), ("list",), ("mention", "list")),
            *(("follower", "following"), ("list",), (), ("mention",), ("follower",), None, ("following",), ()),
        )[move.twist % 16]
        if allow is not None:
            record["allow"] = [
                {"$type": f"{THREADGATE}#{rule}Rule", **(members if rule == "list" else {})} for rule in allow
            ]
        if move.other % 3 == 0 and self.posts:
            record["hiddenReplies"] = [self.posts[move.other % len(self.posts)]]
        self.put(move, record_rules.gate_of(post, THREADGATE), record)
        return True

    def _postgate(self, move: Move) -> bool:
        post = self._gated(move)
        record: dict[str, Any] = {"post": self._named(move, post)}
        if move.twist % 4:
            record["embeddingRules"] = [{"$type": "app.bsky.feed.postgate#disableRule"}]
        self.put(move, record_rules.gate_of(post, POSTGATE), record)
        return True

    def _pack(self, move: Move) -> bool:
        packed = {"name": "a pack", "list": f"at://{did_of(move.who)}/{LIST}/list1"}
        self.add(move, STARTERPACK, packed)
        return True

    def _profile(self, move: Move) -> bool:
        record: dict[str, Any] = {"displayName": f"name {move.twist}"}
        pack = self.some(STARTERPACK, move.pick)
        if pack is not None and move.twist % 3:
            record["joinedViaStarterPack"] = self.ref(pack)
        self.put(move, f"at://{did_of(move.who)}/{PROFILE}/self", record)
        return True

    def _declare(self, move: Move) -> bool:
        allowed = ("none", "followers", "mutuals")[move.twist % 3]
        self.put(move, f"at://{did_of(move.who)}/{DECLARATION}/self", {"allowSubscriptions": allowed})
        return True

    def _edit(self, move: Move) -> bool:
        """Edits any record of the account's own; of a like, repost or follow sometimes the subject."""
        uri = self.own(move)
        if uri is None:
            return False
        collection = collection_of(uri)
        edits: dict[str, Callable[[Move], bool]] = {
            POST: self._edit_post,
            THREADGATE: self._threadgate,
            POSTGATE: self._postgate,
            PROFILE: self._profile,
            DECLARATION: self._declare,
        }
        if collection in edits:
            return edits[collection](move)
        record = {name: value for name, value in self.alive[uri][1].items() if name != "createdAt"}
        if collection == FOLLOW and move.twist % 2:
            record["subject"] = did_of(move.other)
        elif collection in (LIKE, REPOST) and move.twist % 2 and self.posts:
            record["subject"] = self.ref(self.posts[move.other % len(self.posts)])
        self.put(move, uri, record)
        return True

    def _edit_pair(self, move: Move) -> bool:
        """Edits a like, repost or follow."""
        collection = (LIKE, REPOST, FOLLOW)[move.other % 3]
        uris = [uri for uri in self.alive if collection_of(uri) == collection]
        uris = [uri for uri in uris if host_of(uri) == did_of(move.who)]
        if not uris:
            return False
        own = [uri for uri in self.alive if host_of(uri) == did_of(move.who)]
        return self._edit(move._replace(pick=own.index(uris[move.pick % len(uris)])))

    def _edit_post(self, move: Move) -> bool:
        uri = self.own(move, POST)
        if uri is None:
            return False
        old = self.alive[uri][1]
        kept: dict[str, Any] = {name: old[name] for name in ("reply", "embed") if name in old}
        record: dict[str, Any] = {**self.text(move), **kept}
        if move.twist in (8, 9):
            record["reply"] = self.reply_to(self.posts[move.other % len(self.posts)], move)
        elif move.twist == 10:
            record.pop("reply", None)
        elif move.twist in (5, 6):
            subject = self.posts[move.other % len(self.posts)]
            record["embed"] = {"$type": "app.bsky.embed.record", "record": self.ref(subject)}
        self.put(move, uri, record)
        return True

    def _delete(self, move: Move) -> bool:
        uri = self.own(move)
        if uri is not None:
            self.put(move, uri, None)
        return uri is not None

    def _delete_post(self, move: Move) -> bool:
        uri = self.own(move, POST)
        if uri is not None:
            self.put(move, uri, None)
        return uri is not None

    def _again(self, move: Move) -> bool:
        """A deleted record comes back under its record key."""
        uris = [uri for uri in self.gone if host_of(uri) == did_of(move.who)]
        if not uris:
            return False
        uri = uris[move.pick % len(uris)]
        self.put(move, uri, {name: value for name, value in self.gone[uri].items() if name != "createdAt"})
        return True

    def _twice(self, move: Move) -> bool:
        """A duplicate: the natural key of an existing record, under another record key."""
        uris = [
            uri
            for uri in self.alive
            if host_of(uri) == did_of(move.who)
            and collection_of(uri)
            in (
                *(LIKE, REPOST, FOLLOW, BLOCK, LISTITEM, LISTBLOCK),
                VERIFICATION,
                OPTOUT,
            )
        ]
        if not uris:
            return False
        uri = uris[move.pick % len(uris)]
        record = {name: value for name, value in self.alive[uri][1].items() if name != "createdAt"}
        self.add(move, collection_of(uri), record)
        return True


def network_from_moves(
    moves: Iterable[Move],
    mutes: Iterable[tuple[int, int, int]] = (),
    subscriptions: Iterable[tuple[int, int, bool, bool]] = (),
) -> Network:
    """The network that moves make.

    `mutes`: (account, author of the thread, number of the thread). `subscriptions`: (account, author, posts, replies).
    """
    builder = RandomNetwork()
    for move in moves:
        builder.make(move)
    commits = tuple(Commit(did, rev, time, tuple(ops)) for did, rev, time, ops, _ in builder.commits)
    muted = frozenset((f"at://{did_of(owner)}/{POST}/post{number}", did_of(who)) for who, owner, number in mutes)
    wanted: dict[tuple[str, str], Subscription] = {}
    for who, whose, post, reply in subscriptions:
        if did_of(who) != did_of(whose):
            subscription = Subscription(did_of(who), did_of(whose), post, reply)
            wanted.setdefault((subscription.creator, subscription.subject), subscription)
    return Network(commits, muted, tuple(wanted.values()))


_actor = st.integers(0, len(NAMES) - 1)
_moves = st.builds(
    Move,
    st.sampled_from(KINDS),
    _actor,
    st.integers(0, 31),
    st.integers(0, 31),
    st.integers(0, 15),
    st.integers(0, 5).map(lambda number: number == 5),
)


def networks(limit: int = 60, mutes: bool = True, subscriptions: bool = True) -> st.SearchStrategy[Network]:
    """Networks of up to `limit` operations."""
    # Lists of lists: hypothesis makes single lists short.
    scenes = st.lists(st.lists(_moves, min_size=1, max_size=12), min_size=1, max_size=8)
    return st.builds(
        network_from_moves,
        scenes.map(lambda lists: list(chain.from_iterable(lists))[:limit]),
        st.lists(st.tuples(_actor, _actor, st.integers(1, 3)), max_size=4 if mutes else 0),
        st.lists(st.tuples(_actor, _actor, st.booleans(), st.booleans()), max_size=6 if subscriptions else 0),
    )
