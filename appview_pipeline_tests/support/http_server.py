"""An HTTP server whose answers a test writes, byte by byte, with or without TLS."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Request:
    """A request, and the connection that it came over."""

    path: str
    headers: dict[str, str]
    connection: socket.socket
    body: bytes = b""


Answer = Callable[[Request], "bytes | None"]
"""What to send; None to close the connection, to which the answer may have written by itself."""


def ok(body: bytes = b"{}", headers: str = "", status: str = "200 OK") -> bytes:
    """An answer with a length."""
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


def status(line: str, headers: str = "") -> bytes:
    return ok(b"", headers, line)


@dataclass
class HttpServer:
    """Answers each connection in a thread of its own. `tls` is the context of a server with TLS."""

    answer: Answer
    tls: ssl.SSLContext | None = None
    address: str = "127.0.0.1"
    connections: int = 0
    requests: list[Request] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0

    def __enter__(self) -> HttpServer:
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server((self.address, 0), backlog=256)
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()
        self._thread.join(5)

    @property
    def url(self) -> str:
        return f"{'http' if self.tls is None else 'https'}://{self.address}:{self.port}"

    @property
    def name(self) -> str:
        return f"{self.address}:{self.port}"

    def drop(self) -> None:
        """Closes all connections."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        plain = connection
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
            while (request := _read(connection)) is not None and self._respond(request):
                pass
        with contextlib.suppress(OSError):
            connection.close()
        with self._lock:
            self._open.discard(plain)

    def _respond(self, request: Request) -> bool:
        with self._lock:
            self.requests.append(request)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            answer = self.answer(request)
        finally:
            with self._lock:
                self.in_flight -= 1
        if answer is not None:
            request.connection.sendall(answer)
        return answer is not None


def _read(connection: socket.socket) -> Request | None:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65_536)
        if not piece:
            return None
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    match = re.fullmatch(r"(GET|POST) (\S+) HTTP/1\.1", first)
    assert match is not None, first
    headers = dict(line.split(": ", 1) for line in lines if line)
    while len(body) < int(headers.get("Content-Length", 0)):
        piece = connection.recv(65_536)
        if not piece:
            return None
        body += piece
    return Request(match[2], headers, connection, body)
