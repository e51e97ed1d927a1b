"""Counters are compared with a recount, and rewritten where they differ."""

from __future__ import annotations

from appview_pipeline.indexing.changes import Change
from appview_pipeline.ingest.recount import recount, recount_some
from appview_pipeline.store import counters
from appview_pipeline_tests.support.background import repeated
from appview_pipeline_tests.support.batches import batches_of, feed
from appview_pipeline_tests.support.rerun import Rerun
from appview_pipeline_tests.support.states import differences, dump


def test_the_rotation_comes_round_to_every_counter(busy: Rerun) -> None:
    total = busy.rows("SELECT count(*) FROM bsky.post_agg")[0]
    busy.run('UPDATE bsky.post_agg SET "likeCount" = 77 WHERE uri = (SELECT max(uri) FROM bsky.post_agg)')
    found = []
    for _ in range(1_000):
        found.append(recount_some(busy.database, "post_agg", 10))
        if found[-1].complete:
            break
    assert len(found) > 2 and sum(it.compared for it in found) >= total
    assert sum(it.differing for it in found) == 1
    assert busy.rows('SELECT max("likeCount") FROM bsky.post_agg') == [77], "a check changes nothing"
    assert busy.rows("SELECT after_key, rounds FROM pipeline.recount_position") == [("", 1)]


def test_counters_are_rewritten_and_said(busy: Rerun) -> None:
    (uri,) = busy.rows('SELECT uri FROM bsky.post_agg WHERE "likeCount" > 0 AND "replyCount" > 0 ORDER BY uri LIMIT 1')
    (did,) = busy.rows('SELECT did FROM bsky.profile_agg WHERE "postsCount" > 1 ORDER BY did LIMIT 1')
    busy.run(
        f"INSERT INTO bsky.bookmark VALUES ('did:plc:a', 'k', '{uri}', 'c', 'now')",
        f"UPDATE bsky.post_agg SET \"bookmarkCount\" = 1 WHERE uri = '{uri}'",
    )
    want = dump(busy.connection)
    busy.run(
        f'UPDATE bsky.post_agg SET "bookmarkCount" = 0, "likeCount" = -1 WHERE uri = \'{uri}\'',
        f"DELETE FROM bsky.profile_agg WHERE did = '{did}'",
    )
    posts, profiles = (recount(busy.database, table, rewrite=True) for table in counters.TABLES)
    assert [(it.key, it.had[0], it.had[4], it.has[4]) for it in posts.changes] == [(uri, -1, 0, 1)]
    assert [(it.key, it.had) for it in profiles.changes] == [(did, (0, 0, 0))]
    assert busy.rows('SELECT "bookmarkCount" FROM bsky.post_agg WHERE uri = %s', uri) == [1]
    assert differences(dump(busy.connection), want) == []
    assert not any(recount(busy.database, table, rewrite=True).differing for table in counters.TABLES)
    busy.run("DELETE FROM bsky.bookmark")


def test_counting_next_to_the_live_writer(rerun_index: Rerun, busy_changes: list[Change]) -> None:
    rerun_index.clean()
    differing: list[int] = []

    def count() -> None:
        differing.extend(recount(rerun_index.database, table, rewrite=True).differing for table in counters.TABLES)

    with repeated(count):
        feed(rerun_index.database, batches_of(busy_changes, 10))
    assert len(differing) > 4 and sum(differing) == 0
