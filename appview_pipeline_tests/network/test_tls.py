from __future__ import annotations

import socket
import ssl
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import certifi
import pytest

from appview_pipeline.network import overdue
from appview_pipeline.network.checked_sockets import tls_context
from appview_pipeline.network.fetch_errors import FetchError
from appview_pipeline.network.xrpc import Client
from appview_pipeline.settings import Settings
from appview_pipeline_tests.support.certificates import Authority
from appview_pipeline_tests.support.http_server import HttpServer, Request, ok
from appview_pipeline_tests.support.public_internet import PUBLIC_ADDRESS, Names, internet
from appview_pipeline_tests.support.scripted_servers import raw_server, refusing

NAMES = Names({"example.com": [PUBLIC_ADDRESS], "www.example.com": [PUBLIC_ADDRESS]})


def refused(client: Client, url: str = "https://example.com/") -> FetchError:
    with client, pytest.raises(FetchError) as caught:
        client.get(url, max_bytes=100)
    return caught.value


def test_the_servers_name_goes_to_the_server_and_its_certificate_is_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    net = internet(monkeypatch, tmp_path, lambda request: ok())
    names: list[str | None] = []
    assert net.server.tls is not None
    net.server.tls.sni_callback = lambda sock, name, context: names.append(name)
    with net.server, net.client(NAMES) as client:
        assert client.get("https://EXAMPLE.com.:443/", max_bytes=100).status == 200
    assert names == ["example.com"] and net.server.requests[0].headers["Host"] == "example.com"


@pytest.mark.parametrize("certified", ["other.example", PUBLIC_ADDRESS, "*.example.com", "com"])
def test_a_certificate_for_another_name_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, certified: str
) -> None:
    net = internet(monkeypatch, tmp_path, lambda request: ok(), certified)
    with net.server:
        error = refused(net.client(NAMES))
    assert error.kind == "tls" and error.blames_account
    assert "the certificate of example.com is not accepted" in str(error)
    assert net.server.connections == 1 and net.server.requests == []


def test_a_certificate_for_all_names_of_a_domain_is_accepted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    net = internet(monkeypatch, tmp_path, lambda request: ok(), "*.example.com")
    with net.server, net.client(NAMES) as client:
        assert client.get("https://www.example.com/", max_bytes=100).status == 200


def test_an_expired_certificate_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    net = internet(monkeypatch, tmp_path, lambda request: ok())
    net.server.tls = Authority(tmp_path).server("example.com", is_expired=True)
    net.ca_file = tmp_path / "ca.pem"  # of the authority made last
    with net.server:
        error = refused(net.client(NAMES))
    assert error.kind == "tls" and "expired" in str(error) and net.server.requests == []


def test_a_certificate_of_an_unknown_authority_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    net = internet(monkeypatch, tmp_path, lambda request: ok())
    net.ca_file = Path(certifi.where())
    with net.server:
        error = refused(net.client(NAMES))
    assert error.kind == "tls" and net.server.requests == []
    assert [(one.host, one.failures) for one in net.client(NAMES).upstreams()] == []


def test_certificates_are_checked_in_closed_networks_too(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with HttpServer(lambda request: ok(), tls=authority.server("127.0.0.1")) as server:
        settings = Settings(allow_private_hosts=True)
        with Client(settings, ca_file=str(authority.file)) as client:
            assert client.get(server.url, max_bytes=100).status == 200
            assert refused(client, f"https://localhost:{server.port}/").kind == "tls"
        assert refused(Client(settings), server.url).kind == "tls"


def test_old_tls_and_no_tls_are_refused() -> None:
    context = tls_context(None)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname
    assert context.cert_store_stats()["x509_ca"] > 0 or ssl.get_default_verify_paths().capath
    with raw_server(refusing("400 Bad Request")) as (port, _):
        error = refused(Client(Settings(allow_private_hosts=True)), f"https://127.0.0.1:{port}/")
    assert error.kind == "tls" and f"no TLS connection to 127.0.0.1:{port}" in str(error)


def test_a_machine_without_root_certificates_has_those_of_certifi(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert tls_context(None).cert_store_stats()["x509_ca"] > 50


@pytest.mark.parametrize("first", [b"", b"\x16\x03\x03\x40\x00"], ids=["silence", "drops"])
def test_a_handshake_has_a_limit_of_time(first: bytes) -> None:
    """Also one of which a byte comes now and then."""

    def answer(connection: socket.socket) -> None:
        connection.settimeout(5)
        connection.recv(65_536)
        if first:
            connection.sendall(first)
        for _ in range(100):
            if not first:
                connection.recv(65_536)  # returns when the client has gone
                return
            time.sleep(0.03)
            connection.sendall(b"\x00")

    settings = Settings(allow_private_hosts=True, fetch_connect_seconds=0.3)
    with raw_server(answer) as (port, _):
        began = time.monotonic()
        error = refused(Client(settings), f"https://127.0.0.1:{port}/")
        assert 0.2 < time.monotonic() - began < 2.5
    assert error.kind == "timeout" and "did not accept a connection within 0.3 s" in str(error)


@pytest.mark.parametrize("given", [True, False])
def test_a_body_that_drips_through_tls_ends_at_the_deadline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: bool
) -> None:
    def drip(request: Request) -> None:
        request.connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n")
        for _ in range(200):
            time.sleep(0.03)
            request.connection.sendall(b"x")

    authority = Authority(tmp_path)
    settings = Settings(allow_private_hosts=True, fetch_seconds=0.4)
    with HttpServer(drip, tls=authority.server("127.0.0.1")) as server:
        if not given:
            monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        began = time.monotonic()
        error = refused(Client(settings, ca_file=str(authority.file) if given else None), server.url)
        assert 0.3 < time.monotonic() - began < 2.5
    assert error.kind == "timeout" and "within 0.4 s" in str(error)


@pytest.mark.parametrize("method", ["do_handshake", "recv_into"])
def test_what_openssl_goes_on_with_is_broken_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: str) -> None:
    """As in a flood of messages without data, in which no time-out is looked at."""
    original = getattr(ssl.SSLSocket, method)

    def without_limit(sock: ssl.SSLSocket, *arguments: Any) -> Any:
        sock.settimeout(None)
        return original(sock, *arguments)

    monkeypatch.setattr(ssl.SSLSocket, method, without_limit)
    monkeypatch.setattr(overdue, "OVERDUE_POLL_SECONDS", 0.1)
    authority, is_handshake = Authority(tmp_path), method == "do_handshake"
    settings = Settings(
        allow_private_hosts=True, fetch_connect_seconds=0.3, fetch_seconds=10.0 if is_handshake else 0.6
    )

    def silent(connection: socket.socket) -> None:
        connection.settimeout(8)
        while connection.recv(65_536):  # until the client has gone
            pass

    with ExitStack() as stack:
        if is_handshake:
            port, _ = stack.enter_context(raw_server(silent))
        else:
            tls = authority.server("127.0.0.1")
            port = stack.enter_context(HttpServer(lambda request: silent(request.connection), tls=tls)).port
        began = time.monotonic()
        error = refused(Client(settings, ca_file=str(authority.file)), f"https://127.0.0.1:{port}/")
        assert 0.2 < time.monotonic() - began < 5
    said = "did not accept a connection within 0.3 s" if is_handshake else "did not answer completely within 0.6 s"
    assert error.kind == "timeout" and said in str(error)
