"""Bodies that are streamed: their limits, their places, and what they say about their server."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from appview_pipeline.network.fetch_errors import FetchError, XrpcError
from appview_pipeline.network.upstreams import Upstream
from appview_pipeline.network.xrpc import Client
from appview_pipeline.settings import Settings
from appview_pipeline_tests.support.http_server import HttpServer, Request, ok, status
from appview_pipeline_tests.support.waiting import wait_for

METHOD = "com.example.getThing"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer(lambda request: ok()) as made:
        yield made


def client(**settings: Any) -> Client:
    chosen = {"allow_private_hosts": True, "fetch_seconds": 5.0, "fetch_read_seconds": 2.0, **settings}
    return Client(Settings(**chosen))


def nothing(piece: bytes) -> None:
    """A sink."""


def fails(asking: Client, server: HttpServer, max_bytes: int = 100_000, **options: Any) -> FetchError:
    with pytest.raises(FetchError) as caught:
        asking.download(server.url, METHOD, {}, nothing, max_bytes=max_bytes, **options)
    assert caught.value.reason.isprintable() and caught.value.host == server.name
    return caught.value


def state(asking: Client, server: HttpServer) -> Upstream:
    (found,) = (it for it in asking.upstreams() if it.host == server.name)
    return found


def test_a_body_comes_in_pieces(server: HttpServer) -> None:
    body = bytes(range(256)) * 2_000
    server.answer = lambda request: ok(body, "Content-Type: application/vnd.ipld.car\r\n")
    pieces: list[bytes] = []
    with client() as asking:
        for _ in range(2):
            pieces.clear()
            found = asking.download(server.url, METHOD, {"did": "did:a:b"}, pieces.append, max_bytes=len(body))
            assert b"".join(pieces) == body and max(map(len, pieces)) <= 65_536
            assert (found.bytes, found.content_type) == (len(body), "application/vnd.ipld.car")
            assert found.url == f"{server.url}/xrpc/{METHOD}?did=did%3Aa%3Ab" and 0 < found.seconds < 5
    assert server.connections == 1 and server.requests[0].path == f"/xrpc/{METHOD}?did=did%3Aa%3Ab"


def test_100_megabytes_are_never_in_memory(server: HttpServer) -> None:
    piece, count = b"x" * 1_000_000, 100

    def answer(request: Request) -> None:
        length = len(piece) * count
        request.connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode())
        for _ in range(count):
            request.connection.sendall(piece)

    server.answer = answer
    with client() as asking:
        tracemalloc.start()
        try:
            found = asking.download(server.url, METHOD, {}, nothing, max_bytes=len(piece) * count)
            assert tracemalloc.get_traced_memory()[1] < 2_000_000
        finally:
            tracemalloc.stop()
    assert found.bytes == len(piece) * count


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_is_too_long(server: HttpServer, announced: bool) -> None:
    length = "Content-Length: 200001\r\n" if announced else "Connection: close\r\n"
    pieces: list[bytes] = []

    def answer(request: Request) -> None:
        request.connection.sendall(f"HTTP/1.1 200 OK\r\n{length}\r\n".encode() + b"x" * 200_001)

    server.answer = answer
    with client() as asking:
        with pytest.raises(FetchError) as caught:
            asking.download(server.url, METHOD, {}, pieces.append, max_bytes=200_000)
        assert caught.value.kind == "too big"
        assert sum(map(len, pieces)) <= 200_000 and (not announced or not pieces)
        assert state(asking, server).failures == 0


def test_tiny_chunks_are_not_read_for_long(server: HttpServer) -> None:
    """Their frames are six times their content, and each costs some microseconds."""
    sent = 0

    def answer(request: Request) -> None:
        nonlocal sent
        request.connection.sendall(CHUNKED)
        for _ in range(1_000):
            request.connection.sendall(b"1\r\nx\r\n" * 10_000)
            sent += 60_000

    server.answer = answer
    with client() as asking:
        assert fails(asking, server, 10_000_000).kind == "too big"
    assert sent < 10_000_000


def test_larger_chunks_are_read_to_the_end(server: HttpServer) -> None:
    chunks = b"".join(b"%x\r\n%b\r\n" % (size, b"x" * size) for size in (100, 50, 70_000, 1, 200) * 100)
    server.answer = lambda request: CHUNKED + chunks + b"0\r\n\r\n"
    with client() as asking:
        found = asking.download(server.url, METHOD, {}, nothing, max_bytes=10_000_000)
    assert found.bytes == 70_351 * 100


def test_a_server_has_to_send_a_minimum(server: HttpServer) -> None:
    """It is slow in a way that no limit of silence notices."""

    def answer(request: Request) -> None:
        request.connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        for _ in range(200):
            request.connection.sendall(b"x" * 50)
            time.sleep(0.02)

    server.answer = answer
    began = time.monotonic()
    with client(fetch_seconds=0.5, repo_rate=10_000) as asking:
        error = fails(asking, server)
        assert state(asking, server).failures == 1
    assert (error.kind, error.blames_account) == ("timeout", True)
    assert "bytes a second; a download has to bring 10,000" in error.reason
    assert 0.4 < time.monotonic() - began < 2


def test_a_slow_start_and_a_pause_are_allowed(server: HttpServer) -> None:
    """A PDS may collect a large repository before it sends the first byte of it."""

    def answer(request: Request) -> None:
        time.sleep(0.5)
        request.connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"x" * 100_000)
        time.sleep(0.5)
        request.connection.sendall(b"x" * 100_000)

    server.answer = answer
    with client(fetch_read_seconds=0.2, fetch_seconds=0.8, repo_rate=1_000) as asking:
        assert asking.download(server.url, METHOD, {}, nothing, max_bytes=200_000).bytes == 200_000


def test_the_rate_counts_from_the_header(server: HttpServer) -> None:
    """What the header took is not the body's to make up for."""

    def answer(request: Request) -> None:
        time.sleep(0.4)
        request.connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 15000\r\n\r\n")
        for _ in range(5):
            time.sleep(0.15)
            request.connection.sendall(b"x" * 3_000)

    server.answer = answer
    with client(fetch_read_seconds=0.2, fetch_seconds=0.5, repo_rate=10_000) as asking:
        assert asking.download(server.url, METHOD, {}, nothing, max_bytes=200_000).bytes == 15_000


def test_a_header_that_drips(server: HttpServer) -> None:
    def answer(request: Request) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx":
            request.connection.sendall(bytes((byte,)))
            time.sleep(0.1)

    server.answer = answer
    began = time.monotonic()
    with client(fetch_read_seconds=0.2, fetch_seconds=0.5) as asking:
        assert fails(asking, server).kind == "timeout"
    assert time.monotonic() - began < 2


def test_all_of_it_has_a_limit_of_time(server: HttpServer) -> None:
    def answer(request: Request) -> None:
        request.connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        for _ in range(300):
            request.connection.sendall(b"x" * 10_000)
            time.sleep(0.01)

    server.answer = answer
    with client(repo_seconds=1.0) as asking:
        error = fails(asking, server, 200_000_000)
        assert error.kind == "timeout" and "within 1 s" in error.reason
        error = fails(asking, server, 200_000_000, seconds=0.3)
        assert "within 0.3 s" in error.reason


def test_what_a_sink_raises_passes(server: HttpServer) -> None:
    """As it is, whatever it is: a disk that is full says nothing about the server."""
    server.answer = lambda request: ok(b"x" * 200_000)
    with client(host_repo_fetches=1) as asking:
        for error in (OSError(28, "No space left on device"), ValueError("no"), ConnectionResetError("no")):

            def sink(piece: bytes, error: Exception = error) -> None:
                raise error

            with pytest.raises(type(error)) as caught:
                asking.download(server.url, METHOD, {}, sink, max_bytes=200_000)
            assert caught.value is error
        assert (state(asking, server).failures, state(asking, server).in_flight) == (0, 0)
        assert asking.download(server.url, METHOD, {}, nothing, max_bytes=200_000).bytes == 200_000


def test_errors_have_their_names(server: HttpServer) -> None:
    server.answer = lambda request: ok(b'{"error": "RepoNotFound", "message": "no"}', status="400 Bad Request")
    with client() as asking:
        error = fails(asking, server)
    assert isinstance(error, XrpcError) and (error.status, error.name) == (400, "RepoNotFound")


@pytest.mark.parametrize("line", ["400 Bad Request", "500 Oops", "204 No Content", "206 Partial Content"])
def test_nothing_of_another_status_gets_into_the_sink(server: HttpServer, line: str) -> None:
    server.answer = lambda request: ok(b"" if line.startswith("204") else b"x" * 50_000, status=line)
    pieces: list[bytes] = []
    with client() as asking, pytest.raises(XrpcError):
        asking.download(server.url, METHOD, {}, pieces.append, max_bytes=100_000)
    assert pieces == []


def test_the_body_of_an_error_is_not_read_for_long(server: HttpServer) -> None:
    def answer(request: Request) -> None:
        request.connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        for _ in range(1_000):
            request.connection.sendall(b" " * 100_000)

    server.answer = answer
    with client() as asking:
        tracemalloc.start()
        try:
            assert isinstance(fails(asking, server, 2_000_000_000), XrpcError)
            assert tracemalloc.get_traced_memory()[1] < 2_000_000
        finally:
            tracemalloc.stop()


def test_a_content_encoding_is_refused(server: HttpServer) -> None:
    server.answer = lambda request: ok(b"x", "Content-Encoding: gzip\r\n")
    with client() as asking:
        assert fails(asking, server).kind == "encoding"


def test_redirects_are_followed_within_the_limits(server: HttpServer) -> None:
    left = [3]

    def answer(request: Request) -> bytes:
        left[0] -= 1
        return status("302 Found", f"Location: /{left[0]}\r\n") if left[0] >= 0 else ok(b"x" * 100)

    server.answer = answer
    with client() as asking:
        found = asking.download(server.url, METHOD, {}, nothing, max_bytes=100)
        assert (found.bytes, found.url) == (100, f"{server.url}/0")
        left[0] = 4
        assert fails(asking, server).kind == "redirect"
        left[0] = 1
        assert fails(asking, server, redirects=0).kind == "redirect"


# ----------------------------------------------------------------------------------------------------------------------
# Places, pauses, breakers


class Held:
    """A server whose downloads go on until `release` is set; other requests are answered at once."""

    def __init__(self, server: HttpServer) -> None:
        self.release = threading.Event()
        self.begun = 0
        server.answer = self.answer

    def answer(self, request: Request) -> bytes | None:
        if METHOD not in request.path:
            return ok()
        self.begun += 1
        request.connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        self.release.wait(10)
        return b"cd"


def test_downloads_leave_places_for_others(server: HttpServer) -> None:
    held = Held(server)
    with client(host_concurrency=3, host_repo_fetches=2) as asking, ThreadPoolExecutor(6) as pool:
        tasks = [pool.submit(asking.download, server.url, METHOD, {}, nothing, max_bytes=9) for _ in range(5)]
        wait_for(lambda: held.begun == 2)
        for _ in range(3):
            assert asking.query(server.url, "com.example.other", {}, max_bytes=9) == b"{}"
        assert (held.begun, state(asking, server).in_flight) == (2, 2)
        held.release.set()
        assert [task.result(5).bytes for task in tasks] == [4] * 5
        assert state(asking, server).in_flight == 0
    assert server.most_in_flight <= 3


def test_one_place_serves_both(server: HttpServer) -> None:
    held = Held(server)
    with client(host_concurrency=1, host_repo_fetches=4) as asking, ThreadPoolExecutor(4) as pool:
        downloads = [pool.submit(asking.download, server.url, METHOD, {}, nothing, max_bytes=9) for _ in range(2)]
        wait_for(lambda: held.begun == 1)
        query = pool.submit(asking.query, server.url, "com.example.other", {}, max_bytes=9)
        held.release.set()
        assert query.result(5) == b"{}" and [it.result(5).bytes for it in downloads] == [4, 4]
    assert server.most_in_flight == 1


def test_a_pause_counts_from_the_header(server: HttpServer) -> None:
    """When the body has come, minutes later, the pause that its header asked for may be over."""
    server.answer = lambda request: ok(b"abcd", "RateLimit-Remaining: 0\r\nRateLimit-Reset: 1\r\n")
    with client() as asking:
        began = time.monotonic()
        asking.download(server.url, METHOD, {}, lambda piece: time.sleep(1.2), max_bytes=9)
        assert time.monotonic() - began > 1.1 and state(asking, server).parked_until is None
        asking.download(server.url, METHOD, {}, nothing, max_bytes=9)
        assert state(asking, server).parked_until is not None
        assert fails(asking, server).kind == "parked"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_a_download_that_is_a_probe_holds_up_nobody(server: HttpServer) -> None:
    """When its header has come, others are let through; should it fail then, the breaker opens again."""
    held = Held(server)
    answering, clock = server.answer, Clock()
    server.answer = lambda request: status("500 X")
    with Client(Settings(allow_private_hosts=True), clock=clock) as asking, ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            fails(asking, server)
        assert fails(asking, server).kind == "breaker open"
        server.answer = answering
        clock.now += 61
        task = pool.submit(asking.download, server.url, METHOD, {}, nothing, max_bytes=9)
        wait_for(lambda: held.begun == 1)
        wait_for(lambda: state(asking, server).breaker == "open")
        server.drop()  # the download breaks off
        with pytest.raises(FetchError):
            task.result(5)
        assert fails(asking, server).kind == "breaker open"
        held.release.set()
        clock.now += 61
        assert asking.download(server.url, METHOD, {}, nothing, max_bytes=9).bytes == 4
        assert state(asking, server).breaker == "closed"


def test_a_download_that_breaks_off_after_others_were_answered(server: HttpServer) -> None:
    held = Held(server)
    answering, clock = server.answer, Clock()
    server.answer = lambda request: status("500 X")
    with Client(Settings(allow_private_hosts=True), clock=clock) as asking, ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            fails(asking, server)
        server.answer = answering
        clock.now += 61
        task = pool.submit(asking.download, server.url, METHOD, {}, nothing, max_bytes=9)
        wait_for(lambda: held.begun == 1)
        clock.now += 1
        wait_for(lambda: asking_works(asking, server))
        assert state(asking, server).breaker == "closed"
        server.drop()
        with pytest.raises(FetchError):
            task.result(5)
        assert state(asking, server).breaker == "closed"


def asking_works(asking: Client, server: HttpServer) -> bool:
    try:
        return asking.query(server.url, "com.example.other", {}, max_bytes=9) == b"{}"
    except FetchError:
        return False
