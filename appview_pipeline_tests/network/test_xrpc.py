"""What the HTTP client does with the answers of servers, good and bad."""

from __future__ import annotations

import gzip
import itertools
import random
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from appview_pipeline import __version__, backoff
from appview_pipeline.network.fetch_errors import FetchError, XrpcError
from appview_pipeline.network.hosts import Hosts
from appview_pipeline.network.xrpc import Client
from appview_pipeline.settings import Settings
from appview_pipeline_tests.support.http_server import HttpServer, Request, ok, status
from appview_pipeline_tests.support.ports import free_port

SECONDS = 0.4
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer(lambda request: ok()) as made:
        yield made


def client(**settings: Any) -> Client:
    return Client(Settings(**{"allow_private_hosts": True, "fetch_seconds": 5.0, **settings}))


def fails(server: HttpServer, max_bytes: int = 1_000, **settings: Any) -> FetchError:
    with client(**settings) as asking, pytest.raises(FetchError) as caught:
        asking.get(server.url, max_bytes=max_bytes)
    error = caught.value
    assert str(error) == error.reason and error.reason.isprintable() and len(error.reason) < 300
    assert error.host == server.name
    return error


# ----------------------------------------------------------------------------------------------------------------------
# Answers


def test_an_answer(server: HttpServer) -> None:
    server.answer = lambda request: ok(b"[1]", "Content-Type: application/json\r\nX-A: 1\r\nX-a: 2\r\n")
    with client() as asking:
        answer = asking.get(f"{server.url}/a%20b?c=ä#d", max_bytes=3)
    assert (answer.url, answer.status, answer.body) == (f"{server.url}/a%20b?c=%C3%A4", 200, b"[1]")
    assert answer.headers["content-type"] == "application/json" and answer.headers["X-A"] == "1, 2"
    (request,) = server.requests
    assert request.path == "/a%20b?c=%C3%A4"
    assert request.headers == {
        "Host": server.name,
        "User-Agent": f"appview-pipeline/{__version__}",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
    }


@pytest.mark.parametrize("code", [200, 204, 206, 300, 304, 400, 401, 403, 404, 410, 418, 451])
def test_other_statuses_are_answers_too(server: HttpServer, code: int) -> None:
    body = b"" if code in (204, 304) else b"gone"
    server.answer = lambda request: ok(body, status=f"{code} Whatever")
    with client() as asking:
        for _ in range(2):
            answer = asking.get(server.url, max_bytes=100)
            assert (answer.status, answer.body) == (code, body)
    assert server.connections == 1


@pytest.mark.parametrize("code", [500, 502, 504, 521, 599])
def test_trouble_of_the_server_is_no_answer(server: HttpServer, code: int) -> None:
    server.answer = lambda request: ok(b"trouble", status=f"{code} Whatever")
    error = fails(server)
    assert (error.kind, str(error)) == ("status", f"{server.name} answered HTTP {code}")


@pytest.mark.parametrize("line", ["100 Continue", "101 Switching Protocols", "103 Early Hints", "600 X", "999 X"])
def test_numbers_that_are_no_status_of_an_answer(server: HttpServer, line: str) -> None:
    server.answer = lambda request: request.connection.sendall(f"HTTP/1.1 {line}\r\n\r\n".encode())
    assert fails(server).kind == "connection"


def test_an_answer_after_continue(server: HttpServer) -> None:
    server.answer = lambda request: b"HTTP/1.1 100 Continue\r\n\r\n" + ok(b"x")
    with client() as asking:
        assert asking.get(server.url, max_bytes=100).body == b"x"


def test_an_answer_that_ends_with_the_connection(server: HttpServer) -> None:
    server.answer = lambda request: request.connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 500)
    with client() as asking:
        assert asking.get(server.url, max_bytes=500).body == b"x" * 500
    assert fails(server, max_bytes=499).kind == "too big"


def test_chunks(server: HttpServer) -> None:
    server.answer = lambda request: CHUNKED + b"3;name=value\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: x\r\n\r\n"
    with client() as asking:
        for _ in range(2):
            assert asking.get(server.url, max_bytes=5).body == b"abcde"
    assert server.connections == 1
    assert fails(server, max_bytes=4).kind == "too big"


def test_no_cookies_are_kept(server: HttpServer) -> None:
    server.answer = lambda request: ok(headers="Set-Cookie: a=b; Path=/\r\nStrict-Transport-Security: max-age=99\r\n")
    with client() as asking:
        for _ in range(2):
            asking.get(server.url, max_bytes=100)
    assert all("Cookie" not in request.headers for request in server.requests)


# ----------------------------------------------------------------------------------------------------------------------
# Too much


@pytest.mark.parametrize("announced", [True, False])
def test_50_megabytes_are_not_read(server: HttpServer, announced: bool) -> None:
    piece, sent = b"x" * 65_536, 0

    def answer(request: Request) -> None:
        nonlocal sent
        length = b"Content-Length: 52428800\r\n" if announced else b"Connection: close\r\n"
        request.connection.sendall(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n")
        for _ in range(800):
            request.connection.sendall(piece)
            sent += len(piece)

    server.answer = answer
    tracemalloc.start()
    try:
        error = fails(server, max_bytes=100_000)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert error.kind == "too big" and "100,000" in str(error)
    assert ("52,428,800" in str(error)) == announced
    assert sent < 20_000_000, "what the kernel's buffers hold"


def test_the_body_of_an_error_is_cut_off(server: HttpServer) -> None:
    server.answer = lambda request: ok(b"<html>" * 10_000, status="404 Not Found")
    with client() as asking:
        answer = asking.get(server.url, max_bytes=10)
        assert (answer.status, answer.body) == (404, b"<html><htm")
        assert asking.get(server.url, max_bytes=10).status == 404


@pytest.mark.parametrize(
    "encoding", ["gzip", "GZIP", "deflate", "br", "zstd", "gzip, gzip", "x-unknown", "identity, gzip"]
)
def test_encoded_bodies_are_refused(server: HttpServer, encoding: str) -> None:
    bomb = gzip.compress(b"\0" * 10_000_000)
    server.answer = lambda request: ok(bomb, f"Content-Encoding: {encoding}\r\n")
    error = fails(server, max_bytes=100_000)
    assert error.kind == "encoding" and encoding.lower() in str(error)
    server.answer = lambda request: ok(bomb, f"Content-Encoding: {encoding}\r\n", "404 Not Found")
    with client() as asking:
        assert asking.get(server.url, max_bytes=100).body == b""


def test_the_encoding_that_was_asked_for_is_not(server: HttpServer) -> None:
    server.answer = lambda request: ok(b"x", "Content-Encoding: identity\r\n")
    with client() as asking:
        assert asking.get(server.url, max_bytes=100).body == b"x"
    server.answer = lambda request: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"
    assert fails(server).kind == "encoding"


@pytest.mark.parametrize(
    "header",
    [
        b"".join(b"X-%d: y\r\n" % i for i in range(300)),
        b"X: " + b"y" * 70_000 + b"\r\n",
        b"".join(b"X-%d: %s\r\n" % (i, b"y" * 2_000) for i in range(90)),
        b"X: y\r\n" + b" folded\r\n" * 50_000,
    ],
    ids=["300 lines", "a long line", "180 kB", "a folded line"],
)
def test_a_header_has_limits(server: HttpServer, header: bytes) -> None:
    server.answer = lambda request: b"HTTP/1.1 200 OK\r\n" + header + b"Content-Length: 0\r\n\r\n"
    error = fails(server)
    assert error.kind == "too big" and "header" in str(error)


def endless(start: bytes, again: bytes) -> Callable[[Request], None]:
    def answer(request: Request) -> None:
        request.connection.sendall(start)
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            request.connection.sendall(again)

    return answer


@pytest.mark.parametrize(
    ("start", "again"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000),
        (b"HTTP/1.1 ", b"2" * 10_000),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 1_000),
        (CHUNKED, b"1\r\nx\r\n" * 1_000),
        (CHUNKED, b"400\r\n" + b"x" * 1_024 + b"\r\n"),
        (CHUNKED, b"0" * 10_000),
        (CHUNKED + b"1;", b"x" * 10_000),
        (CHUNKED + b"0\r\n", b"X: y\r\n" * 1_000),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 10_000),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2000000000\r\n\r\n", b"x" * 10_000),
        (CHUNKED + b"ffffffffffffffff\r\n", b"x" * 10_000),
        (CHUNKED + b"-1\r\n", b"x" * 10_000),
    ],
)
def test_what_has_no_end_is_cut_off(server: HttpServer, start: bytes, again: bytes) -> None:
    server.answer = endless(start, again)
    began = time.monotonic()
    error = fails(server, max_bytes=10_000)
    assert error.kind in ("too big", "connection")
    assert time.monotonic() - began < 2, "by its size, not by the time"


def test_tiny_chunks_cost_their_frames(server: HttpServer) -> None:
    server.answer = endless(CHUNKED, b"1\r\nx\r\n" * 1_000)
    assert fails(server, max_bytes=1_000_000).kind == "too big"


# ----------------------------------------------------------------------------------------------------------------------
# Too slow


def drip(data: bytes, every: float = 0.02) -> Callable[[Request], None]:
    def answer(request: Request) -> None:
        for byte in data:
            time.sleep(every)
            request.connection.sendall(bytes([byte]))

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        drip(ok(b"x" * 1_000)),
        drip(b"HTTP/1.1 200 OK\r\n" + b"X-Y: z\r\n" * 90),
        drip(b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        drip(CHUNKED + b"1\r\nx\r\n" * 100),
        lambda request: (request.connection.sendall(CHUNKED), drip(b"1\r\nx\r\n" * 100)(request))[1],
        lambda request: (request.connection.sendall(ok(b"x" * 999)[:-900]), drip(b"x" * 900)(request))[1],
    ],
)
def test_a_server_that_drips_ends_at_the_deadline(server: HttpServer, answer: Callable[[Request], None]) -> None:
    server.answer = answer
    began = time.monotonic()
    error = fails(server, fetch_seconds=SECONDS)
    assert SECONDS - 0.05 < time.monotonic() - began < SECONDS + 4
    assert (error.kind, str(error)) == ("timeout", f"{server.name} did not answer completely within 0.4 s")
    assert error.blames_account


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\n", ok(b"x" * 100)[:-50], CHUNKED, CHUNKED + b"5\r\nx"])
def test_a_server_that_hangs_ends_at_its_limit_of_silence(server: HttpServer, start: bytes) -> None:
    def answer(request: Request) -> None:
        request.connection.sendall(start)
        time.sleep(4)

    server.answer = answer
    began = time.monotonic()
    error = fails(server, fetch_read_seconds=0.2)
    assert 0.15 < time.monotonic() - began < 3
    assert (error.kind, str(error)) == ("timeout", f"{server.name} sent nothing for 0.2 s")


def test_the_caller_may_give_less_time(server: HttpServer) -> None:
    server.answer = drip(ok(b"x" * 1_000))
    began = time.monotonic()
    with client() as asking, pytest.raises(FetchError, match=r"within 0\.2 s"):
        asking.get(server.url, max_bytes=10_000, seconds=0.2)
    assert time.monotonic() - began < 4


def test_the_deadline_is_for_all_redirects(server: HttpServer) -> None:
    def answer(request: Request) -> bytes:
        time.sleep(0.2)
        return status("302 Found", "Location: /next\r\n")

    server.answer = answer
    began = time.monotonic()
    with client(fetch_seconds=0.5) as asking, pytest.raises(FetchError) as caught:
        asking.get(server.url, max_bytes=100, redirects=3)
    assert caught.value.kind == "timeout" and time.monotonic() - began < 4
    assert caught.value.blames_account


def test_a_server_that_accepts_nothing(server: HttpServer) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]  # the queue of connections is full, and the kernel drops more
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        began = time.monotonic()
        with client(fetch_connect_seconds=0.3) as asking, pytest.raises(FetchError) as caught:
            asking.get(f"http://127.0.0.1:{port}/", max_bytes=100)
        assert time.monotonic() - began < 4
        for one in waiting:
            one.close()
    assert caught.value.kind == "timeout" and "did not accept a connection within 0.3 s" in str(caught.value)


def test_an_address_that_accepts_nothing_leaves_time_for_the_next(server: HttpServer) -> None:
    settings = Settings(allow_private_hosts=True, fetch_seconds=8, fetch_connect_seconds=0.6)
    with socket.socket() as listener:
        listener.bind(("127.0.0.2", server.port))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.2", server.port))
        tried = ["127.0.0.3", "127.0.0.2", "127.0.0.1", "127.0.0.4"]  # nobody listens at the first and the last
        hosts = Hosts(settings, lookup=lambda host, seconds: tried)
        began = time.monotonic()
        with Client(settings, hosts=hosts) as asking:
            assert asking.get(f"http://several:{server.port}/", max_bytes=100).status == 200
            assert time.monotonic() - began < 3
            assert server.requests[0].headers["Host"] == f"several:{server.port}"
            assert asking.upstreams()[0].failures == 0
        for one in waiting:
            one.close()
    hosts = Hosts(settings, lookup=lambda host, seconds: [])
    with Client(settings, hosts=hosts) as asking, pytest.raises(FetchError, match="several has no address"):
        asking.get("http://several/", max_bytes=100)


# ----------------------------------------------------------------------------------------------------------------------
# Broken


def test_nobody_listens() -> None:
    port = free_port()
    with client() as asking, pytest.raises(FetchError) as caught:
        asking.get(f"http://127.0.0.1:{port}/", max_bytes=100)
    assert (caught.value.kind, str(caught.value)) == ("connection", f"127.0.0.1:{port} refuses the connection")


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"", "closed the connection without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "closed the connection before the end of its answer"),
        (ok(b"x" * 100)[:-50], "closed the connection before the end of its answer"),
        (CHUNKED + b"5\r\nab", "closed the connection before the end of its answer"),
        (CHUNKED + b"5\r\nabcde\r\n", "closed the connection before the end of its answer"),
        (CHUNKED + b"z\r\n", "sent an answer that is not HTTP"),
        (CHUNKED + b"-5\r\nabcde", "sent an answer that is not HTTP"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "sent an answer that is not HTTP"),
        (b"<html></html>\n", "sent an answer that is not HTTP"),
        (b"\x00" * 1_000 + b"\r\n", "sent an answer that is not HTTP"),
        (b"HTTP/1.1 abc OK\r\n\r\n", "sent an answer that is not HTTP"),
        (b"HTTP/1.1 -20 OK\r\n\r\n", "sent an answer that is not HTTP"),
        (b"HTTP/2 200 OK\r\n\r\n", "sent an answer that is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", "sent an answer that is not HTTP"),
    ],
)
def test_answers_that_are_none(server: HttpServer, sent: bytes, reason: str) -> None:
    server.answer = lambda request: request.connection.sendall(sent)
    error = fails(server)
    assert (error.kind, str(error)) == ("connection", f"{server.name} {reason}")
    assert len(server.requests) == 1, "not asked again"


def test_any_bytes_end_in_a_reason(server: HttpServer) -> None:
    """Nothing that a server sends raises anything else."""
    draw = random.Random(7)
    whole = [
        ok(b'{"a": 1}', "Content-Type: application/json\r\nX: y\r\n"),
        CHUNKED + b"5\r\nabcde\r\n3\r\nfgh\r\n0\r\nX: y\r\n\r\n",
        status("302 Found", "Location: /x\r\n"),
    ]

    def answer(request: Request) -> None:
        data = bytearray(draw.choice(whole))
        for _ in range(draw.randint(1, 6)):
            place = draw.randrange(len(data))
            data[place : place + draw.randint(0, 3)] = draw.choice(
                (draw.randbytes(2), b"\r\n", b"\n", b"-1", b"99999", b"\x00", b":", b"\xff", b"")
            )
        request.connection.sendall(data)

    server.answer = answer
    outcomes: set[str] = set()
    years = itertools.count(0.0, 1e7)  # no circuit breaker is open for so long
    with Client(Settings(allow_private_hosts=True, fetch_seconds=5), clock=lambda: next(years)) as asking:
        for _ in range(600):
            try:
                outcomes.add(str(asking.get(server.url, max_bytes=6, redirects=1).status))
            except FetchError as error:
                outcomes.add(error.kind)
    assert {"connection", "too big", "200"} <= outcomes


# ----------------------------------------------------------------------------------------------------------------------
# Connections


def test_connections_are_used_again(server: HttpServer) -> None:
    with client() as asking:
        for _ in range(20):
            asking.get(server.url, max_bytes=100)
    assert server.connections == 1 and len(server.requests) == 20


def test_a_connection_that_the_server_closed_is_not_an_error(server: HttpServer) -> None:
    with client() as asking:
        asking.get(server.url, max_bytes=100)
        server.drop()
        time.sleep(0.05)
        asking.get(server.url, max_bytes=100)
        assert server.connections == 2

        # Closed while the request is on its way.
        server.answer = lambda request: ok() if server.connections > 2 else None
        assert asking.get(server.url, max_bytes=100).status == 200
        assert server.connections == 3 and len(server.requests) == 4
        assert asking.upstreams()[0].failures == 0

        # A new connection on which that happens is an error.
        server.answer = lambda request: None
        with pytest.raises(FetchError, match="without an answer"):
            asking.get(server.url, max_bytes=100)
        assert len(server.requests) == 6


def test_a_connection_that_was_idle_for_long_is_not_used_again(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appview_pipeline.network.pools.IDLE_CONNECTION_SECONDS", 0.05)
    with client() as asking:
        asking.get(server.url, max_bytes=100)
        time.sleep(0.1)
        asking.get(server.url, max_bytes=100)
    assert server.connections == 2 and backoff.IDLE_CONNECTION_SECONDS > 1


def test_what_comes_after_an_answer_is_not_the_next_answer(server: HttpServer) -> None:
    server.answer = lambda request: ok(b"mine") + (ok(b"smuggled") if len(server.requests) == 1 else b"")
    with client() as asking:
        for _ in range(3):
            assert asking.get(server.url, max_bytes=100).body == b"mine"
            time.sleep(0.02)


# ----------------------------------------------------------------------------------------------------------------------
# Redirects


def numbered(request: Request) -> bytes:
    """/3 redirects to /2, and so on."""
    left = int(request.path.strip("/") or 0)
    return ok(b"here") if left == 0 else status("302 Found", f"Location: /{left - 1}\r\n")


def test_redirects_are_followed_if_asked_for(server: HttpServer) -> None:
    server.answer = numbered
    with client() as asking:
        answer = asking.get(f"{server.url}/3", max_bytes=100, redirects=3)
        assert (answer.url, answer.body) == (f"{server.url}/0", b"here")
        for redirects, path in ((0, "1"), (1, "2"), (3, "4"), (3, "100")):
            with pytest.raises(FetchError) as caught:
                asking.get(f"{server.url}/{path}", max_bytes=100, redirects=redirects)
            assert caught.value.kind == "redirect"
        assert asking.upstreams()[0].failures == 0
        with pytest.raises(AssertionError):
            asking.get(server.url, max_bytes=100, redirects=4)


@pytest.mark.parametrize("line", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_all_redirects(server: HttpServer, line: str) -> None:
    server.answer = lambda request: ok(b"here") if request.path == "/x" else status(line, "Location: /x\r\n")
    with client() as asking:
        assert asking.get(server.url, max_bytes=100, redirects=1).body == b"here"
        with pytest.raises(FetchError, match=f"^{server.name} redirects to /x$"):
            asking.get(server.url, max_bytes=100)


def test_redirects_in_a_circle_and_to_nowhere(server: HttpServer) -> None:
    server.answer = lambda request: status("302 Found", "Location: /\r\n")
    with client() as asking, pytest.raises(FetchError, match="redirects more than 3 times"):
        asking.get(server.url, max_bytes=100, redirects=3)
    assert len(server.requests) == 4
    server.answer = lambda request: status("302 Found")
    with client() as asking, pytest.raises(FetchError, match="redirects to nowhere"):
        asking.get(server.url, max_bytes=100, redirects=3)


def test_the_body_of_a_redirect_is_not_read(server: HttpServer) -> None:
    server.answer = lambda request: (
        ok(b"here") if request.path == "/x" else ok(b"x" * 1_000_000, "Location: /x\r\n", "302 Found")
    )
    with client() as asking:
        assert asking.get(server.url, max_bytes=100, redirects=1).body == b"here"


# ----------------------------------------------------------------------------------------------------------------------
# XRPC

METHOD = "com.example.getThing"


def test_a_query(server: HttpServer) -> None:
    server.answer = lambda request: ok(b"bytes", "Content-Type: application/vnd.ipld.car\r\n")
    with client() as asking:
        assert asking.query(f"{server.url}/", METHOD, {"did": "did:web:a.b%3A1", "a": "ä&b"}, max_bytes=10) == b"bytes"
        assert asking.query(server.url, METHOD, {}, max_bytes=10) == b"bytes"
    assert [request.path for request in server.requests] == [
        f"/xrpc/{METHOD}?did=did%3Aweb%3Aa.b%253A1&a=%C3%A4%26b",
        f"/xrpc/{METHOD}",
    ]


@pytest.mark.parametrize(
    ("code", "body", "name", "said"),
    [
        (400, b'{"error": "RepoNotFound", "message": "no such repo"}', "RepoNotFound", " (RepoNotFound: no such repo)"),
        (404, b'{"error": "NotFound"}', "NotFound", " (NotFound)"),
        (401, b'{"message": "log in"}', "", " (log in)"),
        (500, b'{"error": "InternalServerError", "message": "oh\\nno"}', "InternalServerError", None),
        (501, b'{"error": "MethodNotImplemented"}', "MethodNotImplemented", " (MethodNotImplemented)"),
        (502, b"<html>Bad gateway", "", ""),
        (400, b'{"error": 5, "message": []}', "", ""),
        (400, b"[" * 500, "", ""),
        (400, b"\xff", "", ""),
        (204, b"", "", ""),
        (404, b'{"error": "' + b"x" * 10_000, "", ""),
    ],
)
def test_errors_of_a_query(server: HttpServer, code: int, body: bytes, name: str, said: str | None) -> None:
    server.answer = lambda request: ok(body, status=f"{code} X")
    with client() as asking, pytest.raises(XrpcError) as caught:
        asking.query(server.url, METHOD, {}, max_bytes=1_000)
    error = caught.value
    assert (error.status, error.name, error.kind, error.host) == (code, name, "status", server.name)
    said = " (InternalServerError: oh no)" if said is None else said
    assert str(error) == f"{server.name} answered HTTP {code}{said}"


def test_a_query_is_not_redirected(server: HttpServer) -> None:
    server.answer = lambda request: status("302 Found", "Location: /x\r\n")
    with client() as asking, pytest.raises(FetchError) as caught:
        asking.query(server.url, METHOD, {}, max_bytes=1_000)
    assert caught.value.kind == "redirect" and not isinstance(caught.value, XrpcError)
