"""What the reference makes of rare records, in any batching: expected values are those of `@atproto/bsky` 0.0.280."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from appview_pipeline.indexing.collections.reference_list_opt_out import names_list
from appview_pipeline.indexing.registry import COLLECTIONS, IndexedCollections
from appview_pipeline.indexing.validators import record_validators
from appview_pipeline.ingest.decoding import read_changes
from appview_pipeline.ingest.writer import Writer
from appview_pipeline.protocol.cid import cid_for_cbor, to_text
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline_tests.conformance.reference.plugins import PLUGINS, plugins_of
from appview_pipeline_tests.support.checkout import SHARED
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, create, delete, did_of, post, update
from appview_pipeline_tests.support.tables import one, rows

BEYOND = frozenset(
    (
        "app.bsky.actor.contentVisibilityDeclaration",
        "com.atproto.lexicon.schema",
        "site.standard.document",
        "site.standard.graph.recommend",
        "site.standard.graph.subscription",
        "site.standard.publication",
        "site.standard.theme.basic",
    )
)
"""Record types that we keep in `record` and the reference does not (docs/differences.md)."""

NOWHERE = to_text(cid_for_cbor(b"nothing"))
SIZES = (1, 2, 3, 0)
"""Frames a batch; 0: all of them."""


def index(database: Database, frames: Sequence[bytes], size: int) -> None:
    writer = Writer(database, Settings(database_url=database.url), "test", None)
    size = size or len(frames)
    for at in range(0, len(frames), size):
        writer.write(read_changes(frames[at : at + size], record_validators(None), IndexedCollections()), time.time())


# ---- the record types


def test_every_record_type_of_the_reference_is_indexed() -> None:
    assert set(COLLECTIONS) == PLUGINS | BEYOND


def test_the_list_of_record_types_is_that_of_the_package(packages: Path) -> None:
    assert plugins_of(packages) == PLUGINS


# ---- the cases that were found beside the reference's own indexer


def case_ids() -> list[str]:
    folder = SHARED / "cases"
    return sorted(path.parent.name for path in folder.glob("diff-*/checks.json")) or ["absent"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", case_ids())
def test_case(database: Database, name: str, size: int) -> None:
    folder = SHARED / "cases" / name
    if not folder.is_dir():
        pytest.skip("the cases (../shared/cases) are not there")
    data, frames = (folder / "input.frames.bin").read_bytes(), []
    while data:
        (length,) = struct.unpack_from("<I", data)
        frames.append(data[4 : 4 + length])
        data = data[4 + length :]
    index(database, frames, size)
    for check in json.loads((folder / "checks.json").read_text()):
        assert one(database.url, check["sql"]) == check["want"], check["what"]


# ---- app.bsky.graph.referencelistoptout

OPTOUT = "app.bsky.graph.referencelistoptout"
LIST = "app.bsky.graph.list/3lrnqkotindky"


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        (f"at://{did_of('ann')}/{LIST}", True),
        (f"at://did:web:example.com/{LIST}", True),
        (f"at://{did_of('ann')}", False),
        (f"at://{did_of('ann')}/app.bsky.graph.list", False),
        (f"at://{did_of('ann')}/app.bsky.graph.listitem/3lrnqkotindky", False),
        (f"at://{did_of('ann')}/{LIST}/more", False),
        (f"at://{did_of('ann')}/{LIST}/", False),
        (f"at://{did_of('ann')}/{LIST}?x=1", False),
        (f"at://{did_of('ann')}/{LIST}#x", False),
        (f"at://ann.example.com/{LIST}", False),
        (f"at://{did_of('ann')}/app.bsky.graph.list/..", False),
    ],
)
def test_an_opt_out_names_a_list_by_its_whole_uri(uri: str, named: bool) -> None:
    assert names_list(uri) is named


def opt_out(rkey: str, subject: str) -> Any:
    return create(f"{OPTOUT}/{rkey}", {"subject": subject, "createdAt": WHEN})


@pytest.mark.parametrize("size", SIZES)
def test_one_opt_out_an_account_and_list(database: Database, size: int) -> None:
    stream = Stream()
    ann, ben, cleo, dora = (Person(stream, name) for name in ("ann", "ben", "cleo", "dora"))
    a_list = ann.uri(LIST)
    frames = [
        ann.commit(
            create(LIST, {"name": "l", "purpose": "app.bsky.graph.defs#referencelist", "createdAt": WHEN}),
        ),
        ben.commit(opt_out("3lrnqkotindka", a_list)),
        ben.commit(opt_out("3lrnqkotindkb", a_list)),
        cleo.commit(opt_out("3lrnqkotindkc", a_list)),
        cleo.commit(opt_out("3lrnqkotindkd", f"at://{ann.did}")),
        dora.commit(opt_out("3lrnqkotindke", a_list)),
        dora.commit(opt_out("3lrnqkotindkf", a_list)),
        dora.commit(delete(f"{OPTOUT}/3lrnqkotindke")),
    ]
    index(database, frames, size)
    found = rows(
        database.url,
        'SELECT creator, right(uri, 1), "subjectUri", "createdAt" FROM bsky.reference_list_opt_out ORDER BY 2',
    )
    assert found == [
        (ben.did, "a", a_list, WHEN),
        (cleo.did, "c", a_list, WHEN),
        (dora.did, "f", a_list, WHEN),  # docs/differences.md: the reference promotes none of this type
    ]
    duplicates = 'SELECT right(uri, 1), right("duplicateOf", 1) FROM bsky.duplicate_record'
    assert rows(database.url, duplicates) == [("b", "a")]
    assert one(database.url, f"SELECT count(*) FROM bsky.record WHERE uri LIKE '%/{OPTOUT}/%'") == 5
    assert one(database.url, "SELECT count(*) FROM bsky.notification") == 0


# ---- what a deletion proves

POST = "app.bsky.feed.post/3lrnqkotindky"
GATES = ("threadgate", "postgate")


def gate(kind: str, post_uri: str) -> Any:
    return create(f"app.bsky.feed.{kind}/3lrnqkotindky", {"post": post_uri, "createdAt": WHEN})


def flags(database: Database) -> list[tuple[bool | None, bool | None]]:
    return rows(database.url, 'SELECT "hasThreadGate", "hasPostGate" FROM bsky.post ORDER BY uri')


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("first", ["post", "gates"])
def test_the_deletion_of_a_refused_gate_sets_no_flag(database: Database, first: str, size: int) -> None:
    stream = Stream()
    ann, ben = Person(stream, "ann"), Person(stream, "ben")
    posted = [post("3lrnqkotindky", "here")]
    refused = [gate(kind, ben.uri(POST)) for kind in GATES]
    undone = [delete(f"app.bsky.feed.{kind}/3lrnqkotindky") for kind in GATES]
    turns = [posted, refused, undone] if first == "post" else [refused, undone, posted]
    index(database, [ann.commit(*writes) for writes in turns], size)
    assert flags(database) == [(None, None)]
    assert one(database.url, "SELECT count(*) FROM pipeline.dead_letter") == 2


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("first", ["post", "gates"])
def test_a_gate_that_names_no_post_sets_no_flag(database: Database, first: str, size: int) -> None:
    """The reference asks for the account and the record key of what a gate names, not for its collection."""
    stream = Stream()
    ann = Person(stream, "ann")
    posted = [post("3lrnqkotindky", "here")]
    gates = [gate(kind, ann.uri("app.bsky.feed.generator/3lrnqkotindky")) for kind in GATES]
    undone = [delete(f"app.bsky.feed.{kind}/3lrnqkotindky") for kind in GATES]
    turns = [posted, gates, undone] if first == "post" else [gates, undone, posted]
    index(database, [ann.commit(*writes) for writes in turns], size)
    assert flags(database) == [(None, None)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("first", ["post", "gates"])
def test_a_gate_that_is_gone_leaves_the_flag_false(database: Database, first: str, size: int) -> None:
    stream = Stream()
    ann = Person(stream, "ann")
    posted = [post("3lrnqkotindky", "here")]
    gates = [gate(kind, ann.uri(POST)) for kind in GATES]
    undone = [delete(f"app.bsky.feed.{kind}/3lrnqkotindky") for kind in GATES]
    turns = [posted, gates, undone] if first == "post" else [gates, undone, posted]
    index(database, [ann.commit(*writes) for writes in turns], size)
    assert flags(database) == [(False, False)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("collection", ["app.bsky.graph.list", "app.bsky.feed.post"])
def test_only_a_deleted_post_leaves_the_feeds_of_its_reposters(database: Database, collection: str, size: int) -> None:
    stream = Stream()
    ann, ben = Person(stream, "ann"), Person(stream, "ben")
    path = f"{collection}/3lrnqkotindky"
    record = {"text": "here"} if "post" in path else {"name": "l", "purpose": "app.bsky.graph.defs#curatelist"}
    made = create(path, {**record, "createdAt": WHEN})
    repost = {"subject": {"uri": ann.uri(path), "cid": NOWHERE}, "createdAt": WHEN}
    frames = [
        ann.commit(made),
        ben.commit(create("app.bsky.feed.repost/3lrnqkotindka", repost)),
        ann.commit(delete(path)),
    ]
    index(database, frames, size)
    assert one(database.url, "SELECT count(*) FROM bsky.feed_item") == (0 if "post" in path else 1)
    assert one(database.url, 'SELECT "repostCount"::int FROM bsky.post_agg') == 1


# ---- what docs/differences.md lists of rare records


def one_account(database: Database, size: int, *commits: Any) -> Person:
    ann = Person(Stream(), "ann")
    index(database, [ann.commit(*writes) for writes in commits], size)
    return ann


@pytest.mark.parametrize("size", SIZES)
def test_a_post_with_an_empty_embed_is_a_post(database: Database, size: int) -> None:
    empty = {"$type": "app.bsky.embed.images", "images": []}
    quoted = {"uri": f"at://{did_of('ben')}/{POST}", "cid": NOWHERE}
    both = {"$type": "app.bsky.embed.recordWithMedia", "record": {"record": quoted}, "media": empty}
    one_account(
        database, size, [post("3lrnqkotindka", "none", embed=empty)], [post("3lrnqkotindkb", "none", embed=both)]
    )
    assert one(database.url, "SELECT count(*) FROM bsky.post") == 2
    assert one(database.url, "SELECT count(*) FROM bsky.post_embed_image") == 0
    assert one(database.url, "SELECT count(*) FROM bsky.quote") == 1


@pytest.mark.parametrize("size", SIZES)
def test_gate_flags_survive_an_edit(database: Database, size: int) -> None:
    ann = did_of("ann")
    gates = [gate(kind, f"at://{ann}/{POST}") for kind in GATES]
    one_account(
        database,
        size,
        [post("3lrnqkotindky", "here")],
        gates,
        [update(POST, {"text": "there", "createdAt": WHEN})],
        [delete("app.bsky.feed.postgate/3lrnqkotindky")],
        [update(POST, {"text": "anywhere", "createdAt": WHEN})],
    )
    assert flags(database) == [(True, False)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("reply", [{}, "nonsense", False])
def test_a_reply_to_a_record_that_has_a_reply_of_its_own(database: Database, reply: Any, size: int) -> None:
    """The reference asks any parent for its `reply`; it fails on one without a root, and takes false for none."""
    listed = {"name": "l", "purpose": "app.bsky.graph.defs#curatelist", "createdAt": WHEN, "reply": reply}
    parent = {"uri": f"at://{did_of('ann')}/{LIST}", "cid": NOWHERE}
    one_account(
        database,
        size,
        [create(LIST, listed)],
        [post("3lrnqkotindky", "here", reply={"root": parent, "parent": parent})],
    )
    invalid = one(database.url, 'SELECT "invalidReplyRoot" FROM bsky.post')
    assert invalid is (None if reply is False else True)


@pytest.mark.parametrize("size", SIZES)
def test_an_edit_may_say_what_another_record_says(database: Database, size: int) -> None:
    ann = one_account(
        database,
        size,
        [create("app.bsky.graph.follow/3lrnqkotindka", {"subject": did_of("ben"), "createdAt": WHEN})],
        [create("app.bsky.graph.follow/3lrnqkotindkb", {"subject": did_of("cleo"), "createdAt": WHEN})],
        [update("app.bsky.graph.follow/3lrnqkotindkb", {"subject": did_of("ben"), "createdAt": WHEN})],
    )
    assert rows(database.url, 'SELECT right(uri, 1), "subjectDid" FROM bsky.follow') == [("a", did_of("ben"))]
    assert rows(database.url, 'SELECT right(uri, 1), right("duplicateOf", 1) FROM bsky.duplicate_record') == [
        ("b", "a")
    ]
    notified = 'SELECT did, author, right("recordUri", 1) FROM bsky.notification ORDER BY 3'
    assert rows(database.url, notified) == [(did_of("ben"), ann.did, "a"), (did_of("cleo"), ann.did, "b")]


@pytest.mark.parametrize("size", SIZES)
def test_what_comes_again_under_its_key_notifies_once(database: Database, size: int) -> None:
    pack = {"uri": f"at://{did_of('ben')}/app.bsky.graph.starterpack/3lrnqkotindky", "cid": NOWHERE}
    profile = create("app.bsky.actor.profile/self", {"joinedViaStarterPack": pack, "createdAt": WHEN})
    verified = {"subject": did_of("ben"), "handle": "ben.example.com", "displayName": "Ben", "createdAt": WHEN}
    verification = create("app.bsky.graph.verification/3lrnqkotindky", verified)
    gone = [delete("app.bsky.actor.profile/self"), delete("app.bsky.graph.verification/3lrnqkotindky")]
    one_account(database, size, [profile, verification], gone, [profile, verification], gone)
    reasons = rows(database.url, "SELECT did, reason FROM bsky.notification ORDER BY reason")
    assert reasons == [(did_of("ben"), reason) for reason in ("starterpack-joined", "unverified", "verified")]


@pytest.mark.parametrize("size", SIZES)
def test_a_handle_in_a_uri_is_kept_as_it_stands(database: Database, size: int) -> None:
    """That of a like. What readers show to others needs a DID: reposts and quotes (see test_odd_records.py)."""
    by_handle = {"uri": f"at://ben.example.com/{POST}", "cid": NOWHERE}
    one_account(
        database,
        size,
        [create("app.bsky.feed.like/3lrnqkotindka", {"subject": by_handle, "createdAt": WHEN})],
        [create("app.bsky.feed.repost/3lrnqkotindka", {"subject": by_handle, "createdAt": WHEN})],
        [post("3lrnqkotindka", "q", embed={"$type": "app.bsky.embed.record", "record": by_handle})],
    )
    notified = 'SELECT did, reason, "reasonSubject" FROM bsky.notification ORDER BY reason'
    assert rows(database.url, notified) == [("ben.example.com", "like", by_handle["uri"])]
    counts = 'SELECT uri, "likeCount"::int, "repostCount"::int, "quoteCount"::int FROM bsky.post_agg'
    assert rows(database.url, counts) == [(by_handle["uri"], 1, 0, 0)]
    refused = "SELECT path, kind FROM pipeline.dead_letter ORDER BY path"
    assert rows(database.url, refused) == [
        ("app.bsky.feed.post/3lrnqkotindka", "collection-rule"),
        ("app.bsky.feed.repost/3lrnqkotindka", "collection-rule"),
    ]


@pytest.mark.parametrize("size", SIZES)
def test_what_is_created_and_deleted_at_once_leaves_no_aggregate(database: Database, stream: Stream, size: int) -> None:
    """In batches of their own it leaves a row of zeros, as in the reference."""
    ann = Person(stream, "ann")
    follow = {"subject": did_of("bob"), "createdAt": WHEN}
    frames = [
        ann.commit(create("app.bsky.graph.follow/a", follow), post("a", "gone soon")),
        ann.commit(delete("app.bsky.graph.follow/a"), delete("app.bsky.feed.post/a")),
    ]
    index(database, frames, size)
    found = rows(
        database.url, 'SELECT did, "followersCount", "followsCount", "postsCount" FROM bsky.profile_agg ORDER BY did'
    )
    assert found == ([(did, 0, 0, 0) for did in sorted((ann.did, did_of("bob")))] if size == 1 else [])
