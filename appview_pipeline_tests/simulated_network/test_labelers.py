"""The simulated labelers: real signatures, the protocol's cursor rules, ozone's upserts, and their faults."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import libipld
import pytest
import requests

from appview_pipeline.identity.documents import parse_document
from appview_pipeline.network.subscription import EventStream, Subscription
from appview_pipeline.protocol.event_stream import FrameError, read_frame
from appview_pipeline.protocol.signing import parse_did_key, verify
from appview_pipeline_tests.simulated_network import Labeler, SimulatedNetwork, World
from appview_pipeline_tests.simulated_network.accounts import make_key
from appview_pipeline_tests.simulated_network.broken_labelers import BREAKS, break_some
from appview_pipeline_tests.simulated_network.labelers import SUBSCRIBE_LABELS
from appview_pipeline_tests.simulated_network.labels import label_json, labels_frame
from appview_pipeline_tests.support.waiting import wait_for

STREAM = EventStream(SUBSCRIBE_LABELS.removeprefix("/xrpc/"), libipld.encode_dag_cbor({"op": 1, "t": "#labels"}))
POST = "at://did:plc:aaaaaaaaaaaaaaaaaaaaaaaa/app.bsky.feed.post/3kaaaaaaaaaaa"


@pytest.fixture(scope="module")
def network() -> Iterator[SimulatedNetwork]:
    with SimulatedNetwork(seed=5, accounts=10, labelers=4) as made:
        made.advance(300)
        yield made


@pytest.fixture
def labeler() -> Iterator[Labeler]:
    with Labeler("did:plc:labeler", make_key("labeler")) as started:
        yield started


def subscribed(labeler: Labeler, cursor: int | None = 0) -> Subscription:
    return Subscription(labeler.url, cursor, stream=STREAM, setting="test", sequence_gap=1_000_000)


def received(labeler: Labeler, cursor: int | None = 0, *, count: int) -> list[dict[str, Any]]:
    """The bodies of the first frames that a client with a cursor gets."""
    with subscribed(labeler, cursor) as subscription:
        return [read_frame(frame)[1] for frame in subscription.take(count, timeout=5)]


def sent(labeler: Labeler) -> list[dict[str, Any]]:
    """The bodies of the frames that the labeler has in its stream."""
    return [{"seq": seq, "labels": [label]} for seq, label in labeler.labels.items()]


def document(network: SimulatedNetwork, did: str) -> Any:
    return parse_document(did, requests.get(f"{network.plc_url}/{did}", timeout=5).json(), plain_http=True)


def is_signed(network: SimulatedNetwork, label: dict[str, Any]) -> bool:
    unsigned = {name: value for name, value in label.items() if name != "sig"}
    key = parse_did_key(document(network, label["src"]).labeler_key)
    return verify(key, libipld.encode_dag_cbor(unsigned), label.get("sig", b""))


# ---- in the network


def test_their_documents_and_records_say_that_they_are_labelers(network: SimulatedNetwork) -> None:
    for labeler in network.labelers:
        found = document(network, labeler.did)
        assert found.labeler == labeler.endpoint and found.labeler_key and found.pds and not found.problems
        record = network.world.by_did[labeler.did].repository.get("app.bsky.labeler.service/self")
        assert record is not None
        assert libipld.decode_dag_cbor(record[1])["policies"]["labelValueDefinitions"][0]["identifier"] == "spider"
    assert network.environment()["APPVIEW_LABELERS"].split(",") == [labeler.did for labeler in network.labelers]


def test_the_relay_has_the_service_record_and_every_change_of_a_document(network: SimulatedNetwork) -> None:
    before = network.relay.window.newest_seq
    labeler = network.labelers.add()
    first = document(network, labeler.did)
    network.labelers.rotate_key(labeler, p256=True)
    second = document(network, labeler.did)
    moved = network.labelers.move(labeler)
    third = document(network, labeler.did)
    network.labelers.withdraw(moved, server=False)
    fourth = document(network, labeler.did)
    assert first.labeler_key != second.labeler_key == third.labeler_key and fourth.labeler_key is None
    assert first.labeler == second.labeler != third.labeler == fourth.labeler == moved.endpoint
    assert network.labelers[-1] is moved and len(network.labelers) == 5
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", labeler.port))
    with Subscription(network.relay_url, before) as subscription:
        frames = [read_frame(frame) for frame in subscription.take(network.relay.window.newest_seq - before, timeout=5)]
    assert [header["t"] for header, _ in frames if header["t"] == "#identity"] == ["#identity"] * 5
    ops = [op["path"] for header, body in frames if header["t"] == "#commit" for op in body["ops"]]
    assert "app.bsky.labeler.service/self" in ops


def test_labels_are_signed_with_the_key_of_the_document(network: SimulatedNetwork) -> None:
    network.labelers.label(200)
    curves = set()
    for labeler in network.labelers[:4]:
        bodies = received(labeler, count=len(labeler.labels))
        assert bodies == sent(labeler) and len(bodies) > 10
        assert all(is_signed(network, body["labels"][0]) and body["labels"][0]["ver"] == 1 for body in bodies)
        curves.add(document(network, labeler.did).labeler_key[:10])
    assert len(curves) == 2, "one of secp256k1, one of P-256"


def test_labels_are_about_accounts_and_posts_of_the_world_and_change_nothing_in_it() -> None:
    frames = []
    for count in (300, 0):
        with SimulatedNetwork(World(5, 10, start=1_790_000_000, pasts=()), labelers=2) as network:
            network.advance(200)
            labels = network.labelers.label(count)
            frames.append(network.advance(50))
            for label in labels:
                did, _, path = label["uri"].removeprefix("at://").partition("/")
                assert network.world.by_did[did] and (not path or path.startswith("app.bsky.feed.post/"))
            if labels:
                kinds = [("neg" in it, "exp" in it, "cid" in it, it["uri"].startswith("did:")) for it in labels]
                assert all({kind[at] for kind in kinds} == {False, True} for at in range(4))
    assert frames[0] == frames[1]


# ---- the stream


def test_a_newer_label_takes_an_older_one_out_of_the_stream_as_in_ozone(labeler: Labeler) -> None:
    first = labeler.label(POST, "spam")
    labeler.label(POST, "rude")
    negation = labeler.label(POST, "spam", neg=True)
    other = labeler.label(POST, "spam", cid="bafyreib2rxk3rh6kzwq")
    bodies = received(labeler, count=3)
    assert [body["seq"] for body in bodies] == [2, 3, 4]
    assert [body["labels"][0]["val"] for body in bodies] == ["rude", "spam", "spam"]
    assert bodies[1]["labels"] == [negation] and bodies[2]["labels"] == [other] and negation["neg"] is True
    assert "neg" not in first, "false is left out of what is signed"


def test_a_labeler_that_keeps_all(labeler: Labeler) -> None:
    labeler.keeps_all = True
    for neg in (False, True, False):
        labeler.label(POST, "spam", neg=neg)
    assert [body["labels"][0].get("neg", False) for body in received(labeler, count=3)] == [False, True, False]


def test_numbers_leap_and_several_labels_stand_in_a_frame(labeler: Labeler) -> None:
    labeler.leap = 1_000
    for at in range(20):
        labeler.label(POST, f"value-{at}")
    labels = [labeler.make(POST, "a"), labeler.make(POST, "b", signed=False)]
    newest = labeler.send_together(labels)
    bodies = received(labeler, count=21)
    seqs = [body["seq"] for body in bodies]
    assert seqs == sorted(set(seqs)) and newest == seqs[-1] > 1_000
    assert bodies[-1]["labels"] == labels and "sig" not in labels[1]


def test_cursors(labeler: Labeler) -> None:
    for at in range(5):
        labeler.label(POST, f"value-{at}")
    assert [body["seq"] for body in received(labeler, 2, count=3)] == [3, 4, 5]
    labeler.forget_before(4)
    with subscribed(labeler, 1) as subscription:
        assert [read_frame(frame)[1]["seq"] for frame in subscription.take(2, timeout=5)] == [4, 5]
        assert {notice.name for notice in subscription.notices()} == {"OutdatedCursor"}
    with subscribed(labeler, 6) as subscription:
        wait_for(lambda: subscription.status.state == "future_cursor")
    with subscribed(labeler, None) as subscription:
        wait_for(lambda: labeler.live == 3)
        live = labeler.label(POST, "live")
        assert read_frame(subscription.take(1, timeout=5)[0])[1]["labels"] == [live]


def test_a_labeler_restored_from_a_backup_gives_its_numbers_out_again(labeler: Labeler) -> None:
    for at in range(5):
        labeler.label(POST, f"value-{at}")
    labeler.restore(2)
    with subscribed(labeler, 5) as subscription:
        wait_for(lambda: subscription.status.state == "future_cursor")
    again = labeler.label(POST, "again")
    assert [body["seq"] for body in received(labeler, count=3)] == [1, 2, 3]
    assert received(labeler, 2, count=1)[0]["labels"] == [again]


# ---- what goes wrong


def test_labels_that_lie(labeler: Labeler, network: SimulatedNetwork) -> None:
    honest = network.labelers[0]
    labels = [
        honest.make(POST, "spam", key=make_key("another")),
        honest.make(POST, "spam", says_not_negated=True),
        honest.make(POST, "spam", extra={"reason": "x", "ver": 2}),
        honest.make(POST, "spam", src="did:plc:other", cts="9999-01-01T00:00:00.000Z"),
    ]
    honest.send(labels)
    assert not is_signed(network, labels[0]) and labels[1]["neg"] is False and labels[2]["ver"] == 2
    assert is_signed(network, labels[1]) and is_signed(network, labels[2])
    assert labels[3]["src"] == "did:plc:other" and labels[3]["cts"].startswith("9999")


def test_messages_of_any_kind(labeler: Labeler) -> None:
    labeler.label(POST, "before")
    labeler.send_raw(labels_frame(-7, []))
    labeler.send_raw(labels_frame(4, [labeler.make(POST, "large", extra={"more": b"x" * 4_000_000})]))
    labeler.send_raw("a text message")
    labeler.label(POST, "after")
    with subscribed(labeler) as subscription:
        frames = subscription.take(4, timeout=5)
        assert len(frames) == 4 and len(frames[2]) > 4_000_000
        assert [read_frame(frame)[1]["seq"] for frame in frames] == [1, -7, 4, 5]
        assert subscription.notices()


def test_a_labeler_that_hangs_in_the_handshake_or_after_it_or_is_away(labeler: Labeler) -> None:
    labeler.label(POST, "spam")

    def tries(*, seconds: float = 0.3) -> tuple[str, int]:
        with Subscription(
            labeler.url, 0, stream=STREAM, setting="test", connect_seconds=seconds, ping_seconds=seconds,
            pong_seconds=seconds,
        ) as subscription:  # fmt: skip
            wait_for(lambda: subscription.status.last_error is not None)
            return subscription.status.last_error or "", subscription.status.frames

    labeler.hang()
    error, frames = tries()
    assert "does not answer" in error and frames == 0
    labeler.refuse()
    error, frames = tries()
    assert "refuses" in error and frames == 0
    labeler.accept()
    labeler.faults.silent = True
    error, frames = tries()
    assert "did not answer a ping" in error and frames == 0
    labeler.faults.silent = False
    assert received(labeler, count=1) == sent(labeler)


def test_connections_that_are_cut_after_a_few_frames_each(labeler: Labeler) -> None:
    for at in range(10):
        labeler.label(POST, f"value-{at}")
    labeler.faults.drop_every = 4
    assert [body["seq"] for body in received(labeler, count=10)] == list(range(1, 11))
    assert labeler.faults.dropped >= 2 and labeler.connections >= 3


def test_a_flood_goes_on_until_it_is_ended(labeler: Labeler) -> None:
    labeler.label(POST, "spam")
    labeler.faults.flood = [labels_frame(1, [])]
    with subscribed(labeler) as subscription:
        assert len(subscription.take(1_000, timeout=5)) == 1_000
        labeler.faults.flood = ()
        wait_for(lambda: sent(labeler)[0] in [read_frame(frame)[1] for frame in subscription.take(100_000, 0.1)])
    assert labeler.faults.flooded >= 1_000


def test_each_way_in_which_a_labeler_is_broken() -> None:
    with SimulatedNetwork(seed=7, accounts=3, labelers=1 + len(BREAKS)) as network, ExitStack() as stack:
        ways = break_some(network.labelers, len(BREAKS))
        subscriptions = {}
        for labeler in network.labelers:
            labeler.label(POST, "spam")
            subscriptions[ways.get(labeler.did, "sound")] = stack.enter_context(
                Subscription(
                    labeler.url, 0, stream=STREAM, setting="test", connect_seconds=0.5, ping_seconds=0.5,
                    pong_seconds=0.5, buffer_bytes=100_000,
                )
            )  # fmt: skip
        assert set(ways.values()) == set(BREAKS) and len(subscriptions) == len(network.labelers)
        found = {}
        for way, subscription in subscriptions.items():
            wait_for(lambda s=subscription: s.status.last_error or s.status.frames or s.notices())  # type: ignore[misc]
            found[way] = subscription.take(1, timeout=0)
        documents = {way: document(network, did) for did, way in ways.items()}
        assert {way for way, it in documents.items() if it.labeler is None} == {"no server"}
        assert {way for way, it in documents.items() if it.labeler_key is None} == {"no key"}
        nothing = {"hangs", "silent", "refuses", "fails", "limited", "always future"}
        assert {way for way, frames in found.items() if not frames} == nothing
        with pytest.raises(FrameError):
            read_frame(found["garbage"][0])
        labels = {way: read_frame(found[way][0])[1]["labels"][0] for way in set(found) - nothing - {"garbage"}}
        assert {way: sorted(_wrong(network, label)) for way, label in labels.items()} == {
            "sound": [],
            "no server": [],
            "no key": ["key"],
            "wrong key": ["key"],
            "unsigned": ["key"],
            "another source": ["key", "src"],
            "future": ["cts"],
            "bad syntax": ["val"],
            "same again": ["val"],
        }


def _wrong(network: SimulatedNetwork, label: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a label that says that `POST` is spam."""
    if label["val"] != "spam":
        yield "val"
    if label["cts"] > "2999":
        yield "cts"
    if label["src"] not in network.world.by_did:
        yield "src"
        yield "key"
    elif document(network, label["src"]).labeler_key is None or not is_signed(network, label):
        yield "key"


# ---- queryLabels


def test_query_labels(labeler: Labeler) -> None:
    for at in range(5):
        labeler.label(POST, f"value-{at}")
    labeler.label("did:plc:bbbbbbbbbbbbbbbbbbbbbbbb", "spam")

    def ask(**parameters: Any) -> Any:
        return requests.get(
            f"{labeler.endpoint}/xrpc/com.atproto.label.queryLabels", params=parameters, timeout=5
        ).json()

    everything = ask(uriPatterns="*")["labels"]
    assert everything == [label_json(label) for label in labeler.labels.values()]
    assert set(everything[0]["sig"]) == {"$bytes"}
    page = ask(uriPatterns="at://did:plc:aaaaaaaaaaaaaaaaaaaaaaaa/*", limit=3)
    rest = ask(uriPatterns="at://did:plc:aaaaaaaaaaaaaaaaaaaaaaaa/*", limit=3, cursor=page["cursor"])
    assert page["labels"] + rest["labels"] == everything[:5]
    assert ask(uriPatterns=POST, sources="did:plc:other")["labels"] == []
    assert ask(uriPatterns=[POST, "did:plc:bbbbbbbbbbbbbbbbbbbbbbbb"])["labels"] == everything
    assert ask(limit=3)["error"] == "InvalidRequest"


def test_query_labels_has_the_newest_of_each_whatever_the_stream_keeps(labeler: Labeler) -> None:
    labeler.keeps_all = True
    labeler.label(POST, "spam")
    labeler.send_together([labeler.make(POST, "rude"), labeler.make(POST, "spam", neg=True)])
    found = requests.get(
        f"{labeler.endpoint}/xrpc/com.atproto.label.queryLabels", params={"uriPatterns": POST}, timeout=5
    ).json()["labels"]
    assert [(it["val"], it.get("neg", False)) for it in found] == [("rude", False), ("spam", True)]


def test_they_label_while_the_world_moves() -> None:
    with SimulatedNetwork(seed=6, accounts=10, labelers=2, rate=500, label_rate=200) as network:
        wait_for(lambda: network.labelers.published >= 20)
        assert not network.failure
