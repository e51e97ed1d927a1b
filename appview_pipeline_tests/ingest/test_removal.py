"""The removal of an account: everything by it goes, whatever interrupts it, and what others have stays right."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from appview_pipeline.ingest import removal as removal_module
from appview_pipeline.ingest.recount import recount
from appview_pipeline.ingest.removal import RemovalSummary, remove_accounts
from appview_pipeline.ingest.rerun import DERIVED_COLLECTIONS, rerun_collections
from appview_pipeline.settings import Settings
from appview_pipeline.store.accounts import PdsStatus, save_statuses
from appview_pipeline.store.counters import TABLES
from appview_pipeline.store.database import Database
from appview_pipeline.store.removal import REMOVAL_REV
from appview_pipeline_tests.simulated_network.repository import Write
from appview_pipeline_tests.support.batches import index
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, create, delete, did_of, post
from appview_pipeline_tests.support.statement_hooks import blocked, paused
from appview_pipeline_tests.support.tables import Fresh, assert_equal, dump, one, rows
from appview_pipeline_tests.support.waiting import wait_for

CID = "bafyreie5cvv4h45feadgeuwhbcutmh6t2ceseocckahdoe6uat64zmz454"


def like(rkey: str, uri: str) -> Write:
    return create(f"app.bsky.feed.like/{rkey}", {"subject": {"uri": uri, "cid": CID}, "createdAt": WHEN})


def reply(rkey: str, root: str, parent: str) -> Write:
    return post(rkey, "hi", reply={"root": {"uri": root, "cid": CID}, "parent": {"uri": parent, "cid": CID}})


def request(database: Database, did: str, reason: str = "deleted") -> None:
    rows(database.url, "INSERT INTO pipeline.removal (did, reason) VALUES (%s, %s)", did, reason)


def remove(database: Database, chunk: int | None = None, **more: object) -> RemovalSummary:
    return remove_accounts(Settings(database_url=database.url), database, chunk=chunk, **more)  # type: ignore[arg-type]


def assert_counters_are_right(database: Database) -> None:
    for table in TABLES:
        assert recount(database, table, rewrite=False).differing == 0


class Town:
    """Ann, who is removed, and Bob, whom she liked, followed and answered, and who did the same to her."""

    def __init__(self) -> None:
        self.stream = Stream()
        self.ann, self.bob = Person(self.stream, "ann"), Person(self.stream, "bob")
        self.bobs_post = self.bob.uri("app.bsky.feed.post/b")
        self.anns_post = self.ann.uri("app.bsky.feed.post/a")

    def frames(self, posts: int = 20) -> list[bytes]:
        ann, bob = self.ann, self.bob
        return [
            bob.commit(post("b", "hello")),
            ann.commit(post("a", "hello"), like("l", self.bobs_post), like("again", self.bobs_post)),
            ann.commit(create("app.bsky.graph.follow/f", {"subject": bob.did, "createdAt": WHEN})),
            bob.commit(create("app.bsky.graph.follow/f", {"subject": ann.did, "createdAt": WHEN})),
            bob.commit(like("l", self.anns_post), reply("r", self.anns_post, self.anns_post)),
            ann.commit(reply("r", self.bobs_post, self.bobs_post)),
            ann.commit(create("app.bsky.graph.verification/v", {
                "subject": bob.did, "handle": "bob.example", "displayName": "Bob", "createdAt": WHEN})),
            *(ann.commit(post(f"p{number:03}", "more")) for number in range(posts)),
            ann.commit(delete("app.bsky.feed.post/p000")),
        ]  # fmt: skip


@pytest.fixture
def town() -> Town:
    return Town()


def test_python_and_sql_agree_about_the_rev_of_removals(database: Database) -> None:
    assert one(database.url, "SELECT pipeline.removal_rev()") == REMOVAL_REV
    assert one(database.url, "SELECT pipeline.tid_of('2026-01-01') < pipeline.removal_rev()")


def test_everything_by_the_account_goes_and_what_others_have_stays(database: Database, town: Town) -> None:
    index(database, *town.frames())
    url, ann, bob = database.url, town.ann.did, town.bob.did
    rows(url, "INSERT INTO bsky.mute VALUES (%s, %s, %s)", ann, bob, WHEN)
    rows(
        url, "INSERT INTO bsky.label (src, uri, cid, val, neg, cts) VALUES (%s, %s, '', 'x', false, %s)", ann, bob, WHEN
    )
    rows(
        url, "INSERT INTO bsky.label (src, uri, cid, val, neg, cts) VALUES (%s, %s, '', 'x', false, %s)", bob, ann, WHEN
    )
    index(database, town.ann.commit_blocks(("create", "app.bsky.feed.post/broken", b"\xff")))
    assert one(url, "SELECT count(*) FROM pipeline.dead_letter") == 1
    request(database, ann)
    summary = remove(database)
    assert (summary.accounts, summary.records, summary.failed) == (1, 25, None)
    assert rows(url, "SELECT records, finished_at IS NOT NULL FROM pipeline.removal") == [(25, True)]
    counters = rows(url, 'SELECT "likeCount", "replyCount" FROM bsky.post_agg WHERE uri = %s', town.bobs_post)
    assert counters == [(0, 0)]
    assert rows(url, "SELECT did FROM bsky.actor") == [(bob,)]
    assert rows(url, "SELECT did FROM bsky.actor_sync") == [(bob,)]
    assert rows(url, "SELECT author FROM bsky.notification") == []
    assert rows(url, "SELECT uri FROM bsky.record ORDER BY uri") == sorted(
        (town.bob.uri(path),)
        for path in ("app.bsky.feed.post/b", "app.bsky.graph.follow/f", "app.bsky.feed.like/l", "app.bsky.feed.post/r")
    )
    assert rows(
        url, 'SELECT "invalidReplyRoot" FROM bsky.post WHERE uri = %s', town.bob.uri("app.bsky.feed.post/r")
    ) == [(None,)]
    # What stays: the post that Bob answered, as a past state without its text; his like of it with its counter.
    assert rows(url, "SELECT uri, deleted, record FROM pipeline.version") == [(town.anns_post, False, None)]
    assert one(url, 'SELECT "likeCount" FROM bsky.post_agg WHERE uri = %s', town.anns_post) == 1
    assert one(url, 'SELECT "followersCount" FROM bsky.profile_agg WHERE did = %s', ann) == 1
    assert rows(url, "SELECT src FROM bsky.label") == [(bob,)]
    assert one(url, "SELECT count(*) FROM bsky.mute") == 1, "private tables of the AppView are not ours"
    for table in ("tombstone", "dead_letter", "gap", "pending", "backfill_queue"):
        assert one(url, f"SELECT count(*) FROM pipeline.{table}") == 0, table
    assert rows(url, "SELECT did FROM pipeline.identity") == [(bob,)]
    assert rows(url, "SELECT rev, excluded FROM pipeline.repo WHERE did = %s", ann) == [(None, True)]
    assert_counters_are_right(database)


def gated(key: str, *rules: dict[str, str]) -> Write:
    post_uri = {"post": f"at://{did_of('ann')}/app.bsky.feed.post/{key}"}
    return create(f"app.bsky.feed.threadgate/{key}", {**post_uri, "allow": list(rules), "createdAt": WHEN})


def quote(rkey: str, uri: str) -> Write:
    embed = {"$type": "app.bsky.embed.record", "record": {"uri": uri, "cid": CID}}
    return post(rkey, "look", embed=embed)


def test_what_others_wrote_is_evaluated_as_before(database: Database, town: Town) -> None:
    """Gates, follows, list items and mentions of the account decided on replies and quotes of others. A rerun of these
    after its removal finds nothing wrong, and what others quoted and reposted is still theirs."""
    ann, bob, cid = town.ann, town.bob, Person(town.stream, "cid")
    rule = "app.bsky.feed.threadgate#"
    mention = {"$type": "app.bsky.richtext.facet#mention", "did": bob.did}
    facets = [{"index": {"byteStart": 0, "byteEnd": 2}, "features": [mention]}]
    the_list = ann.uri("app.bsky.graph.list/l")
    keys = ("closed", "following", "listed", "mentioned", "chain", "quoted")
    uris = {key: ann.uri(f"app.bsky.feed.post/{key}") for key in keys}
    below = ann.uri("app.bsky.feed.post/below")
    no_quotes = {"post": uris["quoted"], "embeddingRules": [{"$type": "app.bsky.feed.postgate#disableRule"}]}
    index(
        database,
        ann.commit(
            create(
                "app.bsky.graph.list/l", {"purpose": "app.bsky.graph.defs#curatelist", "name": "l", "createdAt": WHEN}
            ),
            create("app.bsky.graph.listitem/i", {"list": the_list, "subject": bob.did, "createdAt": WHEN}),
            create("app.bsky.graph.follow/f", {"subject": bob.did, "createdAt": WHEN}),
            *(post(key, "hi", **({"facets": facets} if key == "mentioned" else {})) for key in keys),
            gated("closed"),
            gated("following", {"$type": f"{rule}followingRule"}),
            gated("listed", {"$type": f"{rule}listRule", "list": the_list}),
            gated("mentioned", {"$type": f"{rule}mentionRule"}),
            create("app.bsky.feed.postgate/quoted", {**no_quotes, "createdAt": WHEN}),
        ),
        ann.commit(reply("below", uris["chain"], uris["chain"])),
    )
    for person in (bob, cid):
        index(
            database,
            person.commit(*(reply(f"r{key}", uri, uri) for key, uri in uris.items())),
            person.commit(
                reply("deep", uris["chain"], below), quote("quote", uris["quoted"]), quote("q2", uris["chain"])
            ),
            person.commit(
                create("app.bsky.feed.repost/p", {"subject": {"uri": uris["chain"], "cid": CID}, "createdAt": WHEN})
            ),
        )
    flags = """
        SELECT uri, "invalidReplyRoot", "violatesThreadGate", "violatesEmbeddingRules"
        FROM bsky.post WHERE creator <> %s ORDER BY uri"""
    before = rows(database.url, flags, ann.did)
    refused = {uri.split("/", 2)[2] for uri, _, violates, _ in before if violates}
    assert refused == {bob.uri("app.bsky.feed.post/rclosed")[5:]} | {
        cid.uri(f"app.bsky.feed.post/r{key}")[5:] for key in ("closed", "following", "listed", "mentioned")
    }
    assert sum(bool(violates) for *_, violates in before) == 2
    theirs = [
        "SELECT uri, subject FROM bsky.quote ORDER BY uri",
        "SELECT uri, \"postUri\" FROM bsky.feed_item WHERE type = 'repost' ORDER BY uri",
    ]
    stood = [rows(database.url, statement) for statement in theirs]
    assert [len(found) for found in stood] == [4, 2]
    request(database, ann.did)
    assert remove(database, chunk=3).failed is None
    assert rows(database.url, flags, ann.did) == before
    assert [rows(database.url, statement) for statement in theirs] == stood
    assert_counters_are_right(database)
    assert rerun_collections(database, DERIVED_COLLECTIONS).changed == {}
    assert rows(database.url, flags, ann.did) == before
    assert rows(database.url, "SELECT * FROM pipeline.pending") == []


def test_a_removed_account_brings_nothing_new_until_it_returns(database: Database, town: Town) -> None:
    index(database, *town.frames())
    request(database, town.ann.did)
    remove(database)
    index(database, town.ann.commit(post("late", "x")))
    assert one(database.url, "SELECT count(*) FROM bsky.record WHERE did = %s", town.ann.did) == 0
    index(database, town.stream.account(town.ann.did, active=True))
    index(database, town.ann.commit(post("new", "x")))
    assert rows(database.url, "SELECT * FROM pipeline.removal") == []
    assert rows(database.url, "SELECT did, reason, finished_at FROM pipeline.backfill_queue") == [
        (town.ann.did, "returned", None)
    ]
    assert rows(database.url, "SELECT uri FROM bsky.post WHERE creator = %s", town.ann.did) == [
        (town.ann.uri("app.bsky.feed.post/new"),)
    ]
    assert rows(database.url, 'SELECT "upstreamStatus" FROM bsky.actor WHERE did = %s', town.ann.did) == [(None,)]


def test_an_account_that_returns_meanwhile_loses_nothing_more(database: Database, town: Town) -> None:
    index(database, *town.frames())
    request(database, town.ann.did)
    left: list[int] = []

    def return_after_the_first_batch(so_far: RemovalSummary) -> None:
        if not left:
            index(database, town.stream.account(town.ann.did, active=True))
            left.append(one(database.url, "SELECT count(*) FROM bsky.record WHERE did = %s", town.ann.did))

    summary = remove(database, chunk=3, progress=return_after_the_first_batch)
    assert (summary.accounts, summary.taken_back) == (0, 1)
    assert 0 < summary.records <= 3, "one batch: of duplicates, where there are any"
    assert one(database.url, "SELECT count(*) FROM bsky.record WHERE did = %s", town.ann.did) == left[0] > 0
    assert rows(database.url, "SELECT reason FROM pipeline.backfill_queue") == [("returned",)]
    assert_counters_are_right(database)


def test_a_batch_that_meets_the_return_removes_nothing(
    database: Database, town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The account returns after the job has chosen what to delete, and before it deletes it."""
    index(database, *town.frames())
    request(database, town.ann.did)
    deletions = removal_module.deletions

    def returning(did: str, uris: list[str]) -> object:
        index(database, town.stream.account(town.ann.did, active=True))
        return deletions(did, uris)

    before = one(database.url, "SELECT count(*) FROM bsky.record")
    monkeypatch.setattr(removal_module, "deletions", returning)
    assert remove(database).taken_back == 1
    assert one(database.url, "SELECT count(*) FROM bsky.record") == before
    assert one(database.url, "SELECT count(*) FROM pipeline.version WHERE rev = %s", REMOVAL_REV) == 0


def test_what_comes_with_the_return_is_not_taken_for_left_over(
    database: Database, town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The account returns when its records are gone, and before what no record covers."""
    index(database, *town.frames())
    request(database, town.ann.did)
    states = removal_module._Run._remove_states

    def return_after_them(run: removal_module._Run) -> None:
        states(run)
        index(database, town.stream.account(town.ann.did, active=True))
        index(database, town.ann.commit(post("new", "x")), town.ann.commit(delete("app.bsky.feed.post/new")))
        index(database, town.ann.commit_blocks(("create", "app.bsky.feed.post/broken", b"\xff")))

    monkeypatch.setattr(removal_module._Run, "_remove_states", return_after_them)
    assert remove(database).taken_back == 1
    assert one(database.url, "SELECT count(*) FROM pipeline.gap WHERE kind = 'repository'") == 1
    assert one(database.url, "SELECT count(*) FROM pipeline.tombstone") == 2
    assert one(database.url, "SELECT count(*) FROM pipeline.dead_letter") == 1


@pytest.mark.parametrize("change", ["allow", "forbid"])
def test_an_opt_out_that_changes_while_a_batch_removes_waits_for_it(
    database: Database, town: Town, change: str
) -> None:
    """The two lock the repository and the removal in the same order: neither fails."""
    index(database, *town.frames())
    rows(database.url, "SELECT pipeline.forbid_data_collection(%s, true)", town.ann.did)
    if change == "forbid":
        rows(database.url, "UPDATE pipeline.removal SET reason = 'deleted'")
    statement = {"allow": "pipeline.allow_data_collection(%s)", "forbid": "pipeline.forbid_data_collection(%s, true)"}
    with paused(database, "remove.count") as (hooked, reached, go_on), ThreadPoolExecutor(2) as pool:
        removing = pool.submit(remove, hooked, 3)
        assert reached.wait(60)
        changing = pool.submit(rows, database.url, f"SELECT {statement[change]}", town.ann.did)
        wait_for(lambda: blocked(database) == 1)
        go_on.set()
        assert changing.result() == [(True,)]
        summary = removing.result()
    assert (summary.failed, summary.accounts, summary.taken_back) == (
        (None, 0, 1) if change == "allow" else (None, 1, 0)
    )
    assert_counters_are_right(database)


@pytest.mark.parametrize("order", ["opted out first", "deleted first", "purged first"])
def test_an_account_that_was_deleted_stays_removed_when_its_opt_out_ends(
    database: Database, town: Town, order: str
) -> None:
    """A purge must not take the place of the removal for good."""
    index(database, *town.frames())
    url, did = database.url, town.ann.did

    def deleted() -> None:
        index(database, town.stream.account(did, active=False, status="deleted"))
        with database.connect("writer") as connection:
            save_statuses(connection, [PdsStatus(did, "gone", is_final=True)])

    if order == "deleted first":
        deleted()
    rows(url, "SELECT pipeline.forbid_data_collection(%s, true)", did)
    if order == "purged first":
        assert remove(database).accounts == 1
    if order != "deleted first":
        deleted()
    assert rows(url, "SELECT reason FROM pipeline.removal") == [("opt-out",)]
    rows(url, "SELECT pipeline.allow_data_collection(%s)", did)
    assert rows(url, "SELECT reason, finished_at FROM pipeline.removal") == [("deleted", None)]
    assert rows(url, "SELECT excluded FROM pipeline.repo WHERE did = %s", did) == [(True,)]
    assert rows(url, "SELECT did FROM pipeline.backfill_queue") == []
    assert remove(database).accounts == 1
    index(database, town.stream.account(did, active=True))
    assert rows(url, "SELECT reason FROM pipeline.backfill_queue") == [("returned",)]
    assert_counters_are_right(database)


def test_an_account_with_marks_of_the_operator_keeps_its_row(database: Database, town: Town) -> None:
    index(database, *town.frames())
    rows(
        database.url,
        "UPDATE bsky.actor SET handle = 'ann.example', \"takedownRef\" = 'REF' WHERE did = %s",
        town.ann.did,
    )
    request(database, town.ann.did)
    remove(database)
    kept = 'SELECT handle, "takedownRef" FROM bsky.actor WHERE did = %s'
    assert rows(database.url, kept, town.ann.did) == [(None, "REF")]
    index(database, town.stream.account(town.ann.did, active=True), town.ann.commit(post("new", "x")))
    assert rows(database.url, kept, town.ann.did) == [(None, "REF")]


def test_what_an_opt_out_purges_stays_forbidden(database: Database, town: Town) -> None:
    index(database, *town.frames())
    rows(database.url, "SELECT pipeline.forbid_data_collection(%s, true)", town.ann.did)
    assert rows(database.url, "SELECT reason FROM pipeline.removal") == [("opt-out",)]
    assert remove(database).records == 25
    assert one(
        database.url, "SELECT data_collection_forbidden FROM pipeline.actor_setting WHERE did = %s", town.ann.did
    )
    index(database, town.ann.commit(post("late", "x")))
    assert one(database.url, "SELECT count(*) FROM bsky.record WHERE did = %s", town.ann.did) == 0
    assert rows(database.url, "SELECT did FROM bsky.actor") == [(town.bob.did,)]
    assert_counters_are_right(database)


def test_no_duplicate_is_promoted_on_the_way(database: Database, town: Town) -> None:
    """A thousand likes of one post would each take the place of the one before."""
    index(database, town.bob.commit(post("b", "hello")))
    index(database, town.ann.commit(*(like(f"l{number}", town.bobs_post) for number in range(6))))
    counting = town.ann.uri("app.bsky.feed.like/l0")
    request(database, town.ann.did)
    left: list[list[object]] = []

    def look(_: RemovalSummary) -> None:
        left.append([uri for (uri,) in rows(database.url, 'SELECT uri FROM bsky."like"')])

    remove(database, chunk=2, progress=look)
    assert left[:4] == [[counting], [counting], [counting], []]


def test_removals_that_fail_do_not_keep_others(database: Database, town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    index(database, *town.frames())
    request(database, town.ann.did)
    request(database, town.bob.did)
    rows(
        database.url,
        f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN IF OLD.did = '{town.ann.did}' THEN RAISE EXCEPTION 'not this one'; END IF; RETURN OLD; END$$;
        CREATE TRIGGER refuse BEFORE DELETE ON bsky.actor FOR EACH ROW EXECUTE FUNCTION refuse()""",
    )
    summary = remove(database)
    assert summary.accounts == 1
    assert summary.failed is not None and "not this one" in summary.failed[town.ann.did]
    assert "not this one" in one(database.url, "SELECT error FROM pipeline.removal WHERE did = %s", town.ann.did)
    rows(database.url, "DROP TRIGGER refuse ON bsky.actor")
    assert remove(database).accounts == 1
    assert rows(database.url, "SELECT error FROM pipeline.removal WHERE finished_at IS NULL OR error IS NOT NULL") == []
    assert remove(database).accounts == 0


# ---- interrupted, and beside others


_JOB = """
import sys
from appview_pipeline.ingest.removal import remove_accounts
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
settings = Settings(database_url=sys.argv[1])

def progress(so_far):
    print(so_far.records, flush=True)

remove_accounts(settings, Database(sys.argv[1], settings), chunk=2, progress=progress)
"""


@contextmanager
def job(url: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", _JOB, url], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_job_that_is_killed_is_taken_up_again(fresh: Fresh) -> None:
    """Killed again and again, at any moment: in the end everything is as if it had not been."""
    with fresh() as wanted, fresh() as database:
        town = Town()
        frames = town.frames(40)
        for it in (wanted, database):
            index(it, *frames)
            request(it, town.ann.did)
        remove(wanted)
        kills = 0
        for number in range(3):
            with job(database.url) as process:
                assert process.stdout is not None
                for _ in range(2 + number):
                    assert process.stdout.readline()
                time.sleep(0.01 * number)
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
            left = one(database.url, "SELECT count(*) FROM bsky.record WHERE did = %s", town.ann.did)
            removed = one(database.url, "SELECT records FROM pipeline.removal")
            assert left > 0 and left + removed == 45
        while remove(database).accounts == 0:  # the lock of the killed job lives until its server process notices
            time.sleep(0.1)
        assert kills == 3
        got, want = dump(database.url), dump(wanted.url)
        for tables in (got, want):
            del tables["pipeline.removal"], tables["pipeline.identity"]
        assert_equal(got, want)
        assert_counters_are_right(database)


def test_a_live_writer_goes_on_beside_it(database: Database) -> None:
    """Others like, follow and answer the account while it is removed; in the end all counters are right."""
    town = Town()
    index(database, *town.frames(300))
    request(database, town.ann.did)
    others = [Person(town.stream, f"other{number}") for number in range(4)]
    done = threading.Event()
    written = 0

    def live() -> None:
        nonlocal written
        number = 0
        while not done.is_set() or number < 5:
            number += 1
            frames = [
                other.commit(
                    like(f"l{number}", town.ann.uri(f"app.bsky.feed.post/p{number % 300:03}")),
                    reply(f"r{number}", town.bobs_post, town.bobs_post),
                )
                for other in others
            ]
            frames.append(town.ann.commit(like(f"x{number}", town.bobs_post)))
            index(database, *frames)
            written += len(frames)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        summary = remove(database, chunk=20)
    finally:
        done.set()
        thread.join()
    assert summary.records == 305 and written > 0
    assert rows(database.url, "SELECT uri FROM bsky.record WHERE did = %s", town.ann.did) == []
    assert one(database.url, 'SELECT "replyCount" FROM bsky.post_agg WHERE uri = %s', town.bobs_post) > 0
    assert_counters_are_right(database)
