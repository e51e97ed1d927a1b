"""Signatures that are decided about once the account's key has come."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Any

import pytest

from appview_pipeline.indexing.changes import Change, ExportState
from appview_pipeline.ingest import signatures
from appview_pipeline.ingest.dead_letters import retry_dead_letters
from appview_pipeline.ingest.signatures import Settled, settle_signatures
from appview_pipeline.ingest.verification import is_signed, verifier_for
from appview_pipeline.protocol.cid import to_text
from appview_pipeline.protocol.signing import VerifyingKey
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline.store.gaps import sweep_gaps
from appview_pipeline_tests.simulated_network.accounts import Key, make_key
from appview_pipeline_tests.support.batches import changes_of, writer_for
from appview_pipeline_tests.support.frames import Person, Stream, post
from appview_pipeline_tests.support.keys import save_key
from appview_pipeline_tests.support.tables import one, rows


class Consumer:
    """Writes frames as the consumer does, with what it keeps in memory, and settles as the fetch process does."""

    def __init__(self, database: Database, **settings: Any) -> None:
        self.database = database
        self.settings = Settings(database_url=database.url, **settings)
        self.verifier = verifier_for(self.settings, database)
        self.writer = writer_for(database)

    def take(self, *frames: bytes) -> None:
        self.writer.write(changes_of(*frames, verifier=self.verifier), time.time())

    def settle(self, limit: int = 500) -> Settled:
        return settle_signatures(self.settings, self.database, self.writer, limit=limit)

    def texts(self) -> list[str]:
        return [text for (text,) in rows(self.database.url, "SELECT text FROM bsky.post ORDER BY 1")]

    def letters(self) -> list[tuple[Any, ...]]:
        return rows(
            self.database.url,
            "SELECT kind, form, resolved_at IS NOT NULL, retried_at IS NOT NULL FROM pipeline.dead_letter ORDER BY id",
        )

    def open_gaps(self) -> list[tuple[Any, ...]]:
        return rows(self.database.url, "SELECT kind, did, to_text FROM pipeline.gap WHERE resolved_at IS NULL")

    def state(self, person: Person) -> str:
        return str(one(self.database.url, "SELECT sync_state FROM pipeline.repo WHERE did = %s", person.did))

    def queued(self) -> list[tuple[Any, ...]]:
        return rows(self.database.url, "SELECT did, priority FROM pipeline.backfill_queue WHERE finished_at IS NULL")

    def waiting(self) -> list[tuple[Any, ...]]:
        return rows(self.database.url, "SELECT did, rev FROM pipeline.unchecked_commit ORDER BY did")

    def wait_is_over(self) -> None:
        rows(self.database.url, "UPDATE pipeline.unchecked_commit SET check_at = now()")


@pytest.fixture
def consumer(database: Database) -> Consumer:
    return Consumer(database)


def make(name: str, stream: Stream, key: Key | None = None) -> Person:
    person = Person(stream, name)
    person.repository.key = key or person.key
    return person


# --- keys that are not known ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("curve", ["k256", "p256"])
def test_an_unknown_key_that_turns_out_to_fit(consumer: Consumer, curve: str) -> None:
    stream = Stream()
    ann = make("ann", stream, make_key("ann", p256=curve == "p256"))
    frames = [ann.commit(post(f"p{number}", f"text {number}")) for number in range(3)]
    consumer.take(frames[0], frames[2])
    consumer.take(frames[1])
    assert consumer.waiting() == [(ann.did, ann.repository.rev)], "the newest, whatever comes last"
    assert one(consumer.database.url, "SELECT queue FROM pipeline.identity WHERE did = %s", ann.did) == "new"
    assert consumer.texts() == ["text 0", "text 1", "text 2"], "applied all the same"
    assert consumer.settle() == Settled()
    assert len(consumer.waiting()) == 1
    save_key(consumer.database, ann.did, ann.repository.key)
    assert consumer.settle() == Settled(), "looked at a moment ago"
    consumer.wait_is_over()
    assert consumer.settle() == Settled(checked=1, good=1)
    assert consumer.waiting() == [] and consumer.letters() == [] and consumer.state(ann) == "synchronized"
    consumer.take(ann.commit(post("later", "later")))
    assert consumer.waiting() == [] and consumer.settle() == Settled()


def test_an_unknown_key_that_does_not_fit(consumer: Consumer) -> None:
    """What was applied stays until the repository is fetched."""
    stream = Stream()
    ann, bob = make("ann", stream), make("bob", stream)
    consumer.take(ann.commit(post("a", "forged")), bob.commit(post("b", "fine")))
    forged = ann.repository.rev
    save_key(consumer.database, ann.did, make_key("the real one"))
    save_key(consumer.database, bob.did, bob.key)
    assert consumer.state(ann) == "synchronized"
    assert consumer.settle() == Settled(checked=2, good=1, bad=1)
    assert consumer.waiting() == []
    assert consumer.letters() == [("commit-signature", "other", False, False)]
    assert consumer.open_gaps() == [("commit", ann.did, forged)]
    assert (consumer.state(ann), consumer.state(bob)) == ("desynchronized", "synchronized")
    assert consumer.queued() == [(ann.did, 2)]
    assert consumer.settle() == Settled(), "it is not tried again: there is nothing to try"
    assert consumer.texts() == ["fine", "forged"]
    with consumer.database.connect("maintenance") as connection:
        assert sweep_gaps(connection, datetime.now(timezone.utc)) == (0, 0)
    assert consumer.state(ann) == "desynchronized", "that it was applied proves nothing"
    consumer.take(ann.commit(post("c", "follows it")))
    assert (forged, "desynchronized") == (consumer.open_gaps()[0][2], consumer.state(ann))


def test_a_sync_is_checked_as_well(consumer: Consumer) -> None:
    stream = Stream()
    ann = make("ann", stream)
    consumer.take(ann.commit(post("a", "x")), ann.sync())
    save_key(consumer.database, ann.did, make_key("the real one"))
    assert consumer.settle() == Settled(checked=1, bad=1)


def test_a_newer_commit_that_comes_meanwhile_stays(consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was decoded before the key was there, and is written while an older one is settled."""
    stream = Stream()
    ann = make("ann", stream)
    consumer.take(ann.commit(post("a", "a")))
    newer = changes_of(ann.commit(post("b", "b")), verifier=consumer.verifier)
    save_key(consumer.database, ann.did, ann.key)

    def meanwhile(key: VerifyingKey, block: bytes) -> bool:
        writer_for(consumer.database).write(newer, time.time())
        return is_signed(key, block)

    monkeypatch.setattr(signatures, "is_signed", meanwhile)
    assert consumer.settle() == Settled(checked=1, good=1)
    assert consumer.waiting() == [(ann.did, ann.repository.rev)]


@pytest.mark.parametrize("is_as_new", [True, False])
def test_an_export_that_is_as_new_decides(consumer: Consumer, is_as_new: bool) -> None:
    """It proves every record, whatever the commit said. An older one does not."""
    stream = Stream()
    ann = make("ann", stream)
    frames = [ann.commit(post("a", "a"))]
    export = exported(ann)
    frames.append(ann.commit(post("b", "b")))
    consumer.take(*frames)
    consumer.writer.write([Change(size=0, export=exported(ann) if is_as_new else export)], time.time())
    save_key(consumer.database, ann.did, make_key("another"))
    assert consumer.settle() == (Settled() if is_as_new else Settled(checked=1, bad=1))
    assert consumer.waiting() == [] and len(consumer.letters()) == (0 if is_as_new else 1)


def exported(person: Person) -> ExportState:
    repository = person.repository
    assert repository.rev is not None
    return ExportState(
        did=person.did,
        rev=repository.rev,
        commit=to_text(repository.commit_cid),
        data=to_text(repository.tree.cid),
        is_last=True,
        is_whole=True,
    )


def test_those_whose_key_does_not_come_hold_up_nobody(consumer: Consumer) -> None:
    stream = Stream()
    people = [make(f"person{number}", stream) for number in range(20)]
    consumer.take(*(it.commit(post("a", "x")) for it in people))
    for it in people[10:]:
        save_key(consumer.database, it.did, it.key)
    rows(
        consumer.database.url,
        "UPDATE pipeline.unchecked_commit SET check_at = now() - interval '1 hour' WHERE did = ANY (%s)",
        [it.did for it in people[:10]],
    )
    settled = [consumer.settle(limit=5) for _ in range(5)]
    assert [it.checked for it in settled] == [0, 0, 5, 5, 0]
    assert [it.has_more for it in settled] == [True, True, True, True, False], "the next are looked at without a pause"
    assert len(consumer.waiting()) == 10
    again = rows(
        consumer.database.url,
        "SELECT DISTINCT extract(epoch FROM check_at - now()) BETWEEN 3 AND 5 FROM pipeline.unchecked_commit",
    )
    assert again == [(True,)]
    rows(consumer.database.url, "UPDATE pipeline.unchecked_commit SET since = now() - interval '10 minutes'")
    consumer.wait_is_over()
    consumer.settle()
    waits = rows(
        consumer.database.url,
        "SELECT DISTINCT round(extract(epoch FROM check_at - now()) / 60)::int FROM pipeline.unchecked_commit",
    )
    assert waits == [(10,)]


# --- keys that do not fit ---------------------------------------------------------------------------------------------


def test_a_key_that_was_changed_between(consumer: Consumer) -> None:
    """A dead letter, a fresh resolution, and it is applied; its gap closes."""
    stream = Stream()
    ann = make("ann", stream)
    save_key(consumer.database, ann.did, ann.key)
    consumer.take(ann.commit(post("a", "with the old key")))
    ann.repository.key = make_key("new")
    changed = [ann.commit(post(f"b{number}", f"with the new key {number}")) for number in range(3)]
    consumer.take(*changed)
    assert consumer.texts() == ["with the old key"]
    assert consumer.letters() == [("commit-signature", "frame", False, False)] * 3
    assert len(consumer.open_gaps()) == 3 and consumer.state(ann) == "desynchronized"
    assert consumer.queued() == [(ann.did, 2)]
    asked = rows(consumer.database.url, "SELECT did, queue FROM pipeline.identity")
    assert asked == [(ann.did, "event")]
    assert consumer.settle() == Settled(), "no resolution has come since"
    save_key(consumer.database, ann.did, make_key("new"))
    assert consumer.settle() == Settled(checked=3, good=3, retried=3)
    assert consumer.letters() == [("commit-signature", "frame", True, True)] * 3
    assert consumer.open_gaps() == []
    assert consumer.texts() == sorted(["with the old key", *(f"with the new key {number}" for number in range(3))])
    consumer.take(ann.commit(post("c", "and on")))
    assert "and on" in consumer.texts() and consumer.settle() == Settled()


def test_a_fresh_key_that_does_not_fit_either(consumer: Consumer) -> None:
    """It stays a dead letter, for good; the repository is fetched."""
    stream = Stream()
    ann = make("ann", stream, make_key("wrong"))
    save_key(consumer.database, ann.did, ann.key)
    consumer.take(ann.commit(post("a", "forged")))
    save_key(consumer.database, ann.did, ann.key)
    assert consumer.settle() == Settled(checked=1, bad=1)
    assert consumer.letters() == [("commit-signature", "frame", False, True)]
    assert consumer.open_gaps() == [("commit", ann.did, None)] and consumer.queued() == [(ann.did, 2)]
    assert consumer.texts() == [] and consumer.state(ann) == "desynchronized"
    save_key(consumer.database, ann.did, ann.key)
    assert consumer.settle() == Settled(), "it was decided"


@pytest.mark.parametrize("is_fetched", [True, False])
def test_a_commit_that_nobody_signed_keeps_no_repository_incomplete(consumer: Consumer, is_fetched: bool) -> None:
    """Its rev is beyond all that the account has, which may write nothing for years."""
    stream = Stream()
    ann = make("ann", stream)
    save_key(consumer.database, ann.did, ann.key)
    consumer.take(ann.commit(post("a", "hers")))
    export = exported(ann)._replace(is_fetched=is_fetched)
    ann.repository.key = make_key("wrong")
    forged = ann.commit(post("b", "forged"))
    consumer.take(forged)
    save_key(consumer.database, ann.did, ann.key)
    assert consumer.settle() == Settled(checked=1, bad=1)
    consumer.writer.write([Change(size=0, export=export)], time.time())
    assert consumer.state(ann) == ("synchronized" if is_fetched else "desynchronized")
    assert consumer.queued() == ([] if is_fetched else [(ann.did, 2)])
    consumer.take(forged)
    assert consumer.state(ann) == ("synchronized" if is_fetched else "desynchronized"), "it was decided about"
    assert consumer.texts() == ["hers"]


def test_an_account_that_has_no_key_any_more(consumer: Consumer) -> None:
    """A commit that did not fit is not one whose key is not known."""
    stream = Stream()
    ann = make("ann", stream, make_key("wrong"))
    save_key(consumer.database, ann.did, ann.key)
    consumer.take(ann.commit(post("a", "forged")))
    save_key(consumer.database, ann.did, None)
    assert consumer.settle() == Settled(checked=1, bad=1)
    assert consumer.texts() == [] and consumer.settle() == Settled()


def test_a_resolution_that_is_overtaken_is_not_fresh(consumer: Consumer) -> None:
    """It began before the letter: the account is queued still."""
    stream = Stream()
    ann = make("ann", stream, make_key("new"))
    save_key(consumer.database, ann.did, ann.key)
    consumer.take(ann.commit(post("a", "x")))
    rows(consumer.database.url, "UPDATE pipeline.identity SET resolved_at = now()")
    assert consumer.settle() == Settled()
    save_key(consumer.database, ann.did, make_key("new"))
    assert consumer.settle() == Settled(checked=1, good=1, retried=1)


def test_a_letter_that_an_export_covers_is_closed(consumer: Consumer) -> None:
    stream = Stream()
    ann = make("ann", stream, make_key("wrong"))
    save_key(consumer.database, ann.did, ann.key)
    consumer.take(ann.commit(post("a", "x")))
    state = exported(ann)
    consumer.writer.write([Change(size=0, export=state)], time.time())
    assert one(consumer.database.url, "SELECT export_rev FROM pipeline.repo WHERE did = %s", ann.did) == state.rev
    assert consumer.settle() == Settled()
    assert consumer.letters() == [("commit-signature", "frame", True, False)]


def test_a_letter_of_which_only_a_part_was_kept_holds_up_nobody(database: Database) -> None:
    consumer = Consumer(database)
    consumer.writer = writer_for(database, dead_letter_bytes=100)
    stream = Stream()
    ann, bob = make("ann", stream, make_key("wrong")), make("bob", stream, make_key("new"))
    save_key(database, ann.did, ann.key)
    save_key(database, bob.did, bob.key)
    consumer.take(ann.commit(post("a", "x")))
    consumer.writer = writer_for(database)
    consumer.take(bob.commit(post("a", "bob's")))
    save_key(database, ann.did, ann.key)
    save_key(database, bob.did, make_key("new"))
    assert consumer.settle(limit=1) == Settled(checked=1, good=1, retried=1)
    assert consumer.settle(limit=1) == Settled() and consumer.texts() == ["bob's"]


def test_a_retry_verifies(consumer: Consumer) -> None:
    """Also one that somebody asks for."""
    stream = Stream()
    ann = make("ann", stream, make_key("wrong"))
    save_key(consumer.database, ann.did, ann.key)
    consumer.take(ann.commit(post("a", "forged")))
    found = retry_dead_letters(consumer.settings, consumer.database)
    assert (found.resolved, dict(found.failed)) == (0, {"commit-signature": 1})
    assert consumer.texts() == []
    found = retry_dead_letters(Settings(database_url=consumer.database.url, verify="proof"), consumer.database)
    assert found.resolved == 1 and consumer.texts() == ["forged"], "at another level it is as good as any"
