"""`appview-pipeline adopt` where it is disturbed, and where the database was ours before.

What it makes of a database of the reference's is tested in conformance/test_adoption.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from appview_pipeline.errors import OperatorError
from appview_pipeline.ingest.rerun import DERIVED_COLLECTIONS, rerun_collections
from appview_pipeline.operations.adopting import adopt
from appview_pipeline.operations.leaving import leave
from appview_pipeline.settings import Settings
from appview_pipeline.store import adoption_steps
from appview_pipeline.store.adoption_check import examine
from appview_pipeline.store.database import Database, open_database
from appview_pipeline_tests.support.batches import index
from appview_pipeline_tests.support.database import connect
from appview_pipeline_tests.support.frames import Person, Stream, delete, post
from appview_pipeline_tests.support.records import one_of_each, ref
from appview_pipeline_tests.support.tables import one, rows


def given_back(database: Database) -> Settings:
    database.engine.dispose()
    leave(database)
    database.engine.dispose()
    return Settings(database_url=database.url)


def test_given_back_in_the_middle_it_begins_anew(
    database: Database, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference's indexer goes on before the adoption has ended: what it writes has no revs, and repeats."""
    ann = Person(stream, "ann")
    index(database, ann.commit(*one_of_each(ann)))
    settings = given_back(database)

    def fails(*_: object) -> dict[str, int]:
        raise RuntimeError("the operator has had enough")

    with monkeypatch.context() as patched:
        patched.setattr(adoption_steps, "note_history", fails)
        with pytest.raises(RuntimeError):
            adopt(settings, database, watch=False)
    given_back(database)
    with pytest.raises(OperatorError, match="belongs to the reference's own indexer"):
        open_database(settings)
    rows(database.url, "UPDATE bsky.record SET rev = NULL")
    rows(
        database.url,
        """INSERT INTO bsky.notification (did, "recordUri", "recordCid", author, reason, "reasonSubject", "sortAt")
        SELECT did, "recordUri", "recordCid", author, reason, "reasonSubject", "sortAt" FROM bsky.notification""",
    )
    adopt(settings, database, watch=False)
    assert one(database.url, "SELECT count(*) FROM bsky.record WHERE rev IS NULL") == 0
    open_database(settings).close()


def test_given_back_before_our_tables_are_there(
    database: Database, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = given_back(database)
    rows(database.url, "DROP SCHEMA pipeline CASCADE")

    def fails(*_: object, **__: object) -> dict[str, int]:
        raise RuntimeError("the operator has had enough")

    monkeypatch.setattr(adoption_steps, "add_columns", fails)
    with pytest.raises(RuntimeError):
        adopt(settings, database, watch=False)
    database.engine.dispose()
    assert leave(database).lines() == []
    assert one(database.url, "SELECT count(*) FROM pipeline.adoption") == 0


def test_notifications_that_come_again_meanwhile(
    database: Database, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are removed by the next call, and not for ever in the way of the index."""
    ann, bob = Person(stream, "ann"), Person(stream, "bob")
    index(database, ann.commit(*one_of_each(ann)), bob.commit(*one_of_each(bob)))
    settings = given_back(database)
    rows(
        database.url,
        """INSERT INTO bsky.notification (did, "recordUri", "recordCid", author, reason, "reasonSubject", "sortAt")
        SELECT did, "recordUri", "recordCid", author, reason, "reasonSubject", "sortAt" FROM bsky.notification""",
    )
    assert one(database.url, "SELECT count(*) FROM bsky.notification") > 0
    with monkeypatch.context() as patched:
        patched.setattr(adoption_steps, "remove_repeated", lambda *_: {})
        with pytest.raises(OperatorError, match="has written notifications again"):
            adopt(settings, database, watch=False)
    summary = adopt(settings, database, watch=False)
    assert summary.adoption.counts["repeated notifications"] > 0


def test_all_that_is_refused_is_kept(database: Database, stream: Stream) -> None:
    """Whatever the limits of the stream's dead letters: nothing else has these records."""
    ann = Person(stream, "ann")
    index(database, ann.commit(*(post(f"r{number}", "words") for number in range(6))))
    settings = replace(given_back(database), dead_letters_per_minute=1, dead_letter_day_bytes=0)
    rows(
        database.url,
        "UPDATE bsky.record SET json = replace(json, 'words', repeat('word ', 1000)) WHERE uri LIKE '%/r%'",
    )
    summary = adopt(settings, database, watch=False)
    assert summary.adoption.counts["refused records"] == 6
    assert one(database.url, "SELECT count(*) FROM pipeline.dead_letter WHERE form = 'json'") == 6


def test_roles_may_do_the_same_by_the_former_name(database: Database, stream: Stream) -> None:
    ann = Person(stream, "ann")
    index(database, ann.commit(*one_of_each(ann)))
    settings = given_back(database)
    role = f"reader_{database.url.rpartition('/')[2].partition('?')[0]}"
    rows(
        database.url,
        f"""ALTER SCHEMA bsky RENAME TO theirs; CREATE ROLE "{role}"; GRANT USAGE ON SCHEMA theirs TO "{role}";
        GRANT SELECT ON ALL TABLES IN SCHEMA theirs TO "{role}"; GRANT INSERT, DELETE ON theirs.mute TO "{role}" """,
    )
    try:
        adopt(settings, database, watch=False)
        with connect(database.url) as connection, connection.cursor() as cursor:
            cursor.execute(f'SET ROLE "{role}"')
            cursor.execute("SELECT count(*) FROM theirs.record")
            assert cursor.fetchone() != (0,)
            cursor.execute(
                """INSERT INTO theirs.mute ("subjectDid", "mutedByDid", "createdAt") VALUES ('b', 'a', 'x')"""
            )
            cursor.execute("SELECT has_table_privilege('theirs.mute', 'UPDATE')")
            assert cursor.fetchone() == (False,)
            connection.rollback()
    finally:
        rows(database.url, f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


def test_a_role_that_may_not_make_our_schema(database: Database) -> None:
    given_back(database)
    role = f"owner_{database.url.rpartition('/')[2].partition('?')[0]}"
    rows(database.url, f'DROP SCHEMA pipeline CASCADE; ALTER SCHEMA bsky RENAME TO theirs; CREATE ROLE "{role}"')
    rows(
        database.url,
        f'GRANT USAGE ON SCHEMA theirs TO "{role}"; GRANT SELECT ON ALL TABLES IN SCHEMA theirs TO "{role}"',
    )
    try:
        with connect(database.url) as connection, connection.cursor() as cursor:
            cursor.execute(f'SET ROLE "{role}"')
            found = examine(connection, database.url, "theirs", watch=False, progress=lambda what: None)
        said = " ".join(found.obstacles)
        assert "GRANT CREATE ON DATABASE" in said and "may not rename the schema theirs" in said
    finally:
        rows(database.url, f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


def test_accounts_that_the_reference_has_stored_again(database: Database, stream: Stream) -> None:
    """Purged data is purged again. An account that was deleted has returned: it is no longer left out."""
    ann, bob, eve = (Person(stream, name) for name in ("ann", "bob", "eve"))
    index(database, *(person.commit(*one_of_each(person)) for person in (ann, bob, eve)))
    rows(database.url, "SELECT pipeline.forbid_data_collection(%s, true)", ann.did)
    rows(
        database.url,
        """UPDATE pipeline.repo SET active = false, status = 'deleted', pds_status = 'gone' WHERE did = %s;
        INSERT INTO pipeline.removal (did, reason) VALUES (%s, 'deleted')""",
        bob.did,
        bob.did,
    )
    rows(database.url, "UPDATE pipeline.removal SET started_at = now(), finished_at = now()")
    adopt(given_back(database), database, watch=False)
    removals = "SELECT did, reason, finished_at IS NULL FROM pipeline.removal"
    assert rows(database.url, removals) == [(ann.did, "opt-out", True)]
    known = "SELECT did, excluded, active FROM pipeline.repo WHERE did = ANY (%s) ORDER BY did = %s"
    assert rows(database.url, known, [ann.did, bob.did], bob.did) == [(ann.did, True, True), (bob.did, False, True)]
    assert one(database.url, "SELECT status_wanted FROM pipeline.identity WHERE did = %s", bob.did)
    assert one(database.url, "SELECT reason FROM pipeline.backfill_queue WHERE did = %s", bob.did) == "returned"


def test_a_post_that_was_there_again_when_it_was_answered(database: Database, stream: Stream) -> None:
    """We know of its first deletion, and nothing of its second, which was the reference's."""
    ann, bob = Person(stream, "ann"), Person(stream, "bob")
    key = "app.bsky.feed.post/3laaaaaaaaa22"
    root = ref(ann.uri(key))
    index(database, ann.commit(post("3laaaaaaaaa22", "first")))
    index(database, ann.commit(delete(key)))
    index(database, ann.commit(post("3laaaaaaaaa22", "again")))
    index(database, bob.commit(post("r", "reply", reply={"root": root, "parent": root})))
    evaluated = 'SELECT "invalidReplyRoot" IS TRUE FROM bsky.post WHERE creator = %s'
    assert rows(database.url, evaluated, bob.did) == [(False,)]
    known = one(database.url, "SELECT rev FROM pipeline.tombstone WHERE uri = %s", ann.uri(key))
    settings = given_back(database)
    for table in ("record", "post", "feed_item", "post_agg"):
        rows(database.url, f"DELETE FROM bsky.{table} WHERE uri = %s", ann.uri(key))
    adopt(settings, database, watch=False)
    assert rows(database.url, evaluated, bob.did) == [(False,)]
    assert one(database.url, "SELECT rev > %s FROM pipeline.tombstone WHERE uri = %s", known, ann.uri(key))
    assert rerun_collections(database, DERIVED_COLLECTIONS, orphans=None).changed == {}
