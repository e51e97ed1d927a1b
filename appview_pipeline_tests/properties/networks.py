"""Made-up networks: a few accounts that post, reply, gate, like twice, edit and take back, a commit after the other.

A network is made from a list of moves, each some small numbers that are read against what is there by then. A move
always means something, so that any of them can be left out: hypothesis shrinks a failure to the few that matter.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Any, NamedTuple

from hypothesis import strategies as st

from appview_pipeline.protocol.cid import cid_for_cbor, to_text
from appview_pipeline.protocol.syntax import tid_from_micros
from appview_pipeline_tests.properties import model
from appview_pipeline_tests.properties.model import Commit, Op, Subscription
from appview_pipeline_tests.simulated_network.content import iso
from appview_pipeline_tests.support.scenarios import encode

NAMES = ("alice", "bob", "carol", "dan", "eve")
START = 1_750_000_000_000_000
SECOND = 1_000_000
GATE = "app.bsky.feed.threadgate"
SHORT = {
    model.POST: "post",
    model.LIKE: "like",
    model.REPOST: "repost",
    model.THREADGATE: "threadgate",
    model.POSTGATE: "postgate",
    model.FOLLOW: "follow",
    model.BLOCK: "block",
    model.LIST: "list",
    model.LISTITEM: "listitem",
    model.LISTBLOCK: "listblock",
    model.OPTOUT: "optout",
    model.STARTERPACK: "pack",
    model.VERIFICATION: "verify",
}
NOWHERE = to_text(cid_for_cbor(b""))

KINDS = (
    *("post", "post", "reply", "reply", "reply", "answer", "answer", "quote"),
    *("like", "repost", "follow", "follow", "block", "verify", "list", "listitem", "listblock", "optout"),
    *("threadgate", "threadgate", "postgate", "pack", "profile", "declare"),
    *("edit", "edit pair", "edit post", "delete", "delete", "delete post", "again", "twice"),
)


class Move(NamedTuple):
    """`kind`: of KINDS. `who` acts. `pick` and `other`: what it is about; `twist`: how. `joins`: in the last commit."""

    kind: str
    who: int
    pick: int
    other: int
    twist: int
    joins: bool


@dataclass(frozen=True)
class Network:
    """Commits in the order of their revs, and what was private from the start."""

    commits: tuple[Commit, ...]
    thread_mutes: frozenset[tuple[str, str]] = frozenset()
    subscriptions: tuple[Subscription, ...] = ()

    def __repr__(self) -> str:
        lines = [f"{short(who)} mutes {short(root)}" for root, who in sorted(self.thread_mutes)]
        lines += [
            f"{short(it.creator)} subscribes to {short(it.subject)}: post {it.post}, reply {it.reply}"
            for it in self.subscriptions
        ]
        for number, commit in enumerate(self.commits):
            for op in commit.ops:
                uri = short(f"at://{commit.did}/{op.collection}/{op.rkey}")
                lines.append(f"{number:3} {short(commit.did)}: {op.action} {uri} {_told(op.record)}")
        return "\n" + "\n".join(lines)


def did_of(number: int) -> str:
    return f"did:plc:{NAMES[number % len(NAMES)]}"


def short(text: str) -> str:
    """An identifier as a person would say it: `alice`, `alice/post1`."""
    text = text.removeprefix("at://").removeprefix("did:plc:")
    for collection, name in SHORT.items():
        text = text.replace(f"/{collection}/", "/" if collection != GATE and not name.endswith("gate") else f"/{name}:")
    return text


def _told(record: dict[str, Any] | None) -> str:
    if record is None:
        return ""
    said = {name: value for name, value in record.items() if name not in ("$type", "createdAt", "text", "handle")}
    return short(str(_without_cids(said)).replace("at://", "").replace("did:plc:", "").replace("'", ""))


def _without_cids(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_cids(item) for item in value]
    if isinstance(value, dict):
        if value.keys() == {"uri", "cid"}:
            return value["uri"]
        return {name: _without_cids(item) for name, item in value.items()}
    return value


@dataclass
class _Maker:
    """The network so far."""

    commits: list[list[Any]] = field(default_factory=list)  # did, rev, time, ops
    alive: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    """CID and record by URI."""
    gone: dict[str, dict[str, Any]] = field(default_factory=dict)
    content: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    """The last of every record that ever was."""
    posts: list[str] = field(default_factory=list)
    promised: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Posts that were spoken of before they were written, by author."""
    numbers: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    said: int = 0

    # --- writing -----------------------------------------------------------------------------------------------------

    def put(self, move: Move, uri: str, record: dict[str, Any] | None) -> None:
        """Writes (None: deletes) a record, in a commit of its own or in the last one."""
        did, collection, rkey = uri.removeprefix("at://").split("/")
        last = self.commits[-1] if self.commits else None
        joins = move.joins and last is not None and last[0] == did and (collection, rkey) not in last[4]
        if not joins:
            moment = START + len(self.commits) * SECOND
            last = [did, tid_from_micros(moment), iso(moment), [], set()]
            self.commits.append(last)
        assert last is not None
        last[4].add((collection, rkey))
        if record is None:
            last[3].append(Op("delete", collection, rkey))
            self.gone[uri] = self.alive.pop(uri)[1]
            return
        if collection != model.PROFILE and "createdAt" not in record:
            moment = START + (len(self.commits) - 1) * SECOND
            # Now and then a clock is wrong by an hour.
            moment += 3600 * SECOND if move.twist == 7 else -SECOND // 2
            record = {**record, "createdAt": iso(moment)}
        record = {"$type": collection, **record}
        cid = to_text(cid_for_cbor(encode(record)))
        last[3].append(Op("update" if uri in self.alive else "create", collection, rkey, cid, record))
        self.alive[uri] = self.content[uri] = (cid, record)
        self.gone.pop(uri, None)
        if collection == model.POST and uri not in self.posts:
            self.posts.append(uri)

    def new_uri(self, did: str, collection: str) -> str:
        self.numbers[did, collection] += 1
        return f"at://{did}/{collection}/{SHORT[collection]}{self.numbers[did, collection]}"

    def add(self, move: Move, collection: str, record: dict[str, Any]) -> None:
        self.put(move, self.new_uri(did_of(move.who), collection), record)

    # --- what there is to speak of -----------------------------------------------------------------------------------

    def own(self, move: Move, collection: str | None = None) -> str | None:
        did = did_of(move.who)
        uris = [
            uri
            for uri in self.alive
            if model.host_of(uri) == did and (collection is None or model.collection_of(uri) == collection)
        ]
        return uris[move.pick % len(uris)] if uris else None

    def some(self, collection: str, number: int) -> str | None:
        uris = [uri for uri in self.content if model.collection_of(uri) == collection]
        return uris[number % len(uris)] if uris else None

    def some_post(self, number: int, move: Move) -> str | None:
        """Any post that was ever spoken of; sometimes one that is not written yet."""
        if move.twist == 13:
            author = did_of(move.other)
            self.promised[author].append(self.new_uri(author, model.POST))
            return self.promised[author][-1]
        return self.posts[number % len(self.posts)] if self.posts else None

    def ref(self, uri: str) -> dict[str, str]:
        return {"uri": uri, "cid": self.content[uri][0] if uri in self.content else NOWHERE}

    def reply_to(self, parent: str, move: Move) -> dict[str, Any]:
        """Parent and root; sometimes a wrong one."""
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
        uri = promised.pop(0) if promised and move.pick % 2 == 0 else self.new_uri(did, model.POST)
        if uri in self.alive:
            uri = self.new_uri(did, model.POST)
        self.put(move, uri, record)
        return True

    def _post(self, move: Move) -> bool:
        return self._write_post(move, self.text(move))

    def some_other(self, move: Move) -> str | None:
        """Any record that is no post and was ever there, or a list that may come to be."""
        if move.pick % 8 == 7:
            return f"at://{did_of(move.other)}/{model.LIST}/list{1 + move.other % 2}"
        uris = [uri for uri in self.content if model.collection_of(uri) != model.POST]
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
        subject = self.some(model.LIST, move.pick) if move.twist in (2, 14) else None
        subject = subject or self.some_post(move.pick, move)
        if subject is None:
            return False
        record: dict[str, Any] = {"subject": self.ref(subject)}
        via = self.some(model.REPOST, move.other)
        if via is not None and move.twist % 2:
            record["via"] = self.ref(via)
        self.add(move, collection, record)
        return True

    def _like(self, move: Move) -> bool:
        return self._subject(move, model.LIKE)

    def _repost(self, move: Move) -> bool:
        return self._subject(move, model.REPOST)

    def _follow(self, move: Move) -> bool:
        self.add(move, model.FOLLOW, {"subject": did_of(move.other)})
        return True

    def _block(self, move: Move) -> bool:
        self.add(move, model.BLOCK, {"subject": did_of(move.other)})
        return True

    def _verify(self, move: Move) -> bool:
        subject = {"subject": did_of(move.other), "handle": "somebody.test", "displayName": f"name {move.twist}"}
        self.add(move, model.VERIFICATION, subject)
        return True

    def _list(self, move: Move) -> bool:
        self.add(move, model.LIST, {"name": "a list", "purpose": "app.bsky.graph.defs#curatelist"})
        return True

    def _listitem(self, move: Move) -> bool:
        did = did_of(move.who)
        item = {"list": f"at://{did}/{model.LIST}/list{1 + move.pick % 2}", "subject": did_of(move.other)}
        self.add(move, model.LISTITEM, item)
        return True

    def _listblock(self, move: Move) -> bool:
        self.add(move, model.LISTBLOCK, {"subject": f"at://{did_of(move.other)}/{model.LIST}/list{1 + move.pick % 2}"})
        return True

    def _optout(self, move: Move) -> bool:
        lists = f"at://{did_of(move.other)}/{model.LIST}/list{1 + move.pick % 2}"
        self.add(move, model.OPTOUT, {"subject": lists if move.twist % 8 else f"at://{did_of(move.other)}"})
        return True

    def _gated(self, move: Move) -> str:
        """A post of one's own, written, deleted or still to be written."""
        did = did_of(move.who)
        if move.pick % 8 == 7:
            self.promised[did].append(self.new_uri(did, model.POST))
        posts = [uri for uri in (*self.posts, *self.promised[did]) if model.host_of(uri) == did]
        if not posts:
            posts = self.promised[did] = [self.new_uri(did, model.POST)]
        return posts[move.pick % len(posts)]

    def _named(self, move: Move, post: str) -> str:
        """What a gate says to be its post; sometimes it is another account's, and the gate refused, or no post."""
        if move.pick == 17:
            return post.replace(model.host_of(post), did_of(move.who + 1))
        return post.replace(model.POST, model.GENERATOR) if move.pick == 18 else post

    def _threadgate(self, move: Move) -> bool:
        post = self._gated(move)
        record: dict[str, Any] = {"post": self._named(move, post)}
        members = {"list": f"at://{did_of(move.who)}/{model.LIST}/list{1 + move.other % 2}"}
        allow = (
            *(None, (), (), ("mention",), ("follower",), ("following",), ("list",), ("mention", "list")),
            *(("follower", "following"), ("list",), (), ("mention",), ("follower",), None, ("following",), ()),
        )[move.twist % 16]
        if allow is not None:
            record["allow"] = [{"$type": f"{GATE}#{rule}Rule", **(members if rule == "list" else {})} for rule in allow]
        if move.other % 3 == 0 and self.posts:
            record["hiddenReplies"] = [self.posts[move.other % len(self.posts)]]
        self.put(move, model.gate_of(post, model.THREADGATE), record)
        return True

    def _postgate(self, move: Move) -> bool:
        post = self._gated(move)
        record: dict[str, Any] = {"post": self._named(move, post)}
        if move.twist % 4:
            record["embeddingRules"] = [{"$type": "app.bsky.feed.postgate#disableRule"}]
        self.put(move, model.gate_of(post, model.POSTGATE), record)
        return True

    def _pack(self, move: Move) -> bool:
        packed = {"name": "a pack", "list": f"at://{did_of(move.who)}/{model.LIST}/list1"}
        self.add(move, model.STARTERPACK, packed)
        return True

    def _profile(self, move: Move) -> bool:
        record: dict[str, Any] = {"displayName": f"name {move.twist}"}
        pack = self.some(model.STARTERPACK, move.pick)
        if pack is not None and move.twist % 3:
            record["joinedViaStarterPack"] = self.ref(pack)
        self.put(move, f"at://{did_of(move.who)}/{model.PROFILE}/self", record)
        return True

    def _declare(self, move: Move) -> bool:
        allowed = ("none", "followers", "mutuals")[move.twist % 3]
        self.put(move, f"at://{did_of(move.who)}/{model.DECLARATION}/self", {"allowSubscriptions": allowed})
        return True

    def _edit(self, move: Move) -> bool:
        """Changes anything of one's own; of a like, repost or follow sometimes what it is about."""
        uri = self.own(move)
        if uri is None:
            return False
        match model.collection_of(uri):
            case model.POST:
                return self._edit_post(move)
            case model.THREADGATE:
                return self._threadgate(move)
            case model.POSTGATE:
                return self._postgate(move)
            case model.PROFILE:
                return self._profile(move)
            case model.DECLARATION:
                return self._declare(move)
        record = {name: value for name, value in self.alive[uri][1].items() if name != "createdAt"}
        collection = model.collection_of(uri)
        if collection == model.FOLLOW and move.twist % 2:
            record["subject"] = did_of(move.other)
        elif collection in (model.LIKE, model.REPOST) and move.twist % 2 and self.posts:
            record["subject"] = self.ref(self.posts[move.other % len(self.posts)])
        self.put(move, uri, record)
        return True

    def _edit_pair(self, move: Move) -> bool:
        """Changes a like, repost or follow."""
        collection = (model.LIKE, model.REPOST, model.FOLLOW)[move.other % 3]
        uris = [uri for uri in self.alive if model.collection_of(uri) == collection]
        uris = [uri for uri in uris if model.host_of(uri) == did_of(move.who)]
        if not uris:
            return False
        own = [uri for uri in self.alive if model.host_of(uri) == did_of(move.who)]
        return self._edit(move._replace(pick=own.index(uris[move.pick % len(uris)])))

    def _edit_post(self, move: Move) -> bool:
        uri = self.own(move, model.POST)
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
        uri = self.own(move, model.POST)
        if uri is not None:
            self.put(move, uri, None)
        return uri is not None

    def _again(self, move: Move) -> bool:
        """What was deleted comes back under its own key."""
        uris = [uri for uri in self.gone if model.host_of(uri) == did_of(move.who)]
        if not uris:
            return False
        uri = uris[move.pick % len(uris)]
        self.put(move, uri, {name: value for name, value in self.gone[uri].items() if name != "createdAt"})
        return True

    def _twice(self, move: Move) -> bool:
        """The same as something that is there, under another key."""
        uris = [
            uri
            for uri in self.alive
            if model.host_of(uri) == did_of(move.who)
            and model.collection_of(uri)
            in (
                *(model.LIKE, model.REPOST, model.FOLLOW, model.BLOCK, model.LISTITEM, model.LISTBLOCK),
                model.VERIFICATION,
                model.OPTOUT,
            )
        ]
        if not uris:
            return False
        uri = uris[move.pick % len(uris)]
        record = {name: value for name, value in self.alive[uri][1].items() if name != "createdAt"}
        self.add(move, model.collection_of(uri), record)
        return True


def made(
    moves: Iterable[Move],
    mutes: Iterable[tuple[int, int, int]] = (),
    subscriptions: Iterable[tuple[int, int, bool, bool]] = (),
) -> Network:
    """The network that moves make. `mutes`: (who, whose thread, its number); `subscriptions`: (who, whose, which)."""
    maker = _Maker()
    for move in moves:
        maker.make(move)
    commits = tuple(Commit(did, rev, time, tuple(ops)) for did, rev, time, ops, _ in maker.commits)
    muted = frozenset((f"at://{did_of(owner)}/{model.POST}/post{number}", did_of(who)) for who, owner, number in mutes)
    wanted: dict[tuple[str, str], Subscription] = {}
    for who, whose, post, reply in subscriptions:
        if did_of(who) != did_of(whose):
            subscription = Subscription(did_of(who), did_of(whose), post, reply)
            wanted.setdefault((subscription.creator, subscription.subject), subscription)
    return Network(commits, muted, tuple(wanted.values()))


def told(*ops: tuple[str, dict[str, Any] | None], **private: Any) -> Network:
    """A network written by hand: (`name/collection/rkey`, the record, None to delete it), a commit each.

    In records `@name/collection/rkey` is a URI, `@name` a DID, and `{"ref": URI}` a reference with the newest CID.
    """
    maker = _Maker()
    for number, (path, record) in enumerate(ops):
        move = Move("post", 0, 0, 0, number % 2, False)
        maker.put(move, _at(path), None if record is None else _referring(maker, record))
    commits = tuple(Commit(did, rev, time, tuple(ops)) for did, rev, time, ops, _ in maker.commits)
    return Network(commits, **private)


def _at(path: str) -> str:
    return f"at://did:plc:{path}"


def _referring(maker: _Maker, value: Any) -> Any:
    if isinstance(value, str) and value.startswith("@"):
        return f"did:plc:{value[1:]}" if "/" not in value else _at(value[1:])
    if isinstance(value, list):
        return [_referring(maker, item) for item in value]
    if isinstance(value, dict):
        if value.keys() == {"ref"}:
            return maker.ref(_referring(maker, value["ref"]))
        return {name: _referring(maker, item) for name, item in value.items()}
    return value


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


def networks(most: int = 60, mutes: bool = True, subscriptions: bool = True) -> st.SearchStrategy[Network]:
    """Networks of up to `most` operations."""
    # Lists of lists: hypothesis makes single lists short.
    scenes = st.lists(st.lists(_moves, min_size=1, max_size=12), min_size=1, max_size=8)
    return st.builds(
        made,
        scenes.map(lambda lists: list(chain.from_iterable(lists))[:most]),
        st.lists(st.tuples(_actor, _actor, st.integers(1, 3)), max_size=4 if mutes else 0),
        st.lists(st.tuples(_actor, _actor, st.booleans(), st.booleans()), max_size=6 if subscriptions else 0),
    )


# --- how commits may arrive ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arrival:
    """The order in which commits arrive, by number, in batches; a number may come again."""

    batches: tuple[tuple[int, ...], ...]

    def __repr__(self) -> str:
        return " | ".join(" ".join(map(str, batch)) for batch in self.batches)


@st.composite
def arrivals(draw: st.DrawFn, network: Network, order: str = "stream", size: int | None = None) -> Arrival:
    """Ways in which a network's commits may arrive.

    `order`: `stream` keeps it; `repository` keeps each repository's; `any` keeps none. `size`: of batches, None: any.
    Some commits come twice.
    """
    numbers = list(range(len(network.commits)))
    if order != "stream":
        numbers = list(draw(st.permutations(numbers)))
    if order == "repository":
        queues: dict[str, list[int]] = defaultdict(list)
        for number, commit in enumerate(network.commits):
            queues[commit.did].append(number)
        numbers = [queues[network.commits[number].did].pop(0) for number in numbers]
    # Again only after it came: a repetition is no reordering.
    for again, after in draw(st.lists(st.tuples(st.integers(0, 63), st.integers(0, 63)), max_size=4)):
        at = again % len(numbers)
        numbers.insert(min(len(numbers), at + 1 + after), numbers[at])
    if size is not None:
        return Arrival(tuple(tuple(numbers[at : at + size]) for at in range(0, len(numbers), size)))
    cuts = draw(st.lists(st.integers(1, len(numbers)), max_size=12, unique=True))
    edges = [0, *sorted(cut for cut in cuts if cut < len(numbers)), len(numbers)]
    return Arrival(tuple(tuple(numbers[low:high]) for low, high in pairwise(edges)))
