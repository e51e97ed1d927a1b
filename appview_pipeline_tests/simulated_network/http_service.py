"""A small HTTP/1.1 server on asyncio in a thread of its own, for GET requests: thousands of clients may hang at once.

What it answers is its subclasses' business; what goes wrong on the way there is here (`faults.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

from appview_pipeline_tests.simulated_network.faults import HUGE_BYTES, Faults, garbage_for

MAX_REQUEST = 65_536
FILLER = b" " * 65_536

Parameters = Mapping[str, list[str]]


class XrpcError(Exception):
    """An error answer: HTTP status, error name, message."""

    def __init__(self, status: int, name: str, text: str) -> None:
        super().__init__(text)
        self.status, self.name, self.text = status, name, text


@dataclass(frozen=True)
class Answer:
    """An answer to send.

    `filled_to`: spaces follow the body up to so many bytes, and the length is not said. `byte_seconds`: a byte is sent
    every so many seconds. `chunk_bytes`: the body is sent in chunks of so many bytes. `announced`: the length that the
    header says. `hangs`: nothing is sent at all. `hangs_after`, `cut_after`: so many bytes of the body are sent; then
    nothing more, or the connection is closed.
    """

    body: bytes = b""
    content_type: str = "application/json; charset=utf-8"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    filled_to: int | None = None
    byte_seconds: float = 0.0
    hangs: bool = False
    hangs_after: int | None = None
    cut_after: int | None = None
    chunk_bytes: int | None = None
    announced: int | None = None

    @property
    def is_streamed(self) -> bool:
        """Whether it is sent in chunks, in a task of its own."""
        return self.filled_to is not None or self.chunk_bytes is not None or bool(self.byte_seconds)


def json_answer(value: Any, status: int = 200) -> Answer:
    return Answer(json.dumps(value).encode(), status=status)


class HttpService:
    """Subclasses answer `get`, and say in `subject` what a request is about.

    `answers`: subject -> what is answered instead. `requests`: the newest request targets; `asked`: how many there
    were. `open`: connections now; `hanging`: those that wait for an answer that never comes.
    """

    name = "service"

    def __init__(self, port: int = 0, host: str = "127.0.0.1") -> None:
        self.faults = Faults()
        self.answers: dict[str, Answer] = {}
        self.requests: deque[str] = deque(maxlen=10_000)
        self.asked = 0
        self.open: set[_Connection] = set()
        self.hanging = 0
        self._window = (0.0, 0)  # start of the window of the rate limit, and requests in it
        self._socket = socket.create_server((host, port), backlog=1_024)
        self._server: asyncio.Server | None = None
        self._reserved: socket.socket | None = None  # holds the port while connections are refused
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self.host = host
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://{host}:{self.port}"

    # ---- for subclasses

    def get(self, path: str, parameters: Parameters, host: str) -> Answer:
        """The answer to a request; `host` is its Host header without the port. Raises `XrpcError`."""
        raise NotImplementedError

    def subject(self, path: str, parameters: Parameters, host: str) -> tuple[str, str | None, Faults]:
        """What a request is about (a key of `answers`), the DID of its account if there is one, and its faults."""
        return path, None, self.faults

    def failure(self, error: XrpcError) -> Answer:
        return json_answer({"error": error.name, "message": error.text}, error.status)

    def is_slow(self, path: str) -> bool:
        """Whether the answer takes so long to make that other requests must not wait for it."""
        return False

    # ---- answering

    def _failed(self, status: int, faults: Faults) -> Answer:
        name = "RateLimitExceeded" if status == 429 else HTTPStatus(status).phrase.replace(" ", "")
        answer = self.failure(XrpcError(status, name, "simulated"))
        if status == 429 and faults.retry_after is not None:
            return replace(answer, headers={"Retry-After": f"{faults.retry_after:g}"})
        return answer

    def _limits(self, faults: Faults) -> tuple[dict[str, str], bool]:
        """The headers of the rate limit, and whether this request is one too many."""
        limit = faults.rate_limit
        if limit is None:
            return {}, False
        start, count = self._window
        now = time.time()
        if now >= start + limit.seconds:
            start, count = now, 0
        self._window = (start, count + 1)
        headers = {
            "RateLimit-Limit": str(limit.requests),
            "RateLimit-Remaining": str(max(0, limit.requests - count - 1)),
            "RateLimit-Reset": str(int(start + limit.seconds)),
            "RateLimit-Policy": f"{limit.requests};w={limit.seconds:g}",
        }
        return headers, count >= limit.requests

    def made(self, path: str, parameters: Parameters, host: str) -> Answer:
        """The answer with all faults but the delay."""
        subject, did, faults = self.subject(path, parameters, host)
        limits, exceeded = self._limits(faults)
        if faults.statuses:
            faults.injected += 1
            answer = self._failed(faults.statuses.popleft(), faults)
        elif exceeded:
            answer = self._failed(429, faults)
        elif found := self.answers.get(subject):
            answer = found
        else:
            answer = self._with_fault(did, faults, partial(self.get, path, parameters, host))
        return replace(answer, headers={**limits, **answer.headers}) if limits else answer

    def _with_fault(self, did: str | None, faults: Faults, get: Callable[[], Answer]) -> Answer:
        """The answer to a request about `did`, which `get` gives where no fault hits the account."""
        kind, did = faults.of(did), did or ""
        if kind == "hang":
            return Answer(hangs=True)
        if kind == "garbage":
            return Answer(*garbage_for(did))
        if kind == "huge":
            return Answer(b'{"id": "' + did.encode() + b'", "alsoKnownAs": [', filled_to=HUGE_BYTES)
        statuses = {"fail": 500, "missing": 404, "gone": 410, "limited": 429}
        if kind in statuses:
            return self._failed(statuses[kind], faults)
        try:
            answer = get()
        except XrpcError as error:
            answer = self.failure(error)
        return replace(answer, byte_seconds=faults.drip_seconds) if kind == "drip" else answer

    # ---- life

    def refuse(self) -> None:
        """Connections are refused, and the open ones cut, as when the process has died; until `accept`.

        The port stays ours: another socket is bound to it and does not listen.
        """
        self._in_loop(self._refuse)

    def accept(self) -> None:
        """Connections are accepted again."""
        self._in_loop(self._accept)

    def let_go(self) -> None:
        """Cuts the connections that hang: a server that works again has forgotten them."""
        self._in_loop(self._let_go)

    async def _let_go(self) -> None:
        for connection in [*self.open]:
            if connection.hangs:
                connection.end()

    def _in_loop(self, action: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self._thread is not None and self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(action(), self._loop).result(10)

    async def _refuse(self) -> None:
        if self._reserved is None and self._server is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._reserved = self._bound()
            self._server.close()
            self._socket.close()
            for connection in [*self.open]:
                connection.end()

    async def _accept(self) -> None:
        if self._reserved is not None:
            self._socket = self._bound()
            self._socket.listen(1_024)
            self._server = await self._loop.create_server(lambda: _Connection(self), sock=self._socket)
            self._reserved.close()
            self._reserved = None
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)

    def _bound(self) -> socket.socket:
        """Another socket at our port."""
        bound = socket.socket()
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            bound.setsockopt(socket.SOL_SOCKET, option, 1)
        bound.bind((self.host, self.port))
        return bound

    def start(self) -> None:
        started = threading.Event()

        async def serve() -> None:
            self._server = await self._loop.create_server(lambda: _Connection(self), sock=self._socket)

        def run() -> None:
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(serve())
            self._loop.call_soon(started.set)  # not before: a stop must find `run_forever`
            self._loop.run_forever()
            for connection in [*self.open]:
                connection.end()
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

        self._thread = threading.Thread(target=run, name=f"simulated-{self.name}", daemon=True)
        self._thread.start()
        started.wait()

    def stop(self) -> None:
        """Ends all connections, those that hang too."""
        if self._thread is None:
            self._loop.close()
        elif self._thread.is_alive():
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
        self._socket.close()
        if self._reserved is not None:
            self._reserved.close()


class _Connection(asyncio.Protocol):
    """One client's connection: its requests are answered one after another."""

    def __init__(self, service: HttpService) -> None:
        self.service = service
        self.received = bytearray()
        self.transport: asyncio.Transport
        self.writable = asyncio.Event()
        self.task: asyncio.Task[None] | None = None  # an answer that takes time
        self.hangs = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.writable.set()
        self.service.open.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        self.service.open.discard(self)
        if self.hangs:
            self.service.hanging -= 1
        if self.task:
            self.task.cancel()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def end(self) -> None:
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self.received += data
        if len(self.received) > MAX_REQUEST:
            self.end()
        elif self.task is None and not self.hangs:
            self._next()

    def _next(self) -> None:
        """Answers the requests that have come completely, until one takes time."""
        while self.task is None and not self.hangs and not self.transport.is_closing():
            head, end, _ = self.received.partition(b"\r\n\r\n")
            if not end:
                return
            del self.received[: len(head) + 4]
            line, *fields = head.decode("latin-1").split("\r\n")
            headers = {name.strip().lower(): value.strip() for name, _, value in (one.partition(":") for one in fields)}
            method, _, rest = line.partition(" ")
            target, _, version = rest.rpartition(" ")
            keep = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
            self.service.requests.append(target)
            self.service.asked += 1
            if method != "GET":
                self._send(Answer(b"", "text/plain", 501), keep=False)
                continue
            parts = urlsplit(target)
            request = (
                parts.path,
                parse_qs(parts.query, keep_blank_values=True),
                headers.get("host", "").rpartition("@")[2].partition(":")[0].lower(),
            )
            if self.service.faults.delay or self.service.is_slow(parts.path):
                self._begin(self._answer_later(request, keep))
            else:
                self._answer(self.service.made(*request), keep)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self.task = self.service._loop.create_task(self._finish(work))

    async def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            self.end()
            raise
        finally:
            self.task = None
        self._next()

    async def _answer_later(self, request: tuple[str, Parameters, str], keep: bool) -> None:
        if self.service.faults.delay:
            await asyncio.sleep(self.service.faults.delay)
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(None, self.service.made, *request)
        if answer.is_streamed:
            await self._stream(answer)
        else:
            self._answer(answer, keep)

    def _answer(self, answer: Answer, keep: bool) -> None:
        if answer.hangs:
            self.hangs = True
            self.service.hanging += 1
        elif answer.is_streamed:
            self._begin(self._stream(answer))
        else:
            self._send(answer, keep)

    def _head(self, answer: Answer, *more: str) -> bytes:
        lines = [
            f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}",
            f"Content-Type: {answer.content_type}",
            *(f"{name}: {value}" for name, value in answer.headers.items()),
            *more,
        ]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def _send(self, answer: Answer, keep: bool) -> None:
        length = len(answer.body) if answer.announced is None else answer.announced
        more = [f"Content-Length: {length}"] + ([] if keep else ["Connection: close"])
        end = answer.hangs_after if answer.cut_after is None else answer.cut_after
        self.transport.write(self._head(answer, *more) + answer.body[:end])
        if answer.hangs_after is not None:
            self.hangs = True
            self.service.hanging += 1
        elif not keep or answer.cut_after is not None:
            self.transport.close()

    async def _stream(self, answer: Answer) -> None:
        """A long or slow body, in chunks; no more of it is in memory than the socket takes."""
        self.transport.write(self._head(answer, "Transfer-Encoding: chunked", "Connection: close"))
        if answer.byte_seconds:
            for byte in answer.body:
                await asyncio.sleep(answer.byte_seconds)
                self.transport.write(b"1\r\n%c\r\n" % byte)
        elif answer.chunk_bytes is not None:
            size = answer.chunk_bytes
            for at in range(0, len(answer.body), size * 1_000):  # a thousand chunks in one write
                await self.writable.wait()
                pieces = (answer.body[start : start + size] for start in range(at, at + size * 1_000, size))
                self.transport.write(b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece))
                await asyncio.sleep(0)
        else:
            left = answer.filled_to or 0
            piece = answer.body
            while left > 0:
                await self.writable.wait()
                self.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                left -= len(piece)
                piece = FILLER[: max(left, 1)]
                await asyncio.sleep(0)
        self.transport.write(b"0\r\n\r\n")
        self.transport.close()
