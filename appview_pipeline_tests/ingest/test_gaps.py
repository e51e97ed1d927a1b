"""What is missing is written down when it happens, and closes by itself when it turns out to be there."""

from __future__ import annotations

import itertools
import random
import struct
import time
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import libipld
import pytest

from appview_pipeline.indexing.changes import Change, DeadLetter
from appview_pipeline.ingest.dead_letters import retry_dead_letters
from appview_pipeline.ingest.writer import Writer
from appview_pipeline.protocol.car import write_car
from appview_pipeline.protocol.cid import cid_for_cbor
from appview_pipeline.settings import Settings
from appview_pipeline.store import apply as apply_module
from appview_pipeline.store.applied import applied_revs
from appview_pipeline.store.database import Database
from appview_pipeline.store.gaps import sweep_gaps
from appview_pipeline_tests.support.batches import index, writer_for
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.explain import ExplainingCursor
from appview_pipeline_tests.support.exports import Repository, compared
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, altered, create, post, rev, without_block
from appview_pipeline_tests.support.tables import Fresh, one, record_keys, rows

Gap = tuple[Any, ...]

PATH = "app.bsky.feed.post/lost"


def open_gaps(database: Database) -> list[Gap]:
    return rows(
        database.url,
        "SELECT kind, did, from_text, to_text FROM pipeline.gap WHERE resolved_at IS NULL ORDER BY kind, to_text, 3",
    )


# ---- commits that are refused as a whole

REFUSED: dict[str, dict[str, Any]] = {
    "commit-too-big": {"tooBig": True},
    "commit-too-big without anything": {"tooBig": True, "ops": [], "blocks": b""},
    "commit-rebase": {"rebase": True},
    "commit-limit": {"ops": [{"action": "delete", "path": f"app.bsky.feed.post/{n}", "cid": None} for n in range(201)]},
    "commit-car": {"blocks": b"\x3a\xa2eroots\x81"},
    "commit-car without blocks": {"blocks": b""},
    "commit-block": {"blocks": write_car(cid_for_cbor(b"other"), {}), "commit": cid_for_cbor(b"other")},
    "frame-body": {"time": "yesterday"},
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("together", [True, False])
def test_a_refused_commit_is_a_gap_at_once(database: Database, stream: Stream, name: str, together: bool) -> None:
    """Whether its account ever commits again or not; and when it does the hole is not counted twice."""
    ann = Person(stream, "ann")
    first, lost, after = (ann.commit(post(key, "x")) for key in ("first", "lost", "after"))
    lost = altered(lost, **REFUSED[name])
    want = [("commit", ann.did, rev(1), rev(2))]
    if not together:
        index(database, first)
        index(database, lost)
        assert open_gaps(database) == want
        index(database, lost)
        assert open_gaps(database) == want
        index(database, after)
    else:
        index(database, first, lost, after)
    assert one(database.url, "SELECT kind FROM pipeline.dead_letter") == name.split()[0]
    assert open_gaps(database) == want
    index(database, first, lost, after)
    assert open_gaps(database) == want
    assert record_keys(database) == {"first", "after"}
    with database.connect("reader") as connection:
        assert applied_revs(connection, {ann.did}) == {}, "nothing of it is skipped unread"


def test_mismatching_and_future_commits_and_syncs_too(database: Database, stream: Stream) -> None:
    ann, ben = Person(stream, "ann"), Person(stream, "ben")
    other = altered(ann.commit(post("a", "x")), repo=ben.did)
    future = altered(ann.commit(post("b", "x")), rev="7zzzzzzzzzzzz")
    sync = altered(ann.sync(), blocks=b"")
    nameless = altered(ann.commit(post("c", "x")), rev="yesterday")
    account = stream.frame("#account", {"did": ben.did, "active": "yes"})
    index(database, other, future, sync, nameless, account, b"\x00garbage")
    assert {(kind, did, until) for kind, did, _, until in open_gaps(database)} == {
        ("commit", ben.did, rev(1)),
        ("commit", ann.did, rev(2)),
        ("commit", ann.did, None),
        ("commit", ben.did, None),
    }


@pytest.mark.parametrize("change", [{}, {"tooBig": True}, {"time": "yesterday"}], ids=str)
def test_a_rev_of_the_future_is_none_to_wait_for(database: Database, stream: Stream, change: dict[str, Any]) -> None:
    """An export of that rev will never come."""
    ann = Person(stream, "ann")
    first = ann.commit(post("a", "x"))
    repository = Repository.of(ann)
    index(database, first, altered(ann.commit(post("b", "x")), rev="7zzzzzzzzzzzz", **change))
    state = "SELECT sync_state FROM pipeline.repo"
    assert [gap[:2] for gap in open_gaps(database)] == [("commit", ann.did)]
    assert one(database.url, state) == "desynchronized"
    writer_for(database).write(compared(database, repository).changes(), time.time())
    assert open_gaps(database) == [] and one(database.url, state) == "synchronized"


def test_the_case_too_big(database: Database) -> None:
    folder = CHECKOUT.parent / "shared" / "cases" / "too-big"
    if not folder.is_dir():
        pytest.skip(f"no cases in {folder}")
    data = (folder / "input.frames.bin").read_bytes()
    frames, at = [], 0
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        frames.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    for frame in frames:
        index(database, frame)
    bodies = [libipld.decode_dag_cbor_multi(frame)[1] for frame in frames]
    too_big = {(body["repo"], body["rev"]) for body in bodies if body.get("tooBig")}
    assert len(too_big) == 2
    assert {(did, until) for _, did, _, until in open_gaps(database)} == too_big


def test_several_refused_in_a_row_explain_a_broken_chain_only_if_they_lead_all_the_way(
    fresh: Fresh, stream: Stream
) -> None:
    ann = Person(stream, "ann")
    frames = [ann.commit(post(key, "x")) for key in "abcde"]
    refused = [altered(frame, tooBig=True) for frame in frames]
    stories: list[tuple[list[bytes], list[Gap]]] = [
        (
            [frames[0], refused[1], refused[2], frames[3]],
            [("commit", ann.did, rev(1), rev(2)), ("commit", ann.did, rev(2), rev(3))],
        ),
        (
            [frames[0], refused[2], frames[3]],
            [("chain", ann.did, rev(1), rev(4)), ("commit", ann.did, rev(2), rev(3))],
        ),
    ]
    for story, want in stories:
        for size in (1, len(story)):
            with fresh() as database:
                for at in range(0, len(story), size):
                    index(database, *story[at : at + size])
                assert open_gaps(database) == want


# ---- operations and records


def with_ops(frame: bytes, *ops: dict[str, Any]) -> bytes:
    return altered(frame, ops=[*libipld.decode_dag_cbor_multi(frame)[1]["ops"], *ops])


@pytest.mark.parametrize(
    ("operation", "path"),
    [
        ({"action": "create", "path": PATH, "cid": cid_for_cbor(b"elsewhere")}, PATH),
        ({"action": "create", "path": PATH, "cid": None}, PATH),
        ({"action": "upsert", "path": PATH, "cid": None}, PATH),
        ({"action": "create", "path": "app.bsky.feed.post/..", "cid": None}, "app.bsky.feed.post/.."),
        ({"action": "create", "path": None, "cid": None}, None),
        (7, None),
    ],
)
def test_a_refused_operation_is_a_gap_that_names_its_record(
    database: Database, stream: Stream, operation: Any, path: str | None
) -> None:
    ann = Person(stream, "ann")
    frame = with_ops(ann.commit(post("good", "x")), operation)
    want = [("record", ann.did, path, rev(1))]
    for _ in range(2):
        index(database, frame)
        assert open_gaps(database) == want
    index(database, ann.commit(post("after", "x")))
    assert open_gaps(database) == want
    assert record_keys(database) == {"good", "after"}


def test_a_record_that_the_rules_refuse_is_no_gap(database: Database, stream: Stream) -> None:
    """We have it whole, and the network holds nothing else."""
    ann = Person(stream, "ann")
    gate = create("app.bsky.feed.threadgate/x", {"post": f"at://{ann.did}/app.bsky.feed.post/y", "createdAt": WHEN})
    no_drisl = libipld.encode_dag_cbor({"$type": "app.bsky.feed.post", "text": "x", "createdAt": WHEN, "x": 1.5})
    index(
        database,
        ann.commit(create("app.bsky.feed.post/x", {"text": 5, "createdAt": WHEN}), gate),
        ann.commit_blocks(("create", "app.bsky.feed.post/z", no_drisl)),
    )
    letters = rows(database.url, "SELECT kind FROM pipeline.dead_letter ORDER BY kind")
    assert letters == [("collection-rule",), ("lexicon",), ("record-invalid",)]
    assert open_gaps(database) == []


def test_long_names_fit_into_the_index(database: Database) -> None:
    letters = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=2_040))
    did = f"did:web:{letters}"[:2_000]
    changes = [
        Change(1, dead_letters=[DeadLetter("op-cid", "x", 1, did, f"{letters[:300]}/{letters[:512]}", b"", rev="3a")]),
        Change(1, dead_letters=[DeadLetter("commit-car", "x", 2, did, None, b"", rev="3b", since="3a")]),
    ]
    Writer(database, Settings(database_url=database.url), "wss://relay.test").write(changes, time.time())
    assert open_gaps(database) == [("commit", did, "3a", "3b"), ("record", did, None, "3a")]


def test_one_repository_fills_no_table(database: Database, stream: Stream) -> None:
    """A hundred rows a day, then one for all of it; delivered again it stays so."""
    ann, ben = Person(stream, "ann"), Person(stream, "ben")
    frames = [altered(ann.commit(post(f"a{n}", "x")), tooBig=True) for n in range(150)]
    frames.append(altered(ben.commit(post("b", "x")), tooBig=True))
    index(database, *frames[:60])
    index(database, *frames)
    index(database, *frames)
    counted = rows(database.url, "SELECT kind, did, count(*) FROM pipeline.gap GROUP BY 1, 2 ORDER BY 1, 3")
    assert counted == [("commit", ben.did, 1), ("commit", ann.did, 100), ("repository", ann.did, 1)]


# ---- record blocks that were sent before


@pytest.mark.parametrize("together", [True, False])
def test_a_record_that_was_sent_before_is_taken_from_there(database: Database, stream: Stream, together: bool) -> None:
    """The same record under another key, or back under its own: what the server left out is known by its CID."""
    ann, ben = Person(stream, "ann"), Person(stream, "ben")
    same, other = post("first", "the same"), post("other", "of another account")
    frames = [
        ann.commit(same),
        ben.commit(other),
        without_block(ann.commit(post("second", "the same"), post("beside", "x")), "app.bsky.feed.post/second"),
        without_block(ann.commit(post("third", "of another account")), "app.bsky.feed.post/third"),
    ]
    for batch in [frames] if together else [[frame] for frame in frames]:
        index(database, *batch)
    assert record_keys(database) == {"first", "other", "second", "beside"}
    assert open_gaps(database) == [("record", ann.did, "app.bsky.feed.post/third", rev(4))]
    assert rows(database.url, "SELECT kind, path FROM pipeline.dead_letter") == [
        ("record-block", "app.bsky.feed.post/third")
    ]
    found = rows(database.url, "SELECT DISTINCT cid, text FROM bsky.post WHERE uri ~ 'first|second'")
    assert len(found) == 1
    assert one(database.url, 'SELECT "postsCount" FROM bsky.profile_agg WHERE did = %s', ann.did) == 3


def test_a_gate_is_not_put_where_it_may_not_be(database: Database, stream: Stream) -> None:
    ann = Person(stream, "ann")
    gate = {"post": ann.uri("app.bsky.feed.post/a"), "createdAt": WHEN}
    path = "app.bsky.feed.threadgate/b"
    index(database, ann.commit(post("a", "x"), create("app.bsky.feed.threadgate/a", gate)))
    index(database, without_block(ann.commit(create(path, gate)), path))
    assert one(database.url, "SELECT count(*) FROM bsky.thread_gate") == 1
    assert open_gaps(database) == [("record", ann.did, path, rev(2))]


def test_a_retry_finds_what_has_come_since(database: Database, stream: Stream) -> None:
    ann = Person(stream, "ann")
    path = "app.bsky.feed.post/b"
    first, second = ann.commit(post("a", "x")), ann.commit(post("b", "x"))
    index(database, without_block(second, path))
    assert retry_dead_letters(Settings(database_url=database.url), database).resolved == 0
    index(database, first)
    assert retry_dead_letters(Settings(database_url=database.url), database).resolved == 1
    assert record_keys(database) == {"a", "b"} and open_gaps(database) == []


def test_the_search_for_a_block_is_bounded(database: Database, stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appview_pipeline.store.stored_blocks.MAX_RECORDS", 3)
    ann = Person(stream, "ann")
    index(database, ann.commit(*(post(f"k{n}", f"text {n}") for n in range(10))))
    for number, rkey in ((9, "x"), (2, "y")):
        frame = without_block(ann.commit(post(rkey, f"text {number}")), f"app.bsky.feed.post/{rkey}")
        index(database, frame)
    assert "x" in record_keys(database) and "y" not in record_keys(database)
    plan = rows(
        database.url,
        "EXPLAIN SELECT cid FROM bsky.record WHERE uri >= 'at://did:x/c/' AND uri < 'at://did:x/c0' "
        "ORDER BY uri DESC LIMIT 3",
    )
    assert any("Index Scan Backward" in line for (line,) in plan), plan


# ---- gaps that close


def test_a_retry_that_succeeds_closes_the_gap(
    database: Database, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows(database.url, "ALTER TABLE bsky.post ADD CONSTRAINT short CHECK (length(text) < 9)")
    ann, ben = Person(stream, "ann"), Person(stream, "ben")
    index(database, ann.commit(post("a", "x"), post("b", "much too long")))
    frame = ben.commit(post("c", "x"), post("d", "x"))
    with monkeypatch.context() as mistaken:
        mistaken.setattr("appview_pipeline.protocol.commit.MAX_OPS", 1)
        index(database, frame)
    index(database, ben.commit(post("e", "x")))
    assert open_gaps(database) == [
        ("commit", ben.did, None, rev(2)),
        ("record", ann.did, "app.bsky.feed.post/b", rev(1)),
    ]
    rows(database.url, "ALTER TABLE bsky.post DROP CONSTRAINT short")
    assert retry_dead_letters(Settings(database_url=database.url), database).resolved == 2
    assert record_keys(database) == set("abcde")
    assert open_gaps(database) == []
    assert one(database.url, "SELECT count(*) FROM pipeline.gap WHERE resolved_at IS NOT NULL") == 2


def test_a_refused_commit_or_record_that_comes_whole_closes_its_gap(database: Database, stream: Stream) -> None:
    ann = Person(stream, "ann")
    first, second, third, fourth = (ann.commit(post(key, "x")) for key in "abcd")
    (op,) = libipld.decode_dag_cbor_multi(third)[1]["ops"]
    unreadable = altered(third, ops=[{**op, "action": "upsert"}])
    index(database, first, altered(second, tooBig=True), unreadable, fourth)
    assert [gap[0] for gap in open_gaps(database)] == ["commit", "record"]
    index(database, second)
    assert [gap[0] for gap in open_gaps(database)] == ["record"]
    index(database, third)
    assert open_gaps(database) == []
    assert record_keys(database) == set("abcd")


@pytest.mark.parametrize("size", [1, 2, 5])
def test_commits_that_arrive_in_any_order_leave_no_gap(fresh: Fresh, size: int) -> None:
    """Once all are there; and until then there is one."""
    stream = Stream()
    ann = Person(stream, "ann")
    frames = [ann.commit(post(key, "x")) for key in "abcde"]
    orders: Sequence[Sequence[bytes]] = list(itertools.permutations(frames[1:]))
    for order in random.Random(size).sample(orders, 8):
        arrival = [frames[0], *order]
        with fresh() as database:
            for at in range(0, 4, size):
                index(database, *arrival[at : min(at + size, 4)])
            assert order[-1] is frames[-1] or len(open_gaps(database)) >= 1
            index(database, arrival[-1])
            assert open_gaps(database) == []
            assert record_keys(database) == set("abcde")


def test_a_chain_that_says_something_else_stays_a_gap(database: Database, stream: Stream) -> None:
    """The revs lead from one end to the other, but the tree that a commit says it changes is another one."""
    ann = Person(stream, "ann")
    a, b, c = (ann.commit(post(key, "x")) for key in "abc")
    index(database, a)
    index(database, altered(c, prevData=cid_for_cbor(b"another tree")))
    index(database, b)
    assert [gap[0] for gap in open_gaps(database)] == ["chain"]


def test_a_sync_is_closed_by_the_commits_that_it_stands_for(database: Database, stream: Stream) -> None:
    ann = Person(stream, "ann")
    a, b, c = (ann.commit(post(key, "x")) for key in "abc")
    index(database, a, ann.sync())
    assert open_gaps(database) == [("sync", ann.did, rev(1), rev(3))]
    index(database, c)
    assert [gap[0] for gap in open_gaps(database)] == ["sync"]
    index(database, b)
    assert open_gaps(database) == []


def test_the_sweep_closes_what_is_proven_and_deletes_what_is_closed(database: Database, stream: Stream) -> None:
    ann, ben = Person(stream, "ann"), Person(stream, "ben")
    index(database, ann.commit(post("a", "x")))
    made_up = altered(ann.commit(post("never", "x")), tooBig=True)
    ann.repository.rev = rev(1)  # the next commit says that there was none
    refused = with_ops(ben.commit(), {"action": "create", "path": PATH, "cid": None})
    index(database, made_up, refused)
    index(database, altered(ann.commit(post("b", "x")), prevData=None), ben.commit(post("lost", "again")))
    assert [gap[0] for gap in open_gaps(database)] == ["commit", "record"]
    cid = Person(stream, "cid")
    index(database, altered(cid.commit(post("a", "x")), tooBig=True))  # nothing proves this one
    long_ago = datetime.now(timezone.utc) - timedelta(days=30)
    with database.connect("maintenance") as connection:
        assert sweep_gaps(connection, long_ago) == (2, 0)
        assert [gap[1] for gap in open_gaps(database)] == [cid.did]
        assert sweep_gaps(connection, datetime.now(timezone.utc)) == (0, 2)


# ---- plans


@pytest.mark.parametrize("filled", [0, 3_000])
def test_gaps_and_letters_are_looked_up_and_not_read_whole(
    database: Database, stream: Stream, monkeypatch: pytest.MonkeyPatch, filled: int
) -> None:
    rows(
        database.url,
        "INSERT INTO pipeline.gap (kind, did, from_text, to_text) SELECT 'commit', 'did:plc:' || n, '3a', '3b' "
        f"FROM generate_series(1, {filled}) n",
    )
    rows(
        database.url,
        "INSERT INTO pipeline.dead_letter (fingerprint, source, kind, reason, first_seen) "
        "SELECT n::text::bytea, 'x', 'lexicon', 'x', now() - n * interval '1 minute' "
        f"FROM generate_series(1, {filled}) n",
    )
    rows(database.url, "ANALYZE pipeline.gap, pipeline.dead_letter")
    monkeypatch.setattr(ExplainingCursor, "found", set())
    monkeypatch.setattr(
        apply_module, "preparing_cursor", lambda connection, events: connection.cursor(cursor_factory=ExplainingCursor)
    )
    ann, ben = Person(stream, "ann"), Person(stream, "ben")
    frames = [ann.commit(post(key, "x")) for key in "abcdef"]
    others = [with_ops(ben.commit(post(f"{n}", "x")), {"action": "upsert", "path": PATH, "cid": None}) for n in "ab"]
    index(database, frames[0], altered(frames[1], tooBig=True), frames[2], others[0])
    index(database, frames[5], others[1])
    index(database, frames[4], frames[3], frames[1])
    assert [gap[0] for gap in open_gaps(database) if gap[1] == ann.did] == []
    assert {it for it in ExplainingCursor.found if it[1] not in ("muted_notification", "thread_mute")} == set()
