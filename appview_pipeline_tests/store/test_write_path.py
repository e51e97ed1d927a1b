"""The write path: what a batch does to the tables, and what happens when PostgreSQL or another writer is in its way."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appview_pipeline import backoff
from appview_pipeline.indexing.changes import Change, DeadLetter
from appview_pipeline.indexing.registry import IndexedCollections
from appview_pipeline.indexing.validators import record_validators
from appview_pipeline.ingest import writer as writer_module
from appview_pipeline.ingest.decoding import read_changes
from appview_pipeline.ingest.writer import Position, Stopped, Writer
from appview_pipeline.protocol.cid import cid_for_cbor, to_text
from appview_pipeline.protocol.syntax import tid_from_micros
from appview_pipeline.settings import Settings
from appview_pipeline.store.apply import apply as real_apply
from appview_pipeline.store.batch import CursorMoved, Report
from appview_pipeline.store.cursors import cursor_of
from appview_pipeline.store.database import Database
from appview_pipeline.store.errors import DatabaseError
from appview_pipeline.store.stream_lock import LockLost, LockTaken, stream_lock
from appview_pipeline_tests.simulated_network.repository import Write
from appview_pipeline_tests.support.frames import START, WHEN, Person, Stream, create, delete, did_of, post, rev, update
from appview_pipeline_tests.support.tables import Fresh, assert_equal, dump, one, rows

RELAY = "wss://relay.example"
NOWHERE = to_text(cid_for_cbor(b"nothing"))
few = settings(
    max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def stream() -> Stream:
    return Stream()


def changes_of(*frames: bytes) -> list[Change]:
    return read_changes(frames, record_validators(None), IndexedCollections())


def writer_for(database: Database, position: Position | None = None, **more: Any) -> Writer:
    return Writer(database, Settings(database_url=database.url, **more), "test", position)


def index(database: Database, *frames: bytes, **more: Any) -> list[Report]:
    """The frames as one batch."""
    return writer_for(database, **more).write(changes_of(*frames), time.time())


def ref(uri: str) -> dict[str, str]:
    return {"uri": uri, "cid": NOWHERE}


def like(rkey: str, uri: str, **more: Any) -> Write:
    return create(f"app.bsky.feed.like/{rkey}", {"subject": ref(uri), "createdAt": WHEN, **more})


def uris(database: Database, table: str = "record") -> set[str]:
    return {uri.rpartition("/")[2] for (uri,) in rows(database.url, f'SELECT uri FROM bsky."{table}"')}


def letters(database: Database) -> list[tuple[Any, ...]]:
    return rows(database.url, "SELECT kind, path, seq FROM pipeline.dead_letter ORDER BY seq, path")


# ---- records that say the same


@dataclass(frozen=True)
class Saying:
    """A collection in which one of several records about a subject counts."""

    collection: str
    table: str
    record: Callable[[str, str], dict[str, Any]]
    """From the author's DID and the subject's."""
    counter: str | None = None
    told: str | None = None


def post_by(did: str) -> str:
    return f"at://{did}/app.bsky.feed.post/3lrnqkotindky"


def list_by(did: str) -> str:
    return f"at://{did}/app.bsky.graph.list/3lrnqkotindky"


SAYINGS = (
    Saying("app.bsky.feed.like", "like", lambda me, it: {"subject": ref(post_by(it))}, "likeCount", "like"),
    Saying("app.bsky.feed.repost", "repost", lambda me, it: {"subject": ref(post_by(it))}, "repostCount", "repost"),
    Saying("app.bsky.graph.follow", "follow", lambda me, it: {"subject": it}, "followersCount", "follow"),
    Saying("app.bsky.graph.block", "actor_block", lambda me, it: {"subject": it}),
    Saying("app.bsky.graph.listitem", "list_item", lambda me, it: {"subject": it, "list": list_by(me)}),
    Saying("app.bsky.graph.listblock", "list_block", lambda me, it: {"subject": list_by(it)}),
    Saying("app.bsky.graph.referencelistoptout", "reference_list_opt_out", lambda me, it: {"subject": list_by(it)}),
    Saying(
        "app.bsky.graph.verification",
        "verification",
        lambda me, it: {"subject": it, "handle": "somebody.test", "displayName": "Somebody"},
    ),
)
MADE = st.tuples(st.sampled_from(("create", "create", "create", "delete", "update")), *[st.integers(0, 9)] * 2)


@dataclass
class Said:
    """The plain model: which records exist, each with the rev of its last commit."""

    frames: list[bytes] = field(default_factory=list)
    exists: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    """Author, subject and rev by URI."""

    def live(self) -> dict[tuple[str, str], str]:
        """The URI that counts, by author and subject: the first by rev, then record key."""
        found: dict[tuple[str, str], str] = {}
        for uri, (author, subject, _) in sorted(self.exists.items(), key=lambda item: (item[1][2], item[0])):
            found.setdefault((author, subject), uri)
        return found


def history(saying: Saying, moves: Sequence[tuple[str, int, int]]) -> Said:
    """A valid history of two accounts and two subjects: each move a commit, sometimes of two records at once."""
    stream, said = Stream(), Said()
    authors = [Person(stream, "ann"), Person(stream, "ben")]
    subjects = [did_of("cleo"), did_of("dora")]
    for number, (action, first, second) in enumerate(moves):
        author = authors[first % 2]
        own = sorted(uri for uri, (did, _, _) in said.exists.items() if did == author.did)
        now = rev(stream.moment + 1)
        writes = []
        if action == "create" or not own:
            for extra in range(1 + (second > 7)):
                # Record keys that run against time.
                rkey = tid_from_micros(START - number * 1_000_000 - extra)
                path = f"{saying.collection}/{rkey}"
                subject = subjects[second % 2]
                writes.append(create(path, {**saying.record(author.did, subject), "createdAt": WHEN}))
                said.exists[author.uri(path)] = (author.did, subject, now)
        else:
            uri = own[second % len(own)]
            path = uri.removeprefix(f"at://{author.did}/")
            if action == "delete":
                writes.append(delete(path))
                del said.exists[uri]
            else:
                subject = said.exists[uri][1]
                made = f"2025-06-15T15:06:41.{number:03}Z"
                writes.append(update(path, {**saying.record(author.did, subject), "createdAt": made}))
                said.exists[uri] = (author.did, subject, now)
        said.frames.append(author.commit(*writes))
    return said


@pytest.mark.parametrize("saying", SAYINGS, ids=lambda saying: saying.table)
@few
@given(moves=st.lists(MADE, min_size=1, max_size=12), seed=st.integers(0, 2**16), shuffle=st.booleans())
def test_of_several_records_that_say_the_same_the_first_counts(
    fresh: Fresh, saying: Saying, moves: list[tuple[str, int, int]], seed: int, shuffle: bool
) -> None:
    """In any order of arrival and deletion, in any batches."""
    rng = random.Random(seed)
    said = history(saying, moves)
    frames = said.frames
    if shuffle:
        frames = rng.sample(frames, len(frames)) + rng.choices(frames, k=2)
    with fresh() as database:
        writer = writer_for(database)
        changes = changes_of(*frames)
        while changes:
            size = rng.randint(1, len(changes))
            writer.write(changes[:size], time.time())
            changes = changes[size:]
        live = said.live()
        assert {uri for (uri,) in rows(database.url, f'SELECT uri FROM bsky."{saying.table}"')} == set(live.values())
        assert {uri for (uri,) in rows(database.url, "SELECT uri FROM bsky.record")} == set(said.exists)
        duplicates = dict(rows(database.url, 'SELECT uri, "duplicateOf" FROM bsky.duplicate_record'))
        assert duplicates == {
            uri: live[author, subject]
            for uri, (author, subject, _) in said.exists.items()
            if live[author, subject] != uri
        }
        if saying.counter is not None:
            key, table = ("did", "profile_agg") if saying.counter == "followersCount" else ("uri", "post_agg")
            counts = dict(rows(database.url, f'SELECT {key}, "{saying.counter}" FROM bsky.{table}'))
            for name in ("cleo", "dora"):
                subject = did_of(name)
                key = subject if table == "profile_agg" else post_by(subject)
                assert counts.get(key, 0) == sum(it == subject for _, it in live), (key, counts)
            told = rows(database.url, 'SELECT did, author, "recordUri" FROM bsky.notification')
            assert sorted(told) == sorted((it, author, uri) for (author, it), uri in live.items())
        if saying.table == "repost":
            items = rows(database.url, "SELECT uri FROM bsky.feed_item WHERE type = 'repost'")
            assert sorted(items) == sorted((uri,) for uri in live.values())


def test_the_notification_of_a_duplicate_keeps_its_place(database: Database, stream: Stream) -> None:
    ann, subject = Person(stream, "ann"), post_by(did_of("cleo"))
    index(database, ann.commit(like("3lrnqkotindky", subject)), ann.commit(like("3lrnqkotindkz", subject)))
    before = rows(database.url, 'SELECT id, "sortAt" FROM bsky.notification')
    index(database, ann.commit(delete("app.bsky.feed.like/3lrnqkotindky")))
    assert rows(database.url, 'SELECT id, "sortAt" FROM bsky.notification') == before
    assert one(database.url, 'SELECT "recordUri" FROM bsky.notification') == ann.uri("app.bsky.feed.like/3lrnqkotindkz")
    index(database, ann.commit(delete("app.bsky.feed.like/3lrnqkotindkz")))
    assert rows(database.url, "SELECT 1 FROM bsky.notification") == []


# ---- revs


def orders(frames: Sequence[bytes]) -> list[list[list[bytes]]]:
    """Ways for frames to arrive: in order or reversed, one by one or at once, and each once more at the end."""
    ways = []
    for sequence in (list(frames), list(reversed(frames))):
        ways += [[[frame] for frame in sequence], [sequence], [[frame] for frame in [*sequence, *frames]]]
    return ways


@pytest.mark.parametrize("way", range(6))
def test_an_older_rev_never_wins(fresh: Fresh, way: int) -> None:
    """Not over an update, and not over a deletion: nothing is resurrected, nothing newer is deleted."""
    stream = Stream()
    ann = Person(stream, "ann")
    frames = [
        ann.commit(post("a", "first"), post("b", "doomed"), post("c", "comes back")),
        ann.commit(update("app.bsky.feed.post/a", {"text": "second", "createdAt": WHEN})),
        ann.commit(delete("app.bsky.feed.post/b"), delete("app.bsky.feed.post/c")),
        ann.commit(post("c", "is back")),
    ]
    with fresh() as database:
        for batch in orders(frames)[way]:
            index(database, *batch)
        assert dict(rows(database.url, "SELECT right(uri, 1), text FROM bsky.post")) == {"a": "second", "c": "is back"}
        assert uris(database) == {"a", "c"}
        assert one(database.url, 'SELECT "postsCount" FROM bsky.profile_agg') == 2
        assert {uri[-1] for (uri,) in rows(database.url, "SELECT uri FROM pipeline.tombstone")} >= {"b"}
        assert one(database.url, 'SELECT "repoRev" FROM bsky.actor_sync') == ann.repository.rev
        assert rows(database.url, "SELECT uri FROM bsky.feed_item WHERE uri LIKE '%%/b'") == []


def test_an_edited_post_keeps_what_others_made_of_it(database: Database, stream: Stream) -> None:
    ann, ben = Person(stream, "ann"), Person(stream, "ben")
    uri = ann.uri("app.bsky.feed.post/a")
    quote = {"embed": {"$type": "app.bsky.embed.record", "record": ref(uri)}}
    index(
        database,
        ann.commit(post("a", "before")),
        ben.commit(create("app.bsky.feed.repost/r", {"subject": ref(uri), "createdAt": WHEN})),
        ben.commit(post("q", "look", **quote)),
    )
    index(database, ann.commit(update("app.bsky.feed.post/a", {"text": "after", "createdAt": WHEN})))
    assert one(database.url, "SELECT text FROM bsky.post WHERE uri = %s", uri) == "after"
    assert uris(database, "quote") == {"q"} and uris(database, "repost") == {"r"}
    assert {(kind, uri[-1]) for kind, uri in rows(database.url, "SELECT type, uri FROM bsky.feed_item")} == {
        ("post", "a"),
        ("post", "q"),
        ("repost", "r"),
    }
    counts = rows(database.url, 'SELECT "quoteCount", "repostCount" FROM bsky.post_agg WHERE uri = %s', uri)
    assert counts == [(1, 1)]


@pytest.mark.parametrize("gate_first", [True, False])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_gate_is_flagged_on_its_post_whichever_comes_first(fresh: Fresh, gate_first: bool, at_once: bool) -> None:
    stream = Stream()
    ann = Person(stream, "ann")
    uri = ann.uri("app.bsky.feed.post/a")
    frames = [
        ann.commit(post("a", "gated")),
        ann.commit(
            create("app.bsky.feed.threadgate/a", {"post": uri, "createdAt": WHEN}),
            create("app.bsky.feed.postgate/a", {"post": uri, "createdAt": WHEN}),
        ),
    ]
    if gate_first:
        frames.reverse()
    with fresh() as database:
        for batch in [frames] if at_once else [[frame] for frame in frames]:
            index(database, *batch)
        assert rows(database.url, 'SELECT "hasThreadGate", "hasPostGate" FROM bsky.post') == [(True, True)]


def test_an_edited_verification_tells_nobody_that_it_is_gone(database: Database, stream: Stream) -> None:
    ann, record = Person(stream, "ann"), {"subject": did_of("ben"), "handle": "ben.test", "createdAt": WHEN}
    path = "app.bsky.graph.verification/v"
    index(database, ann.commit(create(path, {**record, "displayName": "Ben"})))
    index(database, ann.commit(update(path, {**record, "displayName": "Benjamin"})))
    assert rows(database.url, "SELECT reason FROM bsky.notification") == [("verified",)]
    index(database, ann.commit(delete(path)))
    told = rows(database.url, "SELECT reason FROM bsky.notification ORDER BY id")
    assert told == [("verified",), ("unverified",)]


def test_a_like_in_a_muted_thread_is_indexed_and_not_told(database: Database, stream: Stream) -> None:
    ann, ben = Person(stream, "ann"), Person(stream, "ben")
    uri = ann.uri("app.bsky.feed.post/a")
    rows(database.url, "INSERT INTO bsky.thread_mute VALUES (%s, %s, %s)", uri, ann.did, WHEN)
    index(database, ann.commit(post("a", "noisy")), ben.commit(like("l", uri)))
    assert uris(database, "like") == {"l"}
    assert one(database.url, 'SELECT "likeCount" FROM bsky.post_agg') == 1
    assert rows(database.url, "SELECT 1 FROM bsky.notification") == []


# ---- accounts


def upstream(database: Database, person: Person) -> Any:
    return one(database.url, 'SELECT "upstreamStatus" FROM bsky.actor WHERE did = %s', person.did)


@pytest.mark.parametrize("way", range(6))
def test_the_newest_account_event_wins(fresh: Fresh, way: int) -> None:
    stream = Stream()
    ann = Person(stream, "ann")
    frames = [
        stream.account(ann.did, False, "takendown"),
        stream.account(ann.did, True),
        stream.account(ann.did, False, "deactivated"),
    ]
    with fresh() as database:
        index(database, ann.commit(post("a", "hello")))
        for batch in orders(frames)[way]:
            index(database, *batch)
        assert upstream(database, ann) == "deactivated"
        assert rows(database.url, "SELECT active, status FROM pipeline.repo") == [(False, "deactivated")]


def test_the_status_of_an_account_waits_for_the_account(database: Database, stream: Stream) -> None:
    ann = Person(stream, "ann")
    index(database, stream.account(ann.did, False, "suspended"))
    assert rows(database.url, "SELECT 1 FROM bsky.actor") == []
    index(database, ann.commit(post("a", "hello")))
    assert upstream(database, ann) == "suspended"


def test_an_active_account_has_no_status(database: Database, stream: Stream) -> None:
    ann = Person(stream, "ann")
    index(database, ann.commit(post("a", "hello")), stream.account(ann.did, False, "takendown"))
    assert upstream(database, ann) == "takendown"
    index(database, stream.account(ann.did, True, "throttled"))
    assert upstream(database, ann) is None


# ---- gaps


def gaps(database: Database) -> list[tuple[Any, ...]]:
    found = rows(database.url, "SELECT kind, did, from_text, to_text FROM pipeline.gap ORDER BY kind, from_text")
    assert one(database.url, "SELECT count(*) FROM pipeline.gap") == len(set(found))
    return found


def cuts(frames: Sequence[bytes]) -> Iterator[list[list[bytes]]]:
    """Ways to cut frames into batches: all at once, one by one, and some in between."""
    ways = 2 ** (len(frames) - 1)
    for bits in range(ways) if ways <= 8 else (0, ways - 1, *range(2, ways - 1, ways // 6)):
        batches = [[frames[0]]]
        for number, frame in enumerate(frames[1:]):
            if bits >> number & 1:
                batches.append([frame])
            else:
                batches[-1].append(frame)
        yield batches


def gap_story(name: str) -> tuple[list[bytes], list[tuple[str, str, str]]]:
    """Frames that arrive, and the gaps that they leave: kind and the moments of the revs around it."""
    stream = Stream()
    ann = Person(stream, "ann")
    a = ann.commit(post("a", "a"))
    b = ann.commit(post("b", "b"))
    if name == "chain":
        return [a, b, ann.commit(post("c", "c")), ann.sync()], []
    if name == "lost":
        return [a, ann.commit(post("c", "c")), ann.commit(post("d", "d"))], [("chain", rev(1), rev(3))]
    if name == "lost twice":
        c, d, e = (ann.commit(post(key, key)) for key in "cde")
        return [a, c, e], [("chain", rev(1), rev(3)), ("chain", rev(3), rev(5))]
    if name == "same sync":
        return [a, b, ann.sync(), ann.sync(), ann.commit(post("c", "c"))], []
    if name == "other tree":
        # The same revs and the same `since`, but another tree than the one that this commit says it changes.
        return [a, ann.commit(post("c", "c"), since=rev(1))], [("chain", rev(1), rev(3))]
    if name == "reset":
        ann.commit(post("c", "c"))
        return [a, b, ann.sync(), ann.commit(post("d", "d"))], [("sync", rev(2), rev(3))]
    if name == "reset twice":
        ann.commit(post("c", "c"))
        first = ann.sync()
        ann.commit(post("d", "d"))
        return [a, b, first, ann.sync()], [("sync", rev(2), rev(3)), ("sync", rev(3), rev(5))]
    if name == "late":
        c, d = ann.commit(post("c", "c")), ann.commit(post("d", "d"))
        return [a, b, c, d, a, c], []
    assert name == "legacy"
    c = ann.commit(post("c", "c"), since=None)
    d = ann.commit(post("d", "d"), since=None, prevData=None)
    return [a, b, c, d], []


@pytest.mark.parametrize(
    "name", ["chain", "lost", "lost twice", "same sync", "other tree", "reset", "reset twice", "late", "legacy"]
)
def test_a_broken_chain_is_a_gap_however_it_is_cut_into_batches(fresh: Fresh, name: str) -> None:
    frames, want = gap_story(name)
    did = did_of("ann")
    for batches in cuts(frames):
        with fresh() as database:
            for batch in batches:
                index(database, *batch)
            assert gaps(database) == [(kind, did, after, until) for kind, after, until in want], [
                len(batch) for batch in batches
            ]
            for batch in batches:  # found again, it is the same row
                index(database, *batch)
            assert len(gaps(database)) == len(want)


# ---- dead letters and what is counted


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
    assert uris(database) == {"a"}


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
    assert uris(database) == {"p"} and letters(database) == []


# ---- PostgreSQL refuses


def refuse(database: Database, condition: str, code: str = "23514", once: bool = False, on: str = "post") -> None:
    """A trigger on a table that raises (or, for `once`, does so the first time only)."""
    rows(
        database.url,
        f"""
        CREATE SEQUENCE bsky.refusals;
        CREATE FUNCTION bsky.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          IF ({condition}) AND ({"nextval('bsky.refusals') = 1" if once else "true"}) THEN
            {"PERFORM pg_terminate_backend(pg_backend_pid());" if code == "kill" else ""}
            RAISE EXCEPTION 'refused by the test' USING ERRCODE = '{"57P01" if code == "kill" else code}';
          END IF;
          RETURN coalesce(NEW, OLD);
        END $$;
        CREATE TRIGGER refuse BEFORE INSERT OR DELETE ON bsky."{on}" FOR EACH ROW EXECUTE FUNCTION bsky.refuse();
        """,
    )


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
    assert uris(database) == want == uris(database, "post")
    assert letters(database) == [
        ("postgres", "app.bsky.feed.post/a2", 21),
        ("postgres", "app.bsky.feed.post/alone", 42),
    ]
    reason, raw = rows(database.url, "SELECT reason, bytes FROM pipeline.dead_letter ORDER BY seq")[0]
    assert "refused by the test" in reason and b"poison" in bytes(raw)
    assert position.seq == 43 == one(database.url, "SELECT seq FROM pipeline.cursor")
    assert sum(report.frames for report in reports) == len(frames)
    assert gaps(database) == [  # of both commits one record is missing; their chains are whole
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
    assert uris(database) == {"before", "short", "beside", "after"} == uris(database, "post")
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
        ann.commit(like("long", overlong), like("usual", post_by(did_of("ben")))),
        ann.commit(create("app.bsky.graph.follow/long", {"subject": host, "createdAt": WHEN})),
        ann.commit(post("after", "x")),
    )
    assert uris(database) - {"long"} == {"usual", "after"}
    assert uris(database, "like") == {"usual"}
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
    assert uris(database) == {"a", "b", "c"} == uris(database, "post")
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
    assert uris(database) >= {"a", "b", "d"}
    assert [(kind, seq) for kind, _, seq in letters(database)] == [("postgres", 3)]
    assert position.seq == 4


def test_an_error_of_ours_is_raised_and_nothing_written(database: Database, stream: Stream) -> None:
    refuse(database, "NEW.text = 'b'", "42501")
    ann = Person(stream, "ann")
    position = Position(RELAY, "0/1", None)
    with pytest.raises(DatabaseError) as caught:
        writer_for(database, position).write(changes_of(ann.commit(post("a", "a")), ann.commit(post("b", "b"))), 0.0)
    assert isinstance(caught.value.__cause__, psycopg2.errors.InsufficientPrivilege)
    assert uris(database) == set() and position.seq is None
    assert rows(database.url, "SELECT 1 FROM pipeline.cursor") == []


def test_a_writer_that_is_told_to_stop_does_not_wait_for_the_database(fresh: Fresh, stream: Stream) -> None:
    with fresh() as database:
        refuse(database, "true", "40001")
        stop = threading.Event()
        writer = Writer(database, Settings(database_url=database.url), "test", None, stop.is_set)
        threading.Timer(0.7, stop.set).start()
        started = time.monotonic()
        with pytest.raises(Stopped):
            writer.write(changes_of(Person(stream, "ann").commit(post("a", "a"))), time.time())
        assert 0.6 < time.monotonic() - started < 3
        assert writer.retries > 2 and uris(database) == set()


def test_the_pauses_between_tries_grow_and_are_bounded(
    database: Database, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def wait(self: Writer, seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 12:
            raise Stopped

    monkeypatch.setattr(Writer, "_wait", wait)
    refuse(database, "true", "40001")
    with pytest.raises(Stopped):
        writer_for(database).write(changes_of(Person(stream, "ann").commit(post("a", "a"))), time.time())
    assert pauses[0] <= 0.05 and 5 <= pauses[-1] <= backoff.batch().longest == 10


# ---- one writer a stream


def test_of_two_writers_with_one_position_one_writes(database: Database, stream: Stream) -> None:
    ann = Person(stream, "ann")
    frames = [ann.commit(post(key, key)) for key in "abcd"]
    for start, mine, other in ((None, frames[0], frames[1]), (1, frames[2], frames[3])):
        first, second = (writer_for(database, Position(RELAY, "0/1", start)) for _ in range(2))
        first.write(changes_of(mine), time.time())
        before = dump(database.url)
        with pytest.raises(CursorMoved):
            second.write(changes_of(other), time.time())
        assert_equal(dump(database.url), before)
        assert second.position is not None and second.position.seq == start
    assert uris(database) == {"a", "c"}
    assert one(database.url, "SELECT count(*) FROM pipeline.batch") == 2


def test_writers_at_the_same_time(database: Database, stream: Stream) -> None:
    """Many threads, one position: exactly one of them writes."""
    ann = Person(stream, "ann")
    changes = changes_of(ann.commit(post("a", "a")))
    start, outcomes = threading.Barrier(4), []

    def run() -> None:
        writer = writer_for(database, Position(RELAY, "0/1", None))
        start.wait()
        try:
            writer.write(changes, time.time())
            outcomes.append("wrote")
        except CursorMoved:
            outcomes.append("moved")

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(outcomes) == ["moved", "moved", "moved", "wrote"]
    assert one(database.url, "SELECT count(*) FROM pipeline.batch") == 1


def test_cursors_are_of_a_relay_and_a_shard(database: Database, stream: Stream) -> None:
    ann = Person(stream, "ann")
    for relay, shard in ((RELAY, "0/1"), ("wss://other.example", "0/1"), (RELAY, "1/2")):
        writer_for(database, Position(relay, shard, None)).write(
            changes_of(ann.commit(post(relay[6] + shard[0], "x"))), 0.0
        )
    with database.connect("reader") as connection:
        assert cursor_of(connection, RELAY, "0/1") == 1
        assert cursor_of(connection, RELAY, "1/2") == 3
        assert cursor_of(connection, "wss://nobody.example", "0/1") is None


def test_events_sent_twice_do_not_move_the_cursor_back(database: Database, stream: Stream) -> None:
    ann = Person(stream, "ann")
    frames = [ann.commit(post(key, key)) for key in "abc"]
    position = Position(RELAY, "0/1", None)
    writer = writer_for(database, position)
    writer.write(changes_of(*frames), time.time())
    writer.write(changes_of(frames[0]), time.time())
    assert position.seq == 3 == one(database.url, "SELECT seq FROM pipeline.cursor")
    writer.write(changes_of(b"unreadable"), time.time())
    assert position.seq == 3


def test_a_batch_whose_commit_is_lost_is_not_written_twice(
    database: Database, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks after COMMIT took effect: the same batch again finds the cursor moved, and says so."""
    broke: list[bool] = []

    def apply(*args: Any, **named: Any) -> Report:
        report = real_apply(*args, **named)
        if not broke:
            broke.append(True)
            raise psycopg2.OperationalError("server closed the connection unexpectedly")
        return report

    monkeypatch.setattr(writer_module, "apply", apply)
    ann = Person(stream, "ann")
    with pytest.raises(CursorMoved):
        writer_for(database, Position(RELAY, "0/1", None)).write(changes_of(ann.commit(post("a", "a"))), time.time())
    assert one(database.url, 'SELECT "postsCount" FROM bsky.profile_agg') == 1


def test_the_streams_lock_is_held_by_one(fresh: Fresh) -> None:
    with fresh() as database:
        with stream_lock(database, RELAY, "0/1") as lock:
            lock.ensure()
            started = time.monotonic()
            with pytest.raises(LockTaken), stream_lock(database, RELAY, "0/1", patience=0.6):
                pass
            assert 0.5 < time.monotonic() - started < 3
            with pytest.raises(LockTaken), stream_lock(database, RELAY, "0/1", stopped=lambda: True):
                pass
            with stream_lock(database, RELAY, "1/2", patience=0), stream_lock(database, "wss://o.example", "0/1"):
                pass
        with stream_lock(database, RELAY, "0/1", patience=0):
            pass


def test_the_streams_lock_is_waited_for_and_noticed_when_it_is_gone(fresh: Fresh) -> None:
    with fresh() as database:
        entered, leave = threading.Event(), threading.Event()

        def hold() -> None:
            with stream_lock(database, RELAY, "0/1"):
                entered.set()
                leave.wait(20)

        holder = threading.Thread(target=hold)
        holder.start()
        assert entered.wait(10)
        threading.Timer(0.6, leave.set).start()
        with stream_lock(database, RELAY, "0/1", patience=10) as lock:
            assert leave.is_set()
            # Whoever kills the session takes the lock from us; the next check says so.
            rows(
                database.url,
                "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid) "
                "WHERE locktype = 'advisory' AND datname = current_database()",
            )
            time.sleep(1.1)
            with pytest.raises(LockLost, match="gone"):
                lock.ensure()
            with stream_lock(database, RELAY, "0/1", patience=0):
                pass
        holder.join(10)


def test_a_change_without_anything_is_only_counted(database: Database) -> None:
    """Frames of unknown types move nothing but the cursor."""
    position = Position(RELAY, "0/1", None)
    letter = DeadLetter("test", "why", None, None, None, b"x" * 100)
    (report,) = writer_for(database, position, dead_letter_bytes=10).write(
        [Change(5, 7), Change(6, None, dead_letters=[letter])], time.time()
    )
    assert (report.frames, report.events, report.rejected, report.bytes) == (2, 0, 1, 11)
    assert position.seq == 7
    kept = rows(database.url, "SELECT bytes, byte_length FROM pipeline.dead_letter")
    assert [(bytes(raw), length) for raw, length in kept] == [(b"x" * 10, 100)]
