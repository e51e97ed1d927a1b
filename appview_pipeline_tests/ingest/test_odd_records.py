"""No record is stored as something that it does not say, and readers of the database can show every record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libipld
import pytest

from appview_pipeline.protocol.cid import cid_for_cbor, to_text
from appview_pipeline.store.database import Database
from appview_pipeline_tests.simulated_network.repository import Write
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, create, post
from appview_pipeline_tests.support.records import (
    UNREADABLE_DIDS,
    block_of,
    one_of_each,
    posts_with,
    records_with,
    without_odd_keys,
)
from appview_pipeline_tests.support.replays import Replay, letters, stored_record
from appview_pipeline_tests.support.tables import one, record_keys, replayed_frames, rows


def with_key(record: dict[str, Any], key: str, value: Any) -> list[dict[str, Any]]:
    """The record with one key more, which comes first or last."""
    return [{key: value, **record}, {**record, key: value}]


@pytest.mark.parametrize("size", [1, 100])
def test_a_key_of_the_lexicon_never_gets_the_value_of_another_key(
    database: Database, tmp_path: Path, size: int
) -> None:
    """Also where they differ in nothing but U+0000: text, the followed, the type, the date, and inside of maps."""
    stream = Stream()
    ann, ben, cleo = (Person(stream, name) for name in ("ann", "ben", "cleo"))
    liked = {"uri": ben.uri("app.bsky.feed.post/b"), "cid": to_text(cid_for_cbor(b"x"))}
    other = {"uri": cleo.uri("app.bsky.feed.post/c"), "cid": to_text(cid_for_cbor(b"y"))}
    dated = {"createdAt": WHEN}
    said = {"$type": "app.bsky.feed.post", "text": "said", **dated}
    writes: list[Write] = []
    for number, record in enumerate(
        [
            *with_key(said, "te\0xt", "not said"),
            *with_key(said, "\0text", "not said"),
            *with_key(said, "$type\0", "app.bsky.graph.follow"),
            *with_key(said, "created\0At", "1999-01-01T00:00:00.000Z"),
            *with_key({**said, "langs": ["en"]}, "langs\0", ["de"]),
        ]
    ):
        writes.append(Write("create", f"app.bsky.feed.post/{number}", record))
    for number, record in enumerate(
        with_key({"$type": "app.bsky.graph.follow", "subject": ben.did, **dated}, "subj\0ect", cleo.did)
    ):
        writes.append(Write("create", f"app.bsky.graph.follow/{number}", record))
    for number, strong in enumerate(with_key(liked, "ur\0i", other["uri"])):
        writes.append(
            Write("create", f"app.bsky.feed.like/{number}", {"$type": "app.bsky.feed.like", "subject": strong, **dated})
        )
    frames = [ann.commit(write) for write in writes]
    for _ in range(2):
        replayed_frames(database, tmp_path, frames, size)
        url = database.url
        assert rows(url, 'SELECT DISTINCT text, "createdAt", langs IS DISTINCT FROM \'["de"]\' FROM bsky.post') == [
            ("said", WHEN, True)
        ]
        assert one(url, "SELECT count(*) FROM bsky.post") == 10
        assert rows(url, 'SELECT DISTINCT "subjectDid" FROM bsky.follow') == [(ben.did,)]
        assert rows(url, "SELECT DISTINCT subject FROM bsky.like") == [(liked["uri"],)]
        assert rows(url, "SELECT DISTINCT did FROM bsky.notification") == [(ben.did,)]
        assert rows(url, "SELECT kind FROM pipeline.dead_letter") == []
        for write in writes:
            assert write.record is not None
            assert stored_record(database, ann, write.path) == without_odd_keys(write.record)


def identifiers(ann: Person) -> list[dict[str, Any]]:
    """Records in which U+0000 stands in what is no text: without it, each would mean something else."""
    strong = {"uri": ann.uri("app.bsky.feed.post/a"), "cid": to_text(cid_for_cbor(b"x"))}
    dated = {"createdAt": WHEN}
    said = {"$type": "app.bsky.feed.post", "text": "x", **dated}
    mention = {"$type": "app.bsky.richtext.facet#mention\0", "did": ann.did}
    return [
        {"$type": "app.bsky.graph.follow", "subject": ann.did + "\0", **dated},
        {"$type": "app.bsky.feed.like", "subject": {**strong, "uri": strong["uri"] + "\0"}, **dated},
        {"$type": "app.bsky.feed.like", "subject": {**strong, "cid": "\0" + strong["cid"]}, **dated},
        {"$type": "app.bsky.feed.post\0", "text": "x", **dated},
        {**said, "createdAt": WHEN + "\0"},
        {**said, "langs": ["e\0n"]},
        {**said, "embed": {"$type": "app.bsky.embed.record\0", "record": strong}},
        {**said, "facets": [{"index": {"byteStart": 0, "byteEnd": 1}, "features": [mention]}]},
        {"$type": "app.bsky.graph.list", "name": "x", "purpose": "app.bsky.graph.defs#modlist\0", **dated},
    ]


def test_an_identifier_with_nul_is_none(replay: Replay) -> None:
    ann = Person(Stream(), "ann")
    bad = identifiers(ann)
    frames = [
        ann.commit_blocks(
            ("create", f"{record['$type'].rstrip(chr(0))}/bad{number}", bytes(libipld.encode_dag_cbor(record))),
            ("create", f"app.bsky.feed.post/good{number}", block_of(text="g\0ood")),
        )
        for number, record in enumerate(bad)
    ]
    database = replay(*frames)
    assert record_keys(database) == {f"good{number}" for number in range(len(bad))}
    assert [kind for _, _, _, kind, *_ in letters(database)] == ["lexicon"] * len(bad)
    assert rows(database.url, "SELECT DISTINCT text FROM bsky.post") == [("good",)]


PLACES: list[Callable[[dict[str, Any], Any], dict[str, Any]]] = [
    lambda record, value: {**record, "__proto__": value},
    lambda record, value: {"__proto__": value, **record},
    lambda record, value: {**record, "odd": {"a": [[{"__proto__": value, "b": 1}]]}},
]


@pytest.mark.parametrize("value", [1, "x", None, {"x": 1}, {"__proto__": {"text": "forged"}}], ids=repr)
def test_a_key_proto_is_never_stored(replay: Replay, value: Any) -> None:
    """Readers written in JavaScript refuse JSON with it: whatever its value, in all collections, at any depth."""
    stream = Stream()
    people = [Person(stream, f"person {number}") for number in range(len(PLACES))]
    written: dict[str, Any] = {}
    frames = []
    for person, place in zip(people, PLACES, strict=True):
        writes = []
        for write in one_of_each(person):
            assert write.record is not None
            writes.append(Write("create", write.path, place(write.record, value)))
            written[person.uri(write.path)] = without_odd_keys(writes[-1].record)
        frames.append(person.commit(*writes))
    database = replay(*frames)
    assert letters(database) == []
    stored = rows(database.url, "SELECT uri, json FROM bsky.record")
    assert {uri: json.loads(text) for uri, text in stored} == written
    assert one(database.url, "SELECT count(*) FROM bsky.record WHERE json LIKE '%%proto%%'") == 0


def test_any_stored_record_can_be_promoted(replay: Replay) -> None:
    """Its JSON is read again then, whatever maps it holds that look like links, and however deep they are."""
    stream = Stream()
    ann, ben = Person(stream, "ann"), Person(stream, "ben")
    target = {"uri": ben.uri("app.bsky.feed.post/b"), "cid": to_text(cid_for_cbor(b"x"))}
    deep: dict[str, Any] = {"$link": "x"}
    for _ in range(500):
        deep = {"a": deep}
    odd: list[Any] = [{"$link": "x"}, {"$bytes": "!"}, {"$bytes": "Y"}, {"$link": b"x"}, [{"$link": 5}], deep]
    likes = [
        create(f"app.bsky.feed.like/{n}", {"subject": target, "createdAt": WHEN, "odd": value})
        for n, value in enumerate(odd)
    ]
    deletions = [Write("delete", like.path, None) for like in likes]
    database = replay(*(ann.commit(write) for write in [*likes, *deletions[:-1]]), batch_size=1)
    assert letters(database) == []
    assert rows(database.url, "SELECT uri FROM bsky.like") == [(ann.uri(likes[-1].path),)]
    assert one(database.url, 'SELECT "likeCount" FROM bsky.post_agg WHERE uri = %s', target["uri"]) == 1


@pytest.mark.parametrize("authority", ["ann.test", "ANN.test", *UNREADABLE_DIDS])
def test_readers_get_no_uri_without_a_did_that_they_can_read(replay: Replay, authority: str) -> None:
    ann = Person(Stream(), "ann")
    bad = []
    for rest in ("/app.bsky.feed.post/a", "/app.bsky.graph.list/a", "/site.standard.document/a", ""):
        uri = f"at://{authority}{rest}"
        bad += [*posts_with(uri), *records_with(ann, uri)]
    frames, there = [], set[str]()
    for number, record in enumerate(bad):
        block = bytes(libipld.encode_dag_cbor(record))
        good = ("create", f"app.bsky.feed.post/good{number}", block_of())
        path = f"{record['$type']}/bad"
        frames.append(ann.commit_blocks(("update" if path in there else "create", path, block), good))
        there.add(path)
    database = replay(*frames)
    assert record_keys(database) == {f"good{number}" for number in range(len(bad))}
    kind = "lexicon" if authority in UNREADABLE_DIDS else "collection-rule"
    assert [found for _, _, _, found, *_ in letters(database)] == [kind] * len(bad)


@pytest.mark.parametrize("authority", ["did:web:a.example", "did:web:localhost%3A80", "did:x:A-b:c"])
def test_other_did_methods_are_as_good_as_any(replay: Replay, authority: str) -> None:
    ann = Person(Stream(), "ann")
    records = [*posts_with(f"at://{authority}/a.b.c/d"), *records_with(ann, f"at://{authority}/a.b.c/d")]
    there = set[str]()
    for record in records:
        path, block = f"{record['$type']}/bad", bytes(libipld.encode_dag_cbor(record))
        database = replay(ann.commit_blocks(("update" if path in there else "create", path, block)))
        there.add(path)
        assert stored_record(database, ann, path)["$type"] == record["$type"]
    assert letters(database) == []


@pytest.mark.parametrize("authority", ["ann.test", "did:plc:" + "a" * 24])
def test_a_like_may_name_its_subject_by_a_handle(replay: Replay, authority: str) -> None:
    """Nobody but the account itself is shown what it likes; the reference indexes it, too."""
    ann = Person(Stream(), "ann")
    subject = {"uri": f"at://{authority}/app.bsky.feed.post/a", "cid": to_text(cid_for_cbor(b"x"))}
    database = replay(ann.commit(create("app.bsky.feed.like/a", {"subject": subject, "createdAt": WHEN})))
    assert one(database.url, "SELECT subject FROM bsky.like") == subject["uri"]


@pytest.mark.parametrize("did", UNREADABLE_DIDS)
def test_an_account_that_readers_cannot_show_is_not_indexed(replay: Replay, did: str) -> None:
    """Its record keys would be in every list of likes, follows or replies, and its name in every search."""
    ann = Person(Stream(), "ann")
    frames = [ann.commit(post("a", "x"))]
    frames.append(ann.commit(post("b", "x"), repo=did))
    frames.append(ann.stream.frame("#sync", {**ann.repository.sync_event(), "did": did}))
    frames.append(ann.stream.account(did, active=False, status="suspended"))
    frames.append(ann.stream.frame("#identity", {"did": did, "handle": "ann.test"}))
    database = replay(*frames)
    assert record_keys(database) == {"a"}
    assert rows(database.url, "SELECT did FROM bsky.actor") == [(ann.did,)]
    assert [(found, kind) for _, found, _, kind, *_ in letters(database)] == [(did, "did")] * 4
