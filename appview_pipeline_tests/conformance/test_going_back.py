"""Going back: the reference's own indexer goes on with a database that we filled (docs/serve.md).

Each test indexes a stream twice: into a database of ours, where the reference takes over in the middle, and into one of
the reference's alone. A row that differs at the end must have differed when the reference took over.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from appview_pipeline.ingest.rerun import DERIVED_COLLECTIONS, rerun_collections
from appview_pipeline.operations.adopting import adopt
from appview_pipeline.operations.leaving import leave
from appview_pipeline.protocol.cid import to_text
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database, open_database
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline_tests.conformance.reference.check import node_url, run_reference_migrator
from appview_pipeline_tests.conformance.reference.differences import Comparison, compare
from appview_pipeline_tests.conformance.reference.oracle import (
    Oracle,
    Refused,
    reference_database,
)
from appview_pipeline_tests.conformance.reference.packages import NODE
from appview_pipeline_tests.conformance.reference.reads import calls
from appview_pipeline_tests.conformance.reference.rows import bsky_rows, differing, documents_of
from appview_pipeline_tests.conformance.reference.subjects import subjects_of
from appview_pipeline_tests.simulated_network.relay import Relay
from appview_pipeline_tests.simulated_network.repository import Write
from appview_pipeline_tests.support.busy_world import busy_frames
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, create, delete, post, update
from appview_pipeline_tests.support.records import one_of_each, ref
from appview_pipeline_tests.support.tables import Fresh, one, replayed_frames, rows

pytestmark = pytest.mark.slow

POST = "app.bsky.feed.post"


@dataclass
class Outcome:
    """What differed between our database and the reference's own when it took over, and at the end; what the reference
    refused on either of them after that; its answers at the end, where asked for."""

    before: Counter[str]
    after: Counter[str]
    refused: list[Refused]
    refused_on_its_own: list[Refused]
    reads: Comparison | None


class Handover:
    """Two databases of one stream."""

    def __init__(self, reference: Oracle, ours: Database, theirs: str, folder: Path) -> None:
        self.reference, self.ours, self.theirs, self.folder = reference, ours, theirs, folder

    def play(
        self,
        first: Sequence[bytes],
        then: Sequence[bytes],
        *,
        give_back: bool = True,
        gone: Collection[str] = (),
        reads: bool = False,
        private: str | None = None,
    ) -> Outcome:
        """`first` by us, `then` by the reference; all by the reference in its own database. `gone`: accounts whose PDS
        has no repository of theirs any more. `reads`: every read of the data plane is compared at the end.
        `private`: a statement that is executed in both databases when the reference takes over."""
        self.reference.identities(documents_of((*first, *then)), {}, gone)
        replayed_frames(self.ours, self.folder, first)
        self.ours.engine.dispose()
        if give_back:
            leave(self.ours)
        self.reference.open("theirs", self.theirs)
        self.reference.open("ours", self.ours.url)
        try:
            self.reference.index("theirs", first)
            if private is not None:
                for url in (self.ours.url, self.theirs):
                    rows(url, private)
            before = self.differing()
            refused_on_its_own = self.reference.index("theirs", then)
            refused = self.reference.index("ours", then)
            answers = None
            if reads:
                subjects = subjects_of([self.ours.url, self.theirs], viewers=2, pairs=10)
                answers = compare(self.reference, "theirs", "ours", calls(subjects))
            return Outcome(before, self.differing(), refused, refused_on_its_own, answers)
        finally:
            self.reference.close("theirs")
            self.reference.close("ours")

    def differing(self) -> Counter[str]:
        return differing(bsky_rows(self.ours.url), bsky_rows(self.theirs))


@pytest.fixture
def handover(
    fresh: Fresh, server: EmbeddedPostgres, reference_tables: str, reference: Oracle, tmp_path: Path
) -> Iterator[Handover]:
    with fresh() as ours, reference_database(server, reference_tables) as theirs:
        yield Handover(reference, ours, theirs, tmp_path)


def unexplained(lines: Counter[str]) -> Counter[str]:
    """The lines of `differing` without two differences of docs/differences.md that any stream may show: records that
    the reference does not store (`extra-collections`), and when the handle of an account that is otherwise the same was
    looked up (`handle-recheck`)."""
    by_side: dict[str, dict[str, str]] = {"actor: missing": {}, "actor: too much": {}}
    for line in lines:
        side, _, row = line.partition(" {")
        if side in by_side:
            by_side[side][_LOOKED_UP.sub("", row)] = line
    missing, too_much = by_side.values()
    of_both = {side[row] for row in missing.keys() & too_much.keys() for side in by_side.values()}
    return Counter(
        {line: count for line, count in lines.items() if line not in of_both and "/site.standard." not in line}
    )


_LOOKED_UP = re.compile(r'"indexedAt": "[^"]*", ')


def test_its_migrator_finds_nothing_to_do(database: Database, packages: Path) -> None:
    database.engine.dispose()
    leave(database)
    assert run_reference_migrator(packages, database.url) == []


OTHERS = [pytest.param(seed, 40 + 37 * seed % 240, marks=pytest.mark.thorough) for seed in range(3101, 3109)]


@pytest.mark.parametrize(("seed", "at"), [(7, 150), (8, 220), *OTHERS])
def test_a_busy_stream(handover: Handover, seed: int, at: int) -> None:
    frames = list(busy_frames(320, seed))
    played = handover.play(frames[:at], frames[at:])
    assert [played.refused, played.refused_on_its_own] == [[], []]
    assert unexplained(played.after) - played.before == Counter()


def test_it_begins_with_the_oldest_event_that_the_relay_has(handover: Handover) -> None:
    """The reference keeps no cursor: it applies again what we have applied. It does so to ours as to its own."""
    frames = list(busy_frames(160, 9))
    played = handover.play(frames[:120], frames)
    said = [
        [(it.position, it.step, it.uri) for it in refused] for refused in (played.refused, played.refused_on_its_own)
    ]
    assert said[0] == said[1]
    assert played.after - played.before == Counter()


def test_its_program_as_shipped_goes_on(
    fresh: Fresh, server: EmbeddedPostgres, reference_tables: str, packages: Path, tmp_path: Path
) -> None:
    """The subscription itself, at a relay's socket, from the relay's oldest event on. One account: what several do at
    once it applies in any order."""
    ann = Person(Stream(), "ann")
    # A profile without a time has that of the clock, and so has the notification of an edited verification.
    profile, verification = "app.bsky.actor.profile/self", "app.bsky.graph.verification/a"
    dated = create(profile, {"displayName": "x", "createdAt": WHEN})
    writes = [dated if write.path == profile else write for write in one_of_each(ann)]
    first = [ann.commit(*writes), ann.commit(update(profile, {"displayName": "y", "createdAt": WHEN}))]
    then = [
        ann.commit(*(edited(write) for write in writes if write.path not in (f"{POST}/a", verification))),
        ann.commit(post("b", "more"), delete("app.bsky.feed.like/a")),
        ann.commit(update(f"{POST}/b", {"text": "edited", "createdAt": WHEN}), delete("app.bsky.feed.repost/a")),
    ]
    (documents := tmp_path / "documents.json").write_text(json.dumps(documents_of(first)))
    command = [NODE, Path(__file__).parent / "reference" / "indexer.mjs", packages]
    with fresh() as ours, reference_database(server, reference_tables) as theirs:
        replayed_frames(ours, tmp_path, first)
        ours.engine.dispose()
        leave(ours)
        with Relay(first) as relay:
            urls = [node_url(theirs)]
            subprocess.run([*command, relay.url, "2", documents, *urls], check=True, timeout=120, capture_output=True)
            assert differing(bsky_rows(ours.url), bsky_rows(theirs)) == Counter()
            relay.publish(then)
            urls.append(node_url(ours.url))
            subprocess.run([*command, relay.url, "5", documents, *urls], check=True, timeout=120, capture_output=True)
        assert differing(bsky_rows(ours.url), bsky_rows(theirs)) == Counter()
        assert one(ours.url, "SELECT text FROM bsky.post WHERE uri = %s", ann.uri(f"{POST}/b")) == "edited"


def edited(write: Write) -> Write:
    assert write.record is not None
    return update(write.path, {**write.record, "added": "by an edit"})


@pytest.mark.parametrize("then", ["created", "updated", "deleted", "deleted and created"])
def test_records_of_every_collection(handover: Handover, then: str) -> None:
    """Those that we wrote are edited and deleted by the reference, and it creates others."""
    stream = Stream()
    ann, bob = Person(stream, "ann"), Person(stream, "bob")
    # Posts that are equal have no order.
    writes = [post("a", "ann's") if write.path == f"{POST}/a" else write for write in one_of_each(ann)]
    first = [bob.commit(*one_of_each(bob)), ann.commit(*writes)]
    if then == "created":
        first, later = first[:1], [first[1]]
    elif then == "updated":
        later = [ann.commit(edited(write)) for write in writes]
    else:
        later = [ann.commit(delete(write.path)) for write in writes]
        if then == "deleted and created":
            later.append(ann.commit(*writes))
    played = handover.play(first, later, reads=then != "created")
    assert [played.refused, played.refused_on_its_own] == [[], []]
    assert played.before == Counter()
    assert played.after == Counter()
    assert played.reads is None or played.reads.holds, str(played.reads)


def notified_twice() -> tuple[list[bytes], list[bytes]]:
    """A stream in which the reference notifies twice of one record: a profile that joins a starter pack, is deleted and
    created again; a verification that is edited twice."""
    stream = Stream()
    ann, bob = Person(stream, "ann"), Person(stream, "bob")
    pack = ann.uri("app.bsky.graph.starterpack/p")
    profile = {"joinedViaStarterPack": ref(pack), "createdAt": WHEN}
    verified = {"subject": ann.did, "handle": "a.test", "createdAt": WHEN}
    verification = "app.bsky.graph.verification/v"
    first = [
        ann.commit(create(pack.partition(ann.did + "/")[2], {"name": "p", "list": ann.uri("x/l"), "createdAt": WHEN})),
        bob.commit(create("app.bsky.actor.profile/self", profile)),
        bob.commit(create(verification, {**verified, "displayName": "0"})),
        bob.commit(delete(verification)),
        bob.commit(create(verification, {**verified, "displayName": "1"})),
    ]
    then = [
        bob.commit(delete("app.bsky.actor.profile/self")),
        bob.commit(create("app.bsky.actor.profile/self", {**profile, "displayName": "again"})),
        bob.commit(update(verification, {**verified, "displayName": "2"})),
    ]
    return first, then


def test_it_notifies_again_where_it_would(handover: Handover) -> None:
    played = handover.play(*notified_twice())
    assert played.refused == []
    assert played.after - played.before == Counter()
    counted = "SELECT reason, count(*)::int FROM bsky.notification GROUP BY 1 ORDER BY 1"
    assert rows(handover.ours.url, counted) == [("starterpack-joined", 2), ("unverified", 2), ("verified", 1)]


def test_without_leaving_it_loses_records(handover: Handover) -> None:
    """What `leave` is for: our unique index refuses the reference's notification, and with it the record."""
    played = handover.play(*notified_twice(), give_back=False)
    assert played.refused_on_its_own == []
    assert {it.step for it in played.refused} == {"indexRecord"}
    assert all("notification_record_did_reason_idx" in it.reason for it in played.refused)
    assert any("app.bsky.actor.profile/self" in line for line in played.after - played.before)


def ref_of(person: Person, path: str) -> dict[str, str]:
    """A strong reference to a record as its repository has it."""
    stored = person.repository.get(path)
    assert stored is not None
    return {"uri": person.uri(path), "cid": to_text(stored[0])}


def test_a_post_that_we_wrote_has_replies_quotes_and_gates(handover: Handover) -> None:
    """The reference evaluates and counts by what it finds, as if it had written it."""
    stream = Stream()
    ann, bob = Person(stream, "ann"), Person(stream, "bob")
    first = ann.commit(post("a", "root"))
    root = ref_of(ann, f"{POST}/a")
    gate = {"post": root["uri"], "allow": [], "createdAt": WHEN}
    quote = {"$type": "app.bsky.embed.record", "record": root}
    then = [
        bob.commit(post("b", "reply", reply={"root": root, "parent": root})),
        ann.commit(create("app.bsky.feed.threadgate/a", gate)),
        bob.commit(post("c", "reply to a closed thread", reply={"root": root, "parent": root})),
        bob.commit(post("d", "quote", embed=quote)),
        bob.commit(create("app.bsky.feed.like/l", {"subject": root, "createdAt": WHEN})),
        ann.stream.account(bob.did, active=False, status="deactivated"),
    ]
    played = handover.play([first], then)
    assert [played.refused, played.refused_on_its_own] == [[], []]
    assert played.after == Counter()
    ((replies, quotes, likes),) = rows(
        handover.ours.url,
        'SELECT "replyCount", "quoteCount", "likeCount" FROM bsky.post_agg WHERE uri = %s',
        root["uri"],
    )
    assert (replies, quotes, likes) == (1, 1, 1)


def test_it_loses_likes_in_muted_threads_again(handover: Handover) -> None:
    """The difference `muted-thread-like`, as it is when one goes back."""
    stream = Stream()
    ann, bob = Person(stream, "ann"), Person(stream, "bob")
    first = ann.commit(post("a", "root"))
    root = ref_of(ann, f"{POST}/a")
    mute = f"INSERT INTO bsky.thread_mute VALUES ('{root['uri']}', '{ann.did}', '{WHEN}')"
    then = [
        bob.commit(create("app.bsky.feed.like/l", {"subject": root, "createdAt": WHEN})),
        bob.commit(post("r", "reply", reply={"root": root, "parent": root})),
    ]
    played = handover.play([first], then, private=mute)
    assert played.after == Counter()
    lost = [("indexRecord", bob.uri("app.bsky.feed.like/l")), ("indexRecord", bob.uri(f"{POST}/r"))]
    for refused in (played.refused, played.refused_on_its_own):
        assert [(it.step, it.uri) for it in refused] == lost


def test_an_account_is_deleted(handover: Handover) -> None:
    stream = Stream()
    ann, bob = Person(stream, "ann"), Person(stream, "bob")
    first = [bob.commit(*one_of_each(bob)), ann.commit(*one_of_each(ann))]
    gone = ann.stream.account(ann.did, active=False, status="deleted")
    kept = f"INSERT INTO bsky.draft VALUES ('{ann.did}', '3kaaaaaaaaa2a', '{WHEN}', '{WHEN}', '{{}}')"
    played = handover.play(first, [gone], gone=[ann.did], private=kept)
    assert [played.refused, played.refused_on_its_own] == [[], []]
    assert played.after == Counter()
    assert rows(handover.ours.url, "SELECT uri FROM bsky.record WHERE did = %s", ann.did) == []
    # Its private state stays, as it does where we remove an account.
    assert rows(handover.ours.url, "SELECT creator FROM bsky.draft") == [(ann.did,)]


def clean_story() -> tuple[list[bytes], list[bytes], list[bytes]]:
    """A stream in three parts in which nothing happens of docs/differences.md: each part creates, edits and deletes
    records of every collection that the others wrote."""
    stream = Stream()
    ann, bob, eve = (Person(stream, name) for name in ("ann", "bob", "eve"))
    of_ann, of_bob, of_eve = (one_of_each(person) for person in (ann, bob, eve))
    by_us = [ann.commit(*of_ann), bob.commit(*of_bob)]
    by_the_reference = [eve.commit(*of_eve)]
    by_the_reference += [ann.commit(edited(write)) for write in of_ann[:9]]
    by_the_reference += [bob.commit(delete(write.path)) for write in of_bob[:6]]
    by_us_again = [eve.commit(edited(write)) for write in of_eve[:9]]
    by_us_again += [eve.commit(delete(write.path)) for write in of_eve[9:]]
    by_us_again += [ann.commit(delete(write.path)) for write in of_ann[:9]]
    by_us_again.append(bob.commit(*of_bob[:6]))
    return by_us, by_the_reference, by_us_again


MORE = [pytest.param(seed, marks=pytest.mark.thorough) for seed in range(3201, 3209)]


@pytest.mark.parametrize("seed", [None, 8, *MORE])
def test_and_coming_back(fresh: Fresh, reference: Oracle, tmp_path: Path, seed: int | None) -> None:
    """We write, the reference goes on, we take over again: as if we had written everything, private state included."""
    frames = list(busy_frames(240, seed)) if seed else []
    parts = (frames[:80], frames[80:160], frames[160:]) if frames else clean_story()
    with fresh() as ours, fresh() as alone:
        replayed_frames(alone, tmp_path, [*parts[0], *parts[1], *parts[2]])
        replayed_frames(ours, tmp_path, parts[0])
        mute = "INSERT INTO bsky.mute VALUES ('did:plc:a', 'did:plc:b', %s, true, false)"
        for database in (ours, alone):
            rows(database.url, mute, WHEN)
        ours.engine.dispose()
        leave(ours)
        reference.identities(documents_of(parts[1]), {})
        reference.open("ours", ours.url)
        assert reference.index("ours", parts[1]) == []
        reference.close("ours")
        adopt(Settings(database_url=ours.url), ours)
        open_database(Settings(database_url=ours.url)).close()
        for frame in parts[2]:
            replayed_frames(ours, tmp_path, [frame])
        assert unexplained(differing(bsky_rows(ours.url), bsky_rows(alone.url))) == Counter()
        assert one(ours.url, "SELECT count(*) FROM bsky.record WHERE rev IS NULL") == 0
        assert rerun_collections(ours, DERIVED_COLLECTIONS, orphans=None).changed == {}
