"""Opting out and in: by SQL, command and job; and against batches that are under way."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg2
import pytest
from click.testing import CliRunner

from appview_pipeline.cli import cli
from appview_pipeline.defs import database as database_module
from appview_pipeline.defs.definitions import defs
from appview_pipeline.errors import OperatorError
from appview_pipeline.ingest.opting_out import switch_collection
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Connection, Database
from appview_pipeline.store.exclusion import CHANNEL, opted_out
from appview_pipeline_tests.support.batches import changes_of, index, writer_for
from appview_pipeline_tests.support.database import as_role, connect, run
from appview_pipeline_tests.support.frames import Person, Stream, delete, post
from appview_pipeline_tests.support.records import ref
from appview_pipeline_tests.support.statement_hooks import HookedDatabase, blocked, paused
from appview_pipeline_tests.support.tables import one, rows
from appview_pipeline_tests.support.traces import tables_of, traces
from appview_pipeline_tests.support.waiting import wait_for

FORBID = "SELECT pipeline.forbid_data_collection(%s)"
ALLOW = "SELECT pipeline.allow_data_collection(%s)"


@pytest.fixture
def ann(stream: Stream) -> Person:
    return Person(stream, "ann")


def texts(database: Database) -> list[str]:
    return [text for (text,) in rows(database.url, "SELECT text FROM bsky.post ORDER BY text")]


def excluded(database: Database) -> list[str]:
    return [did for (did,) in rows(database.url, "SELECT did FROM pipeline.repo WHERE excluded ORDER BY did")]


# ---------------------------------------------------------------------------------------------------------------------
# The switch.


def test_whatever_changes_the_setting_the_same_follows(database: Database, ann: Person) -> None:
    """The functions, or statements by hand; repeated, nothing happens twice."""
    by_hand = "INSERT INTO pipeline.actor_setting (did, data_collection_forbidden) VALUES (%s, true)"
    index(database, ann.commit(post("a", "x")), ann.commit(post("bad", "x", langs="x")))
    for forbid, allow in (
        (FORBID, ALLOW),
        (FORBID, "DELETE FROM pipeline.actor_setting WHERE did = %s"),
        (by_hand, "UPDATE pipeline.actor_setting SET data_collection_forbidden = false WHERE did = %s"),
        ("UPDATE pipeline.actor_setting SET data_collection_forbidden = true WHERE did = %s", ALLOW),
    ):
        for repeated in (1, 2):
            if repeated == 1 or forbid == FORBID:
                assert rows(database.url, forbid, ann.did) in ([], [(repeated == 1,)])
            assert excluded(database) == [ann.did]
            assert rows(database.url, "SELECT 1 FROM pipeline.backfill_queue") == []
            assert rows(database.url, "SELECT 1 FROM pipeline.gap") == []
            assert rows(database.url, "SELECT 1 FROM pipeline.identity WHERE queue IS NOT NULL") == []
            assert rows(database.url, "SELECT 1 FROM pipeline.dead_letter WHERE bytes IS NOT NULL") == []
        rows(database.url, allow, ann.did)
        assert excluded(database) == []
        assert rows(database.url, "SELECT reason FROM pipeline.backfill_queue") == [("allowed",)]
        assert rows(database.url, "SELECT kind FROM pipeline.gap WHERE resolved_at IS NULL") == [("repository",)]
        assert rows(database.url, "SELECT queue FROM pipeline.identity") == [("event",)]
        assert rows(database.url, "SELECT chain_from FROM pipeline.repo") == [(None,)], "nothing counts as applied"
    assert rows(database.url, ALLOW, ann.did) == [(False,)]


def test_a_did_may_be_corrected_by_hand(database: Database, stream: Stream) -> None:
    ann, bob = Person(stream, "ann"), Person(stream, "bob")
    rows(database.url, FORBID, ann.did)
    rows(database.url, "UPDATE pipeline.actor_setting SET did = %s", bob.did)
    assert excluded(database) == [bob.did]


def test_a_purge_can_be_asked_for_later_and_is_called_off(database: Database, ann: Person) -> None:
    purge = "SELECT pipeline.forbid_data_collection(%s, purge => true)"
    removal = "SELECT reason, finished_at IS NULL FROM pipeline.removal"
    assert rows(database.url, FORBID, ann.did) == [(True,)]
    assert rows(database.url, removal) == []
    assert [rows(database.url, purge, ann.did) for _ in (1, 2)] == [[(True,)], [(False,)]]
    assert rows(database.url, removal) == [("opt-out", True)]
    rows(database.url, ALLOW, ann.did)
    assert rows(database.url, removal) == []
    # A removal because of a deletion goes on as a purge, should the account not be deleted after all.
    rows(database.url, "INSERT INTO pipeline.removal (did, reason) VALUES (%s, 'deleted')", ann.did)
    rows(database.url, purge, ann.did)
    assert rows(database.url, removal) == [("opt-out", True)]
    index(database, ann.stream.account(ann.did, True))
    assert rows(database.url, removal) == [("opt-out", True)] and excluded(database) == [ann.did]


def test_opting_out_outlives_the_deletion_of_the_account_and_its_return(database: Database, ann: Person) -> None:
    rows(database.url, FORBID, ann.did)
    rows(database.url, "INSERT INTO pipeline.removal (did, reason) VALUES (%s, 'deleted')", ann.did)
    index(database, ann.stream.account(ann.did, True), ann.commit(post("a", "x")))
    assert rows(database.url, "SELECT 1 FROM pipeline.removal") == []
    assert excluded(database) == [ann.did] and texts(database) == []


def test_the_row_by_which_writers_know_it_stays(database: Database, ann: Person) -> None:
    index(database, ann.commit(post("a", "x")))
    rows(database.url, FORBID, ann.did)
    with pytest.raises(psycopg2.Error, match="has to stay"):
        rows(database.url, "DELETE FROM pipeline.repo")
    rows(database.url, ALLOW, ann.did)
    rows(database.url, "DELETE FROM pipeline.repo")


@pytest.mark.parametrize("did", ["ann.test", "did:plc:", "", None, "did:plc:" + "a" * 3_000, "did:x:a b"])
def test_what_is_no_did_is_refused(database: Database, did: str | None) -> None:
    with pytest.raises(psycopg2.Error, match="is not a DID"):
        rows(database.url, FORBID, did)


def test_a_program_needs_no_right_but_to_call_the_functions(database: Database, ann: Person) -> None:
    run(database.url, "CREATE ROLE opting_out LOGIN")
    try:
        app = as_role(database.url, "opting_out")
        rows(database.url, "GRANT USAGE ON SCHEMA pipeline TO opting_out")
        with pytest.raises(psycopg2.Error, match="permission denied"):
            rows(app, FORBID, ann.did)
        rows(
            database.url,
            "GRANT EXECUTE ON FUNCTION pipeline.forbid_data_collection, pipeline.allow_data_collection TO opting_out",
        )
        assert rows(app, FORBID, ann.did) == [(True,)]
        assert rows(app, ALLOW, ann.did) == [(True,)]
    finally:
        run(database.url, "DROP OWNED BY opting_out")
        run(database.url, "DROP ROLE opting_out")


def test_processes_with_a_memory_of_their_own_are_notified(database: Database, ann: Person) -> None:
    with connect(database.url) as connection:
        connection.autocommit = True
        connection.cursor().execute(f"LISTEN {CHANNEL}")
        for statement in (FORBID, ALLOW):
            rows(database.url, statement, ann.did)
            connection.cursor().execute("SELECT 1")
            (notice,) = connection.notifies
            assert notice.payload == ann.did
            connection.notifies.clear()


# ---------------------------------------------------------------------------------------------------------------------
# Batches under way.


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("what", ["post", "letter", "identity"])
def test_a_batch_under_way_ends_before_the_opt_out_does(
    database: Database, ann: Person, what: str, known: bool
) -> None:
    """A batch that holds what it looked at: the opt-out waits for it, and finds what it has stored.

    With a post it has the lock of the repository, and so with a refused commit, which is a gap. With an #identity event
    it has a lock of all accounts.
    """
    if known:
        index(database, ann.commit(post("first", "first")))
    if what == "identity":
        frame, at = ann.stream.frame("#identity", {"did": ann.did, "handle": "late.test"}), "identity.queue"
    elif what == "letter":
        frame, at = ann.commit(post("a", "late"), tooBig=True), "dead_letter.insert"
    else:
        frame, at = ann.commit(post("a", "late")), "record.write"
    with paused(database, at) as (hooked, reached, go_on), ThreadPoolExecutor(2) as pool:
        writing = pool.submit(writer_for(hooked).write, changes_of(frame), time.time())
        assert reached.wait(60)
        forbidding = pool.submit(rows, database.url, FORBID, ann.did)
        wait_for(lambda: forbidding.done() or blocked(database) == 1)
        assert not forbidding.done()
        go_on.set()
        (report,) = writing.result()
        assert forbidding.result() == [(True,)] and report.withheld == 0
    stored = traces(database.url, "late")
    assert tables_of(stored) == ({"bsky.record", "bsky.post"} if what == "post" else set())
    index(database, ann.commit(post("b", "later")), ann.commit(post("c", "later"), tooBig=True))
    assert traces(database.url, "late") == stored, "nor anything new"


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("what", ["post", "letter"])
def test_a_batch_waits_for_an_opt_out_under_way(database: Database, ann: Person, what: str, known: bool) -> None:
    """It had been built and staged before; nothing of it is stored."""
    if known:
        index(database, ann.commit(post("first", "first")))
    frame = ann.commit(post("a", "late")) if what == "post" else ann.commit(post("a", "late"), tooBig=True)
    with connect(database.url) as connection, ThreadPoolExecutor(1) as pool:
        connection.cursor().execute(FORBID, (ann.did,))
        writing = pool.submit(writer_for(database).write, changes_of(frame), time.time())
        wait_for(lambda: blocked(database) == 1)
        connection.commit()
        (report,) = writing.result()
    assert report.withheld == 1
    assert tables_of(traces(database.url, "late")) == set()


def test_an_opt_out_that_is_rolled_back_withholds_nothing(database: Database, ann: Person) -> None:
    with connect(database.url) as connection, ThreadPoolExecutor(1) as pool:
        connection.cursor().execute(FORBID, (ann.did,))
        writing = pool.submit(index, database, ann.commit(post("a", "x")))
        wait_for(lambda: blocked(database) == 1)
        connection.rollback()
        writing.result()
    assert texts(database) == ["x"]


def test_two_who_exclude_and_admit_an_account_at_once(database: Database, ann: Person) -> None:
    """The one that comes second sees what the first has done: forbidden, whatever becomes of the removal."""
    rows(database.url, "INSERT INTO pipeline.removal (did, reason) VALUES (%s, 'deleted')", ann.did)
    with connect(database.url) as connection, ThreadPoolExecutor(1) as pool:
        connection.cursor().execute(FORBID, (ann.did,))
        taking_back = pool.submit(rows, database.url, "DELETE FROM pipeline.removal WHERE did = %s", ann.did)
        wait_for(lambda: blocked(database) == 1)
        connection.commit()
        taking_back.result()
    assert excluded(database) == [ann.did]


def test_a_busy_account_that_has_opted_out_costs_one_second_try(database: Database, stream: Stream) -> None:
    """The writer remembers it; and forgets it at once when the account is allowed again."""
    ann, bob = Person(stream, "ann"), Person(stream, "bob")
    tries: list[str] = []

    @contextmanager
    def around(name: str, connection: Connection) -> Iterator[None]:
        tries.append(name)
        yield

    rows(database.url, FORBID, ann.did)
    hooked = HookedDatabase(database.url, Settings(database_url=database.url), around)
    writer = writer_for(hooked)
    counts = []
    for number in range(5):
        if number == 3:
            rows(database.url, ALLOW, ann.did)
        tries.clear()
        changes = changes_of(ann.commit(post(f"a{number}", f"{number}")), bob.commit(post(f"b{number}", "bob's")))
        writer.write(changes, time.time(), built=writer.build(changes))
        counts.append(tries.count("repo.lock"))
    hooked.close()
    assert counts == [2, 1, 1, 2, 1]
    assert texts(database) == ["3", "4", *["bob's"] * 5]


def test_refused_and_slow_changes_of_the_account_leave_no_dead_letter(database: Database, stream: Stream) -> None:
    """What PostgreSQL refuses is found by trying, and becomes a dead letter of text: not where the account opted out
    meanwhile."""
    ann, bob = Person(stream, "ann"), Person(stream, "bob")
    rows(database.url, "ALTER TABLE bsky.post ADD CHECK (text NOT LIKE 'refused%%')")
    changes = changes_of(
        ann.commit(post("a", "refused")), bob.commit(post("b", "refused too")), bob.commit(post("c", "fine"))
    )
    with paused(database, "record.write") as (hooked, reached, go_on), ThreadPoolExecutor(2) as pool:
        writing = pool.submit(writer_for(hooked).write, changes, time.time())
        assert reached.wait(60)
        forbidding = pool.submit(rows, database.url, FORBID, ann.did)
        wait_for(lambda: blocked(database) == 1)
        go_on.set()
        writing.result()
        forbidding.result()
    assert rows(database.url, "SELECT did FROM pipeline.dead_letter WHERE bytes IS NOT NULL") == [(bob.did,)]
    assert texts(database) == ["fine"]


def test_deletions_are_carried_out_and_unknown_ones_leave_nothing(database: Database, stream: Stream) -> None:
    ann, bob = Person(stream, "ann"), Person(stream, "bob")
    index(database, bob.commit(post("b", "bob's")), ann.commit(post("a", "x"), post("kept", "x")))
    rows(database.url, FORBID, ann.did)
    index(database, ann.commit(post("unseen", "y")))
    assert texts(database) == ["bob's", "x", "x"]
    index(database, ann.commit(delete("app.bsky.feed.post/a"), delete("app.bsky.feed.post/unseen")))
    assert texts(database) == ["bob's", "x"]
    uris = [uri for (uri,) in rows(database.url, "SELECT uri FROM pipeline.tombstone")]
    assert uris == [ann.uri("app.bsky.feed.post/a")]
    assert {uri for (uri,) in rows(database.url, "SELECT uri FROM pipeline.version")} == set(uris)


def test_the_deletion_of_a_withheld_post_is_carried_out_on_what_others_wrote(
    database: Database, stream: Stream
) -> None:
    """A quote of it goes, as that of any deleted post, and nothing remembers the post."""
    ann, bob = Person(stream, "ann"), Person(stream, "bob")
    rows(database.url, FORBID, ann.did)
    subject = ref(ann.uri("app.bsky.feed.post/a"))
    index(database, ann.commit(post("a", "x")))
    index(database, bob.commit(post("b", "y", embed={"$type": "app.bsky.embed.record", "record": subject})))
    assert one(database.url, 'SELECT "quoteCount" FROM bsky.post_agg') == 1
    index(database, ann.commit(delete("app.bsky.feed.post/a")))
    assert one(database.url, 'SELECT "quoteCount" FROM bsky.post_agg') == 0
    assert rows(database.url, "SELECT uri FROM bsky.quote UNION SELECT uri FROM pipeline.tombstone") == []


# ---------------------------------------------------------------------------------------------------------------------
# People's ways to it.


@pytest.fixture
def command(database: Database, monkeypatch: pytest.MonkeyPatch, restored_logging: None) -> Any:
    monkeypatch.setenv("APPVIEW_DATABASE_URL", database.url)

    def call(*arguments: str) -> str:
        result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output.strip()

    return call


def test_the_command_line(database: Database, command: Any, ann: Person) -> None:
    index(database, ann.commit(post("a", "x")))
    rows(database.url, "UPDATE bsky.actor SET handle = 'ann.test'")
    assert command("privacy", "list") == "No account forbids the collection of its data."
    assert command("privacy", "forbid", "@Ann.test") == f"{ann.did} forbids the collection of its data."
    assert command("privacy", "forbid", ann.did) == f"{ann.did}: nothing changed, because that is so already."
    assert "will be removed" in command("privacy", "forbid", ann.did, "--purge")
    listed = json.loads(command("privacy", "list", "--json"))
    assert (listed["did"], listed["handle"], listed["purge"]) == (ann.did, "ann.test", "requested")
    assert command("privacy", "list").startswith(f"{ann.did}  ann.test  since 20")
    assert "Opted out     1" in command("status")
    assert "is queued to be fetched" in command("privacy", "allow", "ann.test")
    assert json.loads(command("status", "--json"))["opted_out"] == 0


@pytest.mark.parametrize(
    ("account", "sentence"),
    [
        ("nobody.test", "no account is known to have the handle nobody.test: give the DID instead."),
        ("claimed.test", "no account is known to have the handle claimed.test: give the DID instead."),
        ("ann", "'ann' is neither a DID nor a handle."),
    ],
)
def test_a_handle_has_to_be_verified(database: Database, account: str, sentence: str) -> None:
    rows(database.url, "INSERT INTO pipeline.identity (did, claimed_handle) VALUES ('did:plc:x', 'claimed.test')")
    with pytest.raises(OperatorError) as raised:
        switch_collection(database, account, forbid=True)
    assert str(raised.value) == sentence


def test_the_job(database: Database, stream: Stream, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("APPVIEW_DATABASE_URL", database.url)
    ann, bob = Person(stream, "ann"), Person(stream, "bob")
    job = defs.resolve_job_def("set_data_collection")

    def listed() -> list[tuple[str, str | None]]:
        with database.connect("reader") as connection:
            return [(it.did, it.purge) for it in opted_out(connection)]

    try:
        with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:

            def run_job(**config: Any) -> bool:
                return job.execute_in_process(
                    run_config={"ops": {"switch_accounts": {"config": config}}},
                    instance=instance,
                    raise_on_error=False,
                ).success

            assert run_job(dids=[ann.did, bob.did], action="forbid", purge=True)
            assert sorted(listed()) == sorted([(ann.did, "requested"), (bob.did, "requested")])
            assert not run_job(dids=["nobody.test", ann.did], action="allow"), "says that one of them is unknown"
            assert listed() == [(bob.did, "requested")], "and switches the others"
            assert not run_job(dids=[bob.did], action="allow", purge=True)
    finally:
        database_module.reopen()
