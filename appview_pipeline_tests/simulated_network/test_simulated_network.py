"""The simulated network is what it says: verifiable, deterministic, realistic, and a relay that keeps the rules.

The checks are made with what the simulation itself does not use: the protocol package's verification of commits, and
the `atproto` SDK's models, firehose client and XRPC client.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import libipld
import pytest
import requests
from atproto import CAR, Client, FirehoseSubscribeReposClient, models, parse_subscribe_repos_message
from atproto_client.exceptions import BadRequestError
from atproto_client.models.record_registry import resolve_record_type
from atproto_crypto.verify import verify_signature
from atproto_identity.did.resolver import DidResolver
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from appview_pipeline.protocol import mst, mst_node, mst_proof
from appview_pipeline.protocol.car import read_car
from appview_pipeline.protocol.commit import decode_commit, read_commit, read_sync
from appview_pipeline.protocol.frames import Account, Commit, Identity, Sync, decode_frame
from appview_pipeline.protocol.signing import parse_did_key, verify
from appview_pipeline_tests.simulated_network import Relay, SimulatedNetwork, World, generate, read_corpus, write_corpus
from appview_pipeline_tests.simulated_network.relay import SUBSCRIBE_REPOS
from appview_pipeline_tests.support.waiting import wait_for

START = 1_790_000_000.0
FRAMES = 6_000
FEW = ((100, 1), (500, 1))


@pytest.fixture(scope="module")
def world() -> World:
    return World(5, 400, start=START)


@pytest.fixture(scope="module")
def frames(world: World) -> list[bytes]:
    return list(world.frames(FRAMES))


@pytest.fixture(scope="module")
def network() -> Iterator[SimulatedNetwork]:
    with SimulatedNetwork(World(6, 30, start=START, pasts=())) as network:
        network.advance(400)
        yield network


def commits_of(frames: list[bytes]) -> list[Commit]:
    return [event for event in map(decode_frame, frames) if isinstance(event, Commit)]


def subscribe(relay: Relay, cursor: int | None = None, **options: Any) -> ClientConnection:
    address = relay.url + SUBSCRIBE_REPOS + ("" if cursor is None else f"?cursor={cursor}")
    # A client that leaves with frames unread never sees the answer to its close: don't wait for it long.
    return connect(address, max_size=None, proxy=None, close_timeout=0.2, **options)


def seqs(connection: ClientConnection, count: int) -> list[int]:
    return [libipld.decode_dag_cbor_multi(connection.recv(5, decode=False))[1]["seq"] for _ in range(count)]


# ---- the stream


def test_same_seed_same_bytes() -> None:
    made = [list(generate(3, 50, 400, start=START, pasts=FEW)) for _ in range(2)]
    assert made[0] == made[1]
    assert made[0] != list(generate(4, 50, 400, start=START, pasts=FEW))


def test_every_commit_verifies(world: World, frames: list[bytes]) -> None:
    """Structure, signature (every tenth by the SDK's own cryptography, too), MST inversion, each repository's chain."""
    head: dict[str, tuple[str, bytes]] = {}
    for number, event in enumerate(commits_of(frames)):
        content = read_commit(event, world.clock.micros, ())
        assert not [op.problem for op in content.ops if op.problem]
        commit = decode_commit(content.block)
        key = f"did:key:{world.by_did[event.repo].account.public_key}"
        unsigned = libipld.encode_dag_cbor({name: value for name, value in commit.items() if name != "sig"})
        assert verify(parse_did_key(key), unsigned, commit["sig"])
        if number % 10 == 0:  # it takes 20 ms
            assert verify_signature(key, unsigned, commit["sig"])
        if event.prev_data is not None:
            changes = [mst_proof.TreeOp(op["path"], op["cid"], op.get("prev")) for op in event.ops]
            tree = mst_proof.invert(content.data, changes, read_car(event.blocks)[1].get)
            assert mst_node.root_cid(tree) == event.prev_data
        if event.repo in head:
            assert (event.since, event.prev_data) == head[event.repo]
            assert event.rev > head[event.repo][0]
        head[event.repo] = (event.rev, content.data)
    assert len(head) > 200


def test_seqs_rise_by_one_and_time_goes_on(frames: list[bytes]) -> None:
    events = [decode_frame(frame) for frame in frames]
    numbered = [event for event in events if isinstance(event, Commit | Sync | Identity | Account)]
    assert [event.seq for event in numbered] == list(range(1, FRAMES + 1))
    assert all(a.time <= b.time for a, b in pairwise(numbered))


def test_sizes_and_mix_are_those_of_the_network(frames: list[bytes]) -> None:
    events = commits_of(frames)
    sizes = [event.size for event in events]
    assert 4_000 < sum(sizes) / len(sizes) < 7_000
    assert max(sizes) < 200_000
    blocks = sum(len(read_car(event.blocks)[1]) for event in events) / len(events)
    assert 8.5 < blocks < 12.5
    ops = Counter((op["action"], op["path"].split("/")[0]) for event in events for op in event.ops)
    share = {key: count / len(events) for key, count in ops.items()}
    for key, low, high in (
        (("create", "app.bsky.feed.like"), 0.64, 0.74),
        (("create", "app.bsky.feed.post"), 0.09, 0.13),
        (("create", "app.bsky.feed.repost"), 0.08, 0.12),
        (("create", "app.bsky.graph.follow"), 0.03, 0.08),
        (("delete", "app.bsky.graph.follow"), 0.012, 0.028),
        (("create", "app.bsky.graph.block"), 0.003, 0.012),
    ):
        assert low < share[key] < high, (key, share[key])
    assert 0.008 < sum(part for (action, _), part in share.items() if action == "update") < 0.02
    assert 1 <= sum(ops.values()) / len(events) < 1.12


def test_new_accounts_come_as_identity_account_commit(frames: list[bytes]) -> None:
    events = [decode_frame(frame) for frame in frames]
    first = next(i for i, event in enumerate(events) if isinstance(event, Commit) and event.since is None)
    kinds = [type(event) for event in events[first - 2 : first + 3]]
    assert kinds == [Identity, Account, Commit, Sync, Commit]
    sync, profile = events[first + 1], events[first + 2]
    assert isinstance(sync, Sync) and isinstance(profile, Commit)
    content = read_sync(sync, int(START * 1e6) + 10**9)
    assert profile.prev_data == content.data
    assert profile.ops[0]["path"] == "app.bsky.actor.profile/self"


def test_records_are_valid_under_their_lexicons(frames: list[bytes]) -> None:
    """By the SDK's models, which are generated from the lexicons; formats of strings included."""
    seen: Counter[str] = Counter()
    for event in commits_of(frames):
        blocks = read_car(event.blocks)[1]
        for op in event.ops:
            if op["cid"] is not None:
                record = libipld.decode_dag_cbor(blocks[op["cid"]])
                assert record["$type"] == op["path"].split("/")[0]
                model = resolve_record_type(record["$type"])
                if model is not None:
                    model.model_validate(record, context={"strict_string_format": True})
                    seen[record["$type"]] += 1
    assert len(seen) >= 12, seen


def test_facets_lie_on_what_they_mark_and_replies_keep_their_root(frames: list[bytes]) -> None:
    roots: dict[str, str] = {}
    facets = replies = 0
    for event in commits_of(frames):
        blocks = read_car(event.blocks)[1]
        for op in event.ops:
            if op["action"] != "create" or not op["path"].startswith("app.bsky.feed.post/"):
                continue
            record = libipld.decode_dag_cbor(blocks[op["cid"]])
            uri = f"at://{event.repo}/{op['path']}"
            for facet in record.get("facets", ()):
                facets += 1
                marked = record["text"].encode()[facet["index"]["byteStart"] : facet["index"]["byteEnd"]].decode()
                kind = facet["features"][0]["$type"].rsplit("#", 1)[1]
                assert marked.startswith({"mention": "@", "tag": "#"}.get(kind, ""))
                assert marked
            roots[uri] = record["reply"]["root"]["uri"] if "reply" in record else uri
            if "reply" in record and record["reply"]["parent"]["uri"] in roots:
                replies += 1
                assert record["reply"]["root"]["uri"] == roots[record["reply"]["parent"]["uri"]]
    assert facets > 20
    assert replies > 20


def test_memory_is_bounded_by_letting_accounts_go() -> None:
    world = World(8, 40, start=START, pasts=(), max_records=300)
    deleted = [e for e in map(decode_frame, world.frames(2_000)) if isinstance(e, Account) and e.status == "deleted"]
    assert deleted
    assert world.records < 400
    assert world.by_did[deleted[0].did].account.tombstoned


def test_corpus_comes_back(tmp_path: Path, frames: list[bytes]) -> None:
    for name in ("frames.bin", "frames.bin.zst"):
        assert write_corpus(tmp_path / name, frames[:50]) == 50
        assert list(read_corpus(tmp_path / name)) == frames[:50]
    (tmp_path / "cut.bin").write_bytes((tmp_path / "frames.bin").read_bytes()[:-1])
    with pytest.raises(ValueError, match="truncated"):
        list(read_corpus(tmp_path / "cut.bin"))


# ---- the relay


def test_cursor_rules(frames: list[bytes]) -> None:
    with Relay(frames[:100], window_bytes=sum(map(len, frames[50:100]))) as relay:
        oldest = relay.window.oldest_seq
        assert 45 < oldest < 60  # the window dropped the rest
        with subscribe(relay, 0) as client:
            assert seqs(client, 101 - oldest) == list(range(oldest, 101))
        with subscribe(relay, 90) as client:
            assert seqs(client, 10) == list(range(91, 101))
        with subscribe(relay, oldest - 1) as client:
            assert seqs(client, 1) == [oldest]
        with subscribe(relay, 7) as client:
            header, body = libipld.decode_dag_cbor_multi(client.recv(5, decode=False))
            assert (header, body["name"]) == ({"op": 1, "t": "#info"}, "OutdatedCursor")
            assert seqs(client, 1) == [oldest]
        with subscribe(relay, 101) as client:
            header, body = libipld.decode_dag_cbor_multi(client.recv(5, decode=False))
            assert (header, body["error"]) == ({"op": -1}, "FutureCursor")
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(5)
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "FutureCursor")
        with subscribe(relay) as client, pytest.raises(TimeoutError):
            client.recv(0.2)  # live: nothing of the past
        before = relay.live
        with subscribe(relay) as live, subscribe(relay, 100) as caught_up:
            wait_for(lambda: relay.live == before + 2)
            relay.publish(frames[100:103])
            assert seqs(live, 3) == seqs(caught_up, 3) == [101, 102, 103]
        with pytest.raises(ValueError, match="only rise"):
            relay.publish(frames[:1])
        with pytest.raises(InvalidStatus) as refused:
            connect(relay.url + SUBSCRIBE_REPOS + "?cursor=x", proxy=None)
        assert refused.value.response.status_code == 400


def test_faults_happen_and_are_counted(frames: list[bytes]) -> None:
    with Relay(frames[:400], ping_interval=0.1) as relay:
        faults = relay.faults
        faults.refuse.extend((429, 503))
        faults.retry_after = 2
        for status in (429, 503):
            with pytest.raises(InvalidStatus) as refused:
                subscribe(relay, 0)
            assert refused.value.response.status_code == status
            assert refused.value.response.headers["Retry-After"] == "2"

        faults.drop_after.append(300)
        with subscribe(relay, 0) as client:
            assert seqs(client, 300)[-1] == 300
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(5)
            assert closed.value.rcvd is None  # no close handshake

        faults.close_after.append((5, 1012))
        with subscribe(relay, 0) as client:
            seqs(client, 5)
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(5)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012

        faults.damage[3] = [b"\xff", frames[2][:50]]
        faults.damage[4] = []
        with subscribe(relay, 2) as client:
            assert client.recv(5) == b"\xff"
            assert client.recv(5) == frames[2][:50]
            assert seqs(client, 1) == [5]

        faults.stall_after.append((10, 0.5))
        with subscribe(relay, 5, ping_interval=None) as client:
            seqs(client, 10)
            with pytest.raises(TimeoutError):
                client.recv(0.2)
            assert seqs(client, 385) == list(range(16, 401))
            assert client.ping().wait(5)
            wait_for(lambda: relay.pongs_received)

        faults.consumer_too_slow_after = 20
        before = relay.live
        with subscribe(relay) as client:
            wait_for(lambda: relay.live > before)
            relay.publish(frames[400:450])
            header, body = libipld.decode_dag_cbor_multi(client.recv(5, decode=False))
            assert (header, body["error"]) == ({"op": -1}, "ConsumerTooSlow")

        assert (faults.refused, faults.dropped, faults.stalled, faults.damaged, faults.too_slow) == (2, 2, 1, 2, 1)
        assert relay.pings_received
        assert relay.pongs_received


def test_a_client_gets_15_000_frames_a_second(frames: list[bytes]) -> None:
    """A floor far below what it does (over 200,000/s on two quiet cores), measured at the bare socket."""
    many, body = 20_000, frames[0].ljust(5_000, b"\0")
    with Relay() as relay:
        for seq in range(1, many + 1):
            relay.window.append(seq, body)
        with socket.create_connection((relay.host, relay.port), 10) as client:
            client.sendall(
                f"GET {SUBSCRIBE_REPOS}?cursor=0 HTTP/1.1\r\nHost: {relay.host}\r\nConnection: Upgrade\r\n"
                "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
            )
            began = time.perf_counter()
            wanted, got, into = many * len(body), 0, bytearray(1 << 20)
            while got < wanted:
                got += client.recv_into(into)
            assert many / (time.perf_counter() - began) > 15_000


def test_sdk_firehose_client_reads_the_relay(frames: list[bytes]) -> None:
    got: list[models.ComAtprotoSyncSubscribeRepos.Commit] = []
    with Relay(frames[:200]) as relay:
        client = FirehoseSubscribeReposClient(
            models.ComAtprotoSyncSubscribeRepos.Params(cursor=0), base_uri=f"{relay.url}/xrpc"
        )

        def on_message(message: object) -> None:
            event = parse_subscribe_repos_message(message)
            got.append(event)
            if event.seq == 200:
                client.stop()

        reader = threading.Thread(target=lambda: client.start(on_message), daemon=True)
        reader.start()
        reader.join(20)
        assert not reader.is_alive()
    assert [event.seq for event in got] == list(range(1, 201))
    commit = next(
        event
        for event in got
        if isinstance(event, models.ComAtprotoSyncSubscribeRepos.Commit) and event.ops and event.ops[0].cid
    )
    assert commit.ops[0].cid in CAR.from_bytes(commit.blocks).blocks


# ---- PLC directory and PDS


def test_sdk_reads_the_pds(network: SimulatedNetwork) -> None:
    client = Client(f"{network.pds_url}/xrpc")
    repos, cursor = [], None
    while True:
        page = client.com.atproto.sync.list_repos({"limit": 7} | ({"cursor": cursor} if cursor else {}))
        repos += page.repos
        cursor = page.cursor
        if not cursor:
            break
    assert len({repo.did for repo in repos}) == len(repos) == len(network.world.authors)
    author = max(network.world.authors, key=lambda a: len(a.repository) if a.account.active else -1)
    did = author.did
    car = CAR.from_bytes(client.com.atproto.sync.get_repo({"did": did}))
    latest = client.com.atproto.sync.get_latest_commit({"did": did})
    assert str(car.root) == latest.cid
    assert car.blocks[car.root]["rev"] == latest.rev
    path = sorted(author.repository.paths())[0]
    collection, rkey = path.split("/")
    record = client.com.atproto.repo.get_record({"repo": did, "collection": collection, "rkey": rkey})
    assert record.uri == f"at://{did}/{path}"
    proof = CAR.from_bytes(client.com.atproto.sync.get_record({"did": did, "collection": collection, "rkey": rkey}))
    assert record.cid in map(str, proof.blocks)
    assert set(proof.blocks) <= set(car.blocks)
    described = client.com.atproto.repo.describe_repo({"repo": author.account.handle})
    assert described.did == did
    assert collection in described.collections
    assert client.com.atproto.sync.get_repo_status({"did": did}).active
    listed = client.com.atproto.repo.list_records({"repo": did, "collection": collection, "limit": 100})
    assert record.uri in [r.uri for r in listed.records]
    for call in (client.com.atproto.sync.get_repo, client.com.atproto.sync.get_latest_commit):
        with pytest.raises(BadRequestError) as missing:
            call({"did": "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"})
        assert missing.value.response.content.error == "RepoNotFound"


def test_an_export_is_the_whole_tree(network: SimulatedNetwork) -> None:
    author = max(network.world.authors, key=lambda a: len(a.repository) if a.account.active else -1)
    car = requests.get(f"{network.pds_url}/xrpc/com.atproto.sync.getRepo", {"did": author.did}, timeout=5).content
    roots, blocks = read_car(car)
    data = decode_commit(blocks[roots[0]])["data"]
    stored = {path: author.repository.get(path) for path in author.repository.paths()}
    assert {path: blocks[record] for path, record in mst.walk(data, blocks.get)} == {
        path: found and found[1] for path, found in stored.items()
    }


def test_inactive_and_deleted_accounts_are_refused(network: SimulatedNetwork) -> None:
    account = network.world.authors[3].account
    address = f"{network.pds_url}/xrpc/com.atproto.sync.getRepo"
    account.active, account.status = False, "takendown"
    try:
        answer = requests.get(address, {"did": account.did}, timeout=5)
        assert (answer.status_code, answer.json()["error"]) == (400, "RepoTakendown")
        network.pds.faults.statuses.append(503)
        assert requests.get(address, {"did": account.did}, timeout=5).status_code == 503
    finally:
        account.active, account.status = True, None


def test_sdk_resolves_dids_and_the_log_hashes_to_the_did(network: SimulatedNetwork) -> None:
    account = network.world.authors[1].account
    document = DidResolver(network.plc_url).resolve(account.did)
    assert document is not None
    assert document.get_pds_endpoint() == network.pds_url
    assert document.get_did_key() == f"did:key:{account.public_key}"
    assert document.get_handle() == account.handle
    log = requests.get(f"{network.plc_url}/{account.did}/log/audit", timeout=5).json()
    operations = [entry["operation"] for entry in log]
    encoded = libipld.encode_dag_cbor(operations[0])
    assert account.did == "did:plc:" + base64.b32encode(hashlib.sha256(encoded).digest()).decode().lower()[:24]
    assert [operation["prev"] for operation in operations] == [None, *(entry["cid"] for entry in log[:-1])]
    assert requests.get(f"{network.plc_url}/did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", timeout=5).status_code == 404


def test_a_tombstoned_did_is_gone() -> None:
    with SimulatedNetwork(World(8, 20, start=START, pasts=(), max_records=100)) as network:
        network.advance(600)
        gone = next(author for author in network.world.authors if author.account.tombstoned)
        assert requests.get(f"{network.plc_url}/{gone.did}", timeout=5).status_code == 410
        answer = requests.get(f"{network.pds_url}/xrpc/com.atproto.sync.getRepo", {"did": gone.did}, timeout=5)
        assert answer.json()["error"] == "RepoNotFound"
        listed = requests.get(
            f"http://127.0.0.1:{network.relay.port}/xrpc/com.atproto.sync.listRepos", {"limit": 1000}, timeout=5
        )
        assert gone.did not in json.dumps(listed.json())


def test_the_world_moves_by_itself_at_its_rate() -> None:
    with SimulatedNetwork(World(9, 20, start=time.time(), pasts=()), rate=200) as network:
        with subscribe(network.relay) as client:
            began = time.monotonic()
            seqs(client, 200)
            assert 0.5 < time.monotonic() - began < 5
        assert network.failure is None
