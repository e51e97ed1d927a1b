"""What a server of ours allows its clients, whatever it serves."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from appview_pipeline import backoff
from appview_pipeline.errors import OperatorError
from appview_pipeline.serving import access_log
from appview_pipeline.serving.listening import listen
from appview_pipeline.serving.server import MAX_HEAD_BYTES, HttpServer
from appview_pipeline_tests.support.waiting import wait_for

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@contextmanager
def server(connections: int = 10) -> Iterator[HttpServer]:
    """A server that answers `/` with "well"."""
    ready = threading.Event()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        ready.set()
        yield

    async def answer(_: Request) -> Response:
        return PlainTextResponse("well")

    application = Starlette(routes=[Route("/", answer)], lifespan=lifespan)
    found = HttpServer(application, listen(("127.0.0.1", 0), "SOME_ADDRESS"), connections=connections)
    thread = threading.Thread(target=found.run)
    thread.start()
    try:
        assert ready.wait(60)
        yield found
    finally:
        found.stop()
        thread.join(60)
        assert not thread.is_alive()


def connect(to: HttpServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", to.port), timeout=60)


def answer_of(client: socket.socket) -> bytes:
    """The answer up to its body, or what came before the end of the connection."""
    received = b""
    while b"\r\n\r\nwell" not in received and (some := client.recv(65_536)):
        received += some
    return received


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost:"])
def test_a_client_that_does_not_ask_is_let_go(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(backoff, "SERVING_HEAD_SECONDS", 0.3)
    with server() as found, connect(found) as client:
        client.sendall(sent)
        assert answer_of(client) == b""


def test_a_client_that_asks_again_has_its_time_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "SERVING_HEAD_SECONDS", 0.5)
    with server() as found, connect(found) as client:
        for _ in range(2):
            client.sendall(REQUEST)
            assert answer_of(client).startswith(b"HTTP/1.1 200")
        client.sendall(REQUEST[:-2])  # without its end
        assert answer_of(client) == b""


def test_a_head_that_is_too_large_is_refused() -> None:
    with server() as found, connect(found) as client:
        client.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * (MAX_HEAD_BYTES + 1_000))
        assert answer_of(client).startswith(b"HTTP/1.1 400")


def test_too_many_clients_are_answered_so() -> None:
    with server(connections=3) as found:
        held = [connect(found) for _ in range(2)]
        for client in held:
            client.sendall(REQUEST)
            assert answer_of(client).startswith(b"HTTP/1.1 200")
        with connect(found) as another:
            another.sendall(REQUEST)
            assert b" 503 " in another.recv(65_536)
        held.pop().close()

        def answered() -> bool:
            with connect(found) as later:
                later.sendall(REQUEST)
                return answer_of(later).startswith(b"HTTP/1.1 200")

        wait_for(answered)
        held.pop().close()


def test_requests_are_logged_for_those_who_want_to_know(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, access_log.__name__), server() as found, connect(found) as client:
        client.sendall(REQUEST)
        answer_of(client)
        wait_for(lambda: "GET / 200" in caplog.messages)
    (line,) = (it for it in caplog.records if it.name == access_log.__name__)
    assert line.levelno == logging.DEBUG
    assert (vars(line)["client"], vars(line)["bytes"]) == ("127.0.0.1", 4)


def test_an_address_that_is_taken_is_an_error_of_the_operator() -> None:
    with server() as found, pytest.raises(OperatorError, match=r"Nothing can listen .* choose another SOME_ADDRESS"):
        listen(("127.0.0.1", found.port), "SOME_ADDRESS")
