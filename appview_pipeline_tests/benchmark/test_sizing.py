"""The figures of docs/sizing.md can be measured again."""

from __future__ import annotations

from appview_pipeline.store.database import Database
from appview_pipeline.store.database_url import libpq_url
from appview_pipeline_tests.benchmark.corpus import corpus
from appview_pipeline_tests.benchmark.prefill import prefill
from appview_pipeline_tests.benchmark.sizing import KINDS, bytes_a_row, measure
from appview_pipeline_tests.support.tables import one


def test_bytes_are_those_of_tables_with_indexes(database: Database) -> None:
    libpq = libpq_url(database.url)
    prefill(libpq, corpus(400, small=True), 5_000)
    found = measure(libpq)
    likes = found.tables["bsky.like"]
    size = one(database.url, "SELECT pg_total_relation_size('bsky.like')")
    assert likes.rows == one(database.url, 'SELECT count(*) FROM bsky."like"') > 1_000
    assert bytes_a_row(likes) == size / likes.rows
    assert found.kinds.keys() == KINDS.keys()
    # A post has a longer record than a like, and more rows.
    assert found.kinds["post"] > found.kinds["like"] > bytes_a_row(likes)
    assert found.account > 0 and 1_000 < found.record < 20_000
