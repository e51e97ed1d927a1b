"""`explain`: it says of every record what the write path did with it, by the same statements, and writes nothing."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from appview_pipeline import backoff, cli
from appview_pipeline.errors import OperatorError
from appview_pipeline.indexing.registry import COLLECTIONS
from appview_pipeline.operations.explain import explain
from appview_pipeline.operations.explain_words import as_json, lines, sections
from appview_pipeline.operations.explanation import RecordExplanation
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.batches import index
from appview_pipeline_tests.support.explain import ExplainingCursor
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, create, delete, did_of, post
from appview_pipeline_tests.support.records import one_of_each, strong_ref
from appview_pipeline_tests.support.rerun import Rerun
from appview_pipeline_tests.support.tables import one

POST, LIKE, GATE = "app.bsky.feed.post", "app.bsky.feed.like", "app.bsky.feed.threadgate"


@pytest.fixture
def people(stream: Stream) -> dict[str, Person]:
    return {name: Person(stream, name) for name in ("ann", "bob", "cid", "dan", "eve", "fay")}


def of(database: Database, subject: str, **settings: Any) -> dict[str, list[str]]:
    """The sentences about a record or an account, by section."""
    return sections(explain(Settings(database_url=database.url, **settings), database, subject))


def says(sentences: list[str], *parts: str) -> bool:
    """Whether one sentence has all of these words."""
    return any(all(part in sentence for part in parts) for sentence in sentences)


def execute(database: Database, statement: str, *parameters: Any) -> None:
    with database.connect("writer") as connection, connection.cursor() as cursor:
        cursor.execute(statement, parameters or None)


def reply_to(root: str, parent: str) -> dict[str, Any]:
    return {"reply": {"root": strong_ref(root), "parent": strong_ref(parent)}}


def like_of(uri: str, rkey: str = "a") -> Any:
    return create(f"{LIKE}/{rkey}", {"subject": strong_ref(uri), "createdAt": WHEN})


# ---- every record


def test_every_record_of_a_busy_network_is_explained_and_nothing_contradicts_the_index(busy: Rerun) -> None:
    """What `explain` derives is what is stored: it runs the write path's statements."""
    before = busy.digest()
    settings = Settings(database_url=busy.database.url)
    uris = busy.rows("SELECT uri FROM bsky.record ORDER BY md5(uri)")
    chosen = {collection: [uri for uri in uris if f"/{collection}/" in uri][:5] for collection in COLLECTIONS}
    chosen["deleted"] = busy.rows("SELECT uri FROM pipeline.tombstone ORDER BY md5(uri) LIMIT 5")
    assert sum(map(bool, chosen.values())) > 18
    for uri in (uri for found in chosen.values() for uri in found):
        found = explain(settings, busy.database, uri)
        assert isinstance(found, RecordExplanation) and found.untried is None
        orjson.dumps(as_json(found))
        assert not [line for line in lines(found) if "should be" in line or "differ" in line], uri
        wanted = {(it.did, it.reason) for it in found.trial.wanted} if found.trial else set()
        if found.trial is not None and f"/{POST}/" in uri:
            assert wanted == {(it.did, it.reason) for it in found.rows.notified}, uri
    assert busy.digest() == before


def test_a_record_of_each_collection_has_its_rows(database: Database, people: dict[str, Person]) -> None:
    ann = people["ann"]
    writes = one_of_each(ann)
    index(database, ann.commit(*writes))
    for write in writes:
        collection = write.path.split("/")[0]
        found = explain(Settings(database_url=database.url), database, ann.uri(write.path))
        assert isinstance(found, RecordExplanation) and found.rows.record is not None
        assert (COLLECTIONS[collection].table in found.rows.derived) == bool(COLLECTIONS[collection].stages), collection
    assert "post_embed_image" in of(database, ann.uri(f"{POST}/a"))["Derived rows"][-1]


def test_what_strangers_write_stays_on_its_line(database: Database, people: dict[str, Person]) -> None:
    ann = people["ann"]
    index(database, ann.commit(post("a", "hello\n\nRecord\n  It is taken down here.\x1b[2J\x9b2J\u202eolleh")))
    found = explain(Settings(database_url=database.url), database, ann.uri(f"{POST}/a"))
    shown = list(lines(found))
    assert all(line.isprintable() for line in shown) and shown.count("Record") == 1
    assert any("text=hello  Record   It is taken down here. [2J" in line for line in shown)


def test_every_statement_uses_an_index(busy: Rerun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ExplainingCursor, "found", set())
    monkeypatch.setattr(ExplainingCursor, "names", set())
    database, settings = busy.database, Settings(database_url=busy.database.url)
    uris = busy.rows(
        "SELECT DISTINCT ON (split_part(uri, '/', 4)) uri FROM bsky.record ORDER BY split_part(uri, '/', 4)"
    )
    uris += busy.rows('SELECT uri FROM bsky.post WHERE "violatesThreadGate" LIMIT 1')
    connect = database.connect

    def explaining(role: str) -> Any:
        return _Explained(connect(role))

    monkeypatch.setattr(database, "connect", explaining)
    for uri in [*uris, uris[0].split("/")[2]]:
        explain(settings, database, uri)
    assert {name for name in ExplainingCursor.names if name.startswith("explain.")} >= {
        "explain.record",
        "explain.rules",
    }
    few = {"muted_notification", "thread_mute"}
    found = {it for it in ExplainingCursor.found if it[1] not in few}
    # Of an account with a third of all records the planner reads the others, too.
    assert found - {("explain.record_counts", "record")} == set()


class _Explained:
    """A connection whose cursors explain their statements, planned as for large tables."""

    def __init__(self, opened: Any) -> None:
        self._opened = opened

    def __enter__(self) -> Any:
        connection = self._opened.__enter__()
        connection.cursor_factory = ExplainingCursor
        with connection.cursor() as cursor:
            cursor.execute("SET enable_seqscan = off")
        self._connection = connection
        return connection

    def __exit__(self, *error: Any) -> Any:
        self._connection.cursor_factory = None
        return self._opened.__exit__(*error)


# ---- replies and quotes: which rule decided


@pytest.fixture
def thread(database: Database, people: dict[str, Person]) -> dict[str, str]:
    """A thread of ann's that admits accounts that the root mentions (bob) or that are on her list (cid), and replies of
    bob, cid and dan to it. Dan is neither."""
    ann, bob, cid, dan = (people[name] for name in ("ann", "bob", "cid", "dan"))
    mention = {"$type": "app.bsky.richtext.facet#mention", "did": bob.did}
    facets = [{"index": {"byteStart": 0, "byteEnd": 1}, "features": [mention]}]
    root, members = ann.uri(f"{POST}/root"), ann.uri("app.bsky.graph.list/l")
    rules = [{"$type": f"{GATE}#mentionRule"}, {"$type": f"{GATE}#listRule", "list": members}]
    index(
        database,
        ann.commit(
            post("root", "x", facets=facets),
            create(
                "app.bsky.graph.list/l", {"name": "x", "purpose": "app.bsky.graph.defs#curatelist", "createdAt": WHEN}
            ),
            create("app.bsky.graph.listitem/c", {"list": members, "subject": cid.did, "createdAt": WHEN}),
        ),
        ann.commit(create(f"{GATE}/root", {"post": root, "allow": rules, "createdAt": WHEN})),
        *(it.commit(post("r", "x", **reply_to(root, root))) for it in (bob, cid, dan)),
    )
    return {"root": root, **{it: people[it].uri(f"{POST}/r") for it in ("bob", "cid", "dan")}}


def test_which_rule_of_a_thread_gate_decided(
    database: Database, people: dict[str, Person], thread: dict[str, str]
) -> None:
    ann, dan = people["ann"], people["dan"]
    assert of(database, thread["bob"])["Evaluation"][-1] == "It admits the reply, because the root mentions its author."
    listed = of(database, thread["cid"])["Evaluation"][-1]
    assert listed == (
        f"It admits the reply, because its author is one of the members of {ann.uri('app.bsky.graph.list/l')}."
    )
    refused = of(database, thread["dan"])
    assert refused["Evaluation"][-1] == "The author of the reply is none of them, so the reply violates the gate."
    assert says(refused["Notifications"], ann.did, "the thread gate turns the reply away")
    assert says(refused["Counters"], "does not count in replyCount", thread["root"])
    assert says(of(database, thread["bob"])["Counters"], f"It counts in replyCount of {thread['root']}, which is 2.")
    # Later events change nothing: dan is put on the list, and the gate goes.
    item = {"list": ann.uri("app.bsky.graph.list/l"), "subject": dan.did, "createdAt": WHEN}
    index(database, ann.commit(create("app.bsky.graph.listitem/d", item)), ann.commit(delete(f"{GATE}/root")))
    later = of(database, thread["dan"])["Evaluation"]
    assert says(later, "a past state") and later[-1] == refused["Evaluation"][-1]


def test_replies_that_are_not_valid(database: Database, people: dict[str, Person], thread: dict[str, str]) -> None:
    ann, eve = people["ann"], people["eve"]
    missing, other = ann.uri(f"{POST}/missing"), ann.uri(f"{POST}/other")
    index(
        database,
        ann.commit(post("other", "x")),
        eve.commit(post("a", "x", **reply_to(thread["root"], missing))),
        eve.commit(post("b", "x", **reply_to(thread["root"], other))),
        eve.commit(post("c", "x", **reply_to(thread["root"], eve.uri(f"{POST}/b")))),
        ann.commit(post("own", "x", **reply_to(thread["root"], thread["root"]))),
    )
    orphan = of(database, eve.uri(f"{POST}/a"))
    assert says(orphan["Evaluation"], "not valid", "parent did not exist", "not indexed")
    assert says(orphan["Missing records"], f"It waits for {missing} (reply)")
    assert says(of(database, missing)["Missing records"], f"{eve.uri(f'{POST}/a')} waits for it (reply)")
    assert says(of(database, eve.uri(f"{POST}/b"))["Evaluation"], "not valid", "another thread")
    assert says(of(database, eve.uri(f"{POST}/c"))["Evaluation"], "not valid", "parent itself")
    assert says(of(database, ann.uri(f"{POST}/own"))["Evaluation"], "does not apply to it")


def test_quotes_and_post_gates(database: Database, people: dict[str, Person]) -> None:
    ann, bob = people["ann"], people["bob"]
    subject = ann.uri(f"{POST}/a")
    quote = {"embed": {"$type": "app.bsky.embed.record", "record": strong_ref(subject)}}
    rules = [{"$type": "app.bsky.feed.postgate#disableRule"}]
    index(
        database,
        ann.commit(post("a", "x")),
        bob.commit(post("before", "x", **quote)),
        ann.commit(create("app.bsky.feed.postgate/a", {"post": subject, "embeddingRules": rules, "createdAt": WHEN})),
        bob.commit(post("after", "x", **quote)),
        ann.commit(post("own", "x", **quote)),
    )
    before, after = of(database, bob.uri(f"{POST}/before")), of(database, bob.uri(f"{POST}/after"))
    assert says(before["Evaluation"], "No post gate applies to it")
    assert says(before["Notifications"], f"{ann.did} was notified: quote")
    assert says(after["Evaluation"], ann.uri("app.bsky.feed.postgate/a"), "forbids quotes")
    assert says(after["Notifications"], f"{ann.did} was not notified: a post gate forbids the quote.")
    assert says(after["Counters"], f"quoteCount of {subject}, which is 3")  # it counts, as in the reference
    assert says(of(database, ann.uri(f"{POST}/own"))["Evaluation"], "a post of their own")


# ---- who was notified, and who was not


def test_duplicates_mutes_blocks_and_own_posts(database: Database, people: dict[str, Person]) -> None:
    ann, bob, cid = people["ann"], people["bob"], people["cid"]
    subject = ann.uri(f"{POST}/a")
    index(
        database,
        ann.commit(post("a", "x"), like_of(subject, "own")),
        bob.commit(like_of(subject, "first")),
        bob.commit(like_of(subject, "second")),
        cid.commit(create("app.bsky.graph.block/a", {"subject": ann.did, "createdAt": WHEN})),
    )
    execute(database, "INSERT INTO bsky.thread_mute VALUES (%s, %s, 'now')", subject, ann.did)
    index(database, cid.commit(like_of(subject)))
    first, second = of(database, bob.uri(f"{LIKE}/first")), of(database, bob.uri(f"{LIKE}/second"))
    assert says(first["Notifications"], f"{ann.did} was notified: like, about {subject}.")
    assert says(first["Counters"], f"It counts in likeCount of {subject}, which is 3.")
    assert first["Duplicates"][-1] == bob.uri(f"{LIKE}/second")
    assert says(second["Duplicates"], f"{bob.uri(f'{LIKE}/first')} says the same")
    assert says(second["Notifications"], ann.did, "not notified", f"that of {bob.uri(f'{LIKE}/first')}")
    assert second["Counters"] == ["It counts nowhere, because it is a duplicate."]
    muted = of(database, cid.uri(f"{LIKE}/a"))
    assert says(muted["Notifications"], f"{ann.did} was not notified (like), because they had muted the thread.")
    assert says(muted["Blocks"], f"{cid.did} blocks {ann.did}.")
    assert says(of(database, ann.uri(f"{LIKE}/own"))["Notifications"], ann.did, "their own records")
    # The first is deleted: the second takes its place, and its notification.
    index(database, bob.commit(delete(f"{LIKE}/first")))
    assert says(of(database, bob.uri(f"{LIKE}/second"))["Notifications"], f"{ann.did} was notified: like")
    gone = of(database, bob.uri(f"{LIKE}/first"))
    assert says(gone["Record"], "It was deleted: its author deleted it, at rev")


def test_quiet_records_and_removed_accounts(database: Database, people: dict[str, Person]) -> None:
    ann, bob, cid = people["ann"], people["bob"], people["cid"]
    subject = ann.uri(f"{POST}/a")
    index(database, ann.commit(post("a", "x")), bob.commit(like_of(subject)), cid.commit(like_of(subject)))
    execute(database, "UPDATE bsky.record SET quiet = true WHERE uri = %s", bob.uri(f"{LIKE}/a"))
    execute(database, "DELETE FROM bsky.notification")
    quiet = of(database, bob.uri(f"{LIKE}/a"))
    assert says(quiet["Record"], "It is quiet") and says(quiet["Notifications"], ann.did, "the record is quiet")
    assert says(of(database, cid.uri(f"{LIKE}/a"))["Notifications"], ann.did, "but should be")
    execute(database, "INSERT INTO pipeline.removal (did, reason) VALUES (%s, 'opt-out')", ann.did)
    assert says(of(database, cid.uri(f"{LIKE}/a"))["Notifications"], ann.did, "the account was removed")


def test_wrong_rows_and_counters_are_named(database: Database, people: dict[str, Person]) -> None:
    ann, bob = people["ann"], people["bob"]
    subject = ann.uri(f"{POST}/a")
    index(database, ann.commit(post("a", "x")), bob.commit(like_of(subject)))
    execute(database, 'UPDATE bsky.post_agg SET "likeCount" = 7 WHERE uri = %s', subject)
    execute(database, 'UPDATE bsky."like" SET "subjectCid" = \'x\'')
    index(database, bob.commit(post("r", "x", **reply_to(subject, subject))))
    execute(database, 'UPDATE bsky.post SET "violatesThreadGate" = true WHERE uri = %s', bob.uri(f"{POST}/r"))
    assert says(of(database, bob.uri(f"{POST}/r"))["Evaluation"], "flags of its row differ")
    found = of(database, bob.uri(f"{LIKE}/a"))
    assert says(found["Counters"], f"A recount of {subject} differs")
    assert says(found["Derived rows"], "These differ from what the record says: like.")


# ---- what is not in the index


def test_why_a_record_is_not_indexed(database: Database, people: dict[str, Person]) -> None:
    ann, bob = people["ann"], people["bob"]
    index(
        database,
        ann.commit(post("a", "x")),
        ann.commit(create(f"{LIKE}/bad", {"subject": "nothing"})),
        ann.commit(create("com.example.thing/a", {"x": 1})),
    )
    assert of(database, ann.uri("com.example.thing/a"))["Record"][1].startswith(
        "Records of com.example.thing are not indexed, only counted. So far 1 operations came."
    )
    refused = of(database, ann.uri(f"{LIKE}/bad"))
    assert says(refused["Record"], "It was refused") and says(refused["Dead letters"], "(lexicon, number")
    assert says(of(database, ann.uri(f"{POST}/none"))["Record"], "complete up to rev", "no such record")
    assert says(of(database, bob.uri(f"{POST}/a"))["Record"], "Nothing of its repository has been received.")
    old = of(database, ann.uri(f"{POST}/3lrnqvjvcbysh"), retention_days=30)["Record"]
    assert says(old, "older than APPVIEW_RETENTION_DAYS") and not says(old, "never seen")
    assert not says(of(database, ann.uri(f"{POST}/3lrnqvjvcbysh"))["Record"], "APPVIEW_RETENTION_DAYS")
    execute(database, "UPDATE pipeline.repo SET is_partial = true")
    assert says(of(database, ann.uri(f"{POST}/none"))["Record"], "only the newest records were fetched")
    execute(
        database,
        "UPDATE pipeline.repo SET sync_state = 'desynchronized', sync_reason = 'a gap'; "
        "INSERT INTO pipeline.gap (kind, did, from_text, to_text) "
        "VALUES ('record', %s, 'app.bsky.feed.post/none', 'x'); "
        "INSERT INTO pipeline.unchecked_commit (did, rev, block) VALUES (%s, '3l', ''); "
        "INSERT INTO pipeline.backfill_queue (did, reason, priority, error, attempts) "
        "VALUES (%s, 'record', 2, 'no', 2)",
        ann.did,
        ann.did,
        ann.did,
    )
    open_gap = of(database, ann.uri(f"{POST}/none"))
    assert says(open_gap["Record"], "applied without it") and says(open_gap["Record"], "not known to be complete")
    assert says(open_gap["Repository"], "waits to be fetched") and says(open_gap["Repository"], "a gap")
    assert says(open_gap["Repository"], "Open gap: record (from app.bsky.feed.post/none, to x)")
    assert says(open_gap["Repository"], "up to rev 3l are not checked yet")
    assert says(open_gap["Repository"], "(record), since", "2 attempts failed: no.")


def test_accounts_that_opted_out_or_were_deleted(database: Database, people: dict[str, Person]) -> None:
    ann = people["ann"]
    execute(database, "SELECT pipeline.forbid_data_collection(%s, false)", ann.did)
    index(database, ann.commit(post("a", "x")))
    forbidden = of(database, ann.uri(f"{POST}/a"))
    assert says(forbidden["Record"], "It is not indexed.")
    assert says(forbidden["Record"], "forbids the collection of its data, so nothing of it is stored")
    assert not says(forbidden["Record"], "never seen")
    assert says(of(database, ann.did)["Repository"], "nothing new of it is stored")
    execute(database, "UPDATE pipeline.actor_setting SET data_collection_forbidden = false")
    execute(database, "INSERT INTO pipeline.removal (did, reason) VALUES (%s, 'deleted')", ann.did)
    assert says(of(database, ann.uri(f"{POST}/a"))["Record"], "Its account was deleted")
    assert says(of(database, ann.did)["Repository"], "Everything of it is removed, because the account was deleted")


def test_labels_in_effect_and_not(database: Database, people: dict[str, Person]) -> None:
    ann = people["ann"]
    uri = ann.uri(f"{POST}/a")
    values = {"$type": "com.atproto.label.defs#selfLabels", "values": [{"val": "sexual"}]}
    index(database, ann.commit(post("a", "x", labels=values)))
    for val, neg, exp in (("spam", False, None), ("rude", True, None), ("old", False, "2020-01-01T00:00:00.000Z")):
        execute(
            database,
            "INSERT INTO bsky.label (src, uri, cid, val, neg, cts, exp) VALUES (%s, %s, '', %s, %s, %s, %s)",
            *(did_of("labeler"), uri, val, neg, WHEN, exp),
        )
    found = of(database, uri)["Labels"]
    assert says(found, "In effect: spam, by", "on the record") and says(found, "In effect: sexual", "gives itself")
    assert says(found, "Not in effect: rude", "taken back") and says(found, "Not in effect: old", "ended at 2020")
    assert len(found) == 4


# ---- what may be given


def test_handles_pages_and_accounts(database: Database, people: dict[str, Person]) -> None:
    ann = people["ann"]
    index(database, ann.commit(post("a", "x")))
    execute(database, "UPDATE pipeline.identity SET claimed_handle = 'ann.test', handle = 'ann.test'")
    uri = ann.uri(f"{POST}/a")
    same = (uri, f"at://ann.test/{POST}/a", "https://bsky.app/profile/ann.test/post/a", f"{uri}/",
            f"https://bsky.app/profile/{ann.did}/post/a?ref=x")  # fmt: skip
    settings = Settings(database_url=database.url)
    assert {explain(settings, database, it).subject.uri for it in same} == {uri}
    for account in (ann.did, "ann.test", "@ann.test", f"at://{ann.did}", "https://bsky.app/profile/ann.test"):
        assert explain(settings, database, account).subject == (ann.did, None, None), account
    text = list(lines(explain(settings, database, "ann.test")))
    assert text[0] == ann.did and "  app.bsky.feed.post: 1" in text and "  1 record is indexed." in text


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("at://did:plc:x y/z", "not an AT URI"),
        ("at://nobody.test/app.bsky.feed.post/a", "no account is known to have the handle nobody.test"),
        (f"at://{did_of('ann')}/app.bsky.feed.post", "add its record key"),
        ("https://example.com/profile/a.test/post/b", "no page of bsky.app"),
        ("https://bsky.app/search", "no page of bsky.app"),
        ("", "neither a DID nor a handle"),
    ],
)
def test_a_mistake_is_answered_in_a_sentence(database: Database, given: str, words: str) -> None:
    with pytest.raises(OperatorError, match=words):
        explain(Settings(database_url=database.url), database, given)


def test_the_command(
    database: Database, people: dict[str, Person], monkeypatch: pytest.MonkeyPatch, restored_logging: None
) -> None:
    ann, bob = people["ann"], people["bob"]
    index(database, ann.commit(post("a", "x")), bob.commit(like_of(ann.uri(f"{POST}/a"))))
    monkeypatch.setenv("APPVIEW_DATABASE_URL", database.url.replace("+psycopg2", ""))
    found = CliRunner().invoke(cli.cli, ["explain", bob.uri(f"{LIKE}/a")])
    assert found.exit_code == 0, found.output
    assert f"  {ann.did} was notified: like, about {ann.uri(f'{POST}/a')}." in found.output.splitlines()
    answer = json.loads(CliRunner().invoke(cli.cli, ["explain", bob.uri(f"{LIKE}/a"), "--json"]).output)
    assert answer["uri"] == bob.uri(f"{LIKE}/a") and answer["rows"]["derived"]["like"][0]["creator"] == bob.did
    assert answer["trial"]["counted_in"][0]["counter"] == "likeCount"
    assert answer["sentences"]["Notifications"] == [f"{ann.did} was notified: like, about {ann.uri(f'{POST}/a')}."]


def test_rows_that_others_hold_are_said_to_be_busy(
    database: Database, people: dict[str, Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong flag is set right inside of the trial, which therefore meets the lock of another writer."""
    monkeypatch.setattr(backoff, "TRIAL_LOCK_SECONDS", 0.05)
    ann, bob = people["ann"], people["bob"]
    uri = bob.uri(f"{POST}/q")
    quote = {"embed": {"$type": "app.bsky.embed.record", "record": strong_ref(ann.uri(f"{POST}/a"))}}
    index(database, ann.commit(post("a", "x")), bob.commit(post("q", "x", **quote)))
    execute(database, 'UPDATE bsky.post SET "violatesEmbeddingRules" = true WHERE uri = %s', uri)
    with database.connect("writer") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT FROM bsky.post WHERE uri = %s FOR UPDATE", (uri,))
        found = of(database, uri)
    assert says(found["Derived rows"], "can't be derived now", "Try again in a moment")
    assert says(of(database, uri)["Evaluation"], "No post gate applies to it")
    assert one(database.url, 'SELECT "violatesEmbeddingRules" FROM bsky.post WHERE uri = %s', uri) is True


def test_on_a_server_that_only_reads_the_stored_rows_are_told(database: Database, people: dict[str, Person]) -> None:
    """A trial needs temporary tables. What is stored needs nothing."""
    ann = people["ann"]
    index(database, ann.commit(post("a", "x")))
    database.roles["maintenance"] = database.roles["reader"]
    found = of(database, ann.uri(f"{POST}/a"))
    assert says(found["Derived rows"], "post: text=x")
    assert says(found["Derived rows"], "can't be derived now", "PostgreSQL refused that", "read-only")
    assert found["Notifications"] == ["Whom it does not notify, and why, can't be derived now."]
