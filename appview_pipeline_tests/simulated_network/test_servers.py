"""The servers of the simulated network: faults by account, thousands that hang, a name server, accounts that move."""

from __future__ import annotations

import gc
import resource
import socket
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import dns.message
import dns.query
import dns.rcode
import dns.resolver
import pytest
import requests

from appview_pipeline.protocol import frames
from appview_pipeline_tests.simulated_network import AccountFaults, SimulatedNetwork, World
from appview_pipeline_tests.simulated_network.directory import WELL_KNOWN
from appview_pipeline_tests.simulated_network.faults import GARBAGE, KINDS, RateLimit
from appview_pipeline_tests.simulated_network.http_service import Answer
from appview_pipeline_tests.support.waiting import wait_for

START = 1_790_000_000.0
STATUS = "com.atproto.sync.getRepoStatus"


@pytest.fixture
def network() -> Iterator[SimulatedNetwork]:
    with SimulatedNetwork(World(6, 30, start=START, pasts=())) as network:
        yield network


def document(network: SimulatedNetwork, did: str, **options: float) -> requests.Response:
    return requests.get(f"{network.plc_url}/{did}", timeout=options.get("timeout", 5))


def well_known(network: SimulatedNetwork, handle: str) -> requests.Response:
    return requests.get(network.pds_url + WELL_KNOWN, headers={"Host": handle}, timeout=5)


def status(url: str, did: str) -> dict[str, object]:
    return dict(requests.get(f"{url}/xrpc/{STATUS}", {"did": did}, timeout=5).json())


def events(made: list[bytes]) -> list[frames.Event]:
    return [frames.decode_frame(frame) for frame in made]


# ---- faults


def test_shares_of_accounts_are_chosen_by_seed() -> None:
    faults = AccountFaults(hang=0.10, fail=0.05, garbage=0.01, huge=0.01, seed=3)
    kinds = Counter(faults.of(f"did:plc:{number}") for number in range(20_000))
    for kind, share in (("hang", 0.10), ("fail", 0.05), ("garbage", 0.01), ("huge", 0.01), (None, 0.83)):
        assert abs(kinds[kind] / 20_000 - share) < 0.01
    assert [faults.of(f"did:plc:{number}") for number in range(100)] != [
        AccountFaults(hang=0.10, fail=0.05, seed=4).of(f"did:plc:{number}") for number in range(100)
    ]


def test_each_kind_of_fault_happens_and_is_counted(network: SimulatedNetwork) -> None:
    dids = dict(zip(KINDS, network.world.by_did, strict=False))
    faults = network.plc.faults
    faults.named.update({did: kind for kind, did in dids.items()})
    faults.drip_seconds, faults.retry_after = 0.001, 7
    right = network.world.by_did[dids["drip"]].account

    with pytest.raises(requests.Timeout):
        document(network, dids["hang"], timeout=0.2)
    assert document(network, dids["fail"]).status_code == 500
    garbage = document(network, dids["garbage"])
    assert (garbage.content, garbage.headers["Content-Type"]) in GARBAGE and garbage.status_code == 200
    assert document(network, dids["drip"]).json()["id"] == right.did
    assert document(network, dids["missing"]).status_code == 404
    assert document(network, dids["gone"]).status_code == 410
    limited = document(network, dids["limited"])
    assert (limited.status_code, limited.headers["Retry-After"]) == (429, "7")
    with requests.get(f"{network.plc_url}/{dids['huge']}", timeout=5, stream=True) as huge:
        assert "Content-Length" not in huge.headers
        assert sum(map(len, huge.iter_content(1 << 20))) == 50_000_000
    assert faults.by_kind == dict.fromkeys(KINDS, 1) and faults.injected == len(KINDS)

    faults.accounts = AccountFaults(fail=1.0)
    faults.named[dids["fail"]] = "none"
    assert document(network, dids["fail"]).status_code == 200
    assert document(network, network.world.authors[-1].did).status_code == 500


def test_a_huge_answer_is_never_in_memory(network: SimulatedNetwork) -> None:
    did = network.world.authors[0].did
    network.plc.faults.named[did] = "huge"
    tracemalloc.start()
    try:
        with ExitStack() as stack:  # clients that do not read
            for _ in range(10):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", network.plc.port)))
                client.sendall(f"GET /{did} HTTP/1.1\r\nHost: plc\r\n\r\n".encode())
            wait_for(lambda: network.plc.faults.by_kind["huge"] == 10)
            time.sleep(0.2)
            assert tracemalloc.get_traced_memory()[0] < 20_000_000
    finally:
        tracemalloc.stop()


def test_a_thousand_clients_hang_without_a_thread_each(network: SimulatedNetwork) -> None:
    many, (soft, hard) = 1_000, resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * many + 500
    if hard not in (resource.RLIM_INFINITY,) and hard < wanted:
        pytest.skip(f"this machine allows {hard} open files, and 1,000 connections to ourselves need {wanted}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    network.plc.faults.accounts = AccountFaults(hang=1.0)
    did, threads = network.world.authors[0].did, threading.active_count()
    try:
        with ExitStack() as stack:
            for _ in range(many):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", network.plc.port)))
                client.sendall(f"GET /{did} HTTP/1.1\r\nHost: plc\r\n\r\n".encode())
            wait_for(lambda: network.plc.hanging == many)
            assert threading.active_count() == threads
            network.plc.faults.named[did] = "none"
            assert document(network, did).status_code == 200, "others are served"
        wait_for(lambda: network.plc.hanging == 0 and not network.plc.open)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_stopping_ends_those_that_hang() -> None:
    with SimulatedNetwork(World(6, 3, start=START, pasts=())) as network:
        network.plc.faults.accounts = AccountFaults(hang=1.0)
        client = socket.create_connection(("127.0.0.1", network.plc.port))
        client.sendall(b"GET /did:plc:a HTTP/1.1\r\n\r\n")
        wait_for(lambda: network.plc.hanging == 1)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    with client:
        assert client.recv(1) == b""


def test_a_rate_limit_is_said_and_kept(network: SimulatedNetwork) -> None:
    network.plc.faults.rate_limit = RateLimit(3, 60)
    did = network.world.authors[0].did
    answers = [document(network, did) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [answer.headers["RateLimit-Remaining"] for answer in answers] == ["2", "1", "0", "0"]
    assert 0 < int(answers[3].headers["RateLimit-Reset"]) - time.time() + 1 <= 61
    assert answers[0].headers["RateLimit-Policy"] == "3;w=60"


def test_requests_are_answered_in_their_order_on_one_connection(network: SimulatedNetwork) -> None:
    network.plc.faults.delay = 0.05
    author = network.world.authors[0]
    with socket.create_connection(("127.0.0.1", network.plc.port), 5) as client:
        client.sendall(
            f"GET /{author.did} HTTP/1.1\r\n\r\nGET /_health HTTP/1.1\r\n\r\nPUT / HTTP/1.1\r\n\r\n".encode()
        )
        received = b""
        while piece := client.recv(65_536):
            received += piece
    assert received.index(author.did.encode()) < received.index(b"simulated") < received.index(b"501 Not Implemented")


def test_a_client_that_sends_without_end_is_cut_off(network: SimulatedNetwork) -> None:
    with socket.create_connection(("127.0.0.1", network.plc.port), 5) as client, pytest.raises(OSError):
        for _ in range(1_000):
            client.sendall(b"x" * 10_000)


# ---- handles


def txt(network: SimulatedNetwork, handle: str) -> list[str]:
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.port, resolver.lifetime = ["127.0.0.1"], network.dns.port, 1.0
    return [b"".join(record.strings).decode() for record in resolver.resolve(f"_atproto.{handle}", "TXT")]


def test_handles_are_named_in_dns_and_on_the_web(network: SimulatedNetwork) -> None:
    author = network.world.authors[0]
    old = author.account.handle
    assert txt(network, old) == txt(network, old.upper()) == [f"did={author.did}"]
    assert well_known(network, f"{old}:{network.pds.port}").text == author.did
    (event,) = events(network.happen(network.world.rename, author.did, "new.simnet.test"))
    assert isinstance(event, frames.Identity) and event.handle == "new.simnet.test"
    assert txt(network, "new.simnet.test") == [f"did={author.did}"]
    assert document(network, author.did).json()["alsoKnownAs"] == ["at://new.simnet.test"]
    with pytest.raises(dns.resolver.NXDOMAIN):
        txt(network, old)
    assert well_known(network, old).status_code == 404


def test_some_handles_are_on_the_web_alone() -> None:
    with SimulatedNetwork(World(6, 200, start=START, pasts=()), txt_share=0.5) as network:
        named = 0
        for handle in network.world.by_handle:
            try:
                named += len(txt(network, handle))
            except dns.resolver.NXDOMAIN:
                assert well_known(network, handle).status_code == 200
        assert 70 < named < 130


def test_a_handle_may_name_somebody_else(network: SimulatedNetwork) -> None:
    one, other = (author.did for author in network.world.authors[:2])
    handle = network.world.by_did[other].account.handle
    network.happen(network.world.claim, one, handle)
    assert document(network, one).json()["alsoKnownAs"] == [f"at://{handle}"]
    assert txt(network, handle) == [f"did={other}"]
    network.world.point(handle, one)
    assert txt(network, handle) == [f"did={one}"]
    network.world.point(handle, None)
    assert well_known(network, handle).status_code == 404


def test_faults_of_dns_and_of_the_web(network: SimulatedNetwork) -> None:
    authors = {kind: network.world.authors[at].account for at, kind in enumerate(("fail", "hang", "huge", "missing"))}
    network.dns.faults.named.update({account.did: kind for kind, account in authors.items()})
    with pytest.raises(dns.resolver.NoNameservers, match="SERVFAIL"):
        txt(network, authors["fail"].handle)
    with pytest.raises(dns.resolver.LifetimeTimeout):
        txt(network, authors["hang"].handle)
    assert len(txt(network, authors["huge"].handle)) == 300
    with pytest.raises(dns.resolver.NXDOMAIN):
        txt(network, authors["missing"].handle)
    handle = authors["fail"].handle
    assert well_known(network, handle).status_code == 200, "its own faults"
    network.pds.well_known_faults.named[authors["fail"].did] = "fail"
    assert well_known(network, handle).status_code == 500
    assert status(network.pds_url, authors["fail"].did)["active"], "its own faults"
    network.pds.answers["odd.test"] = Answer(b"odd", "text/plain", 302, {"Location": "http://169.254.169.254/"})
    assert well_known(network, "odd.test").history


def test_the_name_server_answers_what_it_can_not_read(network: SimulatedNetwork) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for nonsense in (b"", b"x", b"\0" * 12, b"\xff" * 500):
            client.sendto(nonsense, ("127.0.0.1", network.dns.port))
    query = dns.message.make_query("simnet.test", "AAAA")
    assert dns.query.udp(query, "127.0.0.1", 5, network.dns.port).rcode() == dns.rcode.NOERROR


# ---- accounts


def test_accounts_come_go_and_return(network: SimulatedNetwork) -> None:
    world, did = network.world, network.world.authors[0].did
    (event,) = events(network.happen(world.deactivate, did, "suspended"))
    assert isinstance(event, frames.Account) and (event.active, event.status) == (False, "suspended")
    assert status(network.pds_url, did) == {"did": did, "active": False, "status": "suspended"}
    (event,) = events(network.happen(world.reactivate, did))
    assert isinstance(event, frames.Account) and (event.active, event.status) == (True, None)
    (event,) = events(network.happen(world.announce, did, False, "takendown"))
    assert isinstance(event, frames.Account) and (event.active, event.status) == (False, "takendown")
    assert status(network.pds_url, did)["active"], "the PDS says otherwise"
    assert [type(event) for event in events(network.happen(world.arrive))] == [
        frames.Identity, frames.Account, frames.Commit, frames.Sync, frames.Commit,
    ]  # fmt: skip
    assert len(events(network.happen(world.write, did, 3))) == 3
    gone = events(network.happen(world.delete, did))
    assert isinstance(gone[0], frames.Account) and gone[0].status == "deleted"
    assert document(network, did).status_code == 410
    assert status(network.pds_url, did)["error"] == "RepoNotFound"


def test_an_account_moves_with_its_repository(network: SimulatedNetwork) -> None:
    world, author = network.world, network.world.authors[0]
    did = author.did
    network.happen(world.write, did, 2)
    before = set(author.repository.paths())
    assert status(network.second_pds.url, did)["error"] == "RepoNotFound"
    identity, active, sync, commit, inactive = events(network.happen(world.migrate, did, both=True))
    assert isinstance(identity, frames.Identity) and isinstance(active, frames.Account) and active.active
    assert isinstance(sync, frames.Sync) and sync.did == did
    assert isinstance(commit, frames.Commit) and commit.repo == did
    assert isinstance(inactive, frames.Account) and inactive.status == "deactivated"
    assert document(network, did).json()["service"][0]["serviceEndpoint"] == network.second_pds.url
    assert status(network.pds_url, did) == {"did": did, "active": False, "status": "deactivated"}
    assert status(network.second_pds.url, did)["active"]
    assert before < set(author.repository.paths())
    export = requests.get(f"{network.second_pds.url}/xrpc/com.atproto.sync.getRepo", {"did": did}, timeout=5)
    assert export.status_code == 200
    refused = requests.get(f"{network.pds_url}/xrpc/com.atproto.sync.getRepo", {"did": did}, timeout=5)
    assert refused.json()["error"] == "RepoDeactivated"
    listed = requests.get(f"{network.second_pds.url}/xrpc/com.atproto.sync.listRepos", timeout=5).json()
    assert [repo["did"] for repo in listed["repos"]] == [did]
    network.happen(world.migrate, did, 0)
    assert status(network.pds_url, did)["active"] and not status(network.second_pds.url, did)["active"]


def test_events_keep_the_order_of_a_world_that_moves() -> None:
    with SimulatedNetwork(World(9, 20, start=time.time(), pasts=()), rate=0) as network:
        did = network.world.authors[0].did
        for _ in range(200):
            network.happen(network.world.announce, did, True)
        assert network.failure is None


def test_a_plc_export_has_all_operations(network: SimulatedNetwork) -> None:
    network.happen(network.world.rename, network.world.authors[0].did)
    lines = list(network.plc.export())
    assert len(lines) == 2 * len(network.world.authors) + 1, "a genesis each, where its PDS is, and the new handle"


@pytest.mark.slow
def test_20_000_accounts_are_served_within_flat_memory() -> None:
    with SimulatedNetwork(World(6, 20_000, start=START, pasts=())) as network:
        network.plc.faults.accounts = AccountFaults(fail=0.05, garbage=0.01)
        dids = list(network.world.by_did)
        session = requests.Session()

        def ask_all() -> int:
            for did in dids[::10]:
                session.get(f"{network.plc_url}/{did}", timeout=5)
            gc.collect()
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        first = ask_all()
        assert ask_all() - first < 20_000, "kB"
