"""`appview-pipeline leave`: what it changes, what it says, and that nothing of ours uses the database afterwards."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from appview_pipeline import backoff
from appview_pipeline.backoff import Poll
from appview_pipeline.cli import cli
from appview_pipeline.errors import OperatorError
from appview_pipeline.operations.leaving import leave
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database, open_database
from appview_pipeline_tests.conformance.reference.catalog import OUR_OMISSIONS, snapshot
from appview_pipeline_tests.support.batches import index
from appview_pipeline_tests.support.database import connect
from appview_pipeline_tests.support.frames import Person, Stream
from appview_pipeline_tests.support.records import one_of_each
from appview_pipeline_tests.support.tables import dump, rows

UNIQUE = ("index", "notification_record_did_reason_idx")


def indexes(database: Database) -> dict[tuple[str, str], str]:
    with connect(database.url) as connection:
        return {key: text for key, text in snapshot(connection, "bsky").items() if key[0] == "index"}


def given_back(database: Database) -> Database:
    database.engine.dispose()
    leave(database)
    return database


def test_the_indexes_are_the_reference_s_and_no_row_changes(database: Database, stream: Stream) -> None:
    index(database, Person(stream, "ann").commit(*one_of_each(Person(stream, "ann"))))
    before, tables = indexes(database), dump(database.url)
    after = indexes(given_back(database))
    assert dump(database.url) == tables
    assert {name for _, name in after.keys() - before.keys()} == set(OUR_OMISSIONS)
    assert all(
        after["index", name].endswith(f"bsky.{table} USING {key}") for name, (table, key) in OUR_OMISSIONS.items()
    )
    assert before.keys() - after.keys() == {UNIQUE}
    leave(database)  # once more
    assert indexes(database) == after


def test_what_an_interrupted_call_left_is_built_again(database: Database) -> None:
    rows(database.url, "CREATE INDEX record_did_idx ON bsky.record (did)")
    rows(database.url, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'bsky.record_did_idx'::regclass")
    given_back(database)
    assert rows(database.url, "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid") == []


def test_a_dropped_index_of_which_something_is_left_counts_as_dropped(database: Database) -> None:
    where = f"indexrelid = 'bsky.{UNIQUE[1]}'::regclass"
    rows(database.url, f"UPDATE pg_index SET indisvalid = false WHERE {where}")
    with pytest.raises(OperatorError, match="belongs to the reference's own indexer"):
        open_database(Settings(database_url=database.url))


def test_nothing_of_ours_opens_the_database_afterwards(database: Database) -> None:
    settings = Settings(database_url=database.url)
    open_database(settings).close()
    given_back(database)
    with pytest.raises(OperatorError, match="stop that indexer, then run `appview-pipeline adopt`"):
        open_database(settings)
    open_database(settings, given_back=True).close()


def test_it_waits_for_others_of_ours_and_names_them(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "SESSION_LOCK", Poll(every=0.01, longest=0.05))
    database.engine.dispose()
    with database.dedicated("writer"), pytest.raises(OperatorError, match=r"appview-pipeline writer \(1\)"):
        leave(database)
    assert UNIQUE in indexes(database)
    with database.dedicated("writer"):
        leave(database, check=True)


def test_it_says_what_the_reference_will_not_do(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    rows(database.url, "SELECT pipeline.forbid_data_collection('did:plc:ann')")
    rows(database.url, "INSERT INTO pipeline.labeler (did) VALUES ('did:plc:lab')")
    rows(database.url, "INSERT INTO pipeline.removal (did, reason) VALUES ('did:plc:bob', 'deleted')")
    database.engine.dispose()
    monkeypatch.setenv("APPVIEW_DATABASE_URL", database.url)
    checked = CliRunner().invoke(cli, ["leave", "--check"])
    assert checked.exit_code == 0, checked.output
    for words in ("opted out: 1.", "Labelers: 1.", "removal has not ended: 1."):
        assert words in checked.output
    assert UNIQUE in indexes(database)
    done = CliRunner().invoke(cli, ["leave"])
    assert done.exit_code == 0, done.output
    assert done.output.endswith("The database is the reference's: its indexer may be started.\n")
