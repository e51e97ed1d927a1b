"""Sweeps: each deletes what is old and of no more use, and nothing else; beside those who hold the rows; and goes on
where it was."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from itertools import repeat
from typing import Any

import pytest
from click.testing import CliRunner

from appview_pipeline.backfill.resync import resync
from appview_pipeline.cli import cli
from appview_pipeline.errors import OperatorError
from appview_pipeline.operations import sweeping
from appview_pipeline.operations.sweeping import count_due, run_sweeps
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline.store.health_report import read_health
from appview_pipeline.store.session_lock import LockTaken, session_lock
from appview_pipeline.store.sweeps import BY_NAME, SWEEPS, Step, Sweep, read_sweeps
from appview_pipeline_tests.simulated_network.repository import Write
from appview_pipeline_tests.support.batches import index, writer_for
from appview_pipeline_tests.support.database import connect, run
from appview_pipeline_tests.support.exports import Repository, compared
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, create, delete, post
from appview_pipeline_tests.support.memory_fetcher import MemoryFetcher
from appview_pipeline_tests.support.sweeping import sweep_tombstones
from appview_pipeline_tests.support.tables import one, rows

CID = "bafyreie5cvv4h45feadgeuwhbcutmh6t2ceseocckahdoe6uat64zmz454"
A, B, C = (f"did:plc:{letter * 24}" for letter in "abc")
OLD_AND_YOUNG: dict[str, tuple[str, str, list[str]]] = {
    "pending": (
        "INSERT INTO pipeline.pending (uri, kind, missing, since, expires_at) "
        "SELECT 'at://a/x/' || kind || days, kind, 'at://b/x/1', now() - days * interval '1 day', "
        "now() + (1 - days) * interval '1 day' "
        "FROM (VALUES ('quote', 2), ('quote', 0), ('reply', 9)) v (kind, days)",
        "SELECT uri FROM pipeline.pending",
        ["at://a/x/quote0", "at://a/x/reply9"],
    ),
    "tombstones": (
        "INSERT INTO pipeline.repo (did, rev, sync_state, has_start, resync_at) VALUES "
        f"('{A}', '3m', 'synchronized', true, NULL), ('{B}', '3m', 'unknown', false, NULL), "
        f"('{C}', '3m', 'synchronized', true, now());"
        "INSERT INTO pipeline.tombstone (uri, rev, collection, deleted_at) "
        "SELECT 'at://' || did || '/x/' || days, '3a', 'x', now() - days * interval '1 day' "
        f"FROM unnest(ARRAY['{A}', '{B}', '{C}']) did, generate_series(1, 9, 8) days",
        "SELECT uri FROM pipeline.tombstone",
        [f"at://{A}/x/1", f"at://{B}/x/1", f"at://{B}/x/9", f"at://{C}/x/1", f"at://{C}/x/9"],
    ),
    "dead letters": (
        "INSERT INTO pipeline.dead_letter (fingerprint, source, kind, reason, first_seen) "
        "SELECT n::text::bytea, 's', 'k', n::text, now() - n * interval '1 day' FROM unnest(ARRAY[29, 31]) n",
        "SELECT reason FROM pipeline.dead_letter",
        ["29"],
    ),
    "counts of dead letters": (
        "INSERT INTO pipeline.dead_letter_overflow SELECT n::text, now() - n * interval '1 day', 1 "
        "FROM unnest(ARRAY[29, 31]) n;"
        "INSERT INTO pipeline.dead_letter_day SELECT n::text, current_date - n, 1, 1 FROM unnest(ARRAY[29, 31]) n",
        "SELECT kind FROM pipeline.dead_letter_overflow UNION ALL SELECT kind FROM pipeline.dead_letter_day",
        ["29", "29"],
    ),
    "identities": (
        "INSERT INTO pipeline.identity (did, source, resolved_at, asked_at, queue, wanted_at) VALUES "
        "('old', 'plc', now() - interval '9 days', NULL, NULL, NULL), "
        "('refreshed', 'plc', now(), now() - interval '9 days', NULL, NULL), "
        "('asked', 'plc', now() - interval '9 days', now(), NULL, NULL), "
        "('queued', 'plc', now() - interval '9 days', NULL, 'retry', now()), "
        "('imported', 'import', now() - interval '9 days', NULL, NULL, NULL), "
        "('actor', 'plc', now() - interval '9 days', NULL, NULL, NULL), "
        "('repo', 'plc', now() - interval '9 days', NULL, NULL, NULL), "
        "('labeler', 'plc', now() - interval '9 days', NULL, NULL, NULL), "
        "('fetched', 'plc', now() - interval '9 days', NULL, NULL, NULL);"
        "INSERT INTO bsky.actor (did, \"indexedAt\") VALUES ('actor', '');"
        "INSERT INTO pipeline.repo (did) VALUES ('repo'); INSERT INTO pipeline.labeler (did) VALUES ('labeler');"
        "INSERT INTO pipeline.backfill_queue (did, reason) VALUES ('fetched', 'requested')",
        "SELECT did FROM pipeline.identity",
        ["actor", "asked", "fetched", "imported", "labeler", "queued", "repo"],
    ),
    "label events": (
        "INSERT INTO pipeline.label_event (src, uri, val, cts, cts_at, received_at) "
        "SELECT 'did:plc:a', 'did:plc:x', 'spam', n::text, now() - n * interval '1 day', now() - n * interval '1 day' "
        "FROM unnest(ARRAY[92, 91, 89]) n",
        "SELECT cts FROM pipeline.label_event",
        ["89"],
    ),
    "expired labels": (
        "INSERT INTO pipeline.labeler (did, in_effect) VALUES ('l', 4);"
        "INSERT INTO bsky.label (src, uri, cid, val, neg, cts, exp) SELECT 'l', 'x' || n, '', 'v', n = 9, '', "
        "to_char(now() - n * interval '1 day', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') FROM unnest(ARRAY[-1, 6, 8, 9]) n;"
        "INSERT INTO bsky.label (src, uri, cid, val, neg, cts) VALUES ('l', 'for ever', '', 'v', false, '')",
        "SELECT uri FROM bsky.label",
        ["for ever", "x-1", "x6", "x9"],
    ),
    "filled gaps": (
        f"INSERT INTO pipeline.repo (did, rev, chain_from) VALUES ('{A}', '3m', '3a');"
        "INSERT INTO pipeline.gap (kind, did, from_text, to_text) VALUES "
        f"('chain', '{A}', '3b', '3c'), ('chain', '{A}', '32', '3b')",
        "SELECT from_text FROM pipeline.gap WHERE resolved_at IS NULL",
        ["32"],
    ),
    "closed gaps": (
        "INSERT INTO pipeline.gap (kind, did, from_text, detected_at, resolved_at) VALUES "
        "('chain', 'a', 'old', now() - interval '99 days', now() - interval '31 days'), "
        "('chain', 'a', 'young', now() - interval '99 days', now() - interval '29 days'), "
        "('chain', 'a', 'open', now() - interval '99 days', NULL)",
        "SELECT from_text FROM pipeline.gap",
        ["open", "young"],
    ),
    "fetched repositories": (
        f"INSERT INTO pipeline.repo (did, sync_state) VALUES ('{A}', 'synchronized'), ('{B}', 'unknown'), "
        f"('{C}', 'synchronized');"
        "INSERT INTO pipeline.backfill_queue (did, reason, finished_at) VALUES "
        f"('{A}', 'discovered', now() - interval '8 days'), ('{B}', 'discovered', now() - interval '8 days'), "
        f"('{C}', 'discovered', now() - interval '6 days'), ('d', 'requested', NULL)",
        "SELECT did FROM pipeline.backfill_queue",
        ["d", B, C],
    ),
    "hosts": (
        "INSERT INTO pipeline.pds_host (host, found_at, seen_at, parked_until) VALUES "
        "('old', now() - interval '31 days', NULL, NULL), ('seen', now() - interval '31 days', now(), NULL), "
        "('parked', now() - interval '31 days', NULL, now()), ('young', now(), NULL, NULL)",
        "SELECT host FROM pipeline.pds_host",
        ["parked", "seen", "young"],
    ),
    "batches": (
        "INSERT INTO pipeline.batch (source, relay_time, applied_at) SELECT 'wss://r', now(), "
        "now() - n * interval '1 day' FROM unnest(ARRAY[31, 30, 9, 8]) n;"
        "INSERT INTO pipeline.batch (source, applied_at) VALUES ('replay', now() - interval '6 days')",
        "SELECT id::text FROM pipeline.batch",
        ["1", "4", "5"],
    ),
    **{
        f"{kind} batches": (
            f"INSERT INTO pipeline.{kind}_batch (seconds, {column}) "
            "SELECT n, now() - n * interval '1 day' FROM unnest(ARRAY[6, 8]) n",
            f"SELECT seconds::text FROM pipeline.{kind}_batch",
            ["6"],
        )
        for kind, column in (("identity", "finished_at"), ("fetch", "finished_at"), ("backfill", "ended_at"))
    },
    "upstreams": (
        "INSERT INTO pipeline.upstream (host, breaker, updated_at) VALUES ('old', 'open', now() - interval '8 days'), "
        "('young', 'open', now())",
        "SELECT host FROM pipeline.upstream",
        ["young"],
    ),
    "table sizes": (
        "INSERT INTO pipeline.table_size SELECT now() - n * interval '1 day', n::text, 1, 1 "
        "FROM unnest(ARRAY[89, 91]) n",
        "SELECT table_name FROM pipeline.table_size",
        ["89"],
    ),
}
"""By sweep: rows, what is read of them, and what is left of that after a sweep with the default settings."""

LOCKS = {
    "pending": "SELECT FROM pipeline.pending FOR UPDATE",
    "tombstones": "SELECT FROM pipeline.repo FOR UPDATE",
    "label events": "SELECT pg_advisory_lock(hashtext('appview-pipeline: labels'))",
    "expired labels": "SELECT pg_advisory_lock(hashtext('appview-pipeline: labels'))",
    "filled gaps": "SELECT FROM pipeline.repo FOR UPDATE",
    "counts of dead letters": "SELECT FROM pipeline.dead_letter_day, pipeline.dead_letter_overflow FOR UPDATE",
}
"""What a live writer may hold, where it is not the table's own rows."""
NOBODY_UPDATES = {"batches"}


def settings_of(database: Database, **more: object) -> Settings:
    return replace(Settings(database_url=database.url), **more)  # type: ignore[arg-type]


def left(database: Database, name: str) -> list[str]:
    return sorted(key for (key,) in rows(database.url, OLD_AND_YOUNG[name][1]))


def test_each_sweep_has_its_rows_here() -> None:
    assert list(OLD_AND_YOUNG) == [sweep.name for sweep in SWEEPS]


@pytest.mark.parametrize("name", OLD_AND_YOUNG)
def test_what_is_old_goes_and_what_is_needed_stays(database: Database, name: str) -> None:
    """Beside somebody who holds the rows it waits for nobody and fails nowhere. A second run finds nothing."""
    insert, _, kept = OLD_AND_YOUNG[name]
    run(database.url, insert)
    before = left(database, name)
    (due,) = count_due(settings_of(database), database, [name])
    number = len(before) - len(kept)
    assert due.rows == number or (due.sweep.due_is_limit and due.rows >= number) or name == "batches"
    assert number > 0 and left(database, name) == before, "counting deletes nothing"
    if name not in NOBODY_UPDATES:
        with connect(database.url) as holder, holder.cursor() as cursor:
            table = BY_NAME[name].table.partition(",")[0]
            cursor.execute(LOCKS.get(name, f"SELECT FROM {table} FOR UPDATE"))
            began = time.monotonic()
            held = run_sweeps(settings_of(database), database, [name])
            assert held.rows == 0 and held.failures == {}
            assert time.monotonic() - began < 30, "it gives up after a second"
            holder.rollback()
            cursor.execute("SELECT pg_advisory_unlock_all()")
        assert left(database, name) == before
    found = run_sweeps(settings_of(database, sweep_rows=1), database, [name], every_walk=True)
    assert (found.rows, found.ended) == (number, "nothing more is left")
    assert left(database, name) == sorted(kept)
    again = run_sweeps(settings_of(database), database, [name], every_walk=True)
    assert (again.rows, left(database, name)) == (0, sorted(kept))
    with database.connect("reader") as connection:
        assert read_sweeps(connection)[name].rows_deleted == number
    if name == "expired labels":
        assert one(database.url, "SELECT in_effect FROM pipeline.labeler") == 3


def test_rows_that_others_hold_are_skipped_and_the_others_go(database: Database) -> None:
    run(database.url, OLD_AND_YOUNG["dead letters"][0].replace("[29, 31]", "[31, 32, 33]"))
    with connect(database.url) as holder, holder.cursor() as cursor:
        cursor.execute("SELECT FROM pipeline.dead_letter WHERE reason = '33' FOR UPDATE")
        found = run_sweeps(settings_of(database), database, ["dead letters"])
        assert (found.rows, found.swept["dead letters"].failure) == (2, None)
        holder.rollback()
    assert left(database, "dead letters") == ["33"]


def test_tables_take_turns_and_a_run_ends_when_its_time_is_over(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "SHARE", 1.0)
    for name in ("dead letters", "closed gaps"):
        run(database.url, OLD_AND_YOUNG[name][0].replace("[29, 31]", "[31, 32, 33, 34]"))
    turns: list[tuple[int, int]] = []

    def watch(so_far: sweeping.SweepSummary) -> None:
        turns.append((so_far.swept["dead letters"].steps, so_far.swept["closed gaps"].steps))

    names = ["dead letters", "closed gaps"]
    run_sweeps(settings_of(database, sweep_rows=1), database, names, progress=watch)
    assert turns[:4] == [(1, 0), (1, 1), (2, 1), (2, 2)]
    assert one(database.url, "SELECT count(*) FROM pipeline.dead_letter") == 0
    over = run_sweeps(settings_of(database), database, names, seconds=0)
    assert (over.rows, over.ended) == (0, "its time is over")
    stopped = run_sweeps(settings_of(database), database, names, stopped=lambda: True)
    assert stopped.ended == "it was asked to stop"


def test_a_table_without_an_index_is_gone_on_with_and_then_left_alone_for_a_while(database: Database) -> None:
    insert = OLD_AND_YOUNG["pending"][0]
    run(database.url, insert.replace("('quote', 2)", "('quote', 2), ('quote', 3), ('quote', 4)"))
    steps = iter([False, True])
    one_row = settings_of(database, sweep_rows=1)
    first = run_sweeps(one_row, database, ["pending"], stopped=lambda: next(steps, True))
    assert (first.rows, first.swept["pending"].is_over) == (0, False), "the first row is young"
    with database.connect("reader") as connection:
        assert read_sweeps(connection)["pending"].position == '["at://a/x/quote0", "quote", "at://b/x/1"]'
    rest = run_sweeps(one_row, database, ["pending"])
    assert (rest.rows, rest.swept["pending"].is_over) == (3, True)
    run(database.url, insert.replace("/x/", "/y/"))
    waits = run_sweeps(one_row, database, ["pending"])
    assert (waits.rows, waits.swept["pending"].waits) == (0, True)
    run(database.url, "UPDATE pipeline.sweep SET ended_at = now() - interval '7 hours'")
    assert run_sweeps(one_row, database, ["pending"]).rows == 1


def test_gaps_behind_those_that_stay_open_have_their_turn(database: Database) -> None:
    """However many open gaps there are: a run goes on where the last one had to end."""
    run(
        database.url,
        f"INSERT INTO pipeline.repo (did, rev, export_rev) VALUES ('{A}', '3m', '3m');"
        "INSERT INTO pipeline.gap (kind, did, from_text, to_text) "
        f"VALUES ('chain', '{A}', '3a', '3x'), ('chain', '{A}', '3a', '3y'), ('chain', '{A}', '3a', '3b')",
    )
    one_row = settings_of(database, sweep_rows=1)
    for _ in range(3):
        run_sweeps(one_row, database, ["filled gaps"], stopped=partial(next, repeat(False, 1), True))
    assert rows(database.url, "SELECT to_text FROM pipeline.gap WHERE resolved_at IS NOT NULL") == [("3b",)]


def test_one_whose_step_takes_too_long_has_failed(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else was in the way, and the next run would fare no better."""

    def dawdle(cursor: Any, sweep: Sweep, parameters: object) -> Step:
        cursor.execute("SET LOCAL statement_timeout = 50")
        cursor.execute("SELECT pg_sleep(60)")
        raise AssertionError

    monkeypatch.setattr(sweeping, "SWEEPS", (replace(BY_NAME["closed gaps"], step=dawdle),))
    assert "timeout" in run_sweeps(settings_of(database), database).failures["closed gaps"]


def test_one_that_fails_holds_up_no_other_and_says_why(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(cursor: Any, sweep: Sweep, parameters: object) -> Step:
        cursor.execute("SELECT no_such_column FROM pipeline.gap")
        raise AssertionError

    broken = tuple(replace(it, step=explode) if it.name == "closed gaps" else it for it in SWEEPS)
    monkeypatch.setattr(sweeping, "SWEEPS", broken)
    run_sweeps(settings_of(database), database)
    run(database.url, "UPDATE pipeline.sweep SET began_at = now() - interval '4 days' WHERE name = 'closed gaps'")
    run(database.url, OLD_AND_YOUNG["dead letters"][0])
    found = run_sweeps(settings_of(database), database)
    with database.connect("health") as connection:
        late = {
            name: it for name, it in read_health(connection, settings_of(database)).sweeps.items() if it.seconds > 60
        }
    assert [*late] == ["closed gaps"] and late["closed gaps"].seconds > 345_000, "it goes on trying since then"
    assert found.rows == 1 and "no_such_column" in found.failures["closed gaps"]
    assert "no_such_column" in one(database.url, "SELECT error FROM pipeline.sweep WHERE name = 'closed gaps'")
    monkeypatch.undo()
    run_sweeps(settings_of(database), database)
    assert one(database.url, "SELECT error FROM pipeline.sweep WHERE name = 'closed gaps'") is None


def test_two_runs_are_never_at_work_at_once(database: Database) -> None:
    with (
        session_lock(database, sweeping.LOCK, taken="taken"),
        pytest.raises(LockTaken, match="another run sweeps"),
    ):
        run_sweeps(settings_of(database), database)


def test_the_command_counts_and_deletes(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPVIEW_DATABASE_URL", database.url)
    run(database.url, OLD_AND_YOUNG["dead letters"][0])
    counted = CliRunner().invoke(cli, ["sweep", "--dry-run"])
    assert "dead letters            pipeline.dead_letter" in counted.stdout and counted.exit_code == 0
    assert len(counted.stdout.splitlines()) == 1 + len(SWEEPS)
    assert one(database.url, "SELECT count(*) FROM pipeline.dead_letter") == 2
    done = CliRunner().invoke(cli, ["sweep", "dead letters"])
    assert done.exit_code == 0 and "1 rows in" in done.stdout
    assert one(database.url, "SELECT count(*) FROM pipeline.dead_letter") == 1
    assert isinstance(CliRunner().invoke(cli, ["sweep", "deadletters"]).exception, OperatorError)


def follow(rkey: str, subject: str) -> Write:
    return create(f"app.bsky.graph.follow/{rkey}", {"subject": subject, "createdAt": WHEN})


def test_a_deleted_record_stays_deleted_without_its_tombstone(database: Database) -> None:
    """Of a repository that is complete: whatever is delivered again."""
    ann = Person(Stream(), "ann")
    frames = [ann.commit(follow("a", A)), ann.commit(follow("b", B)), ann.commit(delete("app.bsky.graph.follow/a"))]
    for frame in frames:
        index(database, frame)
    assert one(database.url, "SELECT sync_state FROM pipeline.repo") == "synchronized"
    assert sweep_tombstones(database) == 1
    # As after a gap: the commits are not known to be applied any more, and are read again.
    run(database.url, "UPDATE pipeline.repo SET chain_from = rev")
    for frame in frames[:2]:
        index(database, frame)
    assert rows(database.url, 'SELECT "subjectDid" FROM bsky.follow') == [(B,)]
    index(database, ann.commit(follow("a", C)))
    assert sorted(rows(database.url, 'SELECT "subjectDid" FROM bsky.follow')) == [(B,), (C,)]


def test_an_export_that_is_older_than_the_floor_brings_nothing_back(database: Database) -> None:
    ann = Person(Stream(), "ann")
    index(database, ann.commit(follow("a", A)))
    older = Repository.of(ann)
    index(database, ann.commit(delete("app.bsky.graph.follow/a")))
    assert sweep_tombstones(database) == 1
    for part in compared(database, older).changes():
        writer_for(database).write([part], time.time())
    assert one(database.url, "SELECT count(*) FROM bsky.record") == 0


def test_a_record_that_was_created_again_is_newer_than_the_floor(database: Database) -> None:
    """Its key may be as old as the record that was deleted: its deletion is known to be older than the new one."""
    ann, key = Person(Stream(), "ann"), "3juflq34ucn2p"
    index(database, ann.commit(follow(key, A)), ann.commit(delete(f"app.bsky.graph.follow/{key}")))
    assert sweep_tombstones(database) == 1
    ann.commit(follow(key, B))  # which the stream does not bring
    resync(settings_of(database), database, MemoryFetcher(ann), writer_for(database), ann.did)
    assert rows(database.url, "SELECT rev FROM bsky.record") == [(ann.repository.rev,)]


def test_tombstones_of_posts_stay(database: Database) -> None:
    """A quote that arrives late is of a deleted post, and so it is for a rerun."""
    stream = Stream()
    ann, bob = Person(stream, "ann"), Person(stream, "bob")
    frames = [ann.commit(post("a", "one"))]
    embed = {"uri": ann.uri("app.bsky.feed.post/a"), "cid": CID}
    late = bob.commit(post("q", "look", embed={"$type": "app.bsky.embed.record", "record": embed}))
    index(database, *frames, ann.commit(delete("app.bsky.feed.post/a")))
    assert sweep_tombstones(database) == 0
    index(database, late)
    assert one(database.url, "SELECT count(*) FROM bsky.post") == 1
    assert one(database.url, "SELECT count(*) FROM bsky.quote") == 0


@pytest.mark.parametrize(
    "doubt",
    [
        "UPDATE pipeline.repo SET sync_state = 'desynchronized'",
        "UPDATE pipeline.repo SET has_start = false",
        "UPDATE pipeline.repo SET is_partial = true",
        "UPDATE pipeline.repo SET resync_at = now()",
        "INSERT INTO pipeline.dead_letter (fingerprint, source, kind, reason, did) "
        "SELECT '', '', 'lexicon', '', did FROM pipeline.repo",
        "INSERT INTO pipeline.unchecked_commit (did, rev, block) SELECT did, rev, '' FROM pipeline.repo",
    ],
)
def test_a_tombstone_stays_where_something_older_may_still_be_applied(database: Database, doubt: str) -> None:
    ann = Person(Stream(), "ann")
    index(database, ann.commit(follow("a", A)), ann.commit(delete("app.bsky.graph.follow/a")))
    run(database.url, doubt)
    assert sweep_tombstones(database) == 0
    assert one(database.url, "SELECT count(*) FROM pipeline.tombstone") == 1
    assert one(database.url, "SELECT export_rev FROM pipeline.repo") is None


def test_lifetimes_are_the_settings(database: Database) -> None:
    now = datetime.now(timezone.utc)
    short = settings_of(database, pending_hours=48.0, gap_days=2)
    assert (now - BY_NAME["pending"].before(short, now)).total_seconds() == 48 * 3_600
    assert (now - BY_NAME["closed gaps"].before(short, now)).days == 2
