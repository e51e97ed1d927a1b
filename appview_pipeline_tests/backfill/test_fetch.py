"""Repositories and records fetched from simulated PDSes: whom is asked, with which key, and what is a failure."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appview_pipeline.backfill.fetch import Fetcher, FetchFailed, export_failed
from appview_pipeline.backoff import MAX_RETRY_AFTER
from appview_pipeline.network.xrpc import Client
from appview_pipeline.protocol.car import iter_blocks, write_car
from appview_pipeline.protocol.cbor import decode_record
from appview_pipeline.protocol.export import Export, InvalidExport
from appview_pipeline.settings import Settings, load
from appview_pipeline.store.database import Database
from appview_pipeline_tests.simulated_network.accounts import make_key
from appview_pipeline_tests.simulated_network.http_service import Answer, json_answer
from appview_pipeline_tests.simulated_network.network import SimulatedNetwork
from appview_pipeline_tests.simulated_network.repository import Write
from appview_pipeline_tests.simulated_network.world import Author, World
from appview_pipeline_tests.support.frames import Person, Stream
from appview_pipeline_tests.support.hostile_exports import (
    ANSWERS,
    HostileAnswer,
    HostileExport,
    answer_limits,
    hostile_export,
)
from appview_pipeline_tests.support.http_server import Request, ok, status
from appview_pipeline_tests.support.keys import save_key
from appview_pipeline_tests.support.public_internet import PUBLIC_ADDRESS, Names, internet

POST = "app.bsky.feed.post"


@pytest.fixture
def network() -> Iterator[SimulatedNetwork]:
    with SimulatedNetwork(World(9, 6, start=time.time() - 60, pasts=())) as made:
        for author in made.world.authors:
            made.happen(made.world.write, author.did, 5)
        yield made


MadeFetcher = Callable[..., Fetcher]


@pytest.fixture
def fetcher(network: SimulatedNetwork, database: Database) -> Iterator[MadeFetcher]:
    """Makes fetchers; arguments are settings."""
    clients: list[Client] = []

    def made(**options: Any) -> Fetcher:
        settings = replace(load(network.environment()), database_url=database.url, **options)
        clients.append(Client(settings))
        return Fetcher(settings, database, clients[-1])

    yield made
    for client in clients:
        client.close()


@contextmanager
def fails(kind: str) -> Iterator[list[FetchFailed]]:
    """The failure that comes within, of which everything that always holds is checked."""
    found: list[FetchFailed] = []
    with pytest.raises(FetchFailed) as caught:
        yield found
    error = caught.value
    found.append(error)
    assert error.kind == kind, error
    assert error.reason == str(error) and error.reason.isprintable() and len(error.reason) < 500


def listed(export: Export) -> dict[str, bytes]:
    """CIDs of records by path; closes the export."""
    with export:
        return {path: cid for path, cid in export.records() if export.block(cid)}


def contents(author: Author) -> dict[str, bytes]:
    repository = author.repository
    return {path: found[0] for path in repository.paths() if (found := repository.get(path))}


def first_post(author: Author) -> str:
    """The record key of a post of the account."""
    return min(path for path in author.repository.paths() if path.startswith(f"{POST}/")).partition("/")[2]


# ---- repositories


def test_a_repository(network: SimulatedNetwork, fetcher: MadeFetcher) -> None:
    author = network.world.authors[0]
    asking = fetcher()
    assert asking.host_of(author.did) == network.pds_url
    export = asking.repository(author.did, newer_than=author.repository.rev)
    assert (export.did, export.rev, export.commit) == (author.did, author.repository.rev, author.repository.commit_cid)
    assert export.size == len(author.repository.export()) and export.data == author.repository.tree.cid
    assert listed(export) == contents(author) != {}


def test_a_large_one_goes_through_a_file(network: SimulatedNetwork, fetcher: MadeFetcher, tmp_path: Path) -> None:
    author = network.world.authors[0]
    export = fetcher(repo_memory_bytes=1_000, state_dir=tmp_path).repository(author.did)
    assert list(tmp_path.iterdir()) == []  # the file has no name
    assert listed(export) == contents(author)
    with pytest.raises(ValueError, match="closed"):
        list(export.records())


def test_many_threads_share_a_fetcher(network: SimulatedNetwork, fetcher: MadeFetcher) -> None:
    asking, authors = fetcher(), network.world.authors * 5
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda author: listed(asking.repository(author.did)), authors))
    assert found == [contents(author) for author in authors]


# ---- single records


def test_a_record_and_the_proof_of_it(network: SimulatedNetwork, fetcher: MadeFetcher) -> None:
    author = network.world.authors[1]
    rkey = first_post(author)
    found = fetcher().record(author.did, POST, rkey)
    stored = author.repository.get(f"{POST}/{rkey}")
    assert stored is not None and (found.cid, found.block) == stored
    assert (found.did, found.path, found.rev) == (author.did, f"{POST}/{rkey}", author.repository.rev)
    assert (found.commit, found.data) == (author.repository.commit_cid, author.repository.tree.cid)
    assert decode_record(stored[1])["$type"] == POST


def test_the_proof_that_there_is_no_record(network: SimulatedNetwork, fetcher: MadeFetcher) -> None:
    author = network.world.authors[1]
    found = fetcher().record(author.did, POST, "3aaaaaaaaaa2a")
    assert found.cid is None and found.block is None and found.rev == author.repository.rev


# ---- accounts that are gone, moved, or have a new key


def test_an_account_that_has_moved_is_found_at_its_new_pds(network: SimulatedNetwork, fetcher: MadeFetcher) -> None:
    """The old PDS says that it has no such repository. Before that counts, the account is resolved anew."""
    author = network.world.authors[0]
    asking = fetcher()
    asking.repository(author.did).close()
    network.happen(network.world.migrate, author.did)
    asked = network.plc.asked
    assert listed(asking.repository(author.did)) == contents(author)
    assert asking.host_of(author.did) == network.second_pds.url
    assert network.plc.asked == asked + 1
    asking.repository(author.did).close()
    assert asking.record(author.did, POST, first_post(author)).cid is not None
    assert network.plc.asked == asked + 1


def test_a_record_of_an_account_that_has_moved(network: SimulatedNetwork, fetcher: MadeFetcher) -> None:
    author = network.world.authors[0]
    asking = fetcher()
    asking.host_of(author.did)
    network.happen(network.world.migrate, author.did)
    assert asking.record(author.did, POST, first_post(author)).cid is not None


def test_many_records_of_an_account_that_has_moved(network: SimulatedNetwork, fetcher: MadeFetcher) -> None:
    """Whichever thread resolves it anew: all of them find the new PDS."""
    author = network.world.authors[0]
    asking = fetcher()
    asking.host_of(author.did)
    network.happen(network.world.migrate, author.did)
    asked = network.plc.asked
    network.plc.faults.delay = 0.3
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: asking.record(author.did, POST, first_post(author)).cid, range(6)))
    assert None not in found and network.plc.asked == asked + 1


def test_an_old_pds_that_still_has_the_repository(network: SimulatedNetwork, fetcher: MadeFetcher) -> None:
    """It gives out an older rev than we have: that counts after a fresh resolution only, too."""
    author = network.world.authors[0]
    asking = fetcher()
    asking.repository(author.did).close()
    old = author.repository.export()
    network.happen(network.world.migrate, author.did)
    network.pds.answers[author.did] = Answer(old)
    assert listed(asking.repository(author.did, newer_than=author.repository.rev)) == contents(author)


def test_a_new_key_is_looked_for_before_a_signature_counts(network: SimulatedNetwork, fetcher: MadeFetcher) -> None:
    author = network.world.authors[0]
    asking = fetcher()
    asking.repository(author.did).close()
    author.account.key = author.repository.key = make_key("a new one", p256=True)
    network.happen(network.world.write, author.did)
    asked = network.plc.asked
    assert listed(asking.repository(author.did)) == contents(author)
    assert asking.record(author.did, POST, first_post(author)).cid is not None
    assert network.plc.asked == asked + 1


def test_a_bad_signature_counts_after_one_fresh_resolution(
    network: SimulatedNetwork, fetcher: MadeFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    author = network.world.authors[0]
    asking = fetcher()
    asking.repository(author.did).close()
    author.repository.key = make_key("a stranger")
    network.happen(network.world.write, author.did)
    asked, fetched = network.plc.asked, network.pds.asked
    with fails("signature") as found:
        asking.repository(author.did)
    assert found[0].blames_account and not found[0].is_final and found[0].host == network.pds_url
    assert (network.plc.asked - asked, network.pds.asked - fetched) == (
        1,
        1,
    )  # with the same key there is no second download
    for _ in range(3):  # and that resolution is for all failures of the next ten minutes
        with fails("signature"):
            asking.record(author.did, POST, first_post(author))
    assert network.plc.asked == asked + 1
    monkeypatch.setattr("appview_pipeline.backfill.fetch.RESOLUTION_ANEW_SECONDS", 0.0)
    author.account.key = author.repository.key
    assert asking.record(author.did, POST, first_post(author)).cid is not None


def test_what_can_not_be_checked_anew_does_not_count(network: SimulatedNetwork, fetcher: MadeFetcher) -> None:
    author = network.world.authors[0]
    asking = fetcher()
    asking.repository(author.did).close()
    network.happen(network.world.deactivate, author.did)
    network.plc.faults.statuses.extend([500] * 9)
    with fails("identity") as found:
        asking.repository(author.did)
    assert not found[0].is_final and not found[0].blames_account
    assert "RepoDeactivated" in found[0].reason and "could not be found out" in found[0].reason
    network.plc.faults.statuses.clear()
    with fails("gone"):
        asking.repository(author.did)


def test_an_account_that_is_resolved_for_the_first_time_is_not_resolved_twice(
    network: SimulatedNetwork, fetcher: MadeFetcher
) -> None:
    author = network.world.authors[0]
    network.happen(network.world.deactivate, author.did)
    with fails("gone") as found:
        fetcher().repository(author.did)
    assert found[0].is_final and "RepoDeactivated" in found[0].reason
    assert network.plc.asked == 1


def test_accounts_of_which_nobody_knows_the_pds(network: SimulatedNetwork, fetcher: MadeFetcher) -> None:
    asking = fetcher()
    with fails("identity") as unknown:
        asking.repository("did:plc:" + "q" * 24)
    assert unknown[0].is_final and unknown[0].host is None
    network.plc.faults.statuses.extend([500] * 9)
    with fails("identity") as unanswered:
        asking.host_of(network.world.authors[0].did)
    assert not unanswered[0].is_final and not unanswered[0].blames_account


def test_a_record_that_is_not_there(network: SimulatedNetwork, fetcher: MadeFetcher) -> None:
    author = network.world.authors[0]
    network.pds.answers[author.did] = json_answer({"error": "RecordNotFound", "message": "no such record"}, 404)
    with fails("not found") as found:
        fetcher().record(author.did, POST, "3aaaaaaaaaa2a")
    assert found[0].is_final


def test_proofs_that_prove_something_else(network: SimulatedNetwork, fetcher: MadeFetcher) -> None:
    """Of another account, of another record, cut, without the record: nothing of it is believed."""
    author, other = network.world.authors[:2]
    rkey = first_post(author)
    path = f"{POST}/{rkey}"
    proof, stored = author.repository.proof(path), author.repository.get(path)
    assert stored is not None
    blocks = [pair for pair in iter_blocks(proof) if pair[0] != stored[0]]
    cases = {
        "export: account": other.repository.proof(f"{POST}/{first_post(other)}"),
        "export: missing": write_car(author.repository.commit_cid, blocks),
        "export: hash": write_car(author.repository.commit_cid, [*blocks, (stored[0], b"\xa0")]),
        "export: car": proof[:-1],
    }
    asking = fetcher()
    for kind, body in cases.items():
        network.pds.answers[author.did] = Answer(body)
        with fails(kind):
            asking.record(author.did, POST, rkey)


# ---- bad input


LARGE = ["a block of 64 MB", "a node of 8 MB", "one large record two thousand times"]


@pytest.mark.parametrize("hostile", [hostile_export(name) for name in LARGE], ids=lambda it: it.name)
def test_large_hostile_exports(network: SimulatedNetwork, fetcher: MadeFetcher, hostile: HostileExport) -> None:
    """Each ends with its reason; those with which nothing is wrong are read. A neighbour at the same PDS is fetched.

    All others are in `test_bad_input.py`, and in the tests of `protocol/export.py`.
    """
    author, neighbour = network.world.authors[:2]
    network.pds.answers[author.did] = hostile.answer(author.repository)
    asking = fetcher()
    began = time.monotonic()
    if hostile.kind is None:
        assert listed(asking.repository(author.did, newer_than=author.repository.rev)) == contents(author)
    else:
        with fails(hostile.kind) as found, reading(network.pds_url):
            listed(asking.repository(author.did, newer_than=author.repository.rev))
        assert hostile.says in found[0].reason and found[0].host == network.pds_url
        assert found[0].blames_account and not found[0].is_final
    assert time.monotonic() - began < 10
    assert listed(asking.repository(neighbour.did)) == contents(neighbour)


@contextmanager
def reading(host: str) -> Iterator[None]:
    """Makes failures of the exports that are found to be bad while they are read."""
    try:
        yield
    except InvalidExport as error:
        raise export_failed(error, host) from None


def test_hostile_answers(network: SimulatedNetwork, fetcher: MadeFetcher) -> None:
    """Each ends with its reason and in time, and says whether the account is to blame."""
    for _ in ANSWERS:
        network.happen(network.world.arrive)
    authors = network.world.authors[-len(ANSWERS) :]

    def check(hostile: HostileAnswer, author: Author) -> None:
        network.pds.answers[author.did] = hostile.make(author.repository.export())
        asking = fetcher(**answer_limits)  # another client for each: they share no breaker and no pause
        asking.host_of(author.did)
        began = time.monotonic()
        with fails(hostile.kind) as found:
            asking.repository(author.did)
        assert time.monotonic() - began < 5, hostile
        assert hostile.says in found[0].reason and found[0].host == network.pds_url, hostile
        assert (found[0].blames_account, found[0].is_final) == (hostile.blames_account, hostile.is_final), hostile
        if hostile.kind == "parked":
            assert found[0].retry_after is not None and found[0].retry_after > 1

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(check, ANSWERS, authors))


def test_an_hour_of_429(network: SimulatedNetwork, fetcher: MadeFetcher) -> None:
    """The PDS is asked once; what it said of its pause goes through to whoever wants to fetch from it."""
    network.pds.faults.statuses.append(429)
    network.pds.faults.retry_after = 3_600.0
    author, neighbour = network.world.authors[:2]
    asking = fetcher()
    asking.host_of(author.did)
    asking.host_of(neighbour.did)
    asked = network.pds.asked
    for did in (author.did, neighbour.did, author.did):
        with fails("parked") as found:
            asking.repository(did)
        assert found[0].retry_after == pytest.approx(MAX_RETRY_AFTER, abs=5) and not found[0].blames_account
    assert network.pds.asked == asked + 1


def test_a_full_disk_blames_nobody(
    network: SimulatedNetwork, fetcher: MadeFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("appview_pipeline.backfill.spool.TemporaryFile", full)
    with fails("disk") as found:
        fetcher(repo_memory_bytes=0).repository(network.world.authors[0].did)
    assert not found[0].blames_account and "No space left" in found[0].reason


def test_a_redirect_of_a_pds_is_followed_where_it_is_public(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A PDS may send us to where a repository is, and to nothing within our own network."""
    person = Person(Stream(), "ann")
    person.commit(Write("create", "app.bsky.actor.profile/self", {"$type": "app.bsky.actor.profile"}))
    save_key(database, person.did, person.key, pds="https://example.com")
    places = iter(INTERNAL_PLACES)

    def answer(request: Request) -> bytes:
        if request.path.startswith("/moved"):
            return ok(person.repository.export())
        return status("302 Found", f"Location: {next(places, '/moved')}\r\n")

    net = internet(monkeypatch, tmp_path, answer)
    names = Names({"example.com": [PUBLIC_ADDRESS], "metadata.google.internal": ["169.254.169.254"]})
    with net.server, net.client(names) as client:
        asking = Fetcher(Settings(database_url=database.url), database, client)
        for kind in ("url", "refused address", "refused address", "refused address"):
            with fails(kind):
                asking.repository(person.did)
        assert listed(asking.repository(person.did)).keys() == {"app.bsky.actor.profile/self"}
    assert set(net.contacted) == {(PUBLIC_ADDRESS, 443)}


INTERNAL_PLACES = (
    "http://169.254.169.254/latest/meta-data",
    "https://169.254.169.254/latest/meta-data",
    "https://metadata.google.internal/",
    "https://127.0.0.1/xrpc/com.atproto.sync.getRepo",
)
