"""Quiet records: what exports bring of old records notifies nobody, whatever happens to them later."""

from __future__ import annotations

from typing import Any

import pytest

from appview_pipeline.indexing.changes import Change, ExportState
from appview_pipeline.ingest.dead_letters import retry_dead_letters
from appview_pipeline.ingest.offenders import Objection, _letter
from appview_pipeline.ingest.rerun import DERIVED_COLLECTIONS, rerun_collections
from appview_pipeline.protocol.cid import cid_for_cbor, to_text
from appview_pipeline.protocol.syntax import tid_from_micros
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline_tests.simulated_network.content import iso
from appview_pipeline_tests.support.batches import feed
from appview_pipeline_tests.support.changes import change_of, encode
from appview_pipeline_tests.support.commits import (
    FOLLOW,
    LIKE,
    POST,
    PROFILE,
    REPOST,
    STARTERPACK,
    VERIFICATION,
    Commit,
    Op,
)
from appview_pipeline_tests.support.frames import START
from appview_pipeline_tests.support.records import strong_ref
from appview_pipeline_tests.support.tables import rows

POST_A = f"at://did:plc:alice/{POST}/a"


class Index:
    """Commits, each a batch of its own unless they are fed together. The n-th is of the n-th second."""

    def __init__(self, database: Database) -> None:
        self.database, self.moment = database, 0

    def change(
        self,
        who: str,
        path: str,
        record: dict[str, Any] | None = None,
        action: str = "create",
        *,
        at: int | None = None,
        quiet: bool = False,
        alone: bool = False,
    ) -> Change:
        """A commit of one record (None: its deletion). `quiet`: as an export brings it; `alone`: not as a commit, so
        that nothing is known of its repository's rev."""
        self.moment += 1
        moment = START + (self.moment if at is None else at) * 1_000_000
        collection, rkey = path.split("/")
        op = Op("delete", collection, rkey)
        if record is not None:
            record = {"$type": collection, "createdAt": iso(moment), **record}
            op = Op(action, collection, rkey, to_text(cid_for_cbor(encode(record))), record)
        change = change_of(Commit(f"did:plc:{who}", tid_from_micros(moment), iso(moment), (op,)), self.moment)
        assert not change.dead_letters
        change.writes = [it._replace(is_quiet=quiet) for it in change.writes]
        change.deletes = [it._replace(is_quiet=quiet) for it in change.deletes]
        if alone:
            change.repo = None
        return change

    def write(self, *arguments: Any, **options: Any) -> None:
        self.together(self.change(*arguments, **options))

    def together(self, *changes: Change) -> None:
        feed(self.database, [changes])

    def notified(self) -> set[tuple[str, str, str]]:
        """Recipient, account and record key, reason; a rerun finds that they are right."""
        found = self.stored()
        assert rerun_collections(self.database, DERIVED_COLLECTIONS).changed == {}
        assert self.stored() == found
        return {(did, uri, reason) for _, did, uri, reason in found}

    def stored(self) -> list[tuple[int, str, str, str]]:
        found = rows(self.database.url, 'SELECT id, did, "recordUri", reason FROM bsky.notification ORDER BY id')
        return [
            (number, did.removeprefix("did:plc:"), "/".join(uri.removeprefix("at://did:plc:").split("/")[::2]), reason)
            for number, did, uri, reason in found
        ]


@pytest.fixture
def index(database: Database) -> Index:
    return Index(database)


def post(
    text: str = "x", *, reply: str | None = None, quote: str | None = None, to: str | None = None
) -> dict[str, Any]:
    """A post: a reply to a root, a quote, with a mention."""
    record: dict[str, Any] = {"text": text}
    if reply is not None:
        record["reply"] = {"root": strong_ref(reply), "parent": strong_ref(reply)}
    if quote is not None:
        record["embed"] = {"$type": "app.bsky.embed.record", "record": strong_ref(quote)}
    if to is not None:
        mention = {"$type": "app.bsky.richtext.facet#mention", "did": f"did:plc:{to}"}
        record["facets"] = [{"index": {"byteStart": 0, "byteEnd": 1}, "features": [mention]}]
    return record


def on(uri: str = POST_A, via: str | None = None) -> dict[str, Any]:
    return {"subject": strong_ref(uri), **({"via": strong_ref(via)} if via else {})}


VERIFIES = {"subject": "did:plc:alice", "handle": "alice.test", "displayName": "Alice"}

EVERY_REASON: tuple[tuple[str, str, dict[str, Any], str], ...] = (
    ("bob", f"{LIKE}/a", on(via=f"at://did:plc:carol/{REPOST}/a"), "like"),
    ("bob", f"{REPOST}/a", on(via=f"at://did:plc:carol/{REPOST}/a"), "repost"),
    ("bob", f"{FOLLOW}/a", {"subject": "did:plc:alice"}, "follow"),
    ("bob", f"{POST}/a", post(to="alice"), "mention"),
    ("bob", f"{POST}/b", post(quote=POST_A), "quote"),
    ("bob", f"{POST}/c", post(reply=POST_A), "reply"),
    ("bob", f"{VERIFICATION}/a", VERIFIES, "verified"),
    (
        "bob",
        f"{PROFILE}/self",
        {"joinedViaStarterPack": strong_ref(f"at://did:plc:alice/{STARTERPACK}/a")},
        "starterpack-joined",
    ),
)


@pytest.mark.parametrize("quiet", [True, False], ids=["quiet", "live"])
def test_no_reason_notifies(index: Index, quiet: bool) -> None:
    index.write("alice", f"{POST}/a", post())
    rows(
        index.database.url,
        'INSERT INTO bsky.activity_subscription (creator, "subjectDid", key, "indexedAt", post, reply) '
        "VALUES ('did:plc:dan', 'did:plc:bob', '1', '', true, true)",
    )
    index.write("dan", f"{FOLLOW}/a", {"subject": "did:plc:bob"}, quiet=True)
    for who, path, record, _ in EVERY_REASON:
        index.write(who, path, record, quiet=quiet)
    reasons = {reason for _, _, reason in index.notified()}
    assert reasons == (
        set()
        if quiet
        else {*(reason for *_, reason in EVERY_REASON), "like-via-repost", "repost-via-repost", "subscribed-post"}
    )
    assert {
        quiet for (quiet,) in rows(index.database.url, "SELECT quiet FROM bsky.record WHERE did = 'did:plc:bob'")
    } == {True if quiet else None}


def test_all_of_them_in_one_batch(index: Index) -> None:
    index.together(
        index.change("alice", f"{POST}/a", post()),
        *(index.change(who, path, record, quiet=True) for who, path, record, _ in EVERY_REASON),
    )
    assert index.notified() == set()


def test_a_reply_is_evaluated_again_when_its_parent_arrives(index: Index) -> None:
    index.write("bob", f"{POST}/quiet", post(reply=POST_A, to="carol"), at=5, quiet=True)
    index.write("bob", f"{POST}/live", post(reply=POST_A, to="carol"), at=6)
    index.write("alice", f"{POST}/a", post(), at=1)
    assert index.notified() == {("carol", "bob/live", "mention"), ("alice", "bob/live", "reply")}


def test_a_promoted_duplicate_takes_the_notification_over(index: Index) -> None:
    index.write("alice", f"{POST}/a", post())
    index.write("bob", f"{LIKE}/a", on())
    index.write("bob", f"{LIKE}/b", on(), quiet=True)
    before = index.stored()
    index.write("bob", f"{LIKE}/a")
    assert index.notified() == {("alice", "bob/b", "like")}
    assert [number for number, *_ in index.stored()] == [number for number, *_ in before]


@pytest.mark.parametrize("path, record", [(LIKE, on()), (REPOST, on()), (FOLLOW, {"subject": "did:plc:alice"})])
def test_a_live_duplicate_of_a_quiet_record_does_not_notify(index: Index, path: str, record: dict[str, Any]) -> None:
    index.write("alice", f"{POST}/a", post())
    index.write("bob", f"{path}/a", record, quiet=True)
    index.write("bob", f"{path}/b", record)
    assert index.notified() == set()
    index.write("bob", f"{path}/a")
    assert index.notified() == set(), "it would have been notified of the first one"
    index.write("bob", f"{path}/b")
    index.write("bob", f"{path}/c", record)
    assert len(index.notified()) == 1, "a new one after all were deleted"


def test_a_late_older_one_takes_the_notification_along(index: Index) -> None:
    index.write("alice", f"{POST}/a", post(), at=1)
    index.write("bob", f"{LIKE}/b", on(), at=10)
    before = index.stored()
    index.write("bob", f"{LIKE}/a", on(), at=5, quiet=True)
    assert index.notified() == {("alice", "bob/a", "like")}
    assert [number for number, *_ in index.stored()] == [number for number, *_ in before]


def test_a_notification_does_not_move_to_a_quiet_record_that_is_no_duplicate(index: Index) -> None:
    index.write("alice", f"{POST}/a", post())
    index.write("bob", f"{LIKE}/a", on())
    index.write("bob", f"{LIKE}/a", {**on(), "createdAt": "2020-01-01T00:00:00.000Z"}, "update")  # it has a history
    index.together(index.change("bob", f"{LIKE}/a"), index.change("bob", f"{LIKE}/b", on(), quiet=True))
    assert index.notified() == set()


def test_a_record_that_competes_for_a_freed_key(index: Index) -> None:
    """It is newer than the deletion, so it is no duplicate, and would notify."""
    index.write("alice", f"{POST}/a", post(), at=1)
    index.write("bob", f"{LIKE}/a", on(), at=2)
    index.write("bob", f"{LIKE}/b", on(), at=20, quiet=True, alone=True)
    index.write("bob", f"{LIKE}/a", at=9)
    assert index.notified() == set()


def test_a_like_of_a_thread_that_was_thought_to_be_muted(index: Index) -> None:
    """The recipient muted the post; it turns out to be no root, so the mute does not hold."""
    rows(index.database.url, "INSERT INTO bsky.thread_mute VALUES (%s, 'did:plc:alice', '')", POST_A)
    index.write("bob", f"{LIKE}/quiet", on(), at=5, quiet=True)
    index.write("carol", f"{LIKE}/live", on(), at=6)
    index.write("alice", f"{POST}/a", post(reply=f"at://did:plc:alice/{POST}/root"), at=2)
    assert {(uri, reason) for _, uri, reason in index.notified()} == {("carol/live", "like")}


@pytest.mark.parametrize("live", [True, False])
def test_the_deletion_of_a_quiet_verification_notifies_where_it_is_live(index: Index, live: bool) -> None:
    index.write("bob", f"{VERIFICATION}/a", VERIFIES, quiet=True)
    index.write("bob", f"{VERIFICATION}/a", quiet=not live)
    assert index.notified() == ({("alice", "bob/a", "unverified")} if live else set())


def test_a_deletion_that_an_export_shows_does_not_notify(index: Index) -> None:
    index.write("bob", f"{VERIFICATION}/a", VERIFIES)
    change = index.change("bob", f"{VERIFICATION}/a", alone=True)
    (gone,) = change.deletes
    change.export = ExportState(gone.did, gone.rev, "commit", "tree", is_last=False, is_whole=False)
    index.together(change)
    assert index.notified() == {("alice", "bob/a", "verified")}


def test_a_quiet_record_that_arrives_after_its_deletion(index: Index) -> None:
    index.write("bob", f"{VERIFICATION}/a", at=5)
    index.write("bob", f"{VERIFICATION}/a", VERIFIES, at=3, quiet=True)
    assert index.notified() == {("alice", "bob/a", "unverified")}
    index.write("bob", f"{VERIFICATION}/b", at=8)
    index.write("bob", f"{VERIFICATION}/b", VERIFIES, at=6)
    assert ("alice", "bob/b", "verified") in index.notified()


def test_a_quiet_edit_keeps_what_still_follows_and_adds_nothing(index: Index) -> None:
    index.write("alice", f"{POST}/a", post())
    index.write("bob", f"{POST}/b", post(reply=POST_A, to="carol"))
    before = index.stored()
    index.write("bob", f"{POST}/b", post("edited", reply=POST_A, to="dan"), "update", quiet=True)
    assert index.notified() == {("alice", "bob/b", "reply")}
    assert index.stored()[0] in before
    index.write("bob", f"{POST}/b", post("again", reply=POST_A, to="dan"), "update")
    assert index.notified() == {("alice", "bob/b", "reply"), ("dan", "bob/b", "mention")}


def test_a_live_edit_of_a_quiet_record_notifies_as_any_edit(index: Index) -> None:
    """An edited post notifies again; an edited like never does."""
    index.write("alice", f"{POST}/a", post())
    index.write("bob", f"{POST}/b", post(reply=POST_A), quiet=True)
    index.write("bob", f"{LIKE}/a", on(), quiet=True)
    index.write("bob", f"{LIKE}/a", {**on(), "createdAt": "2020-01-01T00:00:00.000Z"}, "update")
    assert index.notified() == set()
    index.write("bob", f"{POST}/b", post("edited", reply=POST_A), "update")
    assert index.notified() == {("alice", "bob/b", "reply")}
    assert rows(index.database.url, "SELECT uri FROM bsky.record WHERE quiet") == []


def test_a_quiet_edit_of_a_like_keeps_its_notification(index: Index) -> None:
    index.write("alice", f"{POST}/a", post())
    index.write("bob", f"{LIKE}/a", on())
    index.write("bob", f"{LIKE}/a", {**on(), "createdAt": "2020-01-01T00:00:00.000Z"}, "update", quiet=True)
    assert index.notified() == {("alice", "bob/a", "like")}
    ((stored, now),) = rows(
        index.database.url,
        'SELECT n."recordCid", r.cid FROM bsky.notification n JOIN bsky.record r ON uri = "recordUri"',
    )
    assert stored == now


@pytest.mark.parametrize("quiet", [True, False], ids=["quiet", "live"])
def test_a_retry_of_its_dead_letter(index: Index, quiet: bool) -> None:
    index.write("alice", f"{POST}/a", post())
    change = index.change("bob", f"{LIKE}/a", on(), quiet=quiet)
    (write,) = change.writes
    change.writes, change.dead_letters = [], [_letter(write, Objection("postgres", "it was in a bad mood"))]
    index.together(change)
    assert index.notified() == set()
    assert retry_dead_letters(Settings(database_url=index.database.url), index.database).resolved == 1
    assert index.notified() == (set() if quiet else {("alice", "bob/a", "like")})
