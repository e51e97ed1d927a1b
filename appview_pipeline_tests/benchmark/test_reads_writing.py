"""The reads' benchmark beside the pipeline's writing: what it tells of a read, and that it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from appview_pipeline.store.database_url import libpq_url
from appview_pipeline_tests.benchmark.databases import query
from appview_pipeline_tests.benchmark.reads_calls import Call
from appview_pipeline_tests.benchmark.reads_writing import (
    BESIDE,
    OURS,
    THEIRS,
    Sample,
    Taken,
    grown,
    sample,
    use_their_indexes,
    worse,
)
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.tables import Fresh


def taken(beside: list[int], renewed: int) -> Taken:
    """A read that touched so many pages in the rounds beside writing, and in each when its tables were written anew."""

    def of(pages: int) -> Sample:
        return Sample(ms=1.0, cpu=1.0, waited=0.0, pages=pages, heap_fetches=0, plan=())

    one = Taken(Call("getTimeline", "reader", {}))
    one.samples["beside"] = [of(pages) for pages in beside]
    one.samples["renewed"] = [of(renewed)] * 3
    return one


def test_a_read_that_takes_ever_more_pages_for_the_same_rows_is_named() -> None:
    rising = [100 + 50 * n for n in range(10)]
    assert grown([taken(rising, renewed=100)]) == ["getTimeline reader"]
    assert grown([taken(rising, renewed=500)]) == []  # the rows that were written take them
    assert grown([taken([300] * 10, renewed=100)]) == []  # more than fresh, but no more all the time
    assert grown([taken([3 + n for n in range(10)], renewed=3)]) == []  # some pages of an index
    assert grown([taken([*rising[:5], *rising[:5]], renewed=100)]) == []  # autovacuum came


def test_a_read_that_takes_more_pages_than_on_their_indexes_is_named() -> None:
    few, many = taken([100] * 10, renewed=100), taken([200] * 10, renewed=100)
    assert worse([many], [few]) == ["getTimeline reader"]
    assert worse([few], [many]) == worse([few], [few]) == []


def test_a_sample_shows_what_dead_rows_cost(fresh: Fresh) -> None:
    with fresh() as database, closing(psycopg2.connect(libpq_url(database.url))) as connection:
        connection.autocommit = True
        read = "SELECT n FROM queue ORDER BY n LIMIT 10"
        with connection.cursor() as cursor:
            cursor.execute(
                "SET enable_seqscan = off; CREATE TABLE queue (n int PRIMARY KEY) WITH (autovacuum_enabled = off)"
            )
            cursor.execute("INSERT INTO queue SELECT generate_series(1, 10000)")
            cursor.execute("VACUUM ANALYZE queue")
            fresh_rows = sample(connection, [read])
            # In an open transaction: no scan may mark their entries in the index as dead.
            cursor.execute("BEGIN; DELETE FROM queue WHERE n < 9000")
            dead_rows = sample(connection, [read])
            cursor.execute("ROLLBACK")
    assert dead_rows.heap_fetches > 1_000 > fresh_rows.heap_fetches
    assert dead_rows.pages > 10 * fresh_rows.pages
    assert dead_rows.plan == ("queue_pkey",)
    assert dead_rows.cpu > 0


def test_a_database_gets_the_other_index_set(fresh: Fresh) -> None:
    with fresh() as ours, fresh() as theirs:
        a, b = libpq_url(ours.url), libpq_url(theirs.url)
        query(b, "DROP INDEX bsky.record_applied_at_idx")
        query(b, "DROP INDEX bsky.post_reply_parent_idx")
        query(b, 'CREATE INDEX post_replyparent_idx ON bsky.post ("replyParent")')
        assert use_their_indexes(a, b) == (["post_reply_parent_idx"], ["post_replyparent_idx"])
        assert use_their_indexes(a, b) == ([], [])


@pytest.mark.thorough
def test_the_reads_are_taken_beside_the_writing(tmp_path: Path, packages: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "appview_pipeline_tests.benchmark.reads", "--small", "--records", "3000",
         "--seconds", "0", "--http-seconds", "0", "--only", "getTimeline", "--while-writing", "0.5", "--rate", "40",
         "--json", tmp_path / "found.json"],
        cwd=CHECKOUT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    rows = [line.split(" | ") for line in ran.stdout.splitlines() if line.startswith("| getTimeline")]
    assert {row[0].lstrip("| ") for row in rows} == {
        "getTimeline nobody", "getTimeline ordinary", "getTimeline reader", "getTimeline reader, deep",
    }  # fmt: skip
    found = json.loads((tmp_path / "found.writing.json").read_text())
    assert set(found["taken"]) == set(found["events"]) == {OURS, THEIRS}
    assert all(events > 0 for events in found["events"].values())
    assert all(1 <= len(one["samples"]["beside"]) <= BESIDE for side in found["taken"].values() for one in side)
    assert "Grown without bound: []." in ran.stdout
