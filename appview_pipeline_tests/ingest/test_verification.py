"""What each level of verification refuses while frames are decoded, and what becomes of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest
from libipld import decode_dag_cbor, decode_dag_cbor_multi, encode_dag_cbor

from appview_pipeline.errors import OperatorError
from appview_pipeline.indexing.changes import Change, Gap, UncheckedCommit, gap_of
from appview_pipeline.ingest.verification import Verifier, verifier_for
from appview_pipeline.protocol import cid
from appview_pipeline.protocol.car import read_car, write_car
from appview_pipeline.settings import Settings
from appview_pipeline.store.applied import AppliedRevs
from appview_pipeline.store.database import Database
from appview_pipeline.store.errors import DatabaseError
from appview_pipeline_tests.simulated_network.accounts import Key, make_key, sign
from appview_pipeline_tests.simulated_network.repository import encode_commit
from appview_pipeline_tests.support.batches import changes_of, writer_for
from appview_pipeline_tests.support.frames import Person, Stream, altered, delete, post, update
from appview_pipeline_tests.support.keys import did_key, save_key
from appview_pipeline_tests.support.lexicons import from_json
from appview_pipeline_tests.support.tables import replayed_frames, rows

ORDER = {
    "k256": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
    "p256": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
}


class KnownKeys:
    """Keys by account, as the database has them; notes what is read."""

    def __init__(self, *people: Person) -> None:
        self.keys = {person.did: did_key(person.repository.key) for person in people}
        self.read: list[set[str]] = []

    def __call__(self, dids: Collection[str]) -> Mapping[str, str]:
        self.read.append(set(dids))
        return {did: self.keys[did] for did in dids if did in self.keys}


def person_with(stream: Stream, name: str, key: Key) -> Person:
    person = Person(stream, name)
    person.repository.key = key
    return person


def body_of(frame: bytes) -> dict[str, Any]:
    body: dict[str, Any] = decode_dag_cbor_multi(frame)[1]
    return body


def signed_anew(frame: bytes, make_sig: Callable[[bytes, bytes], bytes]) -> bytes:
    """The commit or #sync with the signature that `make_sig` makes of what is signed and of the present signature."""
    body = body_of(frame)
    (root,), blocks = read_car(body["blocks"])
    commit = decode_dag_cbor(blocks[root])
    unsigned = encode_commit(commit["did"], commit["rev"], commit["data"], None)
    signature = make_sig(unsigned, commit["sig"])
    block = encode_commit(commit["did"], commit["rev"], commit["data"], signature)
    link = cid.cid_for_cbor(block)
    others = {key: value for key, value in blocks.items() if key != root}
    return altered(
        frame, blocks=write_car(link, {**others, link: block}), **({"commit": link} if "commit" in body else {})
    )


def with_ops(frame: bytes, change: Callable[[list[Any]], object]) -> bytes:
    ops = body_of(frame)["ops"]
    change(ops)
    return altered(frame, ops=ops)


def letters(change: Change) -> list[tuple[str, str, bytes]]:
    return [(it.kind, it.form, it.bytes) for it in change.dead_letters]


# --- real commits -----------------------------------------------------------------------------------------------------

RELAY_SCENARIOS = {
    "post_lifecycle": ("unknown", []),
    # Commits of hours apart, before Sync 1.1.
    "post_lifecycle_legacy": ("desynchronized", ["chain"]),
    "account_lifecycle": ("unknown", []),
}


@pytest.mark.parametrize("name", RELAY_SCENARIOS)
def test_real_commits_of_relays_are_applied_and_those_of_another_key_are_not(
    database: Database, conformance: Path, name: str
) -> None:
    scenario = json.loads((conformance / "relay-scenarios" / f"{name}.json").read_text())
    (account,) = (it["identity"] for it in scenario["accounts"])
    frames = [
        encode_dag_cbor(frame["header"]) + encode_dag_cbor(frame["body"])
        for frame in (from_json(message["frame"]) for message in scenario["messages"])
    ]
    keys = KnownKeys()
    keys.keys = {account["did"]: f"did:key:{account['keys']['atproto']['publicKeyMultibase']}"}
    changes = changes_of(*frames, verifier=Verifier("full", keys))
    assert [letter for change in changes for letter in change.dead_letters] == []
    assert all(change.unchecked is None for change in changes)
    writer_for(database).write(changes, time.time())
    assert rows(database.url, "SELECT sync_state FROM pipeline.repo") == [(RELAY_SCENARIOS[name][0],)]
    assert [kind for (kind,) in rows(database.url, "SELECT DISTINCT kind FROM pipeline.gap")] == RELAY_SCENARIOS[name][
        1
    ]
    keys.keys[account["did"]] = did_key(make_key("another"))
    signed = sum(change.repo is not None for change in changes)
    refused = changes_of(*frames, verifier=Verifier("full", keys))
    assert [it.kind for change in refused for it in change.dead_letters] == ["commit-signature"] * signed


# --- proofs -----------------------------------------------------------------------------------------------------------

OTHER = cid.cid_for_cbor(b"another record")
TAMPERED: dict[str, Callable[[list[Any]], object]] = {
    "an operation left out": lambda ops: ops.pop(),
    "an operation made up": lambda ops: ops.append({**ops[0], "path": "app.bsky.feed.post/madeup"}),
    "a deletion made up": lambda ops: ops.append(
        {"action": "delete", "path": "app.bsky.feed.post/madeup", "cid": None, "prev": OTHER}
    ),
    "another record": lambda ops: ops[0].update(cid=OTHER),
    "an update that was a creation": lambda ops: ops[0].update(action="update", prev=OTHER),
    "a deletion of something else": lambda ops: ops[1].update(prev=OTHER),
    "a path of something else": lambda ops: ops[0].update(path="app.bsky.feed.post/elsewhere"),
    "no cid": lambda ops: ops[0].update(cid=None),
    "an operation that is none": lambda ops: ops.append("operation"),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_operations_that_are_not_what_changed_in_the_tree(how: str) -> None:
    stream = Stream()
    ann = Person(stream, "ann")
    first = ann.commit(post("a", "first"))
    right = ann.commit(post("b", "second"), delete("app.bsky.feed.post/a"))
    frame = with_ops(right, TAMPERED[how])
    keys = KnownKeys(ann)
    for level in ("proof", "full"):
        before, refused, fine = changes_of(first, frame, right, verifier=Verifier(level, keys))
        assert letters(refused) == [("commit-proof", "frame", frame)]
        assert (refused.repo, refused.writes, refused.deletes, refused.unchecked) == (None, [], [], None)
        assert gap_of(refused.dead_letters[0]) == Gap(
            "commit", ann.did, after=body_of(first)["rev"], until=body_of(right)["rev"]
        )
        assert not before.dead_letters and not fine.dead_letters and fine.repo is not None
    (applied,) = changes_of(frame, verifier=Verifier("structure", keys))
    assert applied.repo is not None and "commit-proof" not in [it.kind for it in applied.dead_letters]
    assert all(not read for read in keys.read) or keys.read == [{ann.did}]


def test_one_operation_that_is_wrong() -> None:
    """They are undone in a way of their own."""
    stream = Stream()
    ann = Person(stream, "ann")
    ann.commit(post("a", "first"))
    wrong = altered(ann.commit(update("app.bsky.feed.post/a", {"text": "x", "createdAt": ""})), prevData=OTHER)
    (change,) = changes_of(wrong, verifier=Verifier("proof", KnownKeys()))
    assert letters(change) == [("commit-proof", "frame", wrong)]


def test_a_commit_without_prev_data_is_applied() -> None:
    """From before Sync 1.1; its signature is checked all the same."""
    stream = Stream()
    ann = Person(stream, "ann")
    ann.commit(post("a", "older"))
    frame = altered(ann.commit(post("b", "old")), prevData=None)
    for level in ("proof", "full"):
        (change,) = changes_of(frame, verifier=Verifier(level, KnownKeys(ann)))
        assert change.repo is not None and len(change.writes) == 1 and change.unchecked is None
    (change,) = changes_of(
        signed_anew(frame, lambda unsigned, sig: bytes(64)), verifier=Verifier("full", KnownKeys(ann))
    )
    assert [it.kind for it in change.dead_letters] == ["commit-signature"]


@pytest.mark.parametrize("how", ["a made up record", "a deletion that is none"])
def test_without_prev_data_the_operations_are_looked_up_in_the_tree(how: str) -> None:
    stream = Stream()
    ann = Person(stream, "ann")
    ann.commit(post("a", "older"))
    frame = altered(ann.commit(post("b", "old"), post("c", "new")), prevData=None)
    operations = body_of(frame)["ops"]
    if how == "a made up record":
        operations[1]["cid"] = operations[0]["cid"]
    else:
        operations[1] = {"action": "delete", "path": operations[1]["path"], "cid": None}
    (right, wrong) = changes_of(frame, altered(frame, ops=operations), verifier=Verifier("proof", KnownKeys()))
    assert len(right.writes) == 2 and right.dead_letters == []
    assert [it.kind for it in wrong.dead_letters] == ["commit-proof"] and wrong.writes == []


def test_a_first_commit_begins_with_the_empty_tree() -> None:
    """It says so by having no `since`; whoever believes it holds the repository complete."""
    stream = Stream()
    ann = Person(stream, "ann")
    right = ann.commit(post("a", "first"), post("b", "second"))
    assert "prevData" not in body_of(right) and body_of(right)["since"] is None
    left_out = with_ops(right, TAMPERED["an operation left out"])
    later = altered(ann.commit(post("c", "third")), prevData=None)
    header, body = decode_dag_cbor_multi(later)
    later = encode_dag_cbor(header) + encode_dag_cbor({**body, "since": None})
    changes = changes_of(right, left_out, later, verifier=Verifier("proof", KnownKeys()))
    assert [[it.kind for it in change.dead_letters] for change in changes] == [[], ["commit-proof"], ["commit-proof"]]


# --- signatures -------------------------------------------------------------------------------------------------------


def half_wrong(unsigned: bytes, sig: bytes) -> bytes:
    return sig[:32] + bytes(32)


SIGNATURES: dict[str, Callable[[bytes, bytes], bytes]] = {
    "by another key": lambda unsigned, sig: sign(make_key("somebody else"), unsigned),
    "of something else": lambda unsigned, sig: sign(make_key("ann"), unsigned + b"x"),
    "half": half_wrong,
    "empty numbers": lambda unsigned, sig: bytes(64),
}


@pytest.mark.parametrize("kind", ["commit", "sync"])
@pytest.mark.parametrize("curve", ["k256", "p256"])
@pytest.mark.parametrize("how", [*SIGNATURES, "high s"])
def test_signatures_that_do_not_fit(how: str, curve: str, kind: str) -> None:
    stream = Stream()
    ann = person_with(stream, "ann", make_key("ann", p256=curve == "p256"))

    def high(unsigned: bytes, sig: bytes) -> bytes:
        return sig[:32] + (ORDER[curve] - int.from_bytes(sig[32:], "big")).to_bytes(32, "big")

    first = ann.commit(post("a", "fine"))
    right = ann.commit(post("b", "fine")) if kind == "commit" else ann.sync()
    wrong = signed_anew(right, high if how == "high s" else SIGNATURES[how])
    keys = KnownKeys(ann)
    before, refused, fine = changes_of(first, wrong, right, verifier=Verifier("full", keys))
    assert letters(refused) == [("commit-signature", "frame", wrong)]
    assert refused.repo is None and refused.writes == [] and refused.unchecked is None
    assert gap_of(refused.dead_letters[0]) is not None
    assert refused.identity is not None and refused.identity.did == ann.did
    for change in (before, fine):
        assert change.repo is not None and not change.dead_letters and change.unchecked is None
    assert keys.read == [{ann.did}, {ann.did}], "once for the batch, once more for what does not fit"
    for level in ("structure", "proof"):
        (change,) = changes_of(wrong, verifier=Verifier(level, KnownKeys()))
        assert change.repo is not None and change.unchecked is None


def test_a_key_that_has_changed_in_the_database() -> None:
    """Memory has the old one: the new one is read before the commit is refused."""
    stream = Stream()
    ann = Person(stream, "ann")
    keys = KnownKeys(ann)
    verifier = Verifier("full", keys)
    changes_of(ann.commit(post("a", "with the old key")), verifier=verifier)
    ann.repository.key = make_key("new")
    keys.keys[ann.did] = did_key(make_key("new"))
    (change,) = changes_of(ann.commit(post("b", "with the new key")), verifier=verifier)
    assert change.repo is not None and change.unchecked is None
    assert len(keys.read) == 2
    changes_of(ann.commit(post("c", "with the new key")), verifier=verifier)
    assert len(keys.read) == 2


def test_an_unknown_key() -> None:
    """The commit is applied, and says that it is not checked."""
    stream = Stream()
    ann = Person(stream, "ann")
    frame, sync = ann.commit(post("a", "new here")), ann.sync()
    keys = KnownKeys()
    keys.keys["did:plc:other"] = "no key"
    for one in (frame, sync):
        (change,) = changes_of(one, verifier=Verifier("full", keys))
        body = body_of(one)
        (root,), blocks = read_car(body["blocks"])
        assert change.repo is not None and change.identity is None
        assert change.unchecked == UncheckedCommit(ann.did, body["rev"], body["seq"], blocks[root])
    keys.keys[ann.did] = "did:key:zdamaged"
    (change,) = changes_of(frame, verifier=Verifier("full", keys))
    assert change.unchecked is not None, "as if it were not known"


def test_keys_are_read_once_for_a_batch_and_forgotten_in_time() -> None:
    stream = Stream()
    people = [Person(stream, name) for name in ("ann", "bob", "carla")]
    keys, now = KnownKeys(*people), [1_000.0]
    verifier = Verifier("full", keys, accounts=2, fresh_seconds=60.0, clock=lambda: now[0])
    everybody = {person.did for person in people}

    def batch(*who: Person) -> None:
        number = stream.seq
        assert all(
            it.unchecked is None
            for it in changes_of(*(it.commit(post(f"p{number}", "x")) for it in who), verifier=verifier)
        )

    batch(*people)
    assert keys.read == [everybody], "a batch has all its keys, also beyond the limit"
    batch(*people[1:])
    assert keys.read == [everybody], "the last two are in memory"
    batch(people[0])
    assert keys.read[1:] == [{people[0].did}]
    now[0] += 61
    batch(people[0], people[2])
    assert keys.read[2:] == [{people[0].did, people[2].did}]
    changes_of(stream.frame("#identity", {"did": people[0].did}), verifier=verifier)
    batch(people[0])
    assert keys.read[3:] == [{people[0].did}], "an #identity event may mean another key"


def test_a_resolution_is_asked_for_once_while_its_answer_is_fresh() -> None:
    stream = Stream()
    ann = Person(stream, "ann")
    now = [0.0]
    verifier = Verifier("full", KnownKeys(ann), fresh_seconds=60.0, clock=lambda: now[0])
    ann.repository.key = make_key("wrong")

    def asks() -> list[bool]:
        frames = [ann.commit(post(f"p{stream.seq}{number}", "x")) for number in range(2)]
        return [it.identity is not None for it in changes_of(*frames, verifier=verifier)]

    assert asks() == [True, False]
    now[0] += 59
    assert asks() == [False, False]
    now[0] += 2
    assert asks() == [True, False]


def test_commits_that_are_applied_already_are_never_refused() -> None:
    """The relay repeats them, and the account's key has changed since."""
    stream = Stream()
    ann = Person(stream, "ann")
    old = ann.commit(post("a", "with the old key"))
    badly_proven = with_ops(ann.commit(post("b", "b"), post("c", "c")), TAMPERED["an operation left out"])
    revs = [body_of(frame)["rev"] for frame in (old, badly_proven)]
    keys = KnownKeys()
    keys.keys[ann.did] = did_key(make_key("new"))
    asked: list[set[str]] = []

    def applied(dids: set[str]) -> Mapping[str, AppliedRevs]:
        asked.append(dids)
        return {ann.did: AppliedRevs(revs[0], revs[-1])}

    changes = changes_of(old, badly_proven, verifier=Verifier("full", keys, applied=applied))
    assert [it.already_applied for it in changes] == [True, True]
    assert [letters(it) for it in changes] == [[], []] and asked == [{ann.did}]
    keys.keys[ann.did] = did_key(ann.key)
    changes_of(old, verifier=Verifier("full", keys, applied=applied))
    assert len(asked) == 1, "asked only where something is refused"


# --- through the database ---------------------------------------------------------------------------------------------


def test_a_replay_verifies(database: Database, tmp_path: Path) -> None:
    stream = Stream()
    ann, bob, eve = (Person(stream, name) for name in ("ann", "bob", "eve"))
    save_key(database, ann.did, ann.key)
    save_key(database, eve.did, make_key("wrong"))
    tampered = with_ops(bob.commit(post("a", "x"), post("b", "y")), TAMPERED["an operation left out"])
    frames = [ann.commit(post("a", "fine")), tampered, eve.commit(post("a", "badly signed"))]
    replayed_frames(database, tmp_path, frames)
    assert rows(database.url, "SELECT creator, text FROM bsky.post") == [(ann.did, "fine")]
    found = rows(database.url, "SELECT kind, did, bytes FROM pipeline.dead_letter ORDER BY 1")
    assert [(kind, did, bytes(content)) for kind, did, content in found] == [
        ("commit-proof", bob.did, frames[1]),
        ("commit-signature", eve.did, frames[2]),
    ]
    assert rows(database.url, "SELECT kind, did FROM pipeline.gap ORDER BY did") == sorted(
        [("commit", bob.did), ("commit", eve.did)], key=lambda row: row[1]
    )
    replayed_frames(database, tmp_path, frames, verify="structure")
    assert len(rows(database.url, "SELECT uri FROM bsky.post")) == 3


@pytest.mark.parametrize("error", [OperatorError("no database"), DatabaseError("gone", "SELECT")])
def test_a_database_that_is_away_does_not_end_the_stream(
    database: Database, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Decoding goes on, and the writer waits; what could not be checked is checked later."""
    stream = Stream()
    ann = Person(stream, "ann")
    save_key(database, ann.did, ann.key)
    verifier = verifier_for(Settings(database_url=database.url), database)

    def away(role: str) -> NoReturn:
        raise error

    tampered = with_ops(ann.commit(post("a", "x"), post("b", "x")), TAMPERED["an operation left out"])
    with monkeypatch.context() as patch:
        patch.setattr(database, "connect", away)
        unchecked, refused = changes_of(ann.commit(post("c", "x")), tampered, verifier=verifier)
    assert unchecked.unchecked is not None and letters(refused) == [("commit-proof", "frame", tampered)]
    (checked,) = changes_of(ann.commit(post("d", "x")), verifier=verifier)
    assert checked.unchecked is None
