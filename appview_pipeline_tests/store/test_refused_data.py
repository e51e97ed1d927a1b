"""What cannot be stored: dead letters, counts, and rows that PostgreSQL refuses, found among their neighbours."""

from __future__ import annotations

import logging
import random
import time
from typing import Any

import pytest

from appview_pipeline.ingest.writer import Position
from appview_pipeline.store.database import Database
from appview_pipeline_tests.simulated_network.repository import Write
from appview_pipeline_tests.support.batches import changes_of, index, writer_for
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, create, delete, did_of, post, rev, update
from appview_pipeline_tests.support.records import like
from appview_pipeline_tests.support.refusing_table import refuse
from appview_pipeline_tests.support.tables import all_gaps, assert_equal, dump, one, record_keys, rows

RELAY = "wss://relay.example"


def letters(database: Database) -> list[tuple[Any, ...]]:
    return rows(database.url, "SELECT kind, path, seq FROM pipeline.dead_letter ORDER BY seq, path")


def broken(person: Person, number: int, seq: int | None = None) -> bytes:
    """A commit whose only record is no post, because of its text's type."""
    more = {} if seq is None else {"seq": seq}
    return person.commit(create(f"app.bsky.feed.post/x{number}", {"text": number, "createdAt": WHEN}), **more)


def test_a_dead_letter_delivered_again_is_the_same_row(database: Database, stream: Stream) -> None:
    ann = Person(stream, "ann")
    frames = [broken(ann, 1), broken(ann, 2), ann.commit(post("a", "well"))]
    for batch in (frames, frames[:1], [*frames, *frames]):
        index(database, *batch)
    assert letters(database) == [
        ("lexicon", "app.bsky.feed.post/x1", 1),
        ("lexicon", "app.bsky.feed.post/x2", 2),
    ]
    assert record_keys(database) == {"a"}


def test_a_flood_of_dead_letters_is_cut_and_counted(database: Database, stream: Stream) -> None:
    while time.time() % 60 > 50:  # the limit is one of the minute: stay within one
        time.sleep(0.5)
    ann = Person(stream, "ann")
    index(database, *(broken(ann, number) for number in range(7)), b"no frame", dead_letters_per_minute=5)
    index(database, *(broken(ann, number) for number in range(7, 10)), dead_letters_per_minute=5)
    kept = [kind for kind, _, _ in letters(database)]
    assert kept.count("lexicon") == 5 and kept.count("frame-cbor") == 1
    assert rows(database.url, "SELECT kind, count FROM pipeline.dead_letter_overflow") == [("lexicon", 5)]
    rejected = rows(database.url, "SELECT rejected, rejected_by_kind FROM pipeline.batch ORDER BY id")
    assert rejected == [(8, {"lexicon": 7, "frame-cbor": 1}), (3, {"lexicon": 3})]


def test_collections_that_are_not_indexed_are_counted_by_name(database: Database, stream: Stream) -> None:
    ann = Person(stream, "ann")
    frames = [
        ann.commit(create("com.example.thing/a", {"x": 1}), create("com.example.thing/b", {"x": 1})),
        ann.commit(update("com.example.thing/a", {"x": 2}), create("org.example.other/a", {"x": 1}), post("p", "hi")),
        ann.commit(delete("com.example.thing/b")),
    ]
    want = [("com.example.thing", 2, 1, 1), ("org.example.other", 1, 0, 0)]
    for batch in ([frames[0]], frames, frames[2:]):
        index(database, *batch)
    counted = "SELECT collection, creates, updates, deletes FROM pipeline.ignored_collection ORDER BY 1"
    assert rows(database.url, counted) == want
    assert record_keys(database) == {"p"} and letters(database) == []


def test_a_record_that_postgres_refuses_is_found_among_its_neighbours(database: Database, stream: Stream) -> None:
    refuse(database, "NEW.text LIKE '%poison%'")
    ann, ben = Person(stream, "ann"), Person(stream, "ben")
    frames = [ben.commit(post(f"b{number}", "fine")) for number in range(20)]
    frames.append(ann.commit(post("a1", "fine"), post("a2", "poison"), post("a3", "fine too")))
    frames += [ben.commit(post(f"c{number}", "fine")) for number in range(20)]
    frames.append(ben.commit(post("alone", "poison again")))
    frames.append(ben.commit(delete("app.bsky.feed.post/b3")))
    position = Position(RELAY, "0/1", None)
    reports = writer_for(database, position).write(changes_of(*frames), time.time())
    want = {f"{letter}{number}" for letter in "bc" for number in range(20)} - {"b3"} | {"a1", "a3"}
    assert record_keys(database) == want == record_keys(database, "post")
    assert letters(database) == [
        ("postgres", "app.bsky.feed.post/a2", 21),
        ("postgres", "app.bsky.feed.post/alone", 42),
    ]
    reason, raw = rows(database.url, "SELECT reason, bytes FROM pipeline.dead_letter ORDER BY seq")[0]
    assert "refused by the test" in reason and b"poison" in bytes(raw)
    assert position.seq == 43 == one(database.url, "SELECT seq FROM pipeline.cursor")
    assert sum(report.frames for report in reports) == len(frames)
    assert all_gaps(database) == [  # of both commits one record is missing; their chains are whole
        ("record", ann.did, "app.bsky.feed.post/a2", rev(21)),
        ("record", ben.did, "app.bsky.feed.post/alone", rev(42)),
    ]
    assert one(database.url, 'SELECT "postsCount" FROM bsky.profile_agg WHERE did = %s', ben.did) == 39
    # Delivered again, nothing changes.
    before = dump(database.url)
    writer_for(database).write(changes_of(*frames), time.time())
    assert_equal(dump(database.url), before)


def test_a_key_too_long_for_an_index_is_found_too(database: Database, stream: Stream) -> None:
    rows(database.url, "CREATE INDEX ON bsky.post_embed_external (uri)")
    rng = random.Random(1)
    ann, ben = Person(stream, "ann"), Person(stream, "ben")

    def linking(rkey: str, length: int) -> Write:
        uri = "https://example.com/" + "".join(f"{rng.getrandbits(32):08x}" for _ in range(length // 8))
        external = {"uri": uri, "title": "t", "description": "d"}
        return post(rkey, "look", embed={"$type": "app.bsky.embed.external", "external": external})

    index(
        database,
        ben.commit(post("before", "x")),
        ann.commit(linking("short", 400), linking("long", 8_000), post("beside", "x")),
        ben.commit(post("after", "x")),
    )
    assert letters(database) == [("postgres", "app.bsky.feed.post/long", 2)]
    assert record_keys(database) == {"before", "short", "beside", "after"} == record_keys(database, "post")
    assert len(rows(database.url, "SELECT 1 FROM bsky.post_embed_external")) == 1


def test_an_overlong_subject_costs_only_its_record(database: Database, stream: Stream) -> None:
    """An AT-URI may have nearly 3,000 characters, and an entry of a B-tree no more than 2,704 bytes."""
    rng = random.Random(2)
    letter = "abcdefghijklmnopqrstuvwxyz"
    host = "did:web:" + "".join(rng.choice(letter) for _ in range(2_030))
    rest = ("".join(rng.choice(letter) for _ in range(length)) for length in (60, 60, 60, 60, 500))
    ann = Person(stream, "ann")
    overlong = "at://{}/{}.{}.{}.{}/{}".format(host, *rest)
    index(
        database,
        ann.commit(like("long", overlong), like("usual", f"at://{did_of('ben')}/app.bsky.feed.post/3lrnqkotindky")),
        ann.commit(create("app.bsky.graph.follow/long", {"subject": host, "createdAt": WHEN})),
        ann.commit(post("after", "x")),
    )
    assert record_keys(database) - {"long"} == {"usual", "after"}
    assert record_keys(database, "like") == {"usual"}
    assert [path for _, path, _ in letters(database)] == ["app.bsky.feed.like/long"]


@pytest.mark.parametrize("code", ["40P01", "40001", "55P03", "57014", "kill"])
def test_what_passes_is_tried_again(
    database: Database, stream: Stream, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A deadlock, a serialization failure, a lock or statement timeout, a killed session: the batch is written once."""
    refuse(database, "NEW.text = 'b'", code, once=True)
    ann = Person(stream, "ann")
    position = Position(RELAY, "0/1", None)
    writer = writer_for(database, position)
    with caplog.at_level(logging.WARNING):
        reports = writer.write(changes_of(*(ann.commit(post(key, key)) for key in "abc")), time.time())
    assert len(reports) == 1 and writer.retries == 1
    assert record_keys(database) == {"a", "b", "c"} == record_keys(database, "post")
    assert one(database.url, "SELECT count(*) FROM pipeline.batch") == 1
    assert one(database.url, 'SELECT "postsCount" FROM bsky.profile_agg') == 3
    assert (position.seq, letters(database)) == (3, [])
    (line,) = [record.getMessage() for record in caplog.records]
    assert "trying again" in line and "\n" not in line


def test_a_refused_deletion_is_a_dead_letter_of_its_commit(database: Database, stream: Stream) -> None:
    ann, ben = Person(stream, "ann"), Person(stream, "ben")
    index(database, ann.commit(post("a", "clings")))
    refuse(database, "OLD.text = 'clings'")
    position = Position(RELAY, "0/1", 1)
    rows(database.url, "INSERT INTO pipeline.cursor (relay, seq) VALUES (%s, 1)", RELAY)
    frames = [
        ben.commit(post("b", "b")),
        ann.commit(delete("app.bsky.feed.post/a"), post("c", "with it")),
        ben.commit(post("d", "d")),
    ]
    writer_for(database, position).write(changes_of(*frames), time.time())
    assert record_keys(database) >= {"a", "b", "d"}
    assert [(kind, seq) for kind, _, seq in letters(database)] == [("postgres", 3)]
    assert position.seq == 4
