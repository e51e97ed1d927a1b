"""A pooler of PostgreSQL connections, small: it speaks the protocol only as far as a test of ours needs.

As pgbouncer does it answers a client's start itself, with a process id that it makes up, and gives it a session of the
server for as long as the mode says: until it leaves (`session`), for a transaction, or for a statement.
"""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from types import TracebackType

_IDLE = b"I"


class Pooler:
    """Listens on a local port; `with Pooler(folder, "transaction") as pooler: ... pooler.url("db")`."""

    def __init__(self, socket_folder: str, mode: str, database: str, sessions: int = 3) -> None:
        self.mode = mode
        self._server = f"{socket_folder}/.s.PGSQL.5432"
        self._database = database
        self._free: list[socket.socket] = []
        self._left = sessions
        self._changed = threading.Condition()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{self._database}?sslmode=disable&gssencmode=disable"

    def __enter__(self) -> Pooler:
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._listener.close()
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server: socket.socket | None = None
        with suppress(OSError, EOFError):
            (length,) = struct.unpack("!I", _read(client, 4))
            _read(client, length - 4)
            key = struct.pack("!II", 0x7A7A7A7A, 0)
            greeting = _message(b"R", struct.pack("!I", 0))
            for name, value in {"server_version": "17.0", "client_encoding": "UTF8", "DateStyle": "ISO, MDY"}.items():
                greeting += _message(b"S", f"{name}\0{value}\0".encode())
            client.sendall(greeting + _message(b"K", key) + _message(b"Z", _IDLE))
            while True:
                kind, body = _receive(client)
                if kind == b"X":
                    break
                assert kind == b"Q", "psycopg2 sends simple queries"
                server = server or self._take()
                server.sendall(_message(kind, body))
                status = b""
                while not status:
                    answer, content = _receive(server)
                    client.sendall(_message(answer, content))
                    status = content if answer == b"Z" else b""
                if self.mode == "transaction" and status == _IDLE:
                    self._give_back(server)
                    server = None
        if server is not None:  # its session, or a transaction in it, was the client's
            server.close()
            with self._changed:
                self._left += 1
                self._changed.notify()
        client.close()

    def _take(self) -> socket.socket:
        with self._changed:
            while not self._free and not self._left:
                self._changed.wait()
            if self._free:
                return self._free.pop()
            self._left -= 1
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._server)
        self._sockets.append(server)
        start = struct.pack("!I", 0x30000) + f"user\0postgres\0database\0{self._database}\0\0".encode()
        server.sendall(struct.pack("!I", len(start) + 4) + start)
        while _receive(server)[0] != b"Z":
            pass
        return server

    def _give_back(self, server: socket.socket) -> None:
        with self._changed:
            self._free.append(server)
            self._changed.notify()


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def _receive(sock: socket.socket) -> tuple[bytes, bytes]:
    kind = _read(sock, 1)
    (length,) = struct.unpack("!I", _read(sock, 4))
    return kind, _read(sock, length - 4)


def _read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data
