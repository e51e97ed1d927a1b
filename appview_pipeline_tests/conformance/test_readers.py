"""What is stored can be read: the published reference AppView over a database full of odd records.

Needs `just reference` (conformance/reference/README.md). What it showed are rules in
test_odd_records.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import libipld
import pytest

from appview_pipeline.protocol.cid import cid_for_cbor, cid_for_raw, to_text
from appview_pipeline.store.database import Database
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline_tests.conformance.reference.pages import Page, broken, pages
from appview_pipeline_tests.conformance.reference.reader import Reader, serving
from appview_pipeline_tests.simulated_network.repository import Write
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, create, post, update
from appview_pipeline_tests.support.records import UNREADABLE_DIDS, one_of_each, posts_with, records_with
from appview_pipeline_tests.support.tables import fresh_database, replayed_frames, rows

pytestmark = pytest.mark.slow

THOROUGH = partial(pytest.param, marks=pytest.mark.thorough)
POST, MAX = "app.bsky.feed.post", 2**53 - 1


class World:
    """Accounts that see one another: ann has what others refer to, vic follows all and looks, mal writes odd things."""

    def __init__(self, database: Database, folder: Path, packages: Path) -> None:
        self.database, self.folder, self.packages = database, folder, packages
        stream = Stream()
        self.ann, self.vic, self.mal = (Person(stream, name) for name in ("ann", "vic", "mal"))
        self.target = {"uri": self.ann.uri(f"{POST}/a"), "cid": to_text(cid_for_cbor(b"x"))}
        follows = [
            create(f"app.bsky.graph.follow/{number}", {"subject": person.did, "createdAt": WHEN})
            for number, person in enumerate((self.ann, self.mal))
        ]
        self.index(self.ann.commit(*one_of_each(self.ann)), self.vic.commit(*follows))
        self.index(self.mal.commit(post("a", "name"), create("app.bsky.actor.profile/self", {"displayName": "name"})))
        rows(database.url, "UPDATE bsky.actor SET handle = right(did, 8) || '.test'")

    def index(self, *frames: bytes) -> None:
        replayed_frames(self.database, self.folder, frames)

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        with serving(self.packages, self.database.url, self.folder / "reference.log") as reader:
            yield reader

    def pages(self) -> list[Page]:
        people = (self.ann.did, self.mal.did)
        stored = "SELECT uri FROM bsky.record WHERE did = ANY (%s) ORDER BY uri"
        uris = [uri for (uri,) in rows(self.database.url, stored, [*people])]
        # The odd posts are on the pages of the others anyway; of some their own pages are looked at, too.
        odd = [uri for uri in uris if uri.startswith(self.mal.uri(f"{POST}/"))]
        uris = [uri for uri in uris if uri not in odd[8:]]
        return pages(people, (self.vic.did, self.ann.did, self.mal.did), uris, ("name",))


@pytest.fixture
def world(server: EmbeddedPostgres, template_database: str, tmp_path: Path, packages: Path) -> Iterator[World]:
    with fresh_database(server, template_database) as database:
        yield World(database, tmp_path, packages)


def check(world: World) -> None:
    with world.reader() as reader:
        # A like by handle is kept, as in the reference: it breaks the page of what its author likes, theirs alone.
        own = ("app.bsky.feed.getActorLikes", world.mal.did)
        found = [failure for failure in broken(reader, world.pages()) if failure[0][:2] != own]
        assert not found, f"{found[:5]}, in {world.folder / 'reference.log'}"
        profile = reader.get("app.bsky.actor.getProfile", world.vic.did, actor=world.mal.did)
        assert (profile.status, profile.body["displayName"]) == (200, "name")


def odd_posts(world: World) -> Iterator[dict[str, Any]]:
    """Replies to ann's post, in which everything is odd that the lexicon lets be."""
    said = {"$type": POST, "text": "name", "createdAt": WHEN, "reply": {"root": world.target, "parent": world.target}}
    quote = {"$type": "app.bsky.embed.record", "record": world.target}
    blob = {"$type": "blob", "ref": cid_for_raw(b"image"), "mimeType": "image/png", "size": MAX}
    deep: Any = {}
    for _ in range(510):
        deep = {"a": deep}
    for value in (
        deep,
        {"$link": "x"},
        {"$link": 5},
        {"$bytes": "!"},
        {"$type": 5},
        {"$type": "blob"},
        {"": 1},
        b"x",
        None,
    ):
        yield {**said, "odd": value}
        yield {**said, "embed": quote, "odd": [[{"a": value}]]}
    for key in (
        "__proto__",
        "constructor",
        "toString",
        "toJSON",
        "hasOwnProperty",
        "then",
        "length",
        "$link",
        "\0",
        "",
    ):
        for value in (1, "x", None, {"x": 1}):
            yield {**said, key: value}
            yield {**said, "odd": {"a": {key: value}}}
    for when in (
        "0000-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999Z",
        "2025-02-30T00:00:00Z",
        "0001-01-01T00:00:00+23:59",
    ):
        yield {**said, "createdAt": when, "embed": quote}
    for address in ("x:y", "http://[", "1:2", "https://%", "https://xn--a"):
        external = {"uri": address, "title": "", "description": "", "thumb": blob}
        yield {**said, "embed": {"$type": "app.bsky.embed.external", "external": external}}
    for kind in ("com.example.embed", "app.bsky.embed.record#view", "blob", "__proto__"):
        yield {**said, "embed": {"$type": kind}, "labels": {"$type": kind}}
        yield {
            **said,
            "embed": {
                "$type": "app.bsky.embed.recordWithMedia",
                "record": {"record": world.target},
                "media": {"$type": kind},
            },
        }
        yield {**said, "facets": [{"index": {"byteStart": MAX, "byteEnd": 0}, "features": [{"$type": kind}]}]}
    values = [{"val": value} for value in ("", "__proto__", "constructor", "!hide")]
    yield {**said, "labels": {"$type": "com.atproto.label.defs#selfLabels", "values": values}}
    for text in ("", "\u202e", "\uffff", "\U0010ffff", "a\0b", "\\u0000"):
        yield {**said, "text": text, "tags": [text or "t"], "langs": ["x-a"]}
    yield {**said, "embed": {"$type": "app.bsky.embed.images", "images": []}}
    yield {**said, "embed": {"$type": "app.bsky.embed.images", "images": [{"image": blob, "alt": "\0"}]}}


@pytest.mark.parametrize("rkey", ["a{}", THOROUGH("~:{}")])
def test_odd_posts_are_shown(world: World, rkey: str) -> None:
    blocks = [bytes(libipld.encode_dag_cbor(record)) for record in odd_posts(world)]
    paths = [f"{POST}/{rkey.format(number)}" for number in range(len(blocks))]
    world.index(*(world.mal.commit_blocks(("create", path, block)) for path, block in zip(paths, blocks, strict=True)))
    check(world)


AUTHORITIES = ("handle.test", *UNREADABLE_DIDS, "did:web:a.example")
RESTS = (f"/{POST}/a", "/app.bsky.graph.list/a", "/site.standard.document/a", "", f"/{POST}/a#/b")


@pytest.mark.parametrize(
    ("authority", "rest"),
    # All authorities and all rests are in CI's share; their other combinations are thorough.
    [
        (authority, rest) if number == place % len(RESTS) else THOROUGH(authority, rest)
        for place, authority in enumerate(AUTHORITIES)
        for number, rest in enumerate(RESTS)
    ],
)
def test_odd_uris_are_shown_or_refused(world: World, authority: str, rest: str) -> None:
    uri = f"at://{authority}{rest}"
    strong, dated = {"uri": uri, "cid": world.target["cid"]}, {"createdAt": WHEN}
    records = [*posts_with(uri), *records_with(world.mal, uri)]
    records += [
        {"$type": "app.bsky.feed.like", "subject": strong, **dated},
        {"$type": "app.bsky.feed.like", "subject": world.target, "via": strong, **dated},
        {"$type": "app.bsky.feed.repost", "subject": world.target, "via": strong, **dated},
        {"$type": "app.bsky.graph.follow", "subject": world.ann.did, "via": strong, **dated},
        {"$type": "app.bsky.graph.listblock", "subject": uri, **dated},
        {"$type": "app.bsky.feed.threadgate", "post": world.mal.uri(f"{POST}/a"), "hiddenReplies": [uri], **dated},
        {
            "$type": "app.bsky.feed.postgate",
            "post": world.mal.uri(f"{POST}/a"),
            "detachedEmbeddingUris": [uri],
            **dated,
        },
    ]
    frames = []
    for number, record in enumerate(records):
        name = record["$type"]
        key = "self" if name == "app.bsky.actor.profile" else "a" if name.endswith("gate") else f"n{number}"
        if key == "self":
            record["displayName"] = "name"
        block = bytes(libipld.encode_dag_cbor(record))
        frames.append(world.mal.commit_blocks(("create", f"{name}/{key}", block)))
    world.index(*frames)
    check(world)


@pytest.mark.parametrize("value", [THOROUGH(1), {"x": 1}], ids=repr)
def test_one_of_each_with_a_key_proto_is_shown(world: World, value: Any) -> None:
    writes = [
        Write("create", write.path, {**(write.record or {}), "displayName": "name", "__proto__": value})
        for write in one_of_each(world.mal)
        if write.path not in (f"{POST}/a", "app.bsky.actor.profile/self")
    ]
    world.index(
        world.mal.commit(*writes),
        world.mal.commit(update("app.bsky.actor.profile/self", {"displayName": "name", "__proto__": value})),
    )
    check(world)


@pytest.mark.parametrize("status", ["throttled", THOROUGH(""), "__proto__", THOROUGH("x" * 1_000)])
def test_an_odd_status_hides_the_account_and_breaks_nothing(world: World, status: str) -> None:
    world.index(world.mal.stream.account(world.mal.did, active=False, status=status))
    with world.reader() as reader:
        assert not broken(reader, world.pages())
        # As nobody: with the password, `getProfile` shows what is hidden.
        hidden = reader.get("app.bsky.actor.getProfile", actor=world.mal.did)
        assert (hidden.status, hidden.body["error"]) == (400, "AccountDeactivated")


Spoil = Callable[[World], None]


def with_proto(world: World) -> None:
    text = json.dumps({"$type": POST, "text": "x", "createdAt": WHEN, "__proto__": 1})
    rows(world.database.url, "UPDATE bsky.record SET json = %s WHERE uri = %s", text, world.mal.uri(f"{POST}/a"))


def with_handle(world: World) -> None:
    quote = {"$type": "app.bsky.embed.record", "record": {**world.target, "uri": f"at://ann.test/{POST}/a"}}
    text = json.dumps({"$type": POST, "text": "x", "createdAt": WHEN, "embed": quote})
    rows(world.database.url, "UPDATE bsky.record SET json = %s WHERE uri = %s", text, world.mal.uri(f"{POST}/a"))


@pytest.mark.parametrize("spoil", [with_proto, with_handle])
def test_the_pages_see_what_cannot_be_read(world: World, spoil: Spoil) -> None:
    """The instrument: what is refused would be noticed, were it stored."""
    spoil(world)
    with world.reader() as reader:
        methods = {page.method for page, _ in broken(reader, world.pages())}
    assert {"app.bsky.feed.getAuthorFeed", "app.bsky.feed.getTimeline", "app.bsky.feed.getPostThread"} <= methods
