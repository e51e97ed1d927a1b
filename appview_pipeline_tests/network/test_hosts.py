from __future__ import annotations

import socket
import threading
import time
from typing import Any

import pytest

from appview_pipeline.errors import OperatorError
from appview_pipeline.network import hosts as module
from appview_pipeline.network.fetch_errors import FetchError
from appview_pipeline.network.hosts import Hosts, SystemLookups
from appview_pipeline.settings import Settings

PUBLIC, PRIVATE = "93.184.215.14", "10.1.2.3"


def hosts(*addresses: str, **settings: Any) -> Hosts:
    return Hosts(Settings(**settings), lookup=lambda host, seconds: list(addresses))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://example.com", "https://example.com/"),
        ("HTTPS://EXAMPLE.com:443/A?b=c#d", "https://example.com/A?b=c"),
        ("https://example.com./x", "https://example.com/x"),
        ("https://example.com:/x", "https://example.com/x"),
        ("https://example.com?x", "https://example.com/?x"),
        ("https://bücher.example/ä?ö", "https://xn--bcher-kva.example/%C3%A4?%C3%B6"),
        ("https://ｅｘａｍｐｌｅ。com/", "https://example.com/"),
        ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example/"),
        ("https://example.com/%2e%2e/\"<>{}|^`'", "https://example.com/%2e%2e/%22%3C%3E%7B%7D%7C%5E%60'"),
        ("https://8.8.8.8/", "https://8.8.8.8/"),
        ("https://[2606:4700:4700:0::1111]/", "https://[2606:4700:4700::1111]/"),
        ("https://a_b.example.com/", "https://a_b.example.com/"),
    ],
)
def test_urls_have_one_spelling(url: str, expected: str) -> None:
    assert hosts().target(url).url == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "//example.com/",
        "https:/example.com",
        "https:///x",
        "https://",
        "https://:443/",
        "http://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "wss://example.com/",
        "javascript:alert(1)",
        "https://example.com:80/",
        "https://example.com:8443/",
        "https://example.com:0/",
        "https://example.com:99999/",
        "https://example.com:+443/",
        "https://example.com:４４３/",
        "https://example.com:443:443/",
        "https://user@example.com/",
        "https://user:password@example.com/",
        "https://example.com@10.0.0.1/",
        "https://example.com\\@10.0.0.1/",
        "https://example.com\\.evil.example/",
        "https://exa mple.com/",
        " https://example.com/",
        "https://example.com/\r\nHost: evil.example",
        "https://example.com/\x00",
        "https://example.com/\ud800",
        "https://exa\tmple.com/",
        "https://exam%70le.com/",
        "https://%31%32%37.0.0.1/",
        "https://example..com/",
        "https://.example.com/",
        "https://example.com../",
        "https://-example.com/",
        "https://example-.com/",
        f"https://{'a' * 64}.com/",
        f"https://{'a.' * 127}com/",
        f"https://{'ä' * 300}.com/",
        f"https://example.com/{'a' * 10_000}",
        "https://localhost/",
        "https://intranet/",
        "https://com/",
        "https://[::1/",
        "https://::1/",
        "https://[fe80::1%25eth0]/",
        "https://[fe80::1%eth0]/",
        "https://[example.com]/",
        "https://[1.2.3.4]/",
        "https://[v1.x]/",
        "https://127.1/",
        "https://1.2.3/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.0.0.1/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://010.8.8.8/",
        "https://8.8.8.8.8/",
        "https://256.1.1.1/",
        "https://example.0x/",
        "https://example.1/",
    ],
)
def test_urls_that_are_not_asked(url: str) -> None:
    with pytest.raises(FetchError) as caught:
        hosts(PUBLIC).target(url)
    assert caught.value.kind == "url" and caught.value.blames_account
    assert len(str(caught.value)) < 200 and str(caught.value).isprintable()


def test_a_closed_network_may_be_asked_in_any_way() -> None:
    closed = hosts(PRIVATE, allow_private_hosts=True)
    for url in ("http://intranet:8080/x", "http://127.0.0.1:1/", "https://[::1]:2583/", "http://10.0.0.1/"):
        assert closed.target(url).url == url
    assert closed.addresses(closed.target("http://intranet:8080/"), 1) == [PRIVATE]
    assert closed.checked_addresses("intranet", 8080, 1) == [PRIVATE]
    for url in ("ftp://intranet/", "http://127.1/", "http://user@intranet/"):
        with pytest.raises(FetchError):
            closed.target(url)


def test_the_operators_own_servers_are_the_operators_word() -> None:
    mine = hosts(PRIVATE, plc_url="http://plc:2582", relay_url="ws://10.0.0.5:2470")
    for url in ("http://plc:2582/did:plc:x", "http://10.0.0.5:2470/xrpc/x"):
        target = mine.target(url, is_trusted=True)
        assert target.is_trusted and mine.addresses(target, 1) == [target.host if "10." in url else PRIVATE]
    for url in ("http://plc:2583/", "https://plc:2582/", "http://plc/", "https://10.0.0.5/", "http://10.0.0.5:80/"):
        with pytest.raises(FetchError):
            mine.target(url, is_trusted=True)
    assert not mine.target("https://plc.directory/", is_trusted=True).is_trusted
    target = mine.target("http://plc:2582/x", is_trusted=True)
    assert mine.redirected(target, "/y").is_trusted
    for location in ("https://10.0.0.5/", "http://plc:9/", "https://169.254.169.254/"):
        with pytest.raises(FetchError, match=r"^plc:2582 redirects to a place that is not asked: "):
            mine.redirected(target, location)


def test_a_stranger_may_not_name_the_operators_own_servers() -> None:
    mine = hosts(PRIVATE, plc_url="http://plc:2582", relay_url="wss://relay.corp.example")
    for url in ("http://plc:2582/did:plc:x", "http://plc:2582/admin?x"):
        with pytest.raises(FetchError, match="only https://"):
            mine.target(url)
        with pytest.raises(FetchError, match="only https://"):
            mine.redirected(mine.target("https://example.com/"), url)
    with pytest.raises(FetchError) as caught:
        mine.addresses(mine.target("https://relay.corp.example/xrpc/x"), 1)
    assert caught.value.kind == "refused address"


def test_names_that_hang_leave_the_operators_own_servers_their_look_ups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LOOKUPS", 1)
    release = threading.Event()

    def look_up(host: str, *_: object, **__: object) -> Any:
        if host != "plc":
            release.wait(30)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (PRIVATE, 0))]

    monkeypatch.setattr(module, "SystemLookups", lambda: SystemLookups(look_up))
    mine = Hosts(Settings(plc_url="http://plc:2582"))
    for _ in range(2):
        with pytest.raises(FetchError):
            mine.addresses(mine.target("https://example.com/"), 0.05)
    assert mine.addresses(mine.target("http://plc:2582/", is_trusted=True), 5) == [PRIVATE]
    release.set()


def test_the_operators_own_url_is_corrected_by_the_operator() -> None:
    with pytest.raises(OperatorError, match="APPVIEW_PLC_URL can't be asked"):
        hosts(plc_url="https://user:password@plc.example")


def test_every_address_of_a_name_is_checked() -> None:
    for addresses in ([PRIVATE], [PUBLIC, PRIVATE], [PRIVATE, PUBLIC], [PUBLIC] * 50 + ["::ffff:8.8.8.8"]):
        mixed = hosts(*addresses)
        with pytest.raises(FetchError) as caught:
            mixed.addresses(mixed.target("https://example.com/"), 1)
        assert caught.value.kind == "refused address"
        with pytest.raises(FetchError) as caught:
            mixed.checked_addresses("example.com", 443, 1)
        assert caught.value.kind == "refused address"
    assert str(caught.value) == (
        "example.com has the address ::ffff:8.8.8.8, which is an IPv4 address in disguise, not public"
    )
    assert hosts(PUBLIC, "2606:4700::1").checked_addresses("example.com", 443, 1) == [PUBLIC, "2606:4700::1"]


@pytest.mark.parametrize(
    ("host", "port", "kind"),
    [
        ("example.com", 80, "url"),
        ("localhost", 443, "url"),
        ("127.0.0.1", 443, "refused address"),
        ("[::1]", 443, "refused address"),
        ("::1", 443, "refused address"),
        ("0x7f.1", 443, "url"),
    ],
)
def test_hosts_of_websockets_have_the_same_rules(host: str, port: int, kind: str) -> None:
    with pytest.raises(FetchError) as caught:
        hosts(PUBLIC).checked_addresses(host, port, 1)
    assert caught.value.kind == kind


def test_names_are_looked_up_as_they_are() -> None:
    """Not within the system's own domains, where `example.com` could be `example.com.corp.internal`."""
    asked: list[str] = []

    def lookup(host: str, seconds: float) -> list[str]:
        asked.append(host)
        return [PUBLIC]

    public = Hosts(Settings(plc_url="http://plc:2582"), lookup=lookup)
    public.addresses(public.target("https://example.com./"), 1)
    public.addresses(public.target("https://8.8.8.8/"), 1)
    public.addresses(public.target("http://plc:2582/", is_trusted=True), 1)
    assert asked == ["example.com.", "plc"]


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/y", "https://example.com/y"),
        ("y", "https://example.com/x/y"),
        ("//other.example/z", "https://other.example/z"),
        ("https://other.example", "https://other.example/"),
        ("?q", "https://example.com/x/x?q"),
        ("/caf\u00c3\u00a9", "https://example.com/caf%C3%A9"),  # UTF-8 read as Latin-1
    ],
)
def test_redirects_are_read_like_urls(location: str, expected: str) -> None:
    public = hosts()
    assert public.redirected(public.target("https://example.com/x/x"), location).url == expected


@pytest.mark.parametrize(
    "location",
    [
        "http://example.com/",
        "https://169.254.169.254/latest/meta-data/",
        "//127.0.0.1/",
        "https://[::ffff:169.254.169.254]/",
        "https://exa\tmple.com/",
        "https://example.com:22/",
        "https://[",
        "//[v1.x/",
        "file:///etc/passwd",
        "\xff",
        "https://" + "a" * 100_000,
    ],
)
def test_redirects_are_checked_like_urls(location: str) -> None:
    public = hosts()
    with pytest.raises(FetchError, match=r"^example\.com redirects to a place that is not asked: "):
        public.redirected(public.target("https://example.com/x"), location)


def test_the_systems_look_up() -> None:
    lookups = SystemLookups()
    assert lookups.addresses("localhost", 5)[0] in ("127.0.0.1", "::1")

    def no_name(*_: object, **__: object) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    def trouble(*_: object, **__: object) -> Any:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    def broken(*_: object, **__: object) -> Any:
        raise UnicodeError("label too long")

    for function, kind in ((no_name, "name"), (trouble, "timeout"), (broken, "name")):
        with pytest.raises(FetchError) as caught:
            SystemLookups(function).addresses("example.com.", 5)
        assert caught.value.kind == kind and str(caught.value).startswith("example.com ")


def test_look_ups_that_hang_end_in_time_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LOOKUPS", 2)
    release, started = threading.Event(), 0

    def hang(*_: object, **__: object) -> Any:
        nonlocal started
        started += 1
        release.wait(30)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (PUBLIC, 0))]

    lookups = SystemLookups(hang)
    for kind, blames in (("timeout", True), ("timeout", True), ("name", False)):
        began = time.monotonic()
        with pytest.raises(FetchError) as caught:
            lookups.addresses("example.com.", 0.05)
        assert time.monotonic() - began < 2
        assert (caught.value.kind, caught.value.blames_account) == (kind, blames)
    assert started == 2
    release.set()
    assert lookups.addresses("example.com.", 5) == [PUBLIC]


def test_a_look_up_has_a_limit_of_its_own() -> None:
    asked: list[float] = []

    def lookup(host: str, seconds: float) -> list[str]:
        asked.append(seconds)
        return [PUBLIC]

    public = Hosts(Settings(dns_seconds=2.0), lookup=lookup)
    for seconds in (10.0, 1.0):
        public.checked_addresses("example.com", 443, seconds)
    assert asked == [2.0, 1.0]
