"""Breaks off what OpenSSL goes on with after the deadline of its request.

A server can send messages of TLS that carry no data, without end: tickets of sessions, for example. OpenSSL goes on to
the next one by itself as long as they come fast enough (40 MB/s), and no time-out of the socket is looked at meanwhile.
So one thread looks at the clock instead, and shuts the connection down.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

from appview_pipeline.backoff import OVERDUE_POLL_SECONDS

_lock = threading.Lock()
_watch: threading.Thread | None = None
_at_work: dict[int, tuple[float, socket.socket]] = {}
"""The deadline and the socket of each thread that is in OpenSSL."""


@contextlib.contextmanager
def broken_off(sock: socket.socket, deadline: float) -> Iterator[None]:
    """Shuts `sock` down should the block go on for longer than `deadline` (of `time.monotonic`).

    What waits for the socket then ends as if the other side had closed it.
    """
    if _watch is None or not _watch.is_alive():  # the first one, or the first one after a fork
        _start()
    thread = threading.get_ident()
    _at_work[thread] = deadline, sock
    try:
        yield
    finally:
        del _at_work[thread]


def _start() -> None:
    global _watch
    with _lock:
        if _watch is None or not _watch.is_alive():
            _watch = threading.Thread(target=_look, name="deadlines of TLS", daemon=True)
            _watch.start()


def _look() -> None:
    while True:
        time.sleep(OVERDUE_POLL_SECONDS)
        for deadline, sock in list(_at_work.values()):
            if time.monotonic() > deadline:
                with contextlib.suppress(OSError):  # it has come to its end by itself
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
