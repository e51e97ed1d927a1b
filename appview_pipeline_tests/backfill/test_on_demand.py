"""Missing records fetched one by one: from simulated PDSes, and from a fetcher that does what a test says."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from appview_pipeline import backoff
from appview_pipeline.backfill import on_demand
from appview_pipeline.backfill.fetch import FetchedRecord, Fetcher, FetchFailed
from appview_pipeline.backfill.on_demand import OnDemand
from appview_pipeline.ingest.writer import Writer
from appview_pipeline.network.xrpc import Client
from appview_pipeline.protocol.cid import to_text
from appview_pipeline.protocol.peek import peek_did
from appview_pipeline.protocol.syntax import parse_at_uri
from appview_pipeline.settings import Settings, load
from appview_pipeline.store.database import Database
from appview_pipeline.store.pending import ON_DEMAND
from appview_pipeline_tests.simulated_network.network import SimulatedNetwork
from appview_pipeline_tests.simulated_network.world import World
from appview_pipeline_tests.support.batches import index
from appview_pipeline_tests.support.frames import Person, Stream, create, post
from appview_pipeline_tests.support.tables import one, rows

POST, GATE = "app.bsky.feed.post", "app.bsky.feed.threadgate"
REV = "3mzzzzzzzzz2z"
OPEN = "SELECT count(*) FROM pipeline.pending WHERE not_before IS NOT NULL"
WAITED_FOR = (
    "SELECT DISTINCT missing FROM pipeline.pending p "
    "WHERE p.uri = p.missing OR EXISTS (SELECT FROM bsky.record r WHERE r.uri = p.uri)"
)
ENDED = "SELECT missing, attempts, error FROM pipeline.pending WHERE not_before IS NULL ORDER BY missing"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that a test can sit out."""
    monkeypatch.setattr(backoff, "MISSING_RECORDS_SECONDS", 0.05)
    monkeypatch.setattr(backoff, "STOP_POLL_SECONDS", 0.02)
    monkeypatch.setattr(backoff, "RESOLUTION_SAVE_SECONDS", 0.02)


def run(fetching: OnDemand, until: Callable[[], bool], seconds: float = 20.0) -> None:
    """Steps until something holds."""
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, fetching.counts
        fetching.step()


@dataclass
class Script:
    """A fetcher for tests. `people`: whose repositories there are; `hosts`: their hosts (default: one of their own);
    `fails`: what happens instead, by DID or AT URI; `hangs`: hosts that answer nothing until `released`."""

    people: dict[str, Person] = field(default_factory=dict)
    hosts: dict[str, str] = field(default_factory=dict)
    fails: dict[str, FetchFailed] = field(default_factory=dict)
    hangs: set[str] = field(default_factory=set)
    released: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list)
    at_once: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def host_of(self, did: str) -> str:
        if did in self.fails:
            raise self.fails[did]
        return self.hosts.get(did, f"https://{did[8:]}.invalid")

    def record(self, did: str, collection: str, rkey: str) -> FetchedRecord:
        uri, host = f"at://{did}/{collection}/{rkey}", self.host_of(did)
        with self.lock:
            self.asked.append(uri)
            self.at_once[host] += 1
            self.most[host] = max(self.most[host], self.at_once[host])
        try:
            if host in self.hangs:
                self.released.wait(30)
            if uri in self.fails:
                raise self.fails[uri]
            repository = self.people[did].repository
            found = repository.get(f"{collection}/{rkey}")
            return FetchedRecord(
                did=did,
                path=f"{collection}/{rkey}",
                rev=repository.rev or REV,
                commit=repository.commit_cid,
                data=repository.tree.cid,
                cid=found[0] if found else None,
                block=found[1] if found else None,
            )
        finally:
            with self.lock:
                self.at_once[host] -= 1


@pytest.fixture
def script() -> Iterator[Script]:
    made = Script()
    yield made
    made.released.set()


def fetching_with(database: Database, script: Script, **options: Any) -> OnDemand:
    settings = Settings(database_url=database.url, **options)
    return OnDemand(settings, database, script, Writer(database, settings, ON_DEMAND))


def ref(person: Person, path: str) -> dict[str, str]:
    found = person.repository.get(path)
    assert found is not None
    return {"uri": person.uri(path), "cid": to_text(found[0])}


def reply_to(root: dict[str, str], parent: dict[str, str] | None = None) -> dict[str, Any]:
    return {"reply": {"root": root, "parent": parent or root}}


# ---- with servers


def test_everything_that_replies_and_quotes_depend_on_is_fetched(database: Database) -> None:
    """Of a world in which one account in three was indexed, and the others were not."""
    world = World(5, 24, start=time.time() - 60, pasts=())
    with SimulatedNetwork(world) as network:
        frames = network.advance(700)
        settings = replace(load(network.environment()), database_url=database.url)
        known = {author.did.encode() for author in world.authors[::3]}
        index(database, *(frame for frame in frames if peek_did(frame) in known))
        missing = {uri for (uri,) in rows(database.url, WAITED_FOR)}
        assert len(missing) > 5
        with Client(settings) as client:
            writer = Writer(database, settings, ON_DEMAND)
            fetching = OnDemand(settings, database, Fetcher(settings, database, client), writer)
            run(fetching, lambda: fetching.is_idle and one(database.url, OPEN) == 0, 60)
        stored = {uri for (uri,) in rows(database.url, "SELECT uri FROM bsky.record")}
        wanted = set()
        for uri in missing:
            parts = parse_at_uri(uri)
            assert parts is not None
            author = next(it for it in world.authors if it.did == parts.authority)
            if author.repository.get(f"{parts.collection}/{parts.rkey}") is not None:
                wanted.add(uri)
        queued = {did for (did,) in rows(database.url, "SELECT did FROM pipeline.backfill_queue")}
        gone = {uri for uri, _, error in rows(database.url, ENDED) if "RepoDeactivated" in error}
        assert {uri for uri in wanted - stored - gone if uri.split("/")[2] not in queued} == set()
        assert fetching.counts.found > 5 and fetching.counts.invalid == fetching.counts.unreachable == 0


# ---- one by one


@pytest.fixture
def people(stream: Stream, script: Script) -> tuple[Person, Person, Person]:
    made = Person(stream, "ann"), Person(stream, "bob"), Person(stream, "eve")
    script.people |= {person.did: person for person in made}
    return made


def test_a_parent_comes_and_the_reply_is_evaluated(
    database: Database, people: tuple[Person, ...], script: Script
) -> None:
    ann, bob, _ = people
    ann.commit(post("a", "the root"))
    index(database, bob.commit(post("b", "a reply", **reply_to(ref(ann, f"{POST}/a")))))
    assert one(database.url, 'SELECT "invalidReplyRoot" FROM bsky.post') is True
    fetching = fetching_with(database, script)
    run(fetching, lambda: one(database.url, OPEN) == 0 and fetching.is_idle)
    found = dict(rows(database.url, 'SELECT text, "invalidReplyRoot" FROM bsky.post'))
    assert not found["a reply"] and not found["the root"]
    assert one(database.url, "SELECT count(*) FROM pipeline.pending") == 0
    assert script.asked.count(ann.uri(f"{POST}/a")) == 1
    assert fetching.counts.found >= 1 and fetching.counts.asked_by_collection[POST] == 1


def test_the_gate_of_a_root_comes_with_it(database: Database, people: tuple[Person, ...], script: Script) -> None:
    ann, bob, _ = people
    dated = {"createdAt": "2026-01-01T00:00:00Z"}
    ann.commit(post("3kaaaaaaaaa2a", "the root"))
    ann.commit(create(f"{GATE}/3kaaaaaaaaa2a", {"post": ann.uri(f"{POST}/3kaaaaaaaaa2a"), "allow": [], **dated}))
    index(database, bob.commit(post("b", "a reply", **reply_to(ref(ann, f"{POST}/3kaaaaaaaaa2a")))))
    fetching = fetching_with(database, script)
    run(fetching, lambda: one(database.url, OPEN) == 0 and fetching.is_idle)
    assert one(database.url, "SELECT count(*) FROM bsky.thread_gate") == 1
    found = one(database.url, 'SELECT "violatesThreadGate" FROM bsky.post WHERE creator = %s', bob.did)
    assert found is True, "nobody may reply"


def test_a_post_whose_gate_can_not_be_had_is_fetched_again(
    database: Database, people: tuple[Person, ...], script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "missing_record", lambda attempts: 0.0)
    ann, bob, _ = people
    ann.commit(post("a", "the root"))
    script.fails[ann.uri(f"{GATE}/a")] = FetchFailed("timeout", "no answer within 15 s")
    index(database, bob.commit(post("b", "a reply", **reply_to(ref(ann, f"{POST}/a")))))
    fetching = fetching_with(database, script)
    run(fetching, lambda: one(database.url, OPEN) == 0 and fetching.is_idle)
    assert script.asked.count(ann.uri(f"{GATE}/a")) == backoff.MISSING_RECORD_TRIES
    assert one(database.url, "SELECT count(*) FROM bsky.post") == 2, "the last attempt does without it"


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [
        (FetchFailed("not found", "it has no such record", is_final=True), "absent"),
        (FetchFailed("gone", "the repository is gone", is_final=True), "absent"),
        (FetchFailed("identity", "nobody knows its PDS", is_final=True), "absent"),
        (None, "absent"),
        (FetchFailed("export: hash", "the export is not valid"), "invalid"),
        (FetchFailed("signature", "it is not signed"), "invalid"),
        (FetchFailed("status", "it answered HTTP 500"), "invalid"),
        (FetchFailed("timeout", "no answer within 15 s"), "unreachable"),
        (FetchFailed("refused address", "it has a private address"), "unreachable"),
    ],
    ids=lambda it: getattr(it, "kind", it) or "proof of absence",
)
def test_what_can_not_be_had(
    database: Database,
    people: tuple[Person, ...],
    script: Script,
    monkeypatch: pytest.MonkeyPatch,
    failure: FetchFailed | None,
    outcome: str,
) -> None:
    """What is final ends at once, all else after three attempts; the reply stays listed either way."""
    monkeypatch.setattr(backoff, "missing_record", lambda attempts: 0.0)
    ann, bob, _ = people
    ann.commit(post("a", "the root"))
    missing = ref(ann, f"{POST}/a") | {"uri": ann.uri(f"{POST}/gone")}
    if failure is not None:
        script.fails[missing["uri"]] = failure
    index(database, bob.commit(post("b", "a reply", **reply_to(missing))))
    fetching = fetching_with(database, script)
    run(fetching, lambda: one(database.url, OPEN) == 0 and fetching.is_idle)
    attempts = 1 if failure is None or failure.is_final else backoff.MISSING_RECORD_TRIES
    assert script.asked.count(missing["uri"]) == attempts == getattr(fetching.counts, outcome)
    assert fetching.counts.asked == attempts
    ended = rows(database.url, ENDED)
    assert ended and all(row[0] == missing["uri"] and row[1] == attempts and row[2] for row in ended)
    assert one(database.url, "SELECT count(*) FROM pipeline.pending WHERE kind = 'reply'") == 1


def test_a_host_that_was_not_asked_costs_no_attempt(
    database: Database, people: tuple[Person, ...], script: Script
) -> None:
    ann, bob, _ = people
    ann.commit(post("a", "the root"))
    script.fails[ann.did] = FetchFailed("parked", "it is left alone", retry_after=300.0, blames_account=False)
    index(database, bob.commit(post("b", "a reply", **reply_to(ref(ann, f"{POST}/a")))))
    fetching = fetching_with(database, script)
    again = "SELECT min(not_before) > now() + interval '200 s' FROM pipeline.pending WHERE attempts = 0"
    run(fetching, lambda: fetching.is_idle and one(database.url, again) is True)
    assert fetching.counts.asked == 0 and script.asked == []


def test_a_record_that_may_not_be_indexed_ends_it(
    database: Database, people: tuple[Person, ...], script: Script
) -> None:
    ann, bob, _ = people
    ann.commit(create(f"{POST}/a", {"$type": POST, "text": 7}))
    index(database, bob.commit(post("b", "a reply", **reply_to(ref(ann, f"{POST}/a")))))
    fetching = fetching_with(database, script)
    run(fetching, lambda: one(database.url, OPEN) == 0 and fetching.is_idle)
    assert (fetching.counts.refused, fetching.counts.found) == (1, 0)
    assert "may not be indexed" in rows(database.url, ENDED)[0][2]
    assert rows(database.url, "SELECT did, kind FROM pipeline.dead_letter") == [(ann.did, "lexicon")]


def test_of_a_repository_of_which_much_is_missing_everything_is_fetched_at_once(
    database: Database, people: tuple[Person, ...], script: Script
) -> None:
    ann, bob, eve = people
    ann.commit(*(post(f"a{n}", "x") for n in range(on_demand.RESYNC_RECORDS)))
    eve.commit(*(post(f"e{n}", "x") for n in range(on_demand.RESYNC_RECORDS - 1)))
    replies = [
        post(f"b{whose.did[-3:]}{n}", "r", **reply_to(ref(whose, f"{POST}/{letter}{n}")))
        for whose, letter, count in ((ann, "a", on_demand.RESYNC_RECORDS), (eve, "e", on_demand.RESYNC_RECORDS - 1))
        for n in range(count)
    ]
    index(database, bob.commit(*replies))
    fetching = fetching_with(database, script)
    run(fetching, lambda: len({uri for uri in script.asked if POST in uri}) == len(replies) - on_demand.RESYNC_RECORDS)
    queued = rows(database.url, "SELECT did, priority FROM pipeline.backfill_queue")
    assert (ann.did, 2) in queued and not any(ann.did in uri for uri in script.asked)
    assert fetching.counts.queued_repositories == 1
    late = "SELECT min(not_before) > now() + interval '5 min' FROM pipeline.pending WHERE missing LIKE %s"
    assert one(database.url, late, f"at://{ann.did}/%") is True


def test_a_repository_of_which_everything_is_here_is_not_fetched_whole(
    database: Database, people: tuple[Person, ...], script: Script
) -> None:
    """Whoever replies to posts that never were has nobody's repository fetched for it."""
    ann, bob, _ = people
    index(database, ann.commit(post("a", "x")))
    missing = [{**ref(ann, f"{POST}/a"), "uri": ann.uri(f"{POST}/never{n}")} for n in range(on_demand.RESYNC_RECORDS)]
    index(database, bob.commit(*(post(f"b{n}", "r", **reply_to(one)) for n, one in enumerate(missing))))
    fetching = fetching_with(database, script)
    run(fetching, lambda: fetching.counts.absent == len(missing) and fetching.is_idle)
    assert fetching.counts.queued_repositories == 0
    assert rows(database.url, "SELECT did FROM pipeline.backfill_queue") == []


def test_a_host_that_hangs_holds_up_nobody(
    database: Database, people: tuple[Person, ...], script: Script, stream: Stream
) -> None:
    """It has its places, as many repositories of it as may be missing; the others are fetched meanwhile."""
    _, bob, eve = people
    eve.commit(post("e", "x"))
    slow = [Person(stream, f"slow{n}") for n in range(40)]
    for person in slow:
        script.people[person.did] = person
        script.hosts[person.did] = "https://slow.invalid"
        person.commit(post("a", "x"))
    script.hangs.add("https://slow.invalid")
    replies = [post(f"b{n}", "r", **reply_to(ref(it, f"{POST}/a"))) for n, it in enumerate(slow)]
    index(database, bob.commit(*replies, post("z", "r", **reply_to(ref(eve, f"{POST}/e")))))
    fetching = fetching_with(database, script, repo_fetches=6, host_repo_fetches=3)
    stored = "SELECT count(*) FROM bsky.record WHERE did = %s"
    run(fetching, lambda: one(database.url, stored, eve.did) == 1, 5)
    assert script.most["https://slow.invalid"] == 3
    script.released.set()
    run(fetching, lambda: one(database.url, OPEN) == 0 and fetching.is_idle)
    assert one(database.url, "SELECT count(*) FROM bsky.post WHERE text = 'x'") == 41
    assert script.most["https://slow.invalid"] == 3


def test_where_the_host_is_silent_its_other_records_are_not_asked_for(
    database: Database, people: tuple[Person, ...], script: Script
) -> None:
    ann, bob, _ = people
    ann.commit(post("a", "x"), post("b", "x"), post("c", "x"))
    for name in "abc":
        script.fails[ann.uri(f"{POST}/{name}")] = FetchFailed("timeout", "no answer within 15 s")
    replies = [post(f"r{name}", "r", **reply_to(ref(ann, f"{POST}/{name}"))) for name in "abc"]
    index(database, bob.commit(*replies))
    fetching = fetching_with(database, script)
    run(fetching, lambda: fetching.counts.unreachable == 1 and fetching.is_idle)
    assert len(script.asked) == 1
    assert one(database.url, "SELECT count(DISTINCT missing) FROM pipeline.pending WHERE attempts = 0") == 2


def test_a_process_that_ends_gives_back_what_it_has(
    database: Database, people: tuple[Person, ...], script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "RESOLUTION_END_SECONDS", 0.1)
    ann, bob, eve = people
    ann.commit(post("a", "x"))
    eve.commit(post("e", "x"))
    script.hosts = {ann.did: "https://slow.invalid"}
    script.hangs.add("https://slow.invalid")
    replies = [
        post(f"r{it.did[-1]}", "r", **reply_to(ref(it, f"{POST}/{name}"))) for it, name in ((ann, "a"), (eve, "e"))
    ]
    index(database, bob.commit(*replies))
    fetching = fetching_with(database, script)
    run(fetching, lambda: bool(script.at_once["https://slow.invalid"]))
    fetching.finish()
    due = "SELECT count(*) FROM pipeline.pending WHERE not_before <= now() AND attempts = 0 AND missing LIKE %s"
    assert one(database.url, due, f"at://{ann.did}/%") >= 1


def test_a_defect_of_ours_is_not_hidden(database: Database, people: tuple[Person, ...], script: Script) -> None:
    ann, bob, _ = people
    ann.commit(post("a", "x"))
    index(database, bob.commit(post("b", "r", **reply_to(ref(ann, f"{POST}/a")))))
    script.people.clear()
    fetching = fetching_with(database, script)
    with pytest.raises(KeyError):
        run(fetching, lambda: False, 5)


def test_names_that_are_none_are_not_fetched(database: Database, script: Script) -> None:
    insert = "INSERT INTO pipeline.pending (uri, kind, missing) SELECT 'at://x/y/' || n, 'quote', n FROM unnest(%s) n"
    rows(database.url, insert, ["at://alice.test/app.bsky.feed.post/a", "at://did:plc:x", "did:plc:x", "nonsense"])
    record = (
        'INSERT INTO bsky.record (uri, cid, did, json, "indexedAt") '
        "SELECT uri, 'c', 'd', '{}', '' FROM pipeline.pending"
    )
    rows(database.url, record)
    fetching = fetching_with(database, script)
    run(fetching, lambda: one(database.url, OPEN) == 0)
    assert len(rows(database.url, ENDED)) == 4 and script.asked == []
