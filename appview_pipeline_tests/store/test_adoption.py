"""How an adoption goes on, and the revs that it gives to records (docs/serve.md)."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from appview_pipeline.errors import OperatorError
from appview_pipeline.indexing.registry import EFFECTS
from appview_pipeline.protocol.syntax import tid_after, tid_from_micros
from appview_pipeline.store.adoption import Options, end, make_state, read_adoption
from appview_pipeline.store.adoption_steps import next_key, note_history, prepare_history, prepare_session
from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.tables import one, rows

TIMES = (
    "2022-11-17T00:35:16.391Z",
    "2024-02-29T23:59:59.999999Z",
    "2025-12-31T12:00:00Z",
    "2026-01-30T00:00:00.5Z",
    "1970-01-01T00:00:00.000Z",
)
NO_TIMES = ("", "x", "2024-00-10T00:00:00Z", "2024-01-00T00:00:00Z", "2024-01-10T25:00:00Z", "1815-01-10T00:00:00Z")


def test_it_goes_on_with_the_options_that_it_began_with(database: Database) -> None:
    with database.connect("maintenance") as connection:
        make_state(connection, "theirs", Options(77, compare=True))
        make_state(connection, "other", Options())
        found = read_adoption(connection)
        assert found is not None
        assert (found.from_schema, found.cursor, found.compare, found.from_keys) == ("theirs", 77, True, False)
        found.check_options(None, Options())
        found.check_options("theirs", Options(77, compare=True))
        for schema, other in (("bsky", Options()), (None, Options(77)), (None, Options(77, True, True))):
            with pytest.raises(OperatorError, match="schema theirs began with --cursor 77 --compare: give no options"):
                found.check_options(schema, other)
        with connection.cursor() as cursor:
            end(cursor)
        connection.commit()
        again = make_state(connection, "bsky", Options(from_keys=True))
        assert (again.from_schema, again.cursor, again.compare, again.from_keys) == ("bsky", None, False, True)


def test_times_of_events_become_revs(database: Database) -> None:
    with database.connect("maintenance") as connection:
        prepare_session(connection)
        with connection.cursor() as cursor:
            for text in (*TIMES, *NO_TIMES, "2023-02-30T00:00:00Z"):
                cursor.execute(
                    "SELECT pg_temp.tid_of_text(%(t)s), pg_temp.tid_after(pg_temp.tid_of_text(%(t)s))", {"t": text}
                )
                made, after = cursor.fetchone() or (None, None)
                if text in TIMES:
                    moment = datetime.fromisoformat(text.replace("Z", "+00:00").replace(".5+", ".500+"))
                    seconds = moment - datetime(1970, 1, 1, tzinfo=timezone.utc)
                    micros = (seconds.days * 86_400 + seconds.seconds) * 1_000_000 + seconds.microseconds
                    assert made == tid_from_micros(micros), text
                    assert after == tid_after(made)
                elif text in NO_TIMES:
                    assert made is None
                else:  # no day of that month; the reference stores it as it came
                    assert made == tid_from_micros(1_677_715_200_000_000)
            cursor.execute("SELECT pg_temp.tid_after('3kzzzzzzzzzzz')")
            assert cursor.fetchone() == (tid_after("3kzzzzzzzzzzz"),)


REPLIES = 300
GONE, EDITED = (f"at://did:plc:root{number}/app.bsky.feed.post/3laaaaaaaaa22" for number in (0, 1))
THREADS = """
INSERT INTO bsky.actor (did, "indexedAt") SELECT 'did:plc:root' || k, 'x' FROM generate_series(0, 1) k;
INSERT INTO bsky.record (uri, cid, did, json, "indexedAt", rev)
SELECT 'at://did:plc:root1/app.bsky.feed.post/3laaaaaaaaa22', 'c', 'did:plc:root1', '{}', 'x', '3zaaaaaaaaa22'
UNION ALL
SELECT 'at://did:plc:' || n || '/app.bsky.feed.post/3lbaaaaaaaa22', 'c', 'did:plc:' || n, '{}', 'x',
  '3maaaaaaa2' || translate(n::text, '0189', 'wxyz')
FROM generate_series(100, 99 + %s) n;
INSERT INTO bsky.post (uri, cid, creator, text, "createdAt", "indexedAt", rev, "replyRoot", "replyParent",
  "invalidReplyRoot", "violatesThreadGate")
SELECT uri, cid, did, '', 'x', 'x', rev, root, root, root IS NULL AND NULL, root IS NULL AND NULL
FROM bsky.record, LATERAL (
  SELECT CASE WHEN rev < '3n' THEN
    'at://did:plc:root' || right(did, 1)::int %% 2 || '/app.bsky.feed.post/3laaaaaaaaa22' END AS root
) threads
"""


def noted(database: Database, limit: int) -> tuple[list[int], list[list[tuple[object, ...]]]]:
    """What one session notes, from parts of so many posts: rows of bsky.post that each part reads, and the result."""
    rows(database.url, "TRUNCATE pipeline.version, pipeline.tombstone, pipeline.kept_notification")
    read: list[int] = []
    with database.dedicated("maintenance") as connection:
        connection.autocommit = False
        prepare_session(connection)
        prepare_history(connection)
        after: str | None = ""
        while after is not None:
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
                until = next_key(cursor, "history", "next", after, limit)
                note_history(EFFECTS, cursor, after, until)
                cursor.execute(
                    "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables "
                    "WHERE schemaname = 'bsky' AND relname = 'post'"
                )
                read.append(int((cursor.fetchone() or (0,))[0]) - sum(read))  # earlier parts are counted, too
            connection.commit()
            after = until
    return read, [
        rows(database.url, f"SELECT {columns} FROM pipeline.{table} ORDER BY 1, 2")
        for table, columns in (
            ("version", "uri, rev, deleted, root, mentions"),
            ("tombstone", "uri, rev"),
            ("kept_notification", "uri, NULL"),
        )
    ]


def test_replies_to_a_post_that_is_gone_are_looked_through_once(database: Database) -> None:
    """However many parts of the step have some of them; and the result is that of one part."""
    rows(database.url, THREADS % REPLIES)
    rows(database.url, "ANALYZE")
    read, found = noted(database, 20)
    (_, *later) = read
    assert len(read) > REPLIES / 21 and max(later) < 20 * 15 < read[0], read
    versions, tombstones, kept = found
    last = one(database.url, 'SELECT max(rev) FROM bsky.post WHERE "replyRoot" = %s', GONE)
    assert versions == [
        (GONE, "3laaaaaaaaa22", False, None, []),
        (GONE, tid_after(last), True, None, None),
        (EDITED, "3laaaaaaaaa22", False, None, []),
    ]
    assert tombstones == [(GONE, tid_after(last))] and len(kept) == REPLIES
    assert noted(database, 10_000)[1] == found
