"""What the simulated network does wrong on purpose: commits that nobody hears of, lies, rewritten repositories, hosts
that fail, a window that is too short."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice, pairwise

import pytest
import requests
from websockets.sync.client import connect

from appview_pipeline.protocol import frames, mst
from appview_pipeline.protocol.car import read_car
from appview_pipeline.protocol.commit import InvalidCommit, decode_commit, prove, read_commit
from appview_pipeline.protocol.signing import parse_multikey, verify_commit
from appview_pipeline_tests.simulated_network import SimulatedNetwork, World
from appview_pipeline_tests.simulated_network.mishaps import TAMPERED
from appview_pipeline_tests.simulated_network.outages import Outages, plan
from appview_pipeline_tests.simulated_network.relay import SUBSCRIBE_REPOS, frame_seq
from appview_pipeline_tests.support.waiting import wait_for

START = 1_790_000_000.0
FEW = ((60, 1), (200, 1))
GET_REPO = "/xrpc/com.atproto.sync.getRepo"
LIST_REPOS = "/xrpc/com.atproto.sync.listRepos"
LIST_HOSTS = "/xrpc/com.atproto.sync.listHosts"


@pytest.fixture(scope="module")
def network() -> Iterator[SimulatedNetwork]:
    with SimulatedNetwork(World(6, 30, start=START, pasts=FEW, homes=4, p256_share=0.3)) as network:
        network.advance(100)
        yield network


def commits(made: list[bytes]) -> list[frames.Commit]:
    return [event for event in map(frames.decode_frame, made) if isinstance(event, frames.Commit)]


def proven(world: World, event: frames.Commit) -> bool:
    """Whether the commit passes the checks of its structure, and then its proof and its signature."""
    content = read_commit(event, world.clock.micros, ())
    assert not [op.problem for op in content.ops if op.problem]
    try:
        prove(event, content)
    except InvalidCommit:
        return False
    key = parse_multikey(world.by_did[event.repo].account.public_key)
    return verify_commit(key, content.block, bytes(decode_commit(content.block)["sig"]))


def export(network: SimulatedNetwork, did: str) -> tuple[str, dict[str, bytes]]:
    """The rev of a repository, and its paths with the CIDs, as its PDS says."""
    url = network.world.pds_urls[network.world.by_did[did].account.home]
    roots, blocks = read_car(requests.get(url + GET_REPO, {"did": did}, timeout=10).content)
    commit = decode_commit(blocks[roots[0]])
    return str(commit["rev"]), dict(mst.walk(commit["data"], blocks.get))


def pages(url: str, name: str, limit: int) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    cursor: dict[str, str] = {}
    while True:
        body = requests.get(url, {"limit": str(limit), **cursor}, timeout=10).json()
        found += body[name]
        if "cursor" not in body:
            return found
        cursor = {"cursor": body["cursor"]}


# ---- the stream


@pytest.mark.parametrize("numbered", [True, False])
def test_commits_get_lost_with_their_number_or_without(numbered: bool) -> None:
    world = World(3, 40, start=START, pasts=())
    if numbered:
        world.mishaps.lost = 0.1
    else:
        world.mishaps.unnumbered = 0.1
    made = list(world.frames(2_000))
    seqs = [seq for seq in map(frame_seq, made) if seq is not None]
    lost = world.mishaps.by_kind.total()
    assert 150 < lost < 280
    assert seqs[-1] - len(seqs) == (lost if numbered else 0)
    heads: dict[str, str] = {}
    broken: Counter[str] = Counter()
    for event in commits(made):
        if event.repo in heads:
            broken[event.repo] += event.since != heads[event.repo]
        heads[event.repo] = event.rev
    # Who lost several in a row has one break only.
    assert 0.5 * lost < broken.total() <= lost
    assert {did for did, count in broken.items() if count} <= world.mishaps.dids


def test_mishaps_are_the_same_each_time_and_stop() -> None:
    made = []
    for _ in range(2):
        world = World(3, 40, start=START, pasts=())
        world.mishaps.lost, world.mishaps.tampered = 0.1, 0.1
        made.append(list(world.frames(500)))
    assert made[0] == made[1]
    before = world.mishaps.by_kind.total()
    world.mishaps.stop()
    after = commits(list(world.frames(500)))
    assert world.mishaps.by_kind.total() == before > 50
    assert all(proven(world, event) for event in after)


@pytest.mark.parametrize("kind", TAMPERED)
@pytest.mark.parametrize("act", ["post", "follow", "unfollow", "like"])
def test_a_tampered_commit_is_well_formed_and_proves_nothing(kind: str, act: str) -> None:
    world = World(6, 30, start=START, pasts=FEW, p256_share=0.5)
    for did in [author.did for author in world.authors[:8]]:
        (event,) = commits(world.tamper(did, kind, act))
        assert not proven(world, event)
        (right,) = commits(world.write(did))
        assert proven(world, right)
        assert right.since == event.rev  # what was tampered with happened


def test_shares_of_tampered_commits() -> None:
    world = World(6, 30, start=START, pasts=FEW)
    world.mishaps.tampered = 0.2
    events = commits(list(world.frames(600)))
    wrong = [event for event in events if not proven(world, event)]
    assert len(wrong) == world.mishaps.by_kind.total() > 80
    assert set(world.mishaps.by_kind) == set(TAMPERED)


def test_a_rewritten_repository_is_announced_by_a_sync_alone(network: SimulatedNetwork) -> None:
    world = network.world
    did = next(author.did for author in world.authors if author.account.active)
    rev, before = export(network, did)
    (frame,) = network.happen(world.rewrite, did, removed=5, changed=2, added=3)
    event = frames.decode_frame(frame)
    assert isinstance(event, frames.Sync) and event.did == did
    new_rev, after = export(network, did)
    assert new_rev == event.rev > rev
    gone, came = before.keys() - after.keys(), after.keys() - before.keys()
    changed = [path for path in before.keys() & after.keys() if before[path] != after[path]]
    assert (3 <= len(gone) <= 5, 1 <= len(came) <= 3, len(changed) >= 1) == (True, True, True)
    (following,) = commits(network.happen(world.write, did))
    assert following.since == event.rev
    assert proven(world, following)


def test_posts_that_nobody_hears_of(network: SimulatedNetwork) -> None:
    world = network.world
    did = world.authors[1].did
    rev, before = export(network, did)
    assert network.happen(world.lose, did, 3) == []
    new_rev, after = export(network, did)
    assert new_rev > rev
    assert len(after.keys() - before.keys()) >= 3


def test_the_window_can_be_cut(network: SimulatedNetwork) -> None:
    relay = network.relay
    newest = relay.window.newest_seq
    relay.forget_before(newest - 9)
    address = f"{relay.url}{SUBSCRIBE_REPOS}?cursor="
    with connect(address + "1", max_size=None, proxy=None) as client:
        assert b"OutdatedCursor" in client.recv(5, decode=False)
        event = frames.decode_frame(client.recv(5, decode=False))
        assert isinstance(event, frames.Commit | frames.Sync | frames.Account | frames.Identity)
        assert event.seq >= newest - 9
    relay.faults.ignore_cursor_rules = True
    try:
        with connect(address + "1", max_size=None, proxy=None) as client:
            assert b"OutdatedCursor" not in client.recv(5, decode=False)
    finally:
        relay.faults.ignore_cursor_rules = False
    relay.forget_before(newest + 1)
    with connect(f"{address}{newest}", max_size=None, proxy=None) as client:
        network.advance(1)
        assert b"OutdatedCursor" not in client.recv(5, decode=False)


# ---- hosts


def test_the_relay_lists_the_hosts_and_each_host_its_repositories(network: SimulatedNetwork) -> None:
    relay = network.relay.url.replace("ws://", "http://")
    hosts = pages(relay + LIST_HOSTS, "hosts", 3)
    assert [f"http://{host['hostname']}" for host in hosts] == [pds.url for pds in network.pdses]
    assert sum(int(str(host["accountCount"])) for host in hosts) == len(network.world.authors)
    assert all(int(str(host["accountCount"])) > 2 for host in hosts)
    there = [repo["did"] for pds in network.pdses for repo in pages(pds.url + LIST_REPOS, "repos", 7)]
    everywhere = [repo["did"] for repo in pages(relay + LIST_REPOS, "repos", 7)]
    assert sorted(map(str, there)) == sorted(map(str, everywhere))
    assert requests.get(network.pds_url + LIST_HOSTS, timeout=5).status_code == 501
    document = requests.get(f"{network.plc_url}/{there[-1]}", timeout=5).json()
    assert document["service"][0]["serviceEndpoint"] == network.pdses[-1].url


def test_a_host_refuses_connections_and_comes_back(network: SimulatedNetwork) -> None:
    pds = network.pdses[2]
    with socket.create_connection((pds.host, pds.port), 5) as open_before:
        wait_for(lambda: bool(pds.open))
        pds.refuse()
        pds.refuse()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((pds.host, pds.port), 5)
        open_before.settimeout(5)
        assert open_before.recv(1) == b""  # cut
    pds.accept()
    pds.accept()
    assert requests.get(pds.url + "/xrpc/_health", timeout=5).status_code == 200
    with pytest.raises(OSError):  # nobody else can take the port
        socket.create_server((pds.host, pds.port))


def test_hosts_fail_by_a_clock_that_follows_from_the_seed(network: SimulatedNetwork) -> None:
    planned = list(islice(plan("5 0", 6, 3, ("fail", "hang")), 400))
    assert planned == list(islice(plan("5 0", 6, 3, ("fail", "hang")), 400))
    assert planned != list(islice(plan("5 1", 6, 3, ("fail", "hang")), 400))
    assert all(a.begin < a.end < b.begin for a, b in pairwise(planned))
    down = sum(outage.end - outage.begin for outage in planned) / planned[-1].end
    assert 0.28 < down < 0.39
    pds = network.pdses[3]
    seen: set[object] = set()
    wanted = {200, 500, 429, "refuse", "hang"}
    kinds = ("refuse", "fail", "limited", "hang")
    with Outages([pds], seed=1, calm=0.05, length=0.15, kinds=kinds) as outages:
        deadline = time.monotonic() + 20
        while not wanted <= seen and time.monotonic() < deadline:
            try:
                seen.add(requests.get(pds.url + "/xrpc/_health", timeout=0.05).status_code)
            except requests.ReadTimeout:
                seen.add("hang")
            except requests.ConnectionError as error:
                # Cut when the outage ends, or refused.
                seen.add("refuse" if "refused" in str(error) else "cut")
    assert {200, 500, 429, "refuse"} <= seen
    assert seen & {"hang", "cut"}
    assert outages.by_kind.total() >= 4
    assert pds.faults.everybody is None
    assert requests.get(pds.url + "/xrpc/_health", timeout=5).status_code == 200


def test_an_export_is_made_once_a_commit(network: SimulatedNetwork) -> None:
    did = network.world.authors[4].did
    pds = network.pdses[network.world.by_did[did].account.home]
    exports = pds.repositories.exports
    with network.world.lock:
        author = network.world.by_did[did]
        first = exports.of(author)
        assert exports.of(author) is first
        network.happen(network.world.write, did)
        second = exports.of(author)
        assert second != first
        kept, exports.max_bytes = exports.max_bytes, len(second) - 1
        assert exports.of(author) == second
        assert exports.bytes == 0
        exports.max_bytes = kept


def test_some_accounts_sign_with_p256(network: SimulatedNetwork) -> None:
    curves = Counter(parse_multikey(author.account.public_key).curve for author in network.world.authors)
    assert curves["p256"] > 3 and curves["k256"] > 10
    for author in network.world.authors:
        if author.account.active:
            assert proven(network.world, commits(network.world.write(author.did))[0])
    for author in network.world.authors[:10]:
        document = requests.get(f"{network.plc_url}/{author.did}", timeout=5).json()
        assert document["verificationMethod"][0]["publicKeyMultibase"] == author.account.public_key
