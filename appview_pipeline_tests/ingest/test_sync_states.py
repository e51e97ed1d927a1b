"""The states of repositories: what is missing, what is queued, and what makes a repository complete (docs/gaps.md)."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

import orjson
import pytest

from appview_pipeline.indexing.changes import Change, Gap
from appview_pipeline.ingest.dead_letters import retry_dead_letters
from appview_pipeline.settings import Settings
from appview_pipeline.store.batch import Report
from appview_pipeline.store.database import Database
from appview_pipeline.store.gaps import close_gap, open_gaps_of_streams, sweep_gaps
from appview_pipeline.store.repo_states import RepoState, begin_resync, fail_resync, read_repos
from appview_pipeline.store.reports import applied_after
from appview_pipeline.store.status import read_status
from appview_pipeline_tests.support.batches import changes_of, index, writer_for
from appview_pipeline_tests.support.exports import Compared, Repository, compared
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, altered, delete, post, rev, update
from appview_pipeline_tests.support.refusing_table import refuse
from appview_pipeline_tests.support.tables import one, record_keys, rows


def write(database: Database, *changes: Change) -> list[Report]:
    return writer_for(database, source="backfill").write(changes, time.time())


def state(database: Database, person: Person) -> str:
    return read(database, person).sync_state


def read(database: Database, person: Person) -> RepoState:
    with database.connect("reader") as connection:
        return read_repos(connection, [person.did])[person.did]


def queue(database: Database, person: Person) -> tuple[str, int] | None:
    """Reason and priority of what waits of the account."""
    found = rows(
        database.url,
        "SELECT reason, priority FROM pipeline.backfill_queue WHERE did = %s AND finished_at IS NULL",
        person.did,
    )
    return found[0] if found else None


def open_gaps(database: Database, person: Person) -> list[str]:
    found = rows(
        database.url,
        "SELECT kind FROM pipeline.gap WHERE did = %s AND resolved_at IS NULL ORDER BY to_text, kind",
        person.did,
    )
    return [kind for (kind,) in found]


def resync(database: Database, person: Person) -> None:
    """Fetches and applies what the account has now."""
    write(database, *compared(database, Repository.of(person)).changes())


@pytest.fixture
def ann() -> Person:
    return Person(Stream(), "ann")


def test_a_repository_that_begins_in_the_stream_is_complete(database: Database, ann: Person) -> None:
    index(database, ann.commit(post("a", "a")), ann.commit(post("b", "b")))
    assert state(database, ann) == "synchronized" and queue(database, ann) is None
    index(database, ann.commit(post("c", "c")), ann.sync())
    assert state(database, ann) == "synchronized", "a #sync that names the tree that we have"


def test_a_repository_that_is_met_later_is_unknown_until_an_export_of_what_came_before(
    database: Database, ann: Person
) -> None:
    ann.commit(post("a", "a"))
    old = Repository.of(ann)
    ann.commit(post("b", "b"))
    index(database, ann.commit(post("c", "c")), ann.commit(post("d", "d")))
    found = read(database, ann)
    assert (found.sync_state, found.chain_from, found.chain_since) == ("unknown", rev(3), rev(2))
    write(database, *compared(database, old).changes())
    assert state(database, ann) == "desynchronized", "b is missing: the export does not reach the first commit"
    assert open_gaps(database, ann) == ["chain"] and queue(database, ann) == ("chain", 2)
    resync(database, ann)
    assert state(database, ann) == "synchronized" and queue(database, ann) is None
    assert open_gaps(database, ann) == []
    assert record_keys(database) == {"a", "b", "c", "d"}


def test_an_export_that_ends_where_the_chain_begins_is_enough(database: Database, ann: Person) -> None:
    ann.commit(post("a", "a"))
    ann.commit(post("b", "b"))
    export = Repository.of(ann)
    index(database, ann.commit(post("c", "c")))
    write(database, *compared(database, export).changes())
    found = read(database, ann)
    assert (found.sync_state, found.export_rev, found.rev) == ("synchronized", rev(2), rev(3))
    index(database, ann.commit(post("d", "d")))
    assert state(database, ann) == "synchronized"


@pytest.mark.parametrize("kind", ["chain", "sync", "commit", "record"])
def test_a_gap_makes_it_incomplete_and_queues_it(database: Database, ann: Person, kind: str) -> None:
    index(database, ann.commit(post("a", "a")))
    if kind == "chain":
        ann.commit(post("b", "b"))
        index(database, ann.commit(post("c", "c")))
    elif kind == "sync":
        ann.commit(post("b", "b"))
        index(database, ann.sync())
    elif kind == "commit":
        index(database, ann.commit(post("b", "b"), tooBig=True))
    else:
        frame = ann.commit(post("b", "b"))
        (change,) = changes_of(frame)
        change.writes.clear()
        change.gaps.append(Gap("record", ann.did, after="app.bsky.feed.post/b", until=rev(2)))
        write(database, change)
    assert state(database, ann) == "desynchronized" and open_gaps(database, ann) == [kind]
    assert (read(database, ann).sync_reason or "").startswith(kind)
    assert queue(database, ann) == (kind, 2)
    index(database, ann.commit(post("d", "d")))
    assert state(database, ann) == "desynchronized" and "d" in record_keys(database), (
        "what comes is applied all the same"
    )
    resync(database, ann)
    assert state(database, ann) == "synchronized" and queue(database, ann) is None and open_gaps(database, ann) == []
    assert {"a", "b", "d"} <= record_keys(database)


def test_late_commits_close_a_gap_without_an_export(database: Database, ann: Person) -> None:
    frames = [ann.commit(post(key, key)) for key in "abcd"]
    index(database, frames[0])
    index(database, frames[3])
    assert state(database, ann) == "desynchronized" and queue(database, ann) is not None
    index(database, frames[2])
    assert state(database, ann) == "desynchronized"
    index(database, frames[1])
    assert state(database, ann) == "synchronized" and queue(database, ann) is None


def test_late_commits_do_not_complete_a_repository_whose_beginning_is_unknown(database: Database, ann: Person) -> None:
    frames = [ann.commit(post(key, key)) for key in "abcd"]
    for number in (1, 3, 2):
        index(database, frames[number])
    assert open_gaps(database, ann) == [] and state(database, ann) == "desynchronized"
    assert queue(database, ann) == ("chain", 2)


def test_a_retried_dead_letter_completes_it(database: Database, ann: Person) -> None:
    index(database, ann.commit(post("a", "a")))
    whole = ann.commit(post("b", "b"))
    index(database, altered(whole, tooBig=True), ann.commit(post("c", "c")))
    assert state(database, ann) == "desynchronized"
    # What it was refused for is allowed now.
    rows(database.url, "UPDATE pipeline.dead_letter SET bytes = %s, byte_length = %s", whole, len(whole))
    assert retry_dead_letters(Settings(database_url=database.url), database).resolved == 1
    assert state(database, ann) == "synchronized" and queue(database, ann) is None


def test_a_queued_repository_keeps_its_place_and_its_priority(database: Database, ann: Person) -> None:
    index(database, ann.commit(post("a", "a")))
    rows(
        database.url,
        "INSERT INTO pipeline.backfill_queue (did, reason, priority, not_before, attempts, error) "
        "VALUES (%s, 'requested', 3, now() + interval '1 hour', 4, 'no route')",
        ann.did,
    )
    ann.commit(post("b", "b"))
    index(database, ann.commit(post("c", "c")))
    assert queue(database, ann) == ("requested", 3)
    assert one(database.url, "SELECT attempts FROM pipeline.backfill_queue WHERE not_before > now()") == 4
    resync(database, ann)
    assert queue(database, ann) is None
    ann.commit(post("d", "d"))
    index(database, ann.commit(post("e", "e")))
    assert queue(database, ann) == ("chain", 2), "a finished row begins anew"
    assert one(database.url, "SELECT attempts FROM pipeline.backfill_queue WHERE not_before <= now()") == 0


def test_what_breaks_while_it_is_fetched_is_fetched_again(database: Database, ann: Person) -> None:
    index(database, ann.commit(post("a", "a")))
    ann.commit(post("b", "b"))
    index(database, ann.commit(post("c", "c")))
    export = compared(database, Repository.of(ann))
    assert state(database, ann) == "resyncing"
    ann.commit(post("d", "d"))
    index(database, ann.commit(post("e", "e")))
    assert state(database, ann) == "desynchronized"
    write(database, *export.changes())
    assert state(database, ann) == "desynchronized" and open_gaps(database, ann) == ["chain"]
    assert queue(database, ann) is not None
    resync(database, ann)
    assert state(database, ann) == "synchronized" and record_keys(database) == {"a", "b", "c", "d", "e"}


def test_a_failed_resync_says_why(database: Database, ann: Person) -> None:
    ann.commit(post("a", "a"))
    index(database, ann.commit(post("b", "b")))
    with database.connect("writer") as connection:
        found = begin_resync(connection, ann.did)
        assert found is not None and found.sync_state == "resyncing" and found.rev == rev(2)
        fail_resync(connection, ann.did, "the host hangs", parked=False)
        assert read_repos(connection, [ann.did])[ann.did].sync_state == "desynchronized"
        begin_resync(connection, ann.did)
        fail_resync(connection, ann.did, "the host hangs\0", parked=True)
    assert (read(database, ann).sync_state, read(database, ann).sync_reason) == ("error", "the host hangs")
    ann.commit(post("c", "c"))
    index(database, ann.commit(post("d", "d")))
    assert state(database, ann) == "error", "a new gap changes nothing: it is tried again in its time"
    resync(database, ann)
    assert state(database, ann) == "synchronized"
    with database.connect("writer") as connection:
        begin_resync(connection, ann.did)
        fail_resync(connection, ann.did, "the host hangs", parked=True)
    assert state(database, ann) == "synchronized", "nothing of it is known to be missing"


def test_an_excluded_account_is_not_queued_and_one_that_returns_is(database: Database, ann: Person) -> None:
    index(database, ann.commit(post("a", "a")))
    one(database.url, "SELECT pipeline.forbid_data_collection(%s)", ann.did)
    ann.commit(post("b", "b"))
    index(database, ann.commit(post("c", "c")), ann.commit(post("d", "d"), tooBig=True))
    assert (state(database, ann), queue(database, ann)) == ("unknown", None)
    one(database.url, "SELECT pipeline.allow_data_collection(%s)", ann.did)
    assert (state(database, ann), queue(database, ann)) == ("desynchronized", ("allowed", 2))
    index(database, ann.commit(post("e", "e")))
    assert state(database, ann) == "desynchronized"
    resync(database, ann)
    assert (state(database, ann), queue(database, ann)) == ("synchronized", None)
    assert record_keys(database) == {"a", "b", "c", "d", "e"}


def test_an_account_that_is_not_active_waits_until_it_is(database: Database, ann: Person) -> None:
    index(database, ann.commit(post("a", "a")), ann.stream.account(ann.did, False, "takendown"))
    ann.commit(post("b", "b"))
    index(database, ann.commit(post("c", "c")))
    assert state(database, ann) == "desynchronized" and queue(database, ann) is None


def test_a_refused_commit_of_an_account_that_is_not_known(database: Database, ann: Person) -> None:
    index(database, ann.commit(post("a", "a"), tooBig=True))
    assert state(database, ann) == "desynchronized" and queue(database, ann) == ("commit", 2)
    resync(database, ann)
    assert state(database, ann) == "synchronized"
    assert rows(database.url, "SELECT did FROM bsky.actor") == [(ann.did,)], "an account that has an export exists"
    assert rows(database.url, 'SELECT "repoRev" FROM bsky.actor_sync') == [(rev(1),)]
    assert one(database.url, "SELECT queue FROM pipeline.identity") == "new"


def test_what_is_missing_without_a_rev_is_in_an_export_that_was_fetched_since(database: Database, ann: Person) -> None:
    index(database, ann.commit(post("a", "a")))
    write(database, Change(size=0, gaps=[Gap("repository", ann.did)]))
    assert state(database, ann) == "desynchronized"
    write(database, *compared(database, Repository.of(ann)).changes(is_fetched=False))
    assert open_gaps(database, ann) == ["repository"], "a file that somebody had may be older"
    resync(database, ann)
    assert state(database, ann) == "synchronized"
    export = compared(database, Repository.of(ann))
    write(database, Change(size=0, gaps=[Gap("repository", ann.did)]))
    write(database, *export.changes())
    assert state(database, ann) == "desynchronized", "it was asked for before"


def test_a_late_commit_that_an_export_has_is_no_gap(database: Database, ann: Person) -> None:
    first, second = ann.commit(post("a", "a")), ann.commit(post("b", "b"), tooBig=True)
    resync(database, ann)
    index(database, first, second)
    assert state(database, ann) == "synchronized" and open_gaps(database, ann) == []


def test_older_commits_that_come_while_an_export_is_compared(database: Database, ann: Person) -> None:
    """The comparison has not seen what they wrote: here a record that was deleted afterwards."""
    frames = [ann.commit(post("a", "a")), ann.commit(post("b", "b")), ann.commit(delete("app.bsky.feed.post/a"))]
    export = Repository.of(ann)
    newer = ann.commit(post("c", "c"))
    # The first two come in between; the last one is newer than the export.
    for came, is_complete in ((frames[0], False), (frames[1], False), (newer, True)):
        old = compared(database, export)
        index(database, came)
        write(database, *old.changes())
        assert (state(database, ann) == "synchronized") is is_complete
        assert read(database, ann).export_rev == (rev(3) if is_complete else None)
        assert (queue(database, ann) is None) is is_complete
    assert record_keys(database) == {"b", "c"}


def test_a_fetching_that_another_one_has_overtaken_ends_nothing(database: Database, ann: Person) -> None:
    ann.commit(post("a", "a"))
    first = compared(database, Repository.of(ann))
    second = compared(database, Repository.of(ann))
    write(database, *first.changes())
    assert state(database, ann) == "resyncing"
    write(database, *second.changes())
    assert state(database, ann) == "synchronized"
    older = second.repository._replace(rev=rev(0))
    write(database, *compared(database, older).changes())
    assert (state(database, ann), read(database, ann).export_rev) == ("synchronized", rev(1))


def test_a_partial_export(database: Database, ann: Person) -> None:
    """Its repository is as complete as was asked for, until something of it is missing."""
    ann.commit(post("a", "a"))
    ann.commit(post("b", "b"))
    export = compared(database, Repository.of(ann))
    newest = Compared(export.repository, export.asked_at, export.writes[1:], [])
    write(database, *newest.changes(is_whole=False, is_partial=True))
    found = read(database, ann)
    assert (found.sync_state, found.is_partial, found.export_rev, found.rev) == ("synchronized", True, None, rev(2))
    index(database, ann.commit(post("c", "c")))
    assert state(database, ann) == "synchronized"
    ann.commit(delete("app.bsky.feed.post/b"))
    index(database, ann.commit(post("d", "d")))
    export = compared(database, Repository.of(ann))
    write(database, *Compared(export.repository, export.asked_at, [], []).changes(is_whole=False, is_partial=True))
    assert state(database, ann) == "desynchronized", "a partial export does not say what was deleted"
    resync(database, ann)
    assert (state(database, ann), read(database, ann).is_partial) == ("synchronized", False)
    assert record_keys(database) == {"a", "c", "d"}


def test_single_records_prove_nothing(database: Database, ann: Person) -> None:
    ann.commit(post("a", "a"))
    ann.commit(post("b", "b"))
    export = compared(database, Repository.of(ann))
    write(database, *Compared(export.repository, export.asked_at, export.writes[:1], []).changes(is_whole=False))
    found = read(database, ann)
    assert (found.rev, found.export_rev) == (None, None) and record_keys(database) == {"a"}
    assert rows(database.url, "SELECT did FROM bsky.actor") == [(ann.did,)]


def test_the_sweep_closes_what_an_export_has(database: Database, ann: Person) -> None:
    index(database, ann.commit(post("a", "a")))
    resync(database, ann)
    rows(
        database.url,
        "INSERT INTO pipeline.gap (kind, did, to_text) VALUES ('commit', %s, %s); "
        "UPDATE pipeline.repo SET sync_state = 'desynchronized'",
        *(ann.did, rev(1)),
    )
    with database.connect("maintenance") as connection:
        assert sweep_gaps(connection, datetime.now(timezone.utc) - timedelta(days=1)) == (1, 0)
    assert state(database, ann) == "synchronized"


def test_gaps_of_streams_say_from_when_on_something_is_missing(database: Database, ann: Person) -> None:
    index(database, ann.commit(post("a", "a")), source="wss://relay")
    write(
        database,
        Change(size=0, gaps=[Gap("sequence", relay="wss://relay", shard="0/1", after="1", until="9")]),
        Change(size=0, gaps=[Gap("outdated_cursor", relay="wss://other", shard="0/1", after="7")]),
    )
    with database.connect("writer") as connection:
        first, second = sorted(open_gaps_of_streams(connection), key=lambda gap: gap.kind, reverse=True)
        assert (first.kind, first.relay, first.after, first.until) == ("sequence", "wss://relay", 1, 9)
        assert first.from_time == datetime(2025, 6, 15, 15, 6, 41, tzinfo=timezone.utc)
        assert (second.kind, second.after, second.until, second.from_time) == ("outdated_cursor", 7, None, None)
        assert close_gap(connection, first.id) and not close_gap(connection, first.id)
        assert [gap.id for gap in open_gaps_of_streams(connection)] == [second.id]


def test_an_export_counts_as_no_event_of_the_stream(database: Database, ann: Person) -> None:
    ann.commit(post("a", "a"), post("b", "b"))
    (report,) = write(database, *compared(database, Repository.of(ann)).changes())
    assert (report.events, report.frames, report.source) == (0, 0, "backfill")
    assert report.ops == {"app.bsky.feed.post": {"create": 2}}
    assert report.written["record"] == report.written["post"] == 2 and report.written["actor"] == 1
    index(database, ann.commit(post("c", "c")), source="wss://relay")
    with database.connect("reader") as connection:
        stream = applied_after(connection, 1, "wss://relay")
        both = applied_after(connection, 0, "wss://relay")
    assert [(it.events, it.bytes, it.apply_ms) for it in both] == [(it.events, it.bytes, it.apply_ms) for it in stream]
    assert both[0].ops == {"app.bsky.feed.post create": 3} and both[0].written["post"] == 3, (
        "the tables' plots have all"
    )


def test_exports_of_many_repositories_in_one_transaction(database: Database) -> None:
    people = [Person(Stream(), f"person {number}") for number in range(150)]
    for person in people:
        person.commit(post("a", "a"), post("b", "b"))
    parts = [change for person in people for change in compared(database, Repository.of(person)).changes(1)]
    assert len(write(database, *parts)) == 1
    assert rows(database.url, "SELECT sync_state, count(*) FROM pipeline.repo GROUP BY 1") == [("synchronized", 150)]
    assert one(database.url, "SELECT count(*) FROM bsky.post") == 300


def test_updates_and_deletions_of_an_export(database: Database, ann: Person) -> None:
    index(database, ann.commit(post("a", "a"), post("b", "b"), post("c", "c")))
    ann.commit(update("app.bsky.feed.post/a", {"text": "edited", "createdAt": "2025-06-15T15:06:40.000Z"}))
    ann.commit(delete("app.bsky.feed.post/b"))
    resync(database, ann)
    index(database, ann.commit(post("d", "d")))
    assert rows(database.url, "SELECT text FROM bsky.post ORDER BY uri") == [("edited",), ("c",), ("d",)]
    assert rows(database.url, "SELECT rev FROM bsky.record ORDER BY uri") == [(rev(3),), (rev(1),), (rev(4),)]
    assert one(database.url, 'SELECT "postsCount" FROM bsky.profile_agg') == 3


def test_the_status_shows_what_is_not_complete(database: Database, ann: Person) -> None:
    index(
        database, ann.commit(post("a", "a")), *(Person(Stream(), f"person {n}").commit(post("a", "a")) for n in "abc")
    )
    ann.commit(post("b", "b"))
    index(database, ann.commit(post("c", "c")))
    rows(database.url, "ANALYZE pipeline.repo")
    rows(database.url, "UPDATE pipeline.gap SET detected_at = now() - interval '3 hours'")
    with database.connect("reader") as connection:
        status = read_status(connection, database.url)
    assert status.repository_states["desynchronized"] == 1 and status.queue.waiting == {2: 1}
    lines = "\n".join(status.lines())
    assert "desynchronized 1" in lines and "To be fetched incomplete 1" in lines
    assert "Gaps          chain 1 (of 1 repositories); the oldest is open for 3 h" in lines
    assert orjson.dumps(status.as_json())


def test_a_part_that_postgresql_refuses_is_halved_and_its_end_still_comes(database: Database, ann: Person) -> None:
    ann.commit(*(post(f"a{number}", "fine" if number != 13 else "bad") for number in range(40)))
    refuse(database, "NEW.text = 'bad'")
    (whole,) = compared(database, Repository.of(ann)).changes()
    write(database, whole)
    assert rows(database.url, "SELECT kind, path FROM pipeline.dead_letter") == [("postgres", "app.bsky.feed.post/a13")]
    assert one(database.url, "SELECT count(*) FROM bsky.post") == 39
    assert state(database, ann) == "synchronized" and open_gaps(database, ann) == [] and queue(database, ann) is None
    ends = rows(database.url, "SELECT sum((ops #>> '{app.bsky.feed.post,create}')::int) FROM pipeline.batch")
    assert ends == [(40,)], "each record counts once"


def test_commits_and_exports_of_a_repository_may_be_given_together(database: Database, ann: Person) -> None:
    first = changes_of(ann.commit(post("a", "a")))
    export = compared(database, Repository.of(ann)).changes()
    reports = write(database, *first, *export, *changes_of(ann.commit(post("b", "b"))))
    assert len(reports) == 3 and record_keys(database) == {"a", "b"}


def test_a_late_edit_that_an_export_has_overtaken(database: Database, ann: Person) -> None:
    """The export's guessed rev of the record is older than the edit; its state is not."""
    path = f"app.bsky.feed.post/{rev(0)}"
    frames = [
        ann.commit(post(rev(0), "first")),
        *(ann.commit(update(path, {"text": text, "createdAt": WHEN})) for text in ("second", "third")),
    ]
    resync(database, ann)
    assert rows(database.url, "SELECT rev FROM bsky.record") == [(rev(0),)]
    index(database, frames[2])
    assert rows(database.url, "SELECT rev FROM bsky.record") == [(rev(0),)], "what it says is there"
    index(database, frames[1])
    assert rows(database.url, "SELECT rev, json::json ->> 'text' FROM bsky.record") == [(rev(3), "third")]
    index(database, frames[0], ann.commit(delete(path)))
    assert record_keys(database) == set()
    assert [text for (text,) in rows(database.url, "SELECT rev FROM pipeline.version ORDER BY rev")] == [
        *(rev(1), rev(2), rev(3), rev(4)),
    ]


def test_a_late_creation_of_what_an_export_lacks(database: Database, ann: Person) -> None:
    frames = [ann.commit(post("a", "a")), ann.commit(delete("app.bsky.feed.post/a"), post("b", "b"))]
    resync(database, ann)
    index(database, frames[0])
    assert record_keys(database) == {"b"}
    assert rows(database.url, "SELECT rev FROM pipeline.tombstone") == [(rev(2),)], "it was deleted by then"
