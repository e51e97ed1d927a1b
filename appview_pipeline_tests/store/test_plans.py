"""How a batch's statements are run: planned once for many, by look-ups and not by reading whole tables, and staged in
tables that cost little when they are emptied."""

from __future__ import annotations

import time

import pytest

from appview_pipeline.indexing.registry import EFFECTS
from appview_pipeline.store import apply as apply_module
from appview_pipeline.store import prepared
from appview_pipeline.store.database import Database
from appview_pipeline.store.database_url import libpq_url
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline.store.placeholders import filled
from appview_pipeline.store.repo_states import begin_resync
from appview_pipeline_tests.benchmark.corpus import corpus
from appview_pipeline_tests.benchmark.prefill import prefill
from appview_pipeline_tests.simulated_network.corpus import read_corpus
from appview_pipeline_tests.support.batches import index, writer_for
from appview_pipeline_tests.support.explain import ExplainingCursor
from appview_pipeline_tests.support.exports import Repository, compared
from appview_pipeline_tests.support.frames import Person, Stream, create, delete, did_of, post, update
from appview_pipeline_tests.support.tables import fresh_database, one, rows


def in_session(database: Database, statement: str) -> list[tuple[object, ...]]:
    """A statement on the connection that the batches had."""
    with database.connect("writer") as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


def prepared_names(database: Database) -> set[str]:
    return {str(name) for (name,) in in_session(database, "SELECT name FROM pg_prepared_statements")}


# ---- plans


def test_batches_share_their_plans_by_size(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "LARGE_BATCH", 3)
    stream = Stream()
    ann = Person(stream, "ann")
    index(database, ann.commit(post("a", "x")))
    small = prepared_names(database)
    assert len(small) > 30
    index(database, ann.commit(post("b", "x")))
    assert prepared_names(database) == small
    index(database, *(ann.commit(post(rkey, "x")) for rkey in "cdef"))
    large = prepared_names(database) - small
    assert len(large) > 30
    assert all("large batches" in name for name in large)
    # What a large batch brings may make the plans for small ones obsolete.
    monkeypatch.setattr(prepared, "MAX_EVENTS", 4)
    index(database, *(ann.commit(post(rkey, "x")) for rkey in "ghij"))
    assert not {name for name in prepared_names(database) if "small batches" in name}
    assert one(database.url, "SELECT count(*) FROM bsky.post") == 10


@pytest.mark.parametrize(("limit", "value"), [("MAX_EVENTS", 3), ("MAX_SECONDS", 0.0)])
def test_plans_are_made_again_after_a_while(
    database: Database, monkeypatch: pytest.MonkeyPatch, limit: str, value: float
) -> None:
    stream = Stream()
    ann = Person(stream, "ann")
    first = "SELECT min(prepare_time) FROM pg_prepared_statements"
    index(database, ann.commit(post("a", "x")))
    before = in_session(database, first)
    index(database, ann.commit(post("b", "x")))
    assert in_session(database, first) == before
    monkeypatch.setattr(prepared, limit, value)
    index(database, ann.commit(post("c", "x")), ann.commit(post("d", "x")))
    assert in_session(database, first) > before
    assert one(database.url, "SELECT count(*) FROM bsky.post") == 4


@pytest.mark.parametrize("records", [0, 500, 4_000])
def test_no_statement_reads_a_whole_table(
    server: EmbeddedPostgres, template_database: str, monkeypatch: pytest.MonkeyPatch, records: int
) -> None:
    """In a small database: there the planner is tempted most, and what it does there it goes on doing for a while."""
    frames = list(read_corpus(corpus(400, small=True).path))
    monkeypatch.setattr(ExplainingCursor, "found", set())
    monkeypatch.setattr(ExplainingCursor, "names", set())
    with fresh_database(server, template_database) as database:
        if records:
            prefill(libpq_url(database.url), corpus(400, small=True), records)
        index(database, *frames[:300])
        monkeypatch.setattr(
            apply_module,
            "preparing_cursor",
            lambda connection, events: connection.cursor(cursor_factory=ExplainingCursor),
        )
        index(database, *frames[300:])
    # Thread mutes, and what they keep silent, are few, and read whole only where there are next to none.
    assert {it for it in ExplainingCursor.found if it[1] not in ("muted_notification", "thread_mute")} == set()
    # Where no account is excluded or inactive, nothing is run because of them.
    not_needed = {"excluded.forget", "excluded.gaps", "excluded.notifications", "account.contradicted"}
    assert not ExplainingCursor.names & {*not_needed, "repo.last_seen_but_excluded"}


@pytest.mark.parametrize("records", [0, 4_000])
def test_nor_do_those_about_exports_gaps_and_what_is_late(
    server: EmbeddedPostgres, template_database: str, monkeypatch: pytest.MonkeyPatch, records: int
) -> None:
    frames = list(read_corpus(corpus(400, small=True).path))
    monkeypatch.setattr(ExplainingCursor, "found", set())
    monkeypatch.setattr(ExplainingCursor, "names", set())
    with fresh_database(server, template_database) as database:
        if records:
            prefill(libpq_url(database.url), corpus(400, small=True), records)
        stream = Stream()
        ann, bob, cid = (Person(stream, name) for name in ("ann", "bob", "cid"))
        late = [ann.commit(post("a", "x")), ann.commit(post("b", "x")), ann.commit(delete("app.bsky.feed.post/a"))]
        profile = "app.bsky.actor.profile/self"
        edited = [ann.commit(create(profile, {"displayName": "0"}))]
        edited += [ann.commit(update(profile, {"displayName": name})) for name in "12"]
        lost = [bob.commit(post(key, "x")) for key in "abc"]
        index(database, *frames, lost[0], edited[0])
        monkeypatch.setattr(
            apply_module,
            "preparing_cursor",
            lambda connection, events: connection.cursor(cursor_factory=ExplainingCursor),
        )
        writer = writer_for(database)
        writer.write(compared(database, Repository.of(ann)).changes(1), time.time())
        index(database, late[0], edited[1], lost[2], cid.commit(post("a", "x"), tooBig=True))
        index(database, lost[1])
        with database.connect("writer") as connection:
            assert begin_resync(connection, ann.did) is not None
        index(database, *late, *edited)
        writer.write(compared(database, Repository.of(bob)).changes(), time.time())
    nearly_empty = ("muted_notification", "thread_mute")
    assert {it for it in ExplainingCursor.found if it[1] not in nearly_empty} == set()
    wanted = {
        "late.find_exported",
        "late.gone",
        "late.set_aside",
        "repo.late_while_fetched",
        "gap_closing.close_chains",
    }
    wanted |= {f"export.{name}" for name in ("refuse", "advance", "last_seen", "close_gaps", "missing")}
    wanted |= {f"sync_state.{name}" for name in ("incomplete", "queue", "ended", "closed")}
    assert wanted <= ExplainingCursor.names


@pytest.mark.parametrize("records", [0, 4_000])
def test_nor_do_those_about_accounts_that_are_excluded_inactive_or_removed(
    server: EmbeddedPostgres, template_database: str, monkeypatch: pytest.MonkeyPatch, records: int
) -> None:
    nearly_empty = ("muted_notification", "thread_mute", "cursor")
    frames = list(read_corpus(corpus(400, small=True).path))
    monkeypatch.setattr(ExplainingCursor, "found", set())
    monkeypatch.setattr(ExplainingCursor, "names", set())
    with fresh_database(server, template_database) as database:
        if records:
            prefill(libpq_url(database.url), corpus(400, small=True), records)
        stream = Stream()
        ann, bob = Person(stream, "ann"), Person(stream, "bob")
        index(database, *frames[:300], ann.commit(post("a", "x"), post("b", "x")), bob.commit(post("a", "x")))
        authors = [did for (did,) in rows(database.url, "SELECT DISTINCT did FROM bsky.record ORDER BY did LIMIT 30")]
        for did in (ann.did, did_of("cid"), *authors[:10]):
            rows(database.url, "SELECT pipeline.forbid_data_collection(%s)", did)
        for did in authors[10:20]:
            rows(database.url, "INSERT INTO pipeline.removal (did, reason) VALUES (%s, 'deleted')", did)
        inactive = (
            "UPDATE pipeline.repo SET active = false, status = 'deactivated', account_at = %s WHERE did = ANY (%s)"
        )
        rows(database.url, inactive, "2020-01-01", [bob.did, *authors[20:]])
        rows(database.url, "INSERT INTO pipeline.record_takedown SELECT uri, 'REF' FROM bsky.record LIMIT 3")
        monkeypatch.setattr(
            apply_module,
            "preparing_cursor",
            lambda connection, events: connection.cursor(cursor_factory=ExplainingCursor),
        )
        index(
            database,
            *frames[300:],
            ann.commit(delete("app.bsky.feed.post/b"), post("c", "x")),
            ann.commit(delete("app.bsky.feed.post/c")),
            ann.commit(post("d", "x"), tooBig=True),
            bob.commit(post("b", "x")),
            stream.frame("#identity", {"did": did_of("cid"), "handle": "cid.example"}),
            stream.account(authors[10], active=True),
            stream.account(did_of("unknown"), active=False, status="deleted"),
        )
        assert {it for it in ExplainingCursor.found if it[1] not in nearly_empty} == set()
        with database.connect("writer") as connection:
            _explain_removal(connection.cursor(cursor_factory=ExplainingCursor), authors[11])
    # Few removals are open at any time, and these have an index of their own; labels there are none.
    assert {it for it in ExplainingCursor.found if it[1] not in (*nearly_empty, "removal", "label")} == set()
    wanted = {f"excluded.{name}" for name in ("lock", "find", "forget", "gaps", "notifications")}
    wanted |= {"account.apply", "account.contradicted", "account.actors", "repo.last_seen_but_excluded"}
    assert wanted <= ExplainingCursor.names


def _explain_removal(cursor: ExplainingCursor, did: str) -> None:
    """Runs all statements about the removal of an account, and those that store hosting statuses, on a session that
    would rather use an index, however small the table is."""
    for method in ("seqscan", "bitmapscan", "mergejoin", "hashjoin"):
        cursor.execute(f"SET LOCAL enable_{method} = off")
    parameters = {"did": did, "start": f"at://{did}/", "end": f"at://{did}0", "limit": 10, "before": f"at://{did}0"}
    parameters |= {"from": f"at://{did}/", "error": "", "tried": [did]}
    parameters |= {"dids": [did], "statuses": ["gone"], "finals": [True], "tries": 5}
    for file in ("account/status.sql", "account/remove.sql"):
        for name, statement in filled(EFFECTS, file).items():
            if name and name not in ("queue", "open"):  # these read all removals that are open
                cursor.execute(statement, parameters)


# ---- staging tables


def test_a_row_that_needs_more_than_a_page_gets_it(database: Database) -> None:
    saves = in_session(database, "SELECT current_setting('server_version_num')::int >= 160000") == [(True,)]
    with_toast = """
        SELECT relname FROM pg_class
        WHERE relnamespace = pg_my_temp_schema() AND reltoastrelid <> 0
            AND relname IN ('stage_write', 'stage_post', 'stage_like')"""
    stream = Stream()
    ann = Person(stream, "ann")
    index(database, ann.commit(post("short", "x")))
    assert not saves or in_session(database, with_toast) == []
    # Not compressible: what is stored in the page is as long as what was sent.
    tags = [f"{number * 2_654_435_761 % 2**64:x}" * 4 for number in range(1_000)]
    long = post("long", "x", unknownToTheLexicon=tags)
    index(database, ann.commit(post("beside", "x"), long))
    assert not saves or in_session(database, with_toast) == [("stage_write",)]
    index(database, ann.commit(post("after", "x")))
    assert one(database.url, "SELECT count(*) FROM bsky.post") == 4
    assert one(database.url, "SELECT length(json) FROM bsky.record WHERE uri LIKE '%%/long'") > 30_000


def test_a_long_record_may_come_after_its_deletion(database: Database) -> None:
    """What late.sql passes on to another staging table is as long as what was sent."""
    stream = Stream()
    ann = Person(stream, "ann")
    tags = [f"{number * 2_654_435_761 % 2**64:x}" * 4 for number in range(1_000)]
    created = ann.commit(post("long", "x", unknownToTheLexicon=tags))
    gone = ann.commit(delete("app.bsky.feed.post/long"))
    index(database, gone)
    index(database, created)
    assert one(database.url, "SELECT count(*) FROM pipeline.dead_letter") == 0
    assert one(database.url, "SELECT count(*) FROM bsky.record") == 0
    assert one(database.url, "SELECT count(*) FROM pipeline.version WHERE NOT deleted") == 1
