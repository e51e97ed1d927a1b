"""Retention: what is old goes, with all that follows from it; what is kept stays right; and nothing comes back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from click.testing import CliRunner

from appview_pipeline.backfill.audit import audit
from appview_pipeline.backfill.resync import resync
from appview_pipeline.cli import cli
from appview_pipeline.errors import OperatorError, Stopped
from appview_pipeline.ingest.old_records import old_records
from appview_pipeline.ingest.recount import recount
from appview_pipeline.ingest.rerun import DERIVED_COLLECTIONS, rerun_collections
from appview_pipeline.ingest.retention import RetentionSummary, apply_retention, count_retention
from appview_pipeline.settings import Settings
from appview_pipeline.store import retention as store
from appview_pipeline.store.counters import TABLES
from appview_pipeline.store.database import Connection, Database
from appview_pipeline_tests.simulated_network.repository import Write
from appview_pipeline_tests.support.batches import index, writer_for
from appview_pipeline_tests.support.database import run
from appview_pipeline_tests.support.frames import Person, Stream, create, delete, post, update
from appview_pipeline_tests.support.memory_fetcher import MemoryFetcher
from appview_pipeline_tests.support.tables import one, rows

CID = "bafyreie5cvv4h45feadgeuwhbcutmh6t2ceseocckahdoe6uat64zmz454"
OLD, YOUNG = "2020-01-01T00:00:00.000Z", "2025-01-01T00:00:00.000Z"
DAYS = 1_300
"""From 2020 it is more, and from 2025 less, for some years."""
POST, LIKE, REPOST = "app.bsky.feed.post", "app.bsky.feed.like", "app.bsky.feed.repost"


def ref(uri: str) -> dict[str, str]:
    return {"uri": uri, "cid": CID}


def old_post(rkey: str, text: str = "old", when: str = OLD, **more: Any) -> Write:
    return post(rkey, text, **{"createdAt": when, **more})


def like(rkey: str, uri: str, when: str = OLD) -> Write:
    return create(f"{LIKE}/{rkey}", {"subject": ref(uri), "createdAt": when})


def repost(rkey: str, uri: str, when: str = OLD) -> Write:
    return create(f"{REPOST}/{rkey}", {"subject": ref(uri), "createdAt": when})


def follow(rkey: str, did: str) -> Write:
    return create(f"app.bsky.graph.follow/{rkey}", {"subject": did, "createdAt": OLD})


def gate(rkey: str, uri: str) -> Write:
    return create(f"app.bsky.feed.threadgate/{rkey}", {"post": uri, "allow": [], "createdAt": OLD})


class Town:
    """Ann and Bob, of whom nobody knows, and Eve, who is protected and follows Fay."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.stream = Stream()
        self.ann, self.bob, self.eve, self.fay = (Person(self.stream, it) for it in ("ann", "bob", "eve", "fay"))
        self.settings = Settings(
            database_url=database.url, retention_days=DAYS, retention_protected=(self.eve.did,), backfill_rows=100
        )
        self.anns = self.ann.uri(f"{POST}/a")
        self.frames: list[bytes] = []

    def write(self, *frames: bytes) -> None:
        self.frames += frames
        for frame in frames:
            index(self.database, frame)

    def live(self) -> None:
        ann, bob, eve, fay = self.ann, self.bob, self.eve, self.fay
        reply: dict[str, Any] = {"reply": {"root": ref(self.anns), "parent": ref(self.anns)}}
        self.write(
            ann.commit(old_post("a"), gate("a", self.anns), follow("f", bob.did)),
            eve.commit(follow("f", fay.did), old_post("e"), like("l", self.anns)),
            fay.commit(old_post("f"), like("l", self.anns), repost("r", self.anns)),
            bob.commit(like("l", self.anns), repost("r", self.anns), like("e", eve.uri(f"{POST}/e"))),
            bob.commit(old_post("r", "reply", **reply), old_post("y", "young reply", YOUNG, **reply)),
            ann.commit(old_post("y", "young", YOUNG), like("y", fay.uri(f"{POST}/f"), YOUNG)),
        )

    def retain(self, **more: object) -> RetentionSummary:
        return apply_retention(self.settings, self.database, **more)  # type: ignore[arg-type]

    def uris(self, table: str = "record") -> set[str]:
        names = {it.did: it for it in (self.ann, self.bob, self.eve, self.fay)}
        assert len(names) == 4
        found = rows(self.database.url, f'SELECT uri FROM bsky."{table}"')
        short = {self.ann.did: "ann", self.bob.did: "bob", self.eve.did: "eve", self.fay.did: "fay"}
        return {f"{short[uri.split('/')[2]]} {'/'.join(uri.split('.')[-1].split('/'))}" for (uri,) in found}

    def assert_right(self) -> None:
        """Counters equal a recount, and a rerun finds nothing wrong."""
        for table in TABLES:
            assert recount(self.database, table, rewrite=False).differing == 0
        changed = rerun_collections(self.database, DERIVED_COLLECTIONS).changed
        assert not any(changed.values()), changed


@pytest.fixture
def town(database: Database) -> Iterator[Town]:
    made = Town(database)
    made.live()
    yield made


KEPT = {
    "ann follow/f", "ann post/y", "ann like/y", "bob post/y",
    "eve follow/f", "eve post/e", "eve like/l", "fay post/f", "fay like/l", "fay repost/r",
}  # fmt: skip


def test_old_records_go_but_those_of_protected_accounts_and_of_whom_they_follow(town: Town) -> None:
    url = town.database.url
    assert one(url, 'SELECT "likeCount" FROM bsky.post_agg WHERE uri = %s', town.anns) == 3
    found = town.retain()
    assert town.uris() == KEPT
    assert dict(found.records) == {POST: 2, LIKE: 2, REPOST: 1, "app.bsky.feed.threadgate": 1}
    assert (found.total, found.accounts, found.ended) == (6, 2, "nothing more is left")
    counts = 'SELECT "likeCount", "repostCount", "replyCount" FROM bsky.post_agg WHERE uri = %s'
    assert rows(url, counts, town.anns) == [(2, 1, 0)], "what is kept counts, but a reply that the gate forbade"
    assert one(url, 'SELECT "postsCount" FROM bsky.profile_agg WHERE did = %s', town.bob.did) == 1
    assert rows(url, "SELECT count(*) FROM pipeline.tombstone") == [(0,)]
    assert rows(url, "SELECT uri FROM pipeline.pending") == [], "nobody waits for what went"
    town.assert_right()
    assert town.uris() == KEPT
    assert town.retain().total == 0


def test_replies_to_what_went_are_evaluated_as_before_and_its_states_go_with_the_last_of_them(town: Town) -> None:
    """Ann lets nobody reply: the gate that went still decides. No text of hers is left."""
    url, young = town.database.url, town.bob.uri(f"{POST}/y")
    flags = 'SELECT "violatesThreadGate", "invalidReplyRoot" FROM bsky.post WHERE uri = %s'
    before = rows(url, flags, young)
    assert before == [(True, None)] or before == [(True, False)]
    town.retain()
    assert rows(url, flags, young) == before
    town.assert_right()
    assert rows(url, flags, young) == before
    states = "SELECT split_part(uri, '/', 4) FROM pipeline.version WHERE uri LIKE %s ORDER BY 1"
    assert rows(url, states, f"at://{town.ann.did}/%") == [(POST,), ("app.bsky.feed.threadgate",)]
    assert rows(url, states, f"at://{town.bob.did}/%") == []
    town.settings = replace(town.settings, retention_days=1)
    town.retain()
    assert rows(url, "SELECT uri FROM pipeline.version") == []
    assert one(url, "SELECT count(*) FROM pipeline.dependency") == 0
    town.assert_right()


def test_nothing_comes_back(town: Town) -> None:
    """Not by commits that are delivered again, nor by a resync; and an audit misses nothing."""
    town.retain()
    rows(town.database.url, "UPDATE pipeline.repo SET chain_from = NULL")
    for frame in town.frames:
        index(town.database, frame, retention_days=DAYS, retention_protected=(town.eve.did,))
    assert town.uris() == KEPT
    people = (town.ann, town.bob, town.eve, town.fay)
    fetcher = MemoryFetcher(*people)
    for person in people:
        writer = writer_for(town.database, retention_days=DAYS, retention_protected=(town.eve.did,))
        outcome = resync(town.settings, town.database, fetcher, writer, person.did)
        assert (outcome.counts.creates, outcome.counts.deletes, outcome.state) == (0, 0, "synchronized")
    assert town.uris() == KEPT
    found = audit(town.settings, town.database, fetcher, [it.did for it in people])
    assert (found.differences, found.old, found.failed) == (0, 6, {})
    assert audit(replace(town.settings, retention_days=0), town.database, fetcher, [town.ann.did]).missing == 2
    town.assert_right()


def test_they_come_back_where_retention_is_off_again(town: Town) -> None:
    before = town.uris()
    town.retain()
    fetcher = MemoryFetcher(town.ann, town.bob)
    off = replace(town.settings, retention_days=0)
    for person in (town.ann, town.bob):
        resync(off, town.database, fetcher, writer_for(town.database), person.did)
    assert town.uris() == before
    town.assert_right()


def test_live_events_about_what_went(town: Town) -> None:
    """A deletion deletes nothing, an edit is stored until the next run, and a record that says it is old is not."""
    town.retain()
    ann = town.ann
    options: dict[str, Any] = {"retention_days": DAYS, "retention_protected": (town.eve.did,)}
    index(town.database, ann.commit(update(f"{POST}/a", {"text": "edited", "createdAt": OLD})), **options)
    assert town.uris() == KEPT | {"ann post/a"}
    assert town.retain().total == 1
    index(town.database, ann.commit(delete(f"{POST}/a"), old_post("new", "imported")), **options)
    assert town.uris() == KEPT
    index(town.database, town.eve.commit(old_post("new", "imported")), **options)
    index(town.database, town.fay.commit(old_post("new", "imported")), **options)
    assert town.uris() == KEPT | {"eve post/new", "fay post/new"}
    town.assert_right()


def test_likes_that_say_the_same_go_together_or_not_at_all(database: Database) -> None:
    town = Town(database)
    town.settings = replace(town.settings, retention_protected=())
    ann, bob = town.ann, town.bob
    two = [like("b", bob.uri(f"{POST}/x")), like("c", bob.uri(f"{POST}/x"))]
    kept = [like("d", bob.uri(f"{POST}/y")), like("e", bob.uri(f"{POST}/y"), YOUNG)]
    town.write(ann.commit(*two), ann.commit(kept[0]), ann.commit(kept[1]))
    rows(database.url, "UPDATE bsky.record SET \"indexedAt\" = %s WHERE uri LIKE '%%/c'", OLD)
    counted = {(it.kind, it.outcome): it.rows for it in count_retention(town.settings, database)[1]}
    assert counted == {("like", "deleted"): 1, ("like", "said again"): 1}
    town.retain()
    assert town.uris() == {"ann like/d", "ann like/e"}
    town.assert_right()
    index(database, ann.commit(delete(f"{LIKE}/d")))
    assert town.uris("like") == {"ann like/e"}
    town.assert_right()


def test_a_run_that_is_interrupted_is_gone_on_with(town: Town) -> None:
    def stop_at_once(so_far: RetentionSummary) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        town.retain(chunk=1, progress=stop_at_once)
    assert 0 < len(town.uris() - KEPT) < 6
    town.assert_right()
    ended = town.retain(seconds=0.0)
    assert (ended.total, ended.ended) == (0, "its time is over")
    town.retain(chunk=1)
    assert town.uris() == KEPT
    assert one(town.database.url, "SELECT rows_deleted FROM pipeline.sweep WHERE name = 'retention'") > 0
    town.assert_right()


def test_looking_for_old_records_may_take_longer_than_readers_may(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """An account with millions of reposts must not end every run at the same place."""
    limits = []

    def watched(look: Any, connection: Connection, *given: Any, **more: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SHOW statement_timeout")
            limits.extend(cursor.fetchall())
        return look(connection, *given, **more)

    for name in ("accounts_with_old_records", "old_records"):
        monkeypatch.setattr(store, name, partial(watched, getattr(store, name)))
    town.retain()
    assert set(limits) == {("1h",)}


def test_what_is_old_is_not_asked_for(town: Town) -> None:
    """By its key: a missing record has nothing else."""
    old = old_records(town.settings, town.database)
    assert old is not None
    assert old.protected == {town.eve.did, town.fay.did}
    for did, rkey, expected in (
        (town.ann.did, "3juflq34ucn2p", True),
        (town.fay.did, "3juflq34ucn2p", False),
        (town.ann.did, "3zzzzzzzzzzzz", False),
        (town.ann.did, "self", False),
    ):
        assert old.has_old_key(did, POST, rkey) == expected
    assert not old.has_old_key(town.ann.did, "app.bsky.graph.follow", "3juflq34ucn2p")
    assert old_records(replace(town.settings, retention_days=0), town.database) is None


def test_nothing_is_deleted_before_it_is_known_whom_protected_accounts_follow(town: Town) -> None:
    """While they are being fetched, say: old records of accounts that they follow would be gone."""
    before = town.uris()
    unknown = replace(town.settings, retention_protected=(town.eve.did, "did:plc:" + "z" * 24))
    with pytest.raises(OperatorError, match=r"whom did:plc:z+ follow is not known"):
        apply_retention(unknown, town.database)
    run(town.database.url, f"UPDATE pipeline.repo SET is_partial = true WHERE did = '{town.eve.did}'")
    with pytest.raises(OperatorError, match=f"whom {town.eve.did} follow"):
        count_retention(town.settings, town.database)
    assert town.uris() == before
    run(town.database.url, f"UPDATE pipeline.repo SET active = false WHERE did = '{town.eve.did}'")
    town.retain()
    assert town.uris() == KEPT


def test_the_command(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPVIEW_DATABASE_URL", town.database.url)
    run = CliRunner()
    assert "APPVIEW_RETENTION_DAYS is 0" in str(run.invoke(cli, ["retention", "--dry-run"]).exception)
    assert isinstance(run.invoke(cli, ["retention", "--now"]).exception, OperatorError)
    monkeypatch.setenv("DATA_RETENTION_DAYS", str(DAYS))
    monkeypatch.setenv("APPVIEW_RETENTION_PROTECTED", town.eve.did)
    assert run.invoke(cli, ["retention"]).exit_code == 2
    counted = run.invoke(cli, ["retention", "--dry-run"]).stdout
    assert [line.split(maxsplit=2) for line in counted.splitlines()[1:]] == [
        ["2", "like", "deleted"],
        ["1", "like", "kept: a protected account follows the account"],
        ["1", "like", "kept: the account is protected"],
        ["2", "post", "deleted"],
        ["1", "post", "kept: a protected account follows the account"],
        ["1", "post", "kept: the account is protected"],
        ["1", "repost", "deleted"],
        ["1", "repost", "kept: a protected account follows the account"],
    ]
    assert town.uris() > KEPT
    done = run.invoke(cli, ["retention", "--now"])
    assert done.exit_code == 0 and done.stdout.startswith("6 records of 2 accounts deleted")
    assert town.uris() == KEPT
