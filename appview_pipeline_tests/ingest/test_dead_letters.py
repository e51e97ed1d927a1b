"""Dead letters: listed, tried again after a fix, and deleted when they are old."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner

from appview_pipeline import settings as settings_module
from appview_pipeline.cli import cli
from appview_pipeline.defs import database as database_module
from appview_pipeline.defs.definitions import defs
from appview_pipeline.ingest import dead_letters as dead_letters_module
from appview_pipeline.ingest.dead_letters import retry_dead_letters
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline.store.dead_letters import kinds_of_letters, list_letters
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline.store.sweeps import sweep_to_its_end
from appview_pipeline_tests.support.batches import index
from appview_pipeline_tests.support.frames import Person, Stream, create, delete, post, update
from appview_pipeline_tests.support.tables import fresh_database, one, rows

LIKE = "app.bsky.feed.like"


class Strict:
    """Validators with a mistake: nothing passes."""

    def get(self, nsid: str) -> Any:
        return lambda record: "refused by mistake"


@pytest.fixture
def alice() -> Person:
    return Person(Stream(), "alice")


def try_again(database: Database, **arguments: Any) -> dead_letters_module.RetrySummary:
    return retry_dead_letters(Settings(database_url=database.url), database, **arguments)


def texts(database: Database) -> set[str]:
    return {text for (text,) in rows(database.url, "SELECT text FROM bsky.post")}


def letters(database: Database) -> list[tuple[Any, ...]]:
    return rows(
        database.url,
        "SELECT kind, path, form, retried_at IS NOT NULL, resolved_at IS NOT NULL "
        "FROM pipeline.dead_letter ORDER BY id",
    )


def test_a_record_refused_by_mistake_is_indexed_after_the_fix(database: Database, alice: Person) -> None:
    index(database, alice.commit(post("a", "first")), validators=Strict())
    (frame,) = [alice.commit(post("b", "second"))]
    index(database, frame)
    assert texts(database) == {"second"}
    assert letters(database) == [("lexicon", "app.bsky.feed.post/a", "block", False, False)]
    cursor = rows(database.url, "SELECT * FROM pipeline.cursor")
    found = try_again(database)
    assert (found.tried, found.resolved, found.failed, found.impossible) == (1, 1, {}, {})
    assert texts(database) == {"first", "second"}
    assert letters(database) == [("lexicon", "app.bsky.feed.post/a", "block", True, True)]
    assert rows(database.url, "SELECT * FROM pipeline.cursor") == cursor
    # As if it had come in its place: same time, rev and CID as from the frame.
    replayed = rows(database.url, 'SELECT uri, cid, "indexedAt", rev, json FROM bsky.record ORDER BY uri')
    database_of_frames = rows(database.url, "SELECT rev FROM pipeline.repo")
    assert [row[3] for row in replayed][1] == database_of_frames[0][0]
    assert one(database.url, 'SELECT "postsCount" FROM bsky.profile_agg') == 2
    assert one(database.url, "SELECT count(*) FROM pipeline.gap") == 0
    assert try_again(database).tried == 0


def test_the_same_rows_as_without_the_mistake(
    server: EmbeddedPostgres, template_database: str, database: Database, alice: Person
) -> None:
    query = 'SELECT uri, cid, "indexedAt", rev, json FROM bsky.record ORDER BY uri'
    frames = [alice.commit(post("a", "first"), post("b", "second")), alice.commit(post("c", "third"))]
    index(database, frames[0], validators=Strict())
    index(database, frames[1])
    assert try_again(database).resolved == 2
    with fresh_database(server, template_database) as straight:
        index(straight, *frames)
        assert rows(database.url, query) == rows(straight.url, query)


def test_what_is_newer_is_not_touched(database: Database, alice: Person) -> None:
    index(database, alice.commit(post("a", "old"), post("b", "old b"), post("c", "old c")), validators=Strict())
    index(database, alice.commit(update("app.bsky.feed.post/a", {"text": "new", "createdAt": "2025-01-01T00:00:00Z"})))
    index(database, alice.commit(delete("app.bsky.feed.post/b")))
    assert try_again(database).resolved == 3
    assert texts(database) == {"new", "old c"}
    assert one(database.url, 'SELECT "postsCount" FROM bsky.profile_agg') == 2


def test_what_is_still_wrong_stays_with_its_new_reason(database: Database, alice: Person) -> None:
    like = create(f"{LIKE}/a", {"subject": "nothing", "createdAt": "2025-01-01T00:00:00Z"})
    index(database, alice.commit(like), validators=Strict())
    found = try_again(database)
    assert (found.tried, found.resolved, found.failed) == (1, 0, {"lexicon": 1})
    ((letter, why),) = found.examples
    assert "subject" in why
    with database.connect("reader") as connection:
        (listed,) = list_letters(connection)
    assert listed.id == letter and listed.reason == why and listed.retried_at and not listed.resolved_at
    assert one(database.url, "SELECT count(*) FROM pipeline.dead_letter") == 1


def test_a_whole_frame_goes_through_decoding_again(
    database: Database, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    index(database, alice.commit(post("a", "first")))
    frame = alice.commit(post("b", "second"), post("c", "third"))
    with monkeypatch.context() as mistaken:
        mistaken.setattr("appview_pipeline.protocol.commit.MAX_OPS", 1)
        index(database, frame)
    index(database, alice.commit(post("d", "fourth")))
    assert letters(database) == [("commit-limit", None, "frame", False, False)]
    assert texts(database) == {"first", "fourth"}
    assert try_again(database, kind="lexicon").tried == 0
    assert try_again(database, kind="commit-limit").resolved == 1
    assert texts(database) == {"first", "second", "third", "fourth"}


def test_a_row_that_postgresql_refused(database: Database, alice: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    rows(database.url, "ALTER TABLE bsky.post ADD CONSTRAINT short CHECK (length(text) < 9)")
    index(database, alice.commit(post("a", "much too long"), post("b", "short")))
    assert texts(database) == {"short"}
    assert letters(database) == [("postgres", "app.bsky.feed.post/a", "json", False, False)]
    assert try_again(database).failed == {"postgres": 1}
    rows(database.url, "ALTER TABLE bsky.post DROP CONSTRAINT short")
    assert try_again(database).resolved == 1
    assert texts(database) == {"short", "much too long"}
    assert one(database.url, "SELECT count(*) FROM pipeline.dead_letter") == 1


def test_bytes_that_were_cut_cannot_be_retried(database: Database, alice: Person) -> None:
    index(database, alice.commit(post("a", "long " * 20)), validators=Strict(), dead_letter_bytes=50)
    found = try_again(database)
    assert found.resolved == 0 and list(found.impossible.values()) == [1]
    assert "APPVIEW_DEAD_LETTER_BYTES" in next(iter(found.impossible))
    assert letters(database) == [("lexicon", "app.bsky.feed.post/a", "block", False, False)]


def test_letters_that_say_too_little_cannot_be_retried(database: Database, alice: Person) -> None:
    index(database, alice.commit(post("a", "one")), alice.commit(post("b", "two")), validators=Strict())
    index(database, alice.commit(post("c", "three")), validators=Strict())
    ids = [letter for (letter,) in rows(database.url, "SELECT id FROM pipeline.dead_letter ORDER BY id")]
    rows(database.url, "UPDATE pipeline.dead_letter SET form = NULL, rev = NULL WHERE id = %s", ids[0])
    rows(database.url, "UPDATE pipeline.dead_letter SET rev = '7zzzzzzzzzzzz' WHERE id = %s", ids[1])
    found = try_again(database, ids=ids[:2])
    assert (found.tried, found.resolved) == (2, 0)
    assert sorted(found.impossible) == [
        "its bytes are no frame and no record",
        "nothing as new is known of its repository, which has to be fetched",
    ]
    assert try_again(database, ids=ids[2:]).resolved == 1


def test_counts_by_kind_and_the_sweep(database: Database, alice: Person) -> None:
    index(database, alice.commit(post("a", "one"), post("b", "two")), validators=Strict())
    index(database, b"no frame at all")
    rows(database.url, "INSERT INTO pipeline.dead_letter_overflow VALUES ('lexicon', now() - interval '40 days', 7)")
    rows(
        database.url,
        "UPDATE pipeline.dead_letter SET first_seen = now() - interval '40 days' WHERE path LIKE '%/a'",
    )
    with database.connect("maintenance") as connection:
        kinds = {kind.kind: (kind.open, kind.resolved, kind.only_counted) for kind in kinds_of_letters(connection)}
        assert kinds.pop("lexicon") == (2, 0, 7) and list(kinds.values()) == [(1, 0, 0)]
        before = datetime.now(timezone.utc) - timedelta(days=30)
        assert sweep_to_its_end(connection, "dead letters", before) == 1
        assert sweep_to_its_end(connection, "counts of dead letters", before) == 1
        assert [letter.path for letter in list_letters(connection)] == [None, "app.bsky.feed.post/b"]
        assert [letter.path for letter in list_letters(connection, "lexicon", 5)] == ["app.bsky.feed.post/b"]
        assert {kind.only_counted for kind in kinds_of_letters(connection)} == {0}


def test_a_day_has_a_budget_for_each_kind(database: Database, alice: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of a kind; the rest is counted. Delivered again nothing is counted twice that was stored."""
    frames = [alice.commit(post(f"a{number}", "x" * 400)) for number in range(6)]
    index(database, *frames[:2], validators=Strict(), dead_letter_day_bytes=3_000)
    assert len(letters(database)) == 2
    stored = "SELECT kind, letters, bytes FROM pipeline.dead_letter_day"
    size = one(database.url, "SELECT sum(length(bytes) + 500) FROM pipeline.dead_letter")
    assert rows(database.url, stored) == [("lexicon", 2, size)] and 1_900 < size < 2_100
    index(database, *frames, b"no frame", validators=Strict(), dead_letter_day_bytes=3_000)
    index(database, *frames[:2], validators=Strict(), dead_letter_day_bytes=3_000)
    assert len(letters(database)) == 4
    assert rows(database.url, "SELECT kind, count FROM pipeline.dead_letter_overflow") == [("lexicon", 3)]
    monkeypatch.setenv("APPVIEW_DATABASE_URL", database.url)
    monkeypatch.setenv("APPVIEW_DEAD_LETTER_DAY_BYTES", "3000")
    status = json.loads(CliRunner().invoke(cli, ["status", "--json"]).stdout)
    assert status["dead_letters_left_out"] == {"lexicon": 3} and status["dead_letter_day_bytes"] == 3_000
    assert status["dead_letter_bytes_today"].keys() == {"lexicon", "frame-cbor"}
    assert "lexicon 3" in CliRunner().invoke(cli, ["status"]).stdout
    rows(database.url, "UPDATE pipeline.dead_letter_day SET day = day - 1")
    index(database, *frames, validators=Strict(), dead_letter_day_bytes=3_000)
    assert len(letters(database)) == 7
    with database.connect("maintenance") as connection:
        sweep_to_its_end(connection, "dead letters", datetime.now(timezone.utc))
        sweep_to_its_end(connection, "counts of dead letters", datetime.now(timezone.utc))
    assert one(database.url, "SELECT count(*) FROM pipeline.dead_letter_day") == 1


def test_on_the_command_line(database: Database, alice: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    index(database, alice.commit(post("a", "one"), post("b", "two")), validators=Strict())
    monkeypatch.setenv("APPVIEW_DATABASE_URL", database.url)
    shown = CliRunner().invoke(cli, ["dead-letters", "--limit", "1"]).output
    assert f"{alice.did}/app.bsky.feed.post/b" in shown and "refused by mistake" in shown and "lexicon 2" in shown
    lines = CliRunner().invoke(cli, ["dead-letters", "--kind", "lexicon", "--json"]).stdout.splitlines()
    assert [json.loads(line)["path"] for line in lines] == ["app.bsky.feed.post/b", "app.bsky.feed.post/a"]
    assert "Open: none" not in CliRunner().invoke(cli, ["dead-letters", "--kind", "other"]).output


def test_in_the_ui(database: Database, alice: Person, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    load = settings_module.load
    monkeypatch.setattr(settings_module, "load", lambda: load({"APPVIEW_DATABASE_URL": database.url}))
    database_module.reopen()
    try:
        index(database, alice.commit(post("a", "one"), post("b", "two")), validators=Strict())
        like = create(f"{LIKE}/a", {"subject": "nothing", "createdAt": "2025-01-01T00:00:00Z"})
        index(database, alice.commit(like))
        with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
            listed = dg.materialize(
                [*(defs.assets or ())],  # type: ignore[list-item]
                selection=dg.AssetSelection.assets("dead_letters"),
                resources=dict(defs.resources or {}),
                instance=instance,
            )
            (event,) = listed.get_asset_materialization_events()
            metadata = event.materialization.metadata
            assert metadata["open"].value == 3 and metadata["open lexicon"].value == 3
            job = defs.resolve_job_def("retry_dead_letters")
            run = job.execute_in_process(
                run_config={"ops": {"retry_letters": {"config": {"kind": "lexicon"}}}}, instance=instance
            )
            (output,) = [it for it in run.all_events if it.event_type_value == "STEP_OUTPUT"]
            said = output.event_specific_data.metadata  # type: ignore[union-attr]
            assert (said["tried"].value, said["resolved"].value, said["failed lexicon"].value) == (3, 2, 1)
            assert texts(database) == {"one", "two"}
            rows(database.url, "UPDATE pipeline.dead_letter SET first_seen = now() - interval '31 days'")
            assert defs.resolve_job_def("sweep").execute_in_process(instance=instance).success
            assert one(database.url, "SELECT count(*) FROM pipeline.dead_letter") == 0
    finally:
        database_module.reopen()
