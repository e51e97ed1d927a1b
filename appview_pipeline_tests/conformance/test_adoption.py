"""Adopting a database that the reference's own indexer has filled: then its tables are what we make of the stream.

What the reference has lost can't be there: repositories are compared with the network for that (docs/serve.md).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import psycopg2
import pytest

from appview_pipeline.backfill.listing import list_network
from appview_pipeline.backfill.worker import work
from appview_pipeline.errors import OperatorError
from appview_pipeline.operations.adopting import AdoptionSummary, adopt, check_adoption
from appview_pipeline.operations.leaving import leave
from appview_pipeline.settings import Settings, load
from appview_pipeline.store import adoption_steps, migrate
from appview_pipeline.store.adoption import STEPS
from appview_pipeline.store.database import Database, open_database
from appview_pipeline.store.database_url import libpq_url
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline.store.session_lock import session_lock
from appview_pipeline_tests.conformance.reference import known_catalog
from appview_pipeline_tests.conformance.reference.catalog import snapshot
from appview_pipeline_tests.conformance.reference.oracle import (
    Oracle,
    reference_database,
)
from appview_pipeline_tests.conformance.reference.reader import serving
from appview_pipeline_tests.conformance.reference.rows import documents_of
from appview_pipeline_tests.simulated_network.network import SimulatedNetwork
from appview_pipeline_tests.simulated_network.repository import Write
from appview_pipeline_tests.simulated_network.world import World
from appview_pipeline_tests.support.background import repeated
from appview_pipeline_tests.support.batches import batches_of, changes_of, feed
from appview_pipeline_tests.support.busy_world import busy_frames
from appview_pipeline_tests.support.frames import Person, Stream, create, delete, post, update
from appview_pipeline_tests.support.records import like, ref, strong_ref
from appview_pipeline_tests.support.tables import (
    Dump,
    Fresh,
    differences,
    dump,
    one,
    replayed_frames,
    rows,
)
from appview_pipeline_tests.support.waiting import wait_for

pytestmark = pytest.mark.slow

NOT_INDEXED_THERE = ("site.standard.", "com.atproto.lexicon.", "app.bsky.actor.contentVisibility")
"""Collections that the reference does not store: comparing repositories brings them."""


Fill = Callable[..., str]
"""Gives the URL of a database that the reference has filled with frames."""


@pytest.fixture
def fill(server: EmbeddedPostgres, reference_tables: str, reference: Oracle) -> Iterator[Fill]:
    opened = []

    def filled(frames: Sequence[bytes], gone: Sequence[str] = ()) -> str:
        database = reference_database(server, reference_tables)
        url = database.__enter__()
        opened.append(database)
        reference.identities(documents_of(frames), {}, gone)
        reference.open("there", url)
        reference.index("there", frames)
        reference.close("there")
        return url

    yield filled
    for database in opened:
        database.__exit__(None, None, None)


def taken_over(url: str) -> tuple[Database, AdoptionSummary]:
    settings = Settings(database_url=url)
    database = open_database(settings, migrate=False, check=False)
    return database, adopt(settings, database, watch=False)


def content(url: str) -> Dump:
    """Schema bsky, without our own clock and revs, and without what resolution and the AppView write."""
    left_out = {"rev", "handle"}
    found = {}
    for table, lines in dump(url).items():
        if not table.startswith("bsky.") or table in ("bsky.did_cache", "bsky.subscription"):
            continue
        kept = [json.loads(line) for line in lines if not any(f"/{nsid}" in line for nsid in NOT_INDEXED_THERE)]
        for row in kept:
            for column in (*left_out, *(("indexedAt",) if table == "bsky.actor" else ())):
                row.pop(column, None)
        found[table] = sorted(json.dumps(row) for row in kept)
    return found


def as_exported(url: str, deleted: set[str]) -> Dump:
    """`content` without what an export can't say: when something was indexed, and what follows from records that were
    deleted unseen."""
    found = {}
    for table, lines in content(url).items():
        if table in ("bsky.op_thread_reply", "bsky.actor", "bsky.actor_sync"):
            continue
        kept = [row for row in map(json.loads, lines) if deleted.isdisjoint(map(str, row.values()))]
        for row in kept:
            for column in ("indexedAt", "sortAt", *(("createdAt",) if table == "bsky.profile" else ())):
                row.pop(column, None)
        found[table] = sorted(json.dumps(row) for row in kept)
    return found


def catalog(url: str, schema: str) -> dict[tuple[str, str], str]:
    connection = psycopg2.connect(libpq_url(url))
    try:
        return snapshot(connection, schema)
    finally:
        connection.close()


def private_rows(url: str) -> None:
    """What only the AppView knows."""
    rows(
        url,
        """INSERT INTO bsky.mute ("subjectDid", "mutedByDid", "createdAt") VALUES ('did:plc:b', 'did:plc:a', 'x');
        INSERT INTO bsky.draft VALUES ('did:plc:a', 'k', 'x', 'x', '{}');
        UPDATE bsky.actor SET "takedownRef" = 'T' WHERE did = (SELECT min(did) FROM bsky.actor)""",
    )


def test_the_catalog_that_is_expected_is_that_of_the_reference(server: EmbeddedPostgres, reference_tables: str) -> None:
    assert known_catalog.render(server.url(reference_tables)) == known_catalog.FILE.read_text()


@pytest.mark.parametrize("seed", [21, pytest.param(24, marks=pytest.mark.thorough)])
def test_a_busy_stream(fill: Fill, fresh: Fresh, tmp_path: Path, seed: int) -> None:
    """Duplicates in any order, edits, gates, deletions; and what comes after it is the same as well."""
    frames = list(busy_frames(420, seed))
    url = fill(frames[:360])
    private_rows(url)
    before = [rows(url, f"SELECT t::text FROM bsky.{table} t") for table in ("mute", "draft")]
    with fresh() as ours:
        replayed_frames(ours, tmp_path, frames[:360], batch_size=50)
        rows(ours.url, "UPDATE bsky.actor SET \"takedownRef\" = 'T' WHERE did = (SELECT min(did) FROM bsky.actor)")
        database, summary = taken_over(url)
        for schema in ("bsky", "pipeline"):
            assert catalog(url, schema) == catalog(ours.url, schema)
        assert [rows(url, f"SELECT t::text FROM bsky.{table} t") for table in ("mute", "draft")] == before
        rows(
            ours.url,
            """INSERT INTO bsky.mute ("subjectDid", "mutedByDid", "createdAt")
            VALUES ('did:plc:b', 'did:plc:a', 'x'); INSERT INTO bsky.draft VALUES ('did:plc:a', 'k', 'x', 'x', '{}')""",
        )
        assert differences(content(url), content(ours.url)) == []
        assert summary.adoption.finished_at is not None and summary.adoption.counts["records"] > 250
        # Delivered again, and what follows.
        replayed_frames(database, tmp_path, frames[300:], batch_size=30)
        replayed_frames(ours, tmp_path, frames[300:], batch_size=30)
        assert differences(content(url), content(ours.url)) == []
        database.close()


def broken_world() -> tuple[list[bytes], list[str]]:
    """Frames by which the reference leaves orphans, and the accounts that are gone in the end."""
    stream = Stream()
    ann, bob, cat, eve = (Person(stream, name) for name in ("ann", "bob", "cat", "eve"))

    def reply(rkey: str, parent: str, root: str) -> Write:
        return post(rkey, rkey, reply={"root": ref(root), "parent": ref(parent)})

    def quote(rkey: str, uri: str) -> Write:
        return post(rkey, rkey, embed={"$type": "app.bsky.embed.record", "record": ref(uri)})

    keys = [f"3l{letter}aaaaaaaa22" for letter in "abcdefghijkl"]
    root, second, lost = (ann.uri(f"app.bsky.feed.post/{key}") for key in keys[:3])
    frames = [
        ann.commit(post(keys[0], "root"), post(keys[1], "second"), post(keys[2], "lost")),
        *[bob.commit(like(f"{key[:-1]}3", root)) for key in keys[:4]],
        bob.commit(delete(f"app.bsky.feed.like/{keys[0][:-1]}3")),
        bob.commit(delete(f"app.bsky.feed.like/{keys[1][:-1]}3")),
        bob.commit(
            create(
                "app.bsky.feed.repost/3laaaaaaaaa22",
                {"$type": "app.bsky.feed.repost", "subject": strong_ref(root), "createdAt": "2025-01-01T00:00:00.000Z"},
            )
        ),
        bob.commit(
            create(
                "app.bsky.feed.repost/3lbaaaaaaaa22",
                {"$type": "app.bsky.feed.repost", "subject": strong_ref(root), "createdAt": "2025-01-01T00:00:00.000Z"},
            )
        ),
        cat.commit(reply(keys[3], lost, lost), quote(keys[4], lost), quote(keys[5], second)),
        eve.commit(reply(keys[6], cat.uri(f"app.bsky.feed.post/{keys[3]}"), lost), quote(keys[7], root)),
        ann.commit(delete(f"app.bsky.feed.post/{keys[2]}")),
        ann.commit(update(f"app.bsky.feed.post/{keys[1]}", post(keys[1], "edited").record or {})),
        eve.commit(like("3lcaaaaaaaa22", root)),
        stream.frame(
            "#account", {"did": eve.did, "active": False, "status": "deleted", "time": "2030-01-01T00:00:00Z"}
        ),
    ]
    return frames, [eve.did]


def test_orphans_and_repetitions(fill: Fill, fresh: Fresh, tmp_path: Path) -> None:
    """Likes that count nothing, second feed items, lost quotes, and what the deletion of an account leaves."""
    frames, gone = broken_world()
    url = fill(frames, gone)
    rows(
        url,
        """INSERT INTO bsky.notification (did, "recordUri", "recordCid", author, reason, "reasonSubject", "sortAt")
        SELECT did, "recordUri", "recordCid", author, reason, "reasonSubject", "sortAt" FROM bsky.notification""",
    )
    settings = Settings(database_url=url)
    database = open_database(settings, migrate=False, check=False)
    found = check_adoption(settings, database, watch=False)
    assert found.obstacles == []
    faults = {name for name, fault in found.faults.items() if fault.found}
    assert {"repeated_notifications", "orphaned_duplicates", "feed_items_without_record", "deleted_accounts"} <= faults
    database.close()
    with fresh() as ours:
        replayed_frames(ours, tmp_path, frames[:-1], batch_size=1)
        database, _ = taken_over(url)
        database.close()
        (eve,) = gone
        theirs, mine = content(url), content(ours.url)
        # Ours waits for the word of the PDS before it removes the account: what is not about it is the same.
        for tables in (theirs, mine):
            for lines in tables.values():
                lines[:] = [line for line in lines if eve not in line and "_agg" not in line]
        counted = ("bsky.post_agg", "bsky.profile_agg")
        assert (
            differences(
                {name: lines for name, lines in theirs.items() if name not in counted},
                {name: lines for name, lines in mine.items() if name not in counted},
            )
            == []
        )
        assert [line for lines in content(url).values() for line in lines if f"at://{eve}/" in line] == []
        assert one(url, "SELECT count(*) FROM pipeline.identity WHERE did = %s AND status_wanted", eve) == 1


def test_records_that_readers_can_not_show(fill: Fill) -> None:
    stream = Stream()
    ann = Person(stream, "ann")
    url = fill([ann.commit(post("3laaaaaaaaa22", "a"), post("3lbaaaaaaaa22", "b"), post("3lcaaaaaaaa22", "c"))])
    rows(
        url,
        r"""UPDATE bsky.record SET json = replace(json, '"text":"a"', '"text":"a","odd":"x\u0000y"')
        WHERE uri LIKE '%%3laaaaaaaaa22'""",
    )
    rows(
        url,
        """UPDATE bsky.record SET json = replace(json, '"text":"b"', '"text":"b","reply":{"root":{"cid":"b","uri":'
        '"at://name.test/app.bsky.feed.post/1"},"parent":{"cid":"b","uri":"at://name.test/app.bsky.feed.post/1"}}')
        WHERE uri LIKE '%%3lbaaaaaaaa22'""",
    )
    database, summary = taken_over(url)
    database.close()
    assert summary.adoption.counts["rewritten records"] == 1 and summary.adoption.counts["refused records"] == 1
    assert rows(url, "SELECT right(uri, 13) FROM bsky.post ORDER BY 1") == [("3laaaaaaaaa22",), ("3lcaaaaaaaa22",)]
    assert one(url, "SELECT count(*) FROM pipeline.dead_letter WHERE form = 'json'") == 1
    assert one(url, r"SELECT count(*) FROM bsky.record WHERE strpos(json, '\u0000') > 0") == 0


def test_what_the_reference_has_lost_comes_from_the_network(fill: Fill, fresh: Fresh) -> None:
    """Every seventh event has not arrived there, or its transaction failed; of one, because it has U+0000."""
    with SimulatedNetwork(World(5, 8, start=time.time() - 600, pasts=())) as network:
        frames = network.advance(200)
        for author in network.world.authors:
            frames += network.happen(network.world.reactivate, author.did)
        author = network.world.authors[0]
        odd = post("3lzzzzzzzzz22", "nul \x00 in it")
        frames += network.happen(network.world._commit_frames, author, [odd])
        url = fill([frame for number, frame in enumerate(frames) if number % 7 or b"#commit" not in frame[:20]])
        with fresh() as ours:
            feed(ours, batches_of(changes_of(*frames), 100))
            settings = replace(load(network.environment()), database_url=url, notify_window=36_500.0, backfill_days=-1)
            database = open_database(settings, migrate=False, check=False)
            summary = adopt(settings, database, compare=True, watch=False)
            assert summary.adoption.counts["queued repositories"] > 5
            deleted = {uri for (uri,) in rows(ours.url, "SELECT uri FROM pipeline.tombstone")}
            wanted = as_exported(ours.url, deleted)
            assert differences(as_exported(url, deleted), wanted) != []
            list_network(settings, database)  # of one account nothing has arrived
            found = work(settings, database)
            assert found.failed == 0 and found.left == 0 and found.created > 10, found
            assert differences(as_exported(url, deleted), wanted) == []
            assert one(url, "SELECT count(*) FROM pipeline.repo WHERE active AND sync_state <> 'synchronized'") == 0
            database.close()


def test_readers_meanwhile(fill: Fill, packages: Path, tmp_path: Path) -> None:
    """An AppView that is asked all the time answers, whatever the adoption does."""
    frames = list(busy_frames(120, 24))
    url = fill(frames)
    post_uri = one(url, 'SELECT uri FROM bsky.post_agg ORDER BY "likeCount" + "replyCount" DESC, uri LIMIT 1')
    did = post_uri.split("/")[2]
    asked: list[tuple[str, dict[str, str]]] = [
        ("app.bsky.actor.getProfile", {"actor": did}),
        ("app.bsky.feed.getAuthorFeed", {"actor": did}),
        ("app.bsky.feed.getPostThread", {"uri": post_uri}),
        ("app.bsky.feed.getLikes", {"uri": post_uri}),
        ("app.bsky.graph.getFollowers", {"actor": did}),
        ("app.bsky.notification.listNotifications", {}),
    ]
    statuses: Counter[tuple[str, int]] = Counter()
    with serving(packages, url, tmp_path / "log") as reader:

        def ask() -> None:
            for method, parameters in asked:
                statuses[method, reader.get(method, did, **parameters).status] += 1

        ask()
        with repeated(ask):
            database, _ = taken_over(url)
            database.close()
            told = statuses.total()
            wait_for(lambda: statuses.total() > told + len(asked))
    assert {(method, status) for method, status in statuses if status != 200} == set(), (tmp_path / "log").read_text()
    assert told > len(asked)


def test_another_schema(fill: Fill) -> None:
    """The tables in another schema; whoever asks for them there still finds them, and may write."""
    url = fill(list(busy_frames(60, 3)))
    rows(url, "ALTER SCHEMA bsky RENAME TO theirs")
    database, summary = taken_over(url)
    database.close()
    assert summary.adoption.from_schema == "theirs"
    assert one(url, "SELECT count(*) FROM theirs.record") == one(url, "SELECT count(*) FROM bsky.record") > 0
    rows(
        url,
        """INSERT INTO theirs.mute ("subjectDid", "mutedByDid", "createdAt") VALUES ('b', 'a', 'x')
        ON CONFLICT ("mutedByDid", "subjectDid") DO NOTHING""",
    )
    assert one(url, "SELECT count(*) FROM bsky.mute") == 1


def test_what_is_in_the_way(fill: Fill, server: EmbeddedPostgres, reference_tables: str) -> None:
    url = fill([])
    settings = Settings(database_url=url)
    rows(url, "ALTER TABLE bsky.post DROP COLUMN langs")
    rows(url, "DELETE FROM bsky.kysely_migration WHERE name = '_20230309T045948368Z'")
    rows(url, "INSERT INTO bsky.kysely_migration VALUES ('_29990101T000000000Z', 'x')")
    database = open_database(settings, migrate=False, check=False)
    found = check_adoption(settings, database, watch=False)
    assert any("newer than this project knows" in it for it in found.obstacles)
    assert any("1 migrations of the reference are missing" in it for it in found.obstacles)
    rows(url, "DELETE FROM bsky.kysely_migration WHERE name = '_29990101T000000000Z'")
    rows(url, "INSERT INTO bsky.kysely_migration VALUES ('_20230309T045948368Z', 'x')")
    rows(url, "CREATE TABLE bsky.of_the_operator (a int); CREATE INDEX of_the_operator_idx ON bsky.post (text)")
    found = check_adoption(settings, database, watch=False)
    assert found.obstacles == ["The column langs of post is missing; it is: jsonb."]
    assert found.left_alone == ["table of_the_operator", "index of_the_operator_idx of post"]
    with pytest.raises(OperatorError, match="langs of post is missing"):
        adopt(settings, database, watch=False)
    assert one(url, "SELECT to_regnamespace('pipeline')") is None
    with pytest.raises(OperatorError, match="appview-pipeline adopt --check"):
        migrate.upgrade(url)
    database.close()


def test_unfinished_it_keeps_everything_else_out(fill: Fill, monkeypatch: pytest.MonkeyPatch) -> None:
    url = fill(list(busy_frames(40, 3)))
    settings = Settings(database_url=url)
    database = open_database(settings, migrate=False, check=False)
    with (
        session_lock(database, "adoption", taken="the test has it"),
        pytest.raises(OperatorError, match="nother process is"),
    ):
        adopt(settings, database, watch=False)

    def fails(*_: object) -> dict[str, int]:
        raise RuntimeError("the power is gone")

    with monkeypatch.context() as patched:
        patched.setattr(adoption_steps, "note_history", fails)
        with pytest.raises(RuntimeError):
            adopt(settings, database, cursor=77, compare=True, watch=False)
    with pytest.raises(OperatorError, match=r"not finished: step 7 of 11 .*run `appview-pipeline adopt` to go on"):
        open_database(settings)
    with pytest.raises(OperatorError, match="not finished"):
        migrate.upgrade(url)
    open_database(settings, given_back=True).close()  # `status` says so
    with pytest.raises(OperatorError, match="began with --cursor 77 --compare: give no options to go on"):
        adopt(settings, database, cursor=78, compare=True, watch=False)
    summary = adopt(settings, database, watch=False)  # with the options that it began with
    assert any("APPVIEW_BACKFILL_DAYS=-1" in it for it in summary.warnings)
    assert one(url, "SELECT seq FROM pipeline.cursor") == 77
    assert one(url, "SELECT count(*) FROM pipeline.backfill_queue") > 0
    assert adopt(settings, database, watch=False).was_finished
    database.close()
    open_database(settings).close()


def test_given_back_and_adopted_again(fill: Fill, fresh: Fresh, reference: Oracle, tmp_path: Path) -> None:
    frames = list(busy_frames(300, 22))
    with fresh() as ours, fresh() as theirs:
        replayed_frames(ours, tmp_path, frames, batch_size=50)
        replayed_frames(theirs, tmp_path, frames[:150], batch_size=50)
        theirs.engine.dispose()
        leave(theirs)
        reference.identities(documents_of(frames), {}, ())
        reference.open("again", theirs.url)
        reference.index("again", frames[150:])
        reference.close("again")
        adopt(Settings(database_url=theirs.url), theirs, watch=False)
        assert catalog(theirs.url, "bsky") == catalog(ours.url, "bsky")
        assert differences(content(theirs.url), content(ours.url)) == []


WITH_SHORT_RANGES = """
from appview_pipeline.cli import cli
from appview_pipeline.store import adoption_ranges
adoption_ranges.RECORDS_OF_RANGE = 10
cli()
"""


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.thorough)])
def test_killed_at_random_moments(fill: Fill, kills: int) -> None:
    """With one to three processes, and another number each time: the tables are those of one that nothing disturbs."""
    frames = list(busy_frames(150, 21))
    undisturbed, url = fill(frames), fill(frames)
    database, _ = taken_over(undisturbed)
    database.close()
    rows(url, "ANALYZE bsky.record")
    environment = {**os.environ, "APPVIEW_DATABASE_URL": libpq_url(url)}
    names, moments = list(STEPS), Random(kills)
    targets = sorted(moments.choices(range(len(names) - 1), k=kills))

    def step() -> int:
        if one(url, "SELECT to_regclass('pipeline.adoption') IS NULL"):
            return -1
        return max((names.index(name) for (name,) in rows(url, "SELECT step FROM pipeline.adoption")), default=-1)

    killed = 0
    for number, target in enumerate(targets):
        command = [sys.executable, "-c", WITH_SHORT_RANGES, "adopt", "--processes", str(1 + (number + 1) % 3)]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: process.poll() is not None or step() >= target)  # noqa: B023
        time.sleep(moments.random() / 20)
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    database, _ = taken_over(url)
    database.close()
    assert differences(content(url), content(undisturbed)) == []
    assert killed > 0
    print(f"{killed} of {kills} were killed")
