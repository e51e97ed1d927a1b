"""Subscriptions to servers that strangers name: connected to public addresses only, by TLS with the right name, and
nothing that such a server does costs more than its own events."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection

from appview_pipeline.backoff import Backoff
from appview_pipeline.network import connection as connections
from appview_pipeline.network import strangers
from appview_pipeline.network.checked_sockets import tls_context
from appview_pipeline.network.event_loop import SubscriptionLoop
from appview_pipeline.network.fetch_errors import FetchError
from appview_pipeline.network.hosts import Hosts
from appview_pipeline.network.loop_thread import LoopThread
from appview_pipeline.network.strangers import labeler_address
from appview_pipeline.network.subscription import SUBSCRIBE_LABELS, Subscription, SubscriptionStatus
from appview_pipeline.protocol.event_stream import seq_of
from appview_pipeline.protocol.label_frames import info_frame, labels_frame
from appview_pipeline.settings import Settings
from appview_pipeline_tests.support.certificates import Authority
from appview_pipeline_tests.support.public_internet import PUBLIC_ADDRESS, Names
from appview_pipeline_tests.support.scripted_servers import (
    Handler,
    Relay,
    forever,
    handshake,
    raw_server,
    refusing,
    seqs,
    take_until,
)
from appview_pipeline_tests.support.waiting import wait_for

PRIVATE = Settings(allow_private_hosts=True)
DOCUMENT = "the labeler's DID document"


async def three_labels(connection: ServerConnection, number: int, cursor: int | None) -> None:
    for seq in (10, 20, 30):
        if seq > (cursor or 0):
            await connection.send(labels_frame(seq, []))
    await forever(connection)


def subscribed(url: str, hosts: Hosts, cursor: int | None = 0, **options: Any) -> Subscription:
    options.setdefault("backoff", Backoff(first=0.02, longest=0.1))
    return Subscription(url, cursor, 1_000_000, stream=SUBSCRIBE_LABELS, setting=DOCUMENT, hosts=hosts, **options)


ONCE = Backoff(first=600, jitter=0)
"""For tests that look at the end of the first attempt: there is no second one."""


def first_end(subscription: Subscription) -> SubscriptionStatus:
    """The status once an attempt or a connection has ended."""
    wait_for(lambda: subscription.status.last_error)
    return subscription.status


@dataclass
class Net:
    """The public network: every connection leads to one server on this machine. `contacted`: where they were meant to
    go."""

    server: Relay
    contacted: list[tuple[str, int]] = field(default_factory=list)
    hanging: set[str] = field(default_factory=set)

    def subscribed(self, names: Names, url: str = "wss://labeler.example", **options: Any) -> Subscription:
        return subscribed(url, Hosts(Settings(), lookup=names.look_up), **options)


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Net]:
    with public_net(monkeypatch, tmp_path, three_labels) as made:
        yield made


@contextlib.contextmanager
def public_net(
    monkeypatch: pytest.MonkeyPatch, folder: Path, handler: Handler, certified: str = "labeler.example", **options: Any
) -> Iterator[Net]:
    authority = Authority(folder)
    tls = authority.server(certified, **options)
    context = tls_context(str(authority.file))
    monkeypatch.setattr("appview_pipeline.network.subscription.strangers_context", lambda: context)
    original = SubscriptionLoop.sock_connect
    with Relay(handler, SUBSCRIBE_LABELS.method, ssl=tls) as server:
        net = Net(server)

        async def sock_connect(loop: SubscriptionLoop, sock: socket.socket, address: tuple[str, int]) -> None:
            net.contacted.append(address)
            if sock.family == socket.AF_INET6:  # the server has no IPv6 address, and this machine may have none
                raise OSError(101, "Network is unreachable")
            if address[0] in net.hanging:
                await asyncio.sleep(60)
            await original(loop, sock, ("127.0.0.1", server.port))

        monkeypatch.setattr(SubscriptionLoop, "sock_connect", sock_connect)
        net.tls = tls  # type: ignore[attr-defined]
        yield net


# --- which address, which name ---------------------------------------------------------------------------------------


def test_a_labeler_is_read_over_tls_by_its_name(net: Net) -> None:
    names: list[str | None] = []
    net.tls.sni_callback = lambda sock, name, context: names.append(name)  # type: ignore[attr-defined]
    looked_up = Names({"labeler.example": ["2606:4700::1", PUBLIC_ADDRESS]})
    with net.subscribed(looked_up) as subscription:
        assert seqs(take_until(subscription, 3)) == [10, 20, 30]
        assert net.contacted == [("2606:4700::1", 443), (PUBLIC_ADDRESS, 443)]
        assert names == ["labeler.example"] and looked_up.looked_up == ["labeler.example"]
        assert net.server.cursors == [0] and net.server.hosts == ["labeler.example"]
        assert subscription.status.cursor == 30


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["169.254.169.254"],
        ["::1"],
        ["::ffff:10.0.0.1"],
        ["64:ff9b::a00:1"],
        [PUBLIC_ADDRESS, "10.0.0.1"],
        ["10.0.0.1", PUBLIC_ADDRESS],
        [f"93.184.{i}.14" for i in range(200)] + ["127.0.0.1"],
        ["fe80::1%2"],
    ],
)
def test_names_with_an_address_that_is_not_public_are_not_contacted(net: Net, addresses: list[str]) -> None:
    with net.subscribed(Names({"labeler.example": addresses}), backoff=ONCE) as subscription:
        status = first_end(subscription)
        assert "labeler.example has the address" in (status.last_error or "")
        assert (status.last_error or "").endswith(f"not public: check {DOCUMENT}.") and status.hopeless
    assert net.contacted == [] and net.server.cursors == []


@pytest.mark.parametrize(
    "url",
    [
        "ws://labeler.example",
        "wss://labeler.example:8443",
        "wss://labeler.example:22",
        "wss://127.0.0.1",
        "wss://10.0.0.1",
        "wss://2130706433",
        "wss://0x7f.1",
        "wss://169.254.169.254",
        "wss://[::1]",
        "wss://[::ffff:127.0.0.1]",
        "wss://localhost",
        "wss://metadata",
    ],
)
def test_urls_that_strangers_may_not_name_are_not_even_looked_up(net: Net, url: str) -> None:
    names = Names({"labeler.example": [PUBLIC_ADDRESS], "localhost": ["127.0.0.1"]})
    with net.subscribed(names, url, backoff=ONCE) as subscription:
        assert first_end(subscription).hopeless
    assert net.contacted == [] and names.looked_up == []


def test_a_name_that_changes_after_the_check_changes_nothing(net: Net) -> None:
    """One look-up is for the check and for the connection; the next connection has another one, checked again."""
    answers = iter([[PUBLIC_ADDRESS], ["127.0.0.1"], ["127.0.0.1"], ["127.0.0.1"]])
    names = Names({"labeler.example": lambda: next(answers)})
    with net.subscribed(names, backoff=Backoff(first=60, jitter=0)) as subscription:
        assert seqs(take_until(subscription, 3)) == [10, 20, 30]
        assert names.looked_up == ["labeler.example"] and net.contacted == [(PUBLIC_ADDRESS, 443)]
        subscription._backoff = Backoff(first=0.01, jitter=0)
        net.server.drop()
        wait_for(lambda: "127.0.0.1" in (subscription.status.last_error or ""))
    assert net.contacted == [(PUBLIC_ADDRESS, 443)]


@pytest.mark.parametrize("location", ["wss://169.254.169.254/", "ws://127.0.0.1:1/x", "https://elsewhere.example/"])
def test_redirects_are_not_followed(location: str) -> None:
    answer = refusing("302 Found", f"Location: {location}\r\n")
    with (
        raw_server(answer) as (port, times),
        subscribed(f"ws://127.0.0.1:{port}", Hosts(PRIVATE), backoff=ONCE) as subscription,
    ):
        status = first_end(subscription)
        assert status.hopeless and status.last_error == (
            f"127.0.0.1 answered HTTP 302, a redirect to {location}: redirects are not followed; check {DOCUMENT}."
        )
        assert len(times) == 1


def test_an_address_that_hangs_leaves_time_for_the_next(net: Net) -> None:
    names = Names({"labeler.example": ["93.184.215.15", PUBLIC_ADDRESS]})
    net.hanging = {"93.184.215.15"}
    with net.subscribed(names, connect_seconds=1.0) as subscription:
        assert seqs(take_until(subscription, 3, 5)) == [10, 20, 30]
        assert subscription.status.attempts == 1


def test_the_reason_is_of_the_address_that_answered(net: Net) -> None:
    """And not that this machine has no IPv6."""
    net.hanging = {PUBLIC_ADDRESS}
    names = Names({"labeler.example": [PUBLIC_ADDRESS, "2606:4700::1"]})
    with net.subscribed(names, connect_seconds=0.4) as subscription:
        assert "does not answer" in (first_end(subscription).last_error or "")


def test_proxies_of_the_environment_are_not_asked(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "wss_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:1")
    with net.subscribed(Names({"labeler.example": [PUBLIC_ADDRESS]})) as subscription:
        assert seqs(take_until(subscription, 3)) == [10, 20, 30]
        assert net.contacted == [(PUBLIC_ADDRESS, 443)]


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("certified", ["other.example", PUBLIC_ADDRESS, "*.labeler.example", "example"])
def test_a_certificate_for_another_name_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, certified: str
) -> None:
    with public_net(monkeypatch, tmp_path, three_labels, certified) as net:
        with net.subscribed(Names({"labeler.example": [PUBLIC_ADDRESS]})) as subscription:
            error = first_end(subscription).last_error or ""
        assert error.startswith("The certificate of labeler.example can't be verified") and DOCUMENT in error
        assert net.server.cursors == []


def test_an_expired_certificate_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with public_net(monkeypatch, tmp_path, three_labels, is_expired=True) as net:
        with net.subscribed(Names({"labeler.example": [PUBLIC_ADDRESS]})) as subscription:
            assert "expired" in (first_end(subscription).last_error or "")
        assert net.server.cursors == []


def test_a_certificate_of_an_unknown_authority_is_refused(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appview_pipeline.network.subscription.strangers_context", strangers.strangers_context)
    with net.subscribed(Names({"labeler.example": [PUBLIC_ADDRESS]})) as subscription:
        assert "can't be verified" in (first_end(subscription).last_error or "")
    assert net.server.cursors == []


def test_certificates_are_checked_in_closed_networks_too(tmp_path: Path) -> None:
    tls = Authority(tmp_path).server("127.0.0.1")
    with (
        Relay(three_labels, SUBSCRIBE_LABELS.method, ssl=tls) as server,
        subscribed(f"wss://127.0.0.1:{server.port}", Hosts(PRIVATE)) as subscription,
    ):
        assert "can't be verified" in (first_end(subscription).last_error or "")
        assert server.cursors == []


# --- endpoints -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("https://mod.bsky.app", "wss://mod.bsky.app"),
        ("https://mod.bsky.app/", "wss://mod.bsky.app"),
        ("HTTPS://Mod.Bsky.App.:443", "wss://mod.bsky.app"),
        ("https://9.9.9.9", "wss://9.9.9.9"),
        ("https://[2606:4700::1]", "wss://[2606:4700::1]"),
    ],
)
def test_where_the_streams_of_a_labeler_are(endpoint: str, address: str) -> None:
    assert labeler_address(endpoint, Hosts(Settings())) == address


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "mod.bsky.app",
        "http://mod.bsky.app",
        "wss://mod.bsky.app",
        "ws://mod.bsky.app",
        "https://mod.bsky.app:8443",
        "https://mod.bsky.app/labels",
        "https://mod.bsky.app/?x=1",
        "https://user:password@mod.bsky.app",
        "https://127.0.0.1",
        "https://localhost",
        "https://mod.bsky.app\n.evil.example",
        "did:web:mod.bsky.app",
    ],
)
def test_endpoints_that_are_none(endpoint: str) -> None:
    with pytest.raises(FetchError) as caught:
        labeler_address(endpoint, Hosts(Settings()))
    assert caught.value.kind in ("url", "refused address")


def test_closed_networks_may_have_streams_without_tls_on_any_port() -> None:
    hosts = Hosts(PRIVATE)
    assert labeler_address("http://localhost:2583", hosts) == "ws://localhost:2583"
    with Relay(three_labels, SUBSCRIBE_LABELS.method) as server, subscribed(server.url, hosts) as subscription:
        assert seqs(take_until(subscription, 3)) == [10, 20, 30]


# --- limits of time and work -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["look-up", "TLS", "answer", "answer in drops"])
def test_a_connection_has_one_limit_of_time(how: str) -> None:
    done = threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.settimeout(5)
        with contextlib.suppress(OSError):
            while not done.is_set():
                if how == "answer in drops":
                    connection.sendall(b"H")
                    time.sleep(0.05)
                elif not connection.recv(65_536):
                    return

    def look_up(host: str, seconds: float) -> list[str]:
        if how == "look-up":
            done.wait(5)
        return ["127.0.0.1"]

    with raw_server(answer) as (port, _):
        url = f"{'wss' if how == 'TLS' else 'ws'}://labeler.example:{port}"
        with subscribed(url, Hosts(PRIVATE, lookup=look_up), connect_seconds=0.4) as subscription:
            began = time.monotonic()
            assert "does not answer" in (first_end(subscription).last_error or "")
            assert 0.3 < time.monotonic() - began < 2.5
            done.set()


def ping(payload: bytes = b"") -> bytes:
    return bytes((0x89, len(payload))) + payload


INFO = info_frame("Chatter", "x" * 60_000)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (ping() * 500, "sends more than 1,000 messages a second that are no events"),
        (b"\x82\x7e" + struct.pack(">H", len(INFO)) + INFO, "sends more than 1,000 messages a second"),
        (b"\x00\x00" * 500, "sends more than 1,000 messages a second"),
    ],
    ids=["pings", "notices", "empty parts"],
)
def test_a_server_that_keeps_us_busy_for_nothing_is_left(
    messages: bytes, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(connection: socket.socket) -> None:
        handshake(connection)
        threading.Thread(target=lambda: discard(connection), daemon=True).start()
        if messages.startswith(b"\0"):
            connection.sendall(b"\x02\x00")  # the first part
        while True:
            connection.sendall(messages)

    with raw_server(answer) as (port, _), subscribed(f"ws://127.0.0.1:{port}", Hosts(PRIVATE)) as subscription:
        assert said in (first_end(subscription).last_error or "")
        assert sum(len(notice.frame) for notice in subscription.notices()) <= 1_000_000
        warned = [it for it in caplog.records if "says: Chatter" in it.message and it.levelname == "WARNING"]
        assert len(warned) <= 10 * subscription.status.connects


def discard(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while connection.recv(65_536):
            pass


def test_answers_to_pings_that_are_not_taken_don_t_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_OTHER_MESSAGES", 10_000_000)

    def answer(connection: socket.socket) -> None:
        handshake(connection)
        while True:
            connection.sendall(ping(b"x" * 125) * 100)

    with raw_server(answer) as (port, _), subscribed(f"ws://127.0.0.1:{port}", Hosts(PRIVATE)) as subscription:
        assert "does not take the answers to its pings" in (first_end(subscription).last_error or "")


# --- many ------------------------------------------------------------------------------------------------------------


def test_subscriptions_share_a_thread_and_none_holds_up_the_others() -> None:
    """One server never answers, one sends what nobody takes, one refuses; threads and descriptors are few."""

    async def flood(connection: ServerConnection, number: int, cursor: int | None) -> None:
        while True:
            await connection.send(labels_frame(1, [{"val": "x" * 10_000}]))

    def silent(connection: socket.socket) -> None:
        connection.settimeout(10)
        discard(connection)

    hosts, news = Hosts(PRIVATE), threading.Event()
    threads = threading.active_count()
    with (
        Relay(three_labels, SUBSCRIBE_LABELS.method) as good,
        Relay(flood, SUBSCRIBE_LABELS.method) as flooding,
        raw_server(silent) as (silent_port, _),
        raw_server(refusing("503 Service Unavailable")) as (refusing_port, _),
        LoopThread() as loop,
    ):
        urls = [f"ws://127.0.0.1:{silent_port}", f"ws://127.0.0.1:{refusing_port}", flooding.url] + [good.url] * 20
        many = [subscribed(url, hosts, loop=loop, news=news) for url in urls]
        for subscription in many:
            subscription.start()
        got: dict[int, list[int | None]] = {number: [] for number in range(3, len(many))}
        deadline = time.monotonic() + 20
        while any(len(numbers) < 3 for numbers in got.values()) and time.monotonic() < deadline:
            assert news.wait(5), "frames set it"
            news.clear()
            for number in got:
                got[number] += seqs(many[number].take(100, 0))
        assert all(numbers == [10, 20, 30] for numbers in got.values())
        wait_for(lambda: many[2].status.reading_paused and many[1].status.last_error)
        assert many[2].status.buffered_bytes < 4_000_000
        assert threading.active_count() - threads < 12
        began = time.monotonic()
        for subscription in many:
            subscription.begin_stop()
        for subscription in many:
            subscription.stop()
        assert time.monotonic() - began < 1
        assert all(subscription.status.state == "stopped" for subscription in many)
        assert loop.is_alive, "it may get others"
    assert not loop.is_alive
    with pytest.raises(RuntimeError, match="stopped"):
        subscribed("ws://127.0.0.1:1", hosts, loop=loop).start()


def test_a_defect_that_a_stranger_triggers_ends_only_their_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(payload: bytes) -> int | None:
        if payload == labels_frame(20, [{"val": "special"}]):
            raise ZeroDivisionError("a defect")
        return original(payload)

    async def special(connection: ServerConnection, number: int, cursor: int | None) -> None:
        await connection.send(labels_frame(20, [{"val": "special"}]))
        await forever(connection)

    original = seq_of
    monkeypatch.setattr(connections, "seq_of", broken)
    with (
        Relay(three_labels, SUBSCRIBE_LABELS.method) as good,
        Relay(special, SUBSCRIBE_LABELS.method) as bad,
        LoopThread() as loop,
        subscribed(good.url, Hosts(PRIVATE), loop=loop) as well,
        subscribed(bad.url, Hosts(PRIVATE), loop=loop, backoff=ONCE) as broken_off,
    ):
        status = first_end(broken_off)
        assert status.last_error == f"{bad.url} could not be read (ZeroDivisionError('a defect'))." and status.hopeless
        assert seqs(take_until(well, 3)) == [10, 20, 30]
        assert well.status.connected
