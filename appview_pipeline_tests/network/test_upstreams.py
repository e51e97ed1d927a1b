"""Servers have a limit of requests at a time, get their pauses, and have circuit breakers: seen through a client."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from appview_pipeline.backoff import BREAKER_FAILURES, BREAKER_SECONDS
from appview_pipeline.network import upstreams as module
from appview_pipeline.network import xrpc
from appview_pipeline.network.fetch_errors import FetchError, XrpcError
from appview_pipeline.network.upstreams import Upstream
from appview_pipeline.network.xrpc import Client
from appview_pipeline.settings import Settings
from appview_pipeline_tests.support.http_server import HttpServer, Request, ok, status
from appview_pipeline_tests.support.ports import free_port
from appview_pipeline_tests.support.waiting import wait_for


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer(lambda request: ok()) as made:
        yield made


@pytest.fixture
def clock() -> Clock:
    return Clock()


def client(clock: Clock | None = None, **settings: Any) -> Client:
    chosen = Settings(**{"allow_private_hosts": True, "fetch_seconds": 5.0, **settings})
    return Client(chosen) if clock is None else Client(chosen, clock=clock)


def fails(asking: Client, url: str) -> FetchError:
    with pytest.raises(FetchError) as caught:
        asking.get(url, max_bytes=1_000)
    return caught.value


def state(asking: Client, server: HttpServer) -> Upstream:
    (found,) = [upstream for upstream in asking.upstreams() if upstream.host == server.name]
    return found


# ----------------------------------------------------------------------------------------------------------------------
# Requests at the same time


def slow(request: Request) -> bytes:
    time.sleep(0.05)
    return ok()


def test_one_server_has_few_requests_at_a_time(server: HttpServer) -> None:
    server.answer = slow
    with client(host_concurrency=3) as asking, ThreadPoolExecutor(12) as pool:
        done = [pool.submit(asking.get, server.url, max_bytes=100) for _ in range(24)]
        wait_for(lambda: state(asking, server).in_flight == 3 if asking.upstreams() else False)
        assert [one.result().status for one in done] == [200] * 24
        assert server.most_in_flight == 3 and server.connections == 3
        assert state(asking, server).in_flight == 0


def test_whoever_came_first_is_asked_for_first(server: HttpServer) -> None:
    release = threading.Event()
    server.answer = lambda request: ok() if release.wait(10) else None
    with client(host_concurrency=1) as asking, ThreadPoolExecutor(8) as pool:
        done = []
        for number in range(8):
            done.append(pool.submit(asking.get, f"{server.url}/{number}", max_bytes=100))
            wait_for(lambda: server.in_flight == 1)
            (held,) = asking._upstreams._servers.values()
            wait_for(partial(lambda number, held: len(held.queue) == number, number, held))
        release.set()
        assert [one.result().status for one in done] == [200] * 8
    assert [request.path for request in server.requests] == [f"/{number}" for number in range(8)]


def test_the_wait_for_a_place_is_within_the_limit_of_time(server: HttpServer) -> None:
    release = threading.Event()
    server.answer = lambda request: ok() if release.wait(10) else None
    with client(host_concurrency=1, fetch_seconds=5) as asking, ThreadPoolExecutor(1) as pool:
        first = pool.submit(asking.get, server.url, max_bytes=100)
        wait_for(lambda: server.in_flight == 1)
        began = time.monotonic()
        with pytest.raises(FetchError) as caught:
            asking.get(server.url, max_bytes=100, seconds=0.2)
        assert 0.15 < time.monotonic() - began < 1.5
        assert caught.value.kind == "timeout" and not caught.value.blames_account
        assert f"{server.name} has 1 requests, and none ended within 0.2 s" == str(caught.value)
        release.set()
        assert first.result().status == 200
        assert len(server.requests) == 1 and state(asking, server).failures == 0


def test_a_request_that_had_to_wait_for_most_of_its_time_blames_nobody(server: HttpServer) -> None:
    server.answer = lambda request: time.sleep(0.3)
    with client(host_concurrency=1, fetch_read_seconds=5) as asking, ThreadPoolExecutor(1) as pool:
        first = pool.submit(asking.get, server.url, max_bytes=100)
        wait_for(lambda: server.in_flight == 1)
        with pytest.raises(FetchError) as caught:
            asking.get(server.url, max_bytes=100, seconds=0.4)
        assert caught.value.kind == "timeout" and not caught.value.blames_account
        assert isinstance(first.exception(), FetchError)
        assert state(asking, server).failures == 1


def test_a_server_that_hangs_holds_up_no_other(server: HttpServer) -> None:
    hanging = threading.Event()
    with (
        HttpServer(lambda request: ok() if hanging.wait(10) else None) as other,
        client(host_concurrency=2) as asking,
        ThreadPoolExecutor(8) as pool,
    ):
        held = [pool.submit(asking.get, other.url, max_bytes=100) for _ in range(8)]
        wait_for(lambda: other.in_flight == 2)
        began = time.monotonic()
        for _ in range(20):
            asking.get(server.url, max_bytes=100)
        assert time.monotonic() - began < 1
        hanging.set()
        assert [one.result().status for one in held] == [200] * 8


# ----------------------------------------------------------------------------------------------------------------------
# Pauses


@pytest.mark.parametrize("line", ["429 Too Many Requests", "503 Service Unavailable"])
def test_a_server_that_asks_for_a_pause_gets_it(server: HttpServer, clock: Clock, line: str) -> None:
    server.answer = lambda request: status(line, "Retry-After: 30\r\n")
    with client(clock) as asking:
        error = fails(asking, server.url)
        assert (error.kind, error.retry_after, error.blames_account) == ("parked", 30, False)
        assert str(error) == f"{server.name} answered HTTP {line[:3]} and is left alone for 30 s"
        clock.now += 10
        error = fails(asking, server.url)
        assert (error.kind, error.retry_after, error.blames_account) == ("parked", 20, False)
        assert str(error) == f"{server.name} asked to be left alone for 20 s more"
        assert len(server.requests) == 1
        found = state(asking, server)
        assert (found.breaker, found.failures) == ("closed", 0)
        assert found.parked_until == pytest.approx(time.time() + 20, abs=2)

        server.answer = lambda request: ok()
        clock.now += 20
        assert asking.get(server.url, max_bytes=100).status == 200
        assert state(asking, server).parked_until is None


def test_an_xrpc_query_is_parked_too(server: HttpServer) -> None:
    body = b'{"error": "RateLimitExceeded"}'
    server.answer = lambda request: ok(body, "ratelimit-remaining: 0\r\nratelimit-reset: 40\r\n", "429 X")
    with client() as asking, pytest.raises(FetchError) as caught:
        asking.query(server.url, "com.example.getThing", {}, max_bytes=100)
    assert caught.value.kind == "parked" and caught.value.retry_after == pytest.approx(40, abs=2)
    assert not isinstance(caught.value, XrpcError)


def test_an_hour_of_429_costs_few_requests_and_opens_no_breaker(server: HttpServer, clock: Clock) -> None:
    end = clock.now + 3_600
    server.answer = lambda request: status("429 X") if clock.now < end else ok()
    with client(clock) as asking:
        while clock.now < end:
            clock.now += fails(asking, server.url).retry_after or 0
        assert asking.get(server.url, max_bytes=100).status == 200
        assert len(server.requests) < 40 and state(asking, server).opened == 0


def test_a_limit_that_is_used_up_is_not_passed(server: HttpServer, clock: Clock) -> None:
    server.answer = lambda request: ok(
        headers=f"RateLimit-Limit: 5\r\nRateLimit-Remaining: {5 - len(server.requests)}\r\nRateLimit-Reset: 60\r\n"
    )
    with client(clock) as asking:
        for _ in range(5):
            asking.get(server.url, max_bytes=100)
        assert fails(asking, server.url).kind == "parked"
        assert len(server.requests) == 5


def test_those_that_wait_for_a_place_are_told_of_a_pause_at_once(server: HttpServer) -> None:
    release = threading.Event()
    server.answer = lambda request: status("429 X", "Retry-After: 30\r\n") if release.wait(10) else None
    with client(host_concurrency=1) as asking, ThreadPoolExecutor(5) as pool:
        done = [pool.submit(asking.get, server.url, max_bytes=100) for _ in range(5)]
        wait_for(lambda: server.in_flight == 1)
        time.sleep(0.1)
        release.set()
        errors = [one.exception() for one in done]
    assert [isinstance(error, FetchError) and error.kind for error in errors] == ["parked"] * 5
    assert len(server.requests) == 1


def test_a_pause_is_for_one_server(server: HttpServer) -> None:
    with HttpServer(lambda request: status("429 X", "Retry-After: 30\r\n")) as other, client() as asking:
        fails(asking, other.url)
        assert asking.get(server.url, max_bytes=100).status == 200


# ----------------------------------------------------------------------------------------------------------------------
# Circuit breakers


def test_a_request_that_failed_before_neither_opens_a_breaker_nor_finds_out_whether_the_server_is_back(
    server: HttpServer, clock: Clock
) -> None:
    """Accounts of which a server says nothing are asked for again and again: that must not look like a server that is
    down, for others want to ask it."""

    def again(asking: Client) -> FetchError:
        with pytest.raises(FetchError) as caught:
            asking.get(server.url, max_bytes=1_000, is_repeated=True)
        return caught.value

    server.answer = lambda request: status("500 X")
    with client(clock) as asking:
        assert {again(asking).kind for _ in range(3 * BREAKER_FAILURES)} == {"status"}
        assert (state(asking, server).breaker, state(asking, server).failures) == ("closed", 0)
        for _ in range(BREAKER_FAILURES):
            fails(asking, server.url)
        assert state(asking, server).breaker == "open"
        clock.now += BREAKER_SECONDS + 5
        assert (again(asking).kind, again(asking).retry_after) == ("breaker open", 10)
        server.answer = lambda request: ok()
        asking.get(server.url, max_bytes=1_000)
        assert state(asking, server).breaker == "closed"
        server.answer = lambda request: status("500 X")
        for _ in range(BREAKER_FAILURES):
            fails(asking, server.url)
        clock.now += BREAKER_SECONDS + 15
        assert again(asking).kind == "status", "where nobody else asks, it finds out"
        assert (state(asking, server).breaker, state(asking, server).opened) == ("open", 3)


def test_the_life_of_a_breaker(server: HttpServer, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    server.answer = lambda request: status("500 X")
    with client(clock) as asking:
        for number in range(BREAKER_FAILURES):
            assert state(asking, server).failures == number if number else asking.upstreams() == []
            assert fails(asking, server.url).kind == "status"
        found = state(asking, server)
        assert (found.breaker, found.failures, found.opened) == ("open", 5, 1)
        assert found.reason == f"{server.name} answered HTTP 500"
        assert found.open_until == pytest.approx(time.time() + 60, abs=2)

        error = fails(asking, server.url)
        assert (error.kind, error.retry_after, error.blames_account) == ("breaker open", 60, False)
        assert str(error) == (
            f"{server.name} is not asked for 60 s more, since it failed 5 times in a row "
            f"(the last time: {server.name} answered HTTP 500)"
        )
        assert len(server.requests) == 5

        clock.now += BREAKER_SECONDS  # the probe fails
        assert fails(asking, server.url).kind == "status"
        assert (state(asking, server).breaker, state(asking, server).opened) == ("open", 2)
        assert fails(asking, server.url).kind == "breaker open" and len(server.requests) == 6

        clock.now += BREAKER_SECONDS  # the probe succeeds, and is one
        began, release = threading.Event(), threading.Event()

        def answer(request: Request) -> bytes | None:
            began.set()
            return ok() if release.wait(10) else None

        server.answer = answer
        with ThreadPoolExecutor(1) as pool:
            probe = pool.submit(asking.get, server.url, max_bytes=100)
            assert began.wait(10)
            assert state(asking, server).breaker == "probing"
            error = fails(asking, server.url)
            assert (error.kind, error.retry_after) == ("breaker open", 1)
            release.set()
            assert probe.result().status == 200
        found = state(asking, server)
        assert (found.breaker, found.failures, found.opened, found.open_until) == ("closed", 0, 2, None)
        assert asking.get(server.url, max_bytes=100).status == 200
    said = [record.getMessage() for record in caplog.records if record.name == module.__name__]
    assert said == [
        f"{server.name} is not asked for a while: it failed 5 times.",
        f"{server.name} is not asked for a while: it failed 6 times.",
        f"{server.name} answers again: its circuit breaker closes.",
    ]


def test_a_probe_that_is_answered_with_a_pause_is_not_the_last(server: HttpServer, clock: Clock) -> None:
    server.answer = lambda request: status("500 X")
    with client(clock) as asking:
        for _ in range(BREAKER_FAILURES):
            fails(asking, server.url)
        clock.now += BREAKER_SECONDS
        server.answer = lambda request: status("503 X", "Retry-After: 10\r\n")
        assert fails(asking, server.url).kind == "parked"
        clock.now += 10
        server.answer = lambda request: ok()
        assert asking.get(server.url, max_bytes=100).status == 200
        assert state(asking, server).breaker == "closed"


def hang(request: Request) -> None:
    time.sleep(0.5)


COUNTED: list[Any] = [
    lambda request: status("500 X"),
    lambda request: status("502 X"),
    lambda request: status("521 X"),
    lambda request: request.connection.sendall(b"SSH-2.0\r\n"),
    lambda request: request.connection.sendall(ok(b"x" * 100)[:-1]),
    lambda request: None,
    hang,
]
NOT_COUNTED: list[Any] = [
    lambda request: ok(),
    lambda request: status("400 X"),
    lambda request: status("404 X"),
    lambda request: status("501 X"),
    lambda request: status("302 X", "Location: http://127.1/\r\n"),
    lambda request: ok(b"x" * 10_000),
    lambda request: ok(b"x", "Content-Encoding: gzip\r\n"),
]


@pytest.mark.parametrize("answer", COUNTED)
def test_failures_that_count(server: HttpServer, answer: Any) -> None:
    server.answer = answer
    with client(fetch_read_seconds=0.1) as asking:
        for _ in range(BREAKER_FAILURES):
            assert fails(asking, server.url).blames_account
        assert fails(asking, server.url).kind == "breaker open"
        assert state(asking, server).opened == 1


@pytest.mark.parametrize("answer", NOT_COUNTED)
def test_answers_that_are_no_failures_of_the_server(server: HttpServer, answer: Any) -> None:
    server.answer = lambda request: status("500 X")
    with client() as asking:
        for _ in range(BREAKER_FAILURES - 1):
            fails(asking, server.url)
        server.answer = answer
        for _ in range(3):
            try:
                asking.get(server.url, max_bytes=1_000)
            except FetchError as error:
                assert error.kind in ("too big", "encoding", "redirect", "status")
        assert state(asking, server).failures == 0
        server.answer = lambda request: ok()
        assert asking.get(server.url, max_bytes=1_000).status == 200


def test_connections_that_are_refused_count() -> None:
    url = f"http://127.0.0.1:{free_port()}/"
    with client() as asking:
        for _ in range(BREAKER_FAILURES):
            assert fails(asking, url).kind == "connection"
        assert fails(asking, url).kind == "breaker open"


def test_certificates_that_are_refused_count(server: HttpServer) -> None:
    url = server.url.replace("http", "https")
    server.answer = lambda request: None
    with client(fetch_connect_seconds=0.1) as asking:
        for _ in range(BREAKER_FAILURES):
            assert fails(asking, url).kind in ("tls", "timeout", "connection")
        assert fails(asking, url).kind == "breaker open"


def test_what_was_never_asked_does_not_count() -> None:
    with Client(Settings()) as asking:
        for _ in range(BREAKER_FAILURES + 1):
            assert fails(asking, "https://127.0.0.1/").kind == "refused address"
            assert fails(asking, "https://localhost.localdomain/").kind in ("refused address", "name")
        assert {(one.breaker, one.failures) for one in asking.upstreams()} <= {("closed", 0)}


# ----------------------------------------------------------------------------------------------------------------------
# Bounds


def test_the_servers_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_UPSTREAMS", 20)
    monkeypatch.setattr(module, "MAX_POOLS", 5)
    release = threading.Event()
    with (
        HttpServer(lambda request: ok() if release.wait(120) else None, address="127.0.0.1") as busy,
        HttpServer(lambda request: ok(), address="127.0.0.1") as server,
        client() as asking,
        ThreadPoolExecutor(1) as pool,
    ):
        held = pool.submit(asking.get, busy.url, max_bytes=100)
        wait_for(lambda: busy.in_flight == 1)
        for number in range(1, 101):
            with HttpServer(lambda request: ok(), address=f"127.9.9.{number}") as other:
                assert asking.get(other.url, max_bytes=100).status == 200
        assert asking.get(server.url, max_bytes=100).status == 200
        found = asking.upstreams()
        assert len(found) == 20 and found[0].host == server.name
        assert state(asking, busy).in_flight == 1, "a server in use is not forgotten"
        assert len(asking._upstreams._adapters) == 5
        release.set()
        assert held.result().status == 200
        assert asking.get(busy.url, max_bytes=100).status == 200
        assert busy.connections == 1, "and neither is its connection"


def test_no_place_is_lost_where_no_connection_can_be_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root certificates that can't be read, say."""

    def unreadable(ca_file: str | None) -> Any:
        raise PermissionError("roots")

    monkeypatch.setattr(xrpc, "tls_context", unreadable)
    with client(host_concurrency=1, fetch_seconds=0.5) as asking:
        for _ in range(3):
            with pytest.raises(PermissionError):
                asking.get("https://127.0.0.1:1/", max_bytes=100)
        (found,) = asking.upstreams()
        assert (found.in_flight, found.breaker) == (0, "closed")


def test_nothing_is_left_over_after_any_mixture(server: HttpServer) -> None:
    answers: list[Any] = [ok(), status("404 X"), status("500 X"), None, ok(b"x" * 2_000), b"?\r\n"]
    server.answer = lambda request: answers[len(server.requests) % len(answers)]
    with client(host_concurrency=4, fetch_seconds=0.5) as asking, ThreadPoolExecutor(16) as pool:
        years = 0.0

        def later() -> float:
            nonlocal years
            years += 40.0
            return years

        asking._upstreams.clock = later
        outcomes = [pool.submit(asking.get, server.url, max_bytes=1_000).exception for _ in range(600)]
        kinds = {error.kind if isinstance(error, FetchError) else repr(error) for error in (one() for one in outcomes)}
        # "timeout": on a machine that is busy otherwise.
        assert kinds <= {"None", "status", "connection", "too big", "breaker open", "timeout"}
        found = state(asking, server)
        assert found.in_flight == 0 and found.breaker != "probing" and server.most_in_flight <= 4
        asking._upstreams.clock = lambda: years + 1_000
        server.answer = lambda request: ok()
        assert asking.get(server.url, max_bytes=100).status == 200
