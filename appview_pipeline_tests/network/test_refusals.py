"""Relays that refuse the subscription, by HTTP, TCP or TLS: one sentence each, and never a loop without pauses."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
import time
from typing import Any

import pytest

from appview_pipeline.backoff import MAX_RETRY_AFTER, Backoff
from appview_pipeline_tests.support.ports import free_port
from appview_pipeline_tests.support.scripted_servers import Relay, idle, quick, raw_server, refusing
from appview_pipeline_tests.support.waiting import wait_for


@pytest.mark.parametrize(
    ("status", "words", "hopeless"),
    [
        ("400 Bad Request", "HTTP 400 (bad cursor): it does not accept the request; check APPVIEW_RELAY_URL", True),
        ("404 Not Found", "no event stream for us at this address", True),
        ("405 Method Not Allowed", "no event stream for us at this address", True),
        ("426 Upgrade Required", "no event stream for us at this address", True),
        ("501 Not Implemented", "no event stream for us at this address", True),
        ("200 OK", "HTTP 200 (bad cursor) instead of a WebSocket", True),
        ("429 Too Many Requests", "too many connections", False),
        ("500 Internal Server Error", "HTTP 500 (bad cursor): it has trouble of its own", False),
        ("503 Service Unavailable", "HTTP 503", False),
        ("522 Connection timed out", "HTTP 522", False),
    ],
)
def test_http_refusals(status: str, words: str, hopeless: bool) -> None:
    backoff = Backoff(first=0.05, longest=10)
    with (
        raw_server(refusing(status, body="bad cursor")) as (port, times),
        quick(f"ws://127.0.0.1:{port}", 5, backoff=backoff) as subscription,
    ):
        wait_for(lambda: subscription.status.state == "waiting")
        first = subscription.status
        assert words in (first.last_error or "")
        assert first.retry_at is not None and first.last_error_at is not None
        wait = first.retry_at - first.last_error_at
        if hopeless:
            assert 5 <= wait <= 10
        else:
            assert wait < 1
            wait_for(lambda: len(times) >= 3)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (f"HTTP/1.1 101 Switching Protocols\r\nX-Trace: {'x' * 20_000}\r\n\r\n", "HTTP 101"),
        (f"HTTP/1.1 404 Not Found\r\nX-Trace: {'x' * 20_000}\r\n\r\n", "HTTP 404"),
        (f"HTTP/1.1 503 Busy\r\nX-Trace: {'x' * 40_000}", "HTTP 503"),
        ("HTTP/1.1 101 Switching Protocols\r\n" + "A: b\r\n" * 200 + "\r\n", "HTTP 101"),
        ("<html>" * 5_000, "no WebSocket handshake"),
    ],
)
def test_an_over_long_answer_is_not_hopeless(header: str, words: str) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(header.encode())
        connection.recv(65536)

    backoff = Backoff(first=0.05, longest=10)
    with (
        raw_server(answer) as (port, times),
        quick(f"ws://127.0.0.1:{port}", 5, backoff=backoff) as subscription,
    ):
        wait_for(lambda: len(times) >= 3)
        error = subscription.status.last_error or ""
        assert words in error and "too long to be read; trying again later" in error


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured(form: str) -> None:
    at = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=31)
    value = "30" if form == "seconds" else at.strftime("%a, %d %b %Y %H:%M:%S GMT")
    with (
        raw_server(refusing("429 Too Many Requests", f"Retry-After: {value}\r\n")) as (port, _),
        quick(f"ws://127.0.0.1:{port}", 5) as subscription,
    ):
        wait_for(lambda: subscription.status.state == "waiting")
        status = subscription.status
        assert status.retry_at is not None
        assert 28 < status.retry_at - time.time() < 32


@pytest.mark.parametrize("value", ["soon", "-1", "9" * 60, "Wed, 99 Foo 2099 00:00:00 GMT", "1e9", ""])
def test_a_senseless_retry_after_can_neither_break_nor_stop_us(value: str) -> None:
    with (
        raw_server(refusing("503 Busy", f"Retry-After: {value}\r\n")) as (port, _),
        quick(f"ws://127.0.0.1:{port}", 5) as subscription,
    ):
        wait_for(lambda: subscription.status.state == "waiting")
        status = subscription.status
        assert status.retry_at is not None
        assert status.retry_at - time.time() <= MAX_RETRY_AFTER + 1


def test_a_redirect_is_not_followed_but_reported() -> None:
    with (
        raw_server(refusing("301 Moved", "Location: https://elsewhere.example/\r\n")) as (port, _),
        quick(f"ws://127.0.0.1:{port}", 5) as subscription,
    ):
        wait_for(lambda: subscription.status.state == "waiting")
        error = subscription.status.last_error or ""
        assert "a redirect to https://elsewhere.example/: set APPVIEW_RELAY_URL to it" in error


def test_answers_that_are_no_http() -> None:
    def garbage(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"220 mail.example ESMTP\r\n\r\n")

    with raw_server(garbage) as (port, _), quick(f"ws://127.0.0.1:{port}", 5) as subscription:
        wait_for(lambda: subscription.status.state == "waiting")
        assert "does not answer like a WebSocket server" in (subscription.status.last_error or "")

    def silent(connection: socket.socket) -> None:
        connection.recv(65536)

    with (
        raw_server(silent) as (port, _),
        quick(f"ws://127.0.0.1:{port}", 5) as subscription,
    ):
        wait_for(lambda: subscription.status.state == "waiting")
        assert "closed the connection without an answer" in (subscription.status.last_error or "")


def test_a_server_that_accepts_and_says_nothing() -> None:
    given_up = threading.Event()

    def silent(connection: socket.socket) -> None:
        given_up.wait(30)

    with (
        raw_server(silent) as (port, _),
        quick(f"ws://127.0.0.1:{port}", 5, connect_seconds=0.3) as subscription,
    ):
        wait_for(lambda: subscription.status.state == "waiting")
        given_up.set()
        assert f"127.0.0.1:{port} does not answer" in (subscription.status.last_error or "")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_refused_port_is_one_sentence(host: str) -> None:
    port = free_port()
    with quick(f"ws://{host}:{port}", 5) as subscription:
        wait_for(lambda: subscription.status.attempts >= 3)
        assert subscription.status.last_error == (
            f"{host}:{port} refuses the connection: check APPVIEW_RELAY_URL and that the server runs."
        )
        assert subscription.take(10, 0) == []


@pytest.mark.parametrize("host", ["does-not-exist.invalid", "a" * 64 + ".invalid"])
def test_a_bad_host_name_is_one_sentence(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def resolve(name: Any, *rest: Any, **options: Any) -> Any:
        if len(str(name).split(".")[0]) < 64:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(name, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with quick(f"wss://{host}", 5) as subscription:
        wait_for(lambda: subscription.status.state == "waiting")
        assert f"The host name {host} can't be resolved" in (subscription.status.last_error or "")


def test_tls_failures(tmp_path: Any) -> None:
    with Relay(idle) as relay, quick(f"wss://127.0.0.1:{relay.port}", 5) as subscription:
        wait_for(lambda: subscription.status.state == "waiting")
        assert "broke the connection off while it was being made" in (subscription.status.last_error or "")

    def plain(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        connection.recv(65536)
        connection.recv(65536)

    with raw_server(plain) as (port, _), quick(f"wss://127.0.0.1:{port}", 5) as subscription:
        wait_for(lambda: subscription.status.state == "waiting")
        assert f"No TLS connection to 127.0.0.1:{port} (" in (subscription.status.last_error or "")

    server_tls = self_signed(tmp_path)
    with Relay(idle, ssl=server_tls) as relay, quick(f"wss://localhost:{relay.port}", 5) as subscription:
        wait_for(lambda: subscription.status.state == "waiting")
        assert "The certificate of localhost can't be verified (self" in (subscription.status.last_error or "")

    trusting = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    with (
        Relay(idle, ssl=server_tls) as relay,
        quick(f"wss://localhost:{relay.port}", 5, ssl_context=trusting) as subscription,
    ):
        wait_for(lambda: subscription.status.connected)


def self_signed(folder: Any) -> ssl.SSLContext:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context
