"""Strangers can't make us connect to anything but public addresses: a listener counts the connections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appview_pipeline.network.fetch_errors import FetchError
from appview_pipeline_tests.support.http_server import ok, status
from appview_pipeline_tests.support.public_internet import PUBLIC_ADDRESS, Internet, Names, internet

LITERALS = """
127.0.0.1 127.1 127.0.1 127.255.255.255 2130706433 017700000001 0177.0.0.1 0177.0.0.01 0x7f000001
0x7f.0x0.0x0.0x1 0x7f.1 0X7F.0.0.1 00000177.0.0.1 127.0.0.1. 127.000.000.001 ①②⑦.0.0.1 １２７．０．０．１ 127。0。0。1 0
0.0.0.0 0x0 00 10.0.0.1 10.1 167772161 172.16.0.1 172.31.255.255 192.168.1.1 192.168.257 3232235777
169.254.169.254 169.254.43518 2852039166 0xa9fea9fe 0251.0376.0251.0376 169.254.169.254. 100.64.0.1 192.0.0.192
192.0.2.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255 [::] [::1]
[0:0:0:0:0:0:0:1] [0000::0001] [::ffff:127.0.0.1] [::ffff:7f00:1] [::ffff:8.8.8.8] [0:0:0:0:0:ffff:127.0.0.1]
[::127.0.0.1] [::ffff:0:127.0.0.1] [64:ff9b::127.0.0.1] [64:ff9b::a9fe:a9fe] [64:ff9b:1::1] [2002:7f00:1::]
[2002:a9fe:a9fe::] [2001:0:7f00:1::] [fe80::1] [fe80::1%25lo] [fe80::1%lo] [::1%25lo] [fc00::1] [fd00:ec2::254]
[fec0::1] [ff02::1] [2001:db8::1] [100::1] [3fff::1] [::1]. localhost LOCALHOST localhost. localhost.localdomain
ip6-localhost metadata metadata.google.internal kubernetes.default.svc
"""


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Internet]:
    made = internet(monkeypatch, tmp_path, lambda request: ok())
    with made.server:
        yield made


INTERNAL = {
    "localhost.localdomain": ["127.0.0.1"],
    "metadata.google.internal": ["169.254.169.254"],
    "kubernetes.default.svc": ["10.96.0.1"],
}


def test_the_listener_can_be_reached(net: Internet) -> None:
    """Or else the tests below would prove nothing."""
    client = net.client(Names({"example.com": ["2606:4700::1", PUBLIC_ADDRESS]}))
    assert client.get("https://example.com/", max_bytes=100).body == b"{}"
    assert net.contacted == [("2606:4700::1", 443), (PUBLIC_ADDRESS, 443)]
    assert net.server.connections == 1 and net.server.requests[0].headers["Host"] == "example.com"


@pytest.mark.parametrize("host", LITERALS.split())
def test_no_notation_of_an_address_that_is_not_public_is_contacted(net: Internet, host: str) -> None:
    client = net.client(Names(INTERNAL))
    for url in (f"https://{host}/", f"https://{host}:443/did.json", f"https://{host}/?x=https://example.com/"):
        with pytest.raises(FetchError) as caught:
            client.get(url, max_bytes=100, redirects=3)
        assert caught.value.kind in ("url", "refused address") and caught.value.blames_account
    with pytest.raises(FetchError):
        client.hosts.checked_addresses(host, 443, 1)
    assert net.contacted == [] and net.server.connections == 0


@pytest.mark.parametrize("url", ["http://{}/", "https://{}:8443/", "https://{}:22/", "https://user@{}/", "ws://{}/"])
@pytest.mark.parametrize("host", ["example.com", "127.0.0.1", PUBLIC_ADDRESS])
def test_only_https_on_its_own_port(net: Internet, url: str, host: str) -> None:
    with pytest.raises(FetchError) as caught:
        net.client(Names({"example.com": [PUBLIC_ADDRESS]})).get(url.format(host), max_bytes=100)
    assert caught.value.kind == "url" and net.contacted == []


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
        [PUBLIC_ADDRESS, "2002:a00:1::"],
        ["fe80::1%2"],
    ],
)
def test_names_with_an_address_that_is_not_public_are_not_contacted(net: Internet, addresses: list[str]) -> None:
    with pytest.raises(FetchError) as caught:
        net.client(Names({"example.com": addresses})).get("https://example.com/", max_bytes=100)
    assert caught.value.kind == "refused address" and "example.com has the address" in str(caught.value)
    assert net.contacted == [] and net.server.connections == 0


@pytest.mark.parametrize(
    "location",
    [
        "https://169.254.169.254/latest/meta-data/",
        "http://169.254.169.254/latest/meta-data/",
        "https://0xa9fea9fe/",
        "https://inside.example/",
        "//inside.example/",
        "https://localhost/",
        "http://example.com/",
        "https://example.com:8443/",
        "https://user@example.com/",
        "https://[::ffff:7f00:1]/",
        "gopher://example.com/",
        "file:///etc/passwd",
    ],
)
def test_redirects_are_checked(net: Internet, location: str) -> None:
    net.server.answer = lambda request: status("302 Found", f"Location: {location}\r\n")
    client = net.client(Names({"example.com": [PUBLIC_ADDRESS], "inside.example": ["10.0.0.1"]}))
    with pytest.raises(FetchError) as caught:
        client.get("https://example.com/", max_bytes=100, redirects=3)
    assert caught.value.kind in ("url", "refused address")
    assert net.contacted == [(PUBLIC_ADDRESS, 443)] and net.server.connections == 1


def rebinding() -> Callable[[], list[str]]:
    answers = iter([[PUBLIC_ADDRESS], ["127.0.0.1"], ["127.0.0.1"]])
    return lambda: next(answers)


def test_a_name_that_changes_after_the_check_changes_nothing(net: Internet) -> None:
    names = Names({"example.com": rebinding()})
    client = net.client(names)
    assert client.get("https://example.com/", max_bytes=100).status == 200
    assert names.looked_up == ["example.com"], "one look-up is for the check and the connection"
    assert net.contacted == [(PUBLIC_ADDRESS, 443)]
    assert client.get("https://example.com/", max_bytes=100).status == 200
    assert names.looked_up == ["example.com"], "the connection is used again, which was checked"
    net.server.drop()
    client.close()
    with pytest.raises(FetchError) as caught:  # a new connection looks the name up again, and checks it again
        client.get("https://example.com/", max_bytes=100)
    assert caught.value.kind == "refused address" and net.contacted == [(PUBLIC_ADDRESS, 443)]


def test_proxies_of_the_environment_are_not_asked(net: Internet, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:1")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere")
    monkeypatch.setenv("CURL_CA_BUNDLE", "/nowhere")
    client = net.client(Names({"example.com": [PUBLIC_ADDRESS]}))
    assert client.get("https://example.com/", max_bytes=100).status == 200
    assert net.contacted == [(PUBLIC_ADDRESS, 443)]


def test_credentials_of_the_machine_are_not_sent(
    net: Internet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    net.client(Names({"example.com": [PUBLIC_ADDRESS]})).get("https://example.com/", max_bytes=100)
    assert set(net.server.requests[0].headers) == {"Host", "User-Agent", "Accept", "Accept-Encoding"}


def test_a_name_with_hundreds_of_addresses_is_checked_to_the_last(net: Internet) -> None:
    client = net.client(Names({"example.com": [f"93.184.{i}.14" for i in range(200)] + ["127.0.0.1"]}))
    with pytest.raises(FetchError, match=r"127\.0\.0\.1"):
        client.get("https://example.com/", max_bytes=100)
    assert net.contacted == []


@pytest.mark.parametrize("location", ["http://10.0.0.5:2582/", "http://plc:2582/x", "https://relay.corp.example/x?y"])
def test_redirects_to_the_operators_own_servers_are_not_followed(net: Internet, location: str) -> None:
    """Of a stranger: it could ask for anything there."""
    net.server.answer = lambda request: status("302 Found", f"Location: {location}\r\n")
    names = Names({"example.com": [PUBLIC_ADDRESS], "plc": ["10.0.0.5"], "relay.corp.example": ["10.0.0.6"]})
    for plc_url in ("http://10.0.0.5:2582", "http://plc:2582"):
        client = net.client(names, plc_url=plc_url, relay_url="wss://relay.corp.example")
        net.contacted.clear()
        with pytest.raises(FetchError) as caught:
            client.get("https://example.com/", max_bytes=100, redirects=3)
        assert caught.value.kind in ("url", "refused address") and net.contacted == [(PUBLIC_ADDRESS, 443)]


def test_a_stranger_gets_no_connection_that_was_made_without_the_check(net: Internet) -> None:
    client = net.client(Names({"example.com": ["10.0.0.5"]}), plc_url="https://example.com")
    assert client.get("https://example.com/did:plc:x", max_bytes=100, is_trusted=True).status == 200
    with pytest.raises(FetchError) as caught:
        client.get("https://example.com/.well-known/did.json", max_bytes=100)
    assert caught.value.kind == "refused address"
    assert client.get("https://example.com/did:plc:y", max_bytes=100, is_trusted=True).status == 200
    assert net.contacted == [("10.0.0.5", 443)] and len(net.server.requests) == 2
