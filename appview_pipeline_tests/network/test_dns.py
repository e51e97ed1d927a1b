"""Look-ups in DNS over real sockets: what hostile and broken domains and name servers answer, within the time."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from appview_pipeline.addresses import NameServer
from appview_pipeline.network import dns
from appview_pipeline.network.dns import DnsError, Resolver
from appview_pipeline.settings import Settings
from appview_pipeline_tests.simulated_network.dns_server import DnsServer, Records
from appview_pipeline_tests.simulated_network.world import World

SECONDS = 0.6


@pytest.fixture
def server() -> Iterator[DnsServer]:
    server = DnsServer(World(1, 2, start=1_790_000_000, pasts=()))
    server.start()
    yield server
    server.stop()


def settings_of(*servers: DnsServer | NameServer) -> Settings:
    addresses = [NameServer("127.0.0.1", one.port) if isinstance(one, DnsServer) else one for one in servers]
    return replace(Settings(), dns_servers=tuple(addresses), dns_seconds=SECONDS)


@pytest.fixture
def resolver(server: DnsServer) -> Resolver:
    return Resolver(settings_of(server))


def test_texts_are_joined_and_come_as_they_are(server: DnsServer, resolver: Resolver) -> None:
    server.records["a.test"] = Records(txt=[("did=did:plc:", "abc", ""), 'v=spf1 "x" \\', "é", "z" * 600])
    assert sorted(resolver.txt("A.test.")) == sorted(["did=did:plc:abc", 'v=spf1 "x" \\', "é", "z" * 600])


def test_text_that_is_not_utf_8(server: DnsServer, resolver: Resolver) -> None:
    server.records["a.test"] = Records(txt=["\udcffdid=x\0"])
    assert resolver.txt("a.test") == ["\ufffddid=x\0"]


def test_300_records_come_over_tcp(server: DnsServer, resolver: Resolver) -> None:
    texts = [f"padding {number} {'x' * 100}" for number in range(300)]
    server.records["a.test"] = Records(txt=texts)
    assert sorted(resolver.txt("a.test")) == sorted(texts)
    assert list(server.requests) == [("a.test", "TXT", "udp"), ("a.test", "TXT", "tcp")]


def test_a_cut_answer_is_asked_for_over_tcp(server: DnsServer, resolver: Resolver) -> None:
    server.records["a.test"] = Records(txt=["x"], cut=True)
    assert resolver.txt("a.test") == ["x"]


def test_aliases_are_followed(server: DnsServer, resolver: Resolver) -> None:
    for number in range(8):
        server.records[f"a{number}.test"] = Records(cname=f"a{number + 1}.test")
    server.records["a8.test"] = Records(txt=["x"], a=["192.0.2.1"])
    assert resolver.txt("a0.test") == ["x"]
    assert resolver.addresses("a0.test", 5) == ["192.0.2.1"]


@pytest.mark.parametrize(
    ("records", "is_final", "words"),
    [
        (Records(rcode="NXDOMAIN"), True, "the name a.test does not exist in DNS"),
        (Records(a=["192.0.2.1"]), True, "a.test has no TXT record in DNS"),
        (Records(cname="a.test"), True, "aliases (CNAME) that lead in a circle"),
        (Records(cname="b0.test"), True, "aliases (CNAME) that lead in a circle or are too many"),
        (Records(cname="a.test", cut=True), True, "answers with aliases (CNAME) that lead in a circle"),
        (Records(rcode="SERVFAIL"), False, "answers SERVFAIL"),
        (Records(rcode="REFUSED"), False, "answers REFUSED"),
        (Records(rcode="FORMERR"), False, "answers FORMERR"),
        (Records(rcode="YXDOMAIN"), False, "YXDOMAIN"),
        (Records(silent=True), False, f"no answer for a.test from DNS within {SECONDS:g} s"),
        (Records(garbage=b"\xff" * 100), False, "no answer for a.test"),
        (Records(garbage=b""), False, "no answer for a.test"),
    ],
    ids=lambda value: None if isinstance(value, bool) else str(value)[:40],
)
def test_what_is_no_answer_has_a_reason(
    server: DnsServer, resolver: Resolver, records: Records, is_final: bool, words: str
) -> None:
    server.records["a.test"] = records
    server.records |= {f"b{number}.test": Records(cname=f"b{number + 1}.test") for number in range(30)}
    began = time.monotonic()
    with pytest.raises(DnsError) as caught:
        resolver.txt("a.test")
    assert time.monotonic() - began < SECONDS + 0.5
    assert words in caught.value.reason and str(caught.value) == caught.value.reason
    assert caught.value.is_final == is_final


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("_atproto." + ".".join(["a" * 62] * 4), "is too long for DNS"),
        ("a" * 64 + ".test", "is too long for DNS"),
        ("a..test", "is no name that DNS knows"),
        ("", "is no name"),
        ("\ud800.test", "is no name"),
        ("é" * 100 + ".test", "is too long for DNS"),
    ],
)
def test_what_is_no_name_is_not_asked(server: DnsServer, resolver: Resolver, name: str, words: str) -> None:
    with pytest.raises(DnsError, match=words) as caught:
        resolver.txt(name)
    assert caught.value.is_final and not server.requests


@pytest.mark.parametrize("first", ["SERVFAIL", "silent", "nobody", "garbage"])
def test_a_later_server_is_the_backup(server: DnsServer, first: str) -> None:
    server.records["a.test"] = Records(txt=["x"])
    broken = DnsServer(World(1, 2, start=1_790_000_000, pasts=()))
    broken.records["a.test"] = {
        "SERVFAIL": Records(rcode="SERVFAIL"),
        "silent": Records(silent=True),
        "garbage": Records(garbage=b"\xff" * 30),
        "nobody": Records(),
    }[first]
    if first == "nobody":
        broken.stop()
    else:
        broken.start()
    try:
        assert Resolver(settings_of(broken, server)).txt("a.test") == ["x"]
    finally:
        broken.stop()


def test_a_domain_that_answers_is_not_asked_twice(server: DnsServer) -> None:
    resolver = Resolver(settings_of(server, NameServer("127.0.0.1", 1)))
    with pytest.raises(DnsError, match="does not exist"):
        resolver.txt("a.test")
    assert len(server.requests) == 1


def test_every_server_is_named_with_what_it_did(server: DnsServer) -> None:
    server.records["a.test"] = Records(rcode="SERVFAIL")
    with pytest.raises(DnsError) as caught:
        Resolver(settings_of(server, *(NameServer("127.0.0.1", port) for port in range(1, 9)))).txt("a.test")
    reason = caught.value.reason
    assert f"127.0.0.1 port {server.port} answers SERVFAIL, 127.0.0.1 port 1 does not answer" in reason
    assert "and 5 more" in reason and not caught.value.is_final


def test_a_tcp_answer_that_drips_ends_with_the_time(server: DnsServer) -> None:
    """The name server says over UDP that its answer is cut, and sends a part of it over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(tcp.getsockname())
        udp.settimeout(5)
        resolver = Resolver(settings_of(NameServer("127.0.0.1", tcp.getsockname()[1])))
        server.records["a.test"] = Records(txt=["x"], cut=True)

        def answer() -> None:
            for _ in range(2):
                wire, address = udp.recvfrom(512)
                udp.sendto(server.answer(wire, "udp") or b"", address)

        threading.Thread(target=answer, daemon=True).start()
        began = time.monotonic()
        with pytest.raises(DnsError) as caught:
            resolver.txt("a.test")
        assert time.monotonic() - began < SECONDS + 0.5 and not caught.value.is_final


# ---- addresses


def test_addresses_of_both_kinds(server: DnsServer, resolver: Resolver) -> None:
    server.records["a.test"] = Records(a=["192.0.2.1", "192.0.2.2"], aaaa=["2001:db8::1"])
    found = resolver.addresses("a.test", 5)
    assert sorted(found[:2]) == ["192.0.2.1", "192.0.2.2"] and found[2:] == ["2001:db8::1"]
    server.records["b.test"] = Records(aaaa=["2001:db8::1"])
    assert resolver.addresses("b.test", 5) == ["2001:db8::1"]
    server.records["c.test"] = Records(a=[f"192.0.2.{number}" for number in range(200)])
    assert len(resolver.addresses("c.test", 5)) == dns.MAX_ADDRESSES


def test_a_host_without_addresses(server: DnsServer, resolver: Resolver) -> None:
    server.records["a.test"] = Records(txt=["x"])
    with pytest.raises(DnsError, match=r"a\.test has no address in DNS") as caught:
        resolver.addresses("a.test", 5)
    assert caught.value.is_final
    server.requests.clear()
    with pytest.raises(DnsError, match="does not exist") as caught:
        resolver.addresses("nobody.test", 5)
    assert caught.value.is_final and len(server.requests) == 1
    server.records["b.test"] = Records(rcode="SERVFAIL")
    with pytest.raises(DnsError, match="SERVFAIL") as caught:
        resolver.addresses("b.test", 5)
    assert not caught.value.is_final


def test_a_domain_that_is_silent_for_ipv6_has_its_ipv4_address(server: DnsServer, resolver: Resolver) -> None:
    server.records["a.test"] = [Records(a=["192.0.2.1"]), Records(silent=True)]
    began = time.monotonic()
    assert resolver.addresses("a.test", 5) == ["192.0.2.1"]
    assert time.monotonic() - began < 0.6 * SECONDS


def test_addresses_take_no_longer_than_asked(server: DnsServer, resolver: Resolver) -> None:
    server.records["a.test"] = Records(silent=True)
    began = time.monotonic()
    with pytest.raises(DnsError, match=r"within 0\.3 s"):
        resolver.addresses("a.test", 0.3)
    assert time.monotonic() - began < 0.8


# ---- the system's configuration


def test_the_systems_servers_and_their_change(
    server: DnsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file can't name a port, so the servers that are found are looked at."""
    path = tmp_path / "resolv.conf"
    monkeypatch.setattr(dns, "_RESOLV_CONF", path)
    resolver = Resolver(Settings())
    assert resolver._resolver().nameservers == ["127.0.0.1"], "no file: the server on this machine"
    path.write_text("nameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch corp.example\n")
    assert resolver._resolver().nameservers == ["192.0.2.1", "192.0.2.2"]
    assert resolver._resolver() is resolver._resolver(), "made once"
    path.write_text("nameserver 192.0.2.3\n")
    os.utime(path, ns=(1, 1))
    assert resolver._resolver().nameservers == ["192.0.2.3"]
