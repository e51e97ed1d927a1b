"""What one request may still use: time, and bytes of the socket.

A request goes through two libraries before it comes to the socket that it waits at. Neither has a limit for the whole
request: their time-outs begin anew with every byte. So each thread has the budget of its request, and our sockets
(`checked_sockets.py`) keep to it, whichever library reads from them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from appview_pipeline.network.fetch_errors import FetchError

Part = Literal["a header", "a body"]


class Budget:
    """`seconds` is for everything; `connect_seconds` for a connection, TLS included; `read_seconds` for the server's
    silence. `host` is for sentences. `wants_connection`: the connections of the pool are not to be used;
    `has_connected`: none of them was.

    `min_rate`: bytes a second that the server has to send on average, once it had `rate_seconds` for it; they are
    counted anew from where `begin_rate` is called.
    """

    def __init__(
        self,
        seconds: float,
        connect_seconds: float,
        read_seconds: float,
        *,
        min_rate: float = 0.0,
        rate_seconds: float = 0.0,
    ) -> None:
        self.host = ""
        self.seconds = seconds
        self.connect_seconds = connect_seconds
        self.read_seconds = read_seconds
        self.min_rate = min_rate
        self.rate_seconds = rate_seconds
        self.began = time.monotonic()
        self.deadline = self.began + seconds
        self.connect_deadline = 0.0
        self._rate_since = self.began
        self._rate_received = 0
        self.received = 0
        self.max_received = 0
        self.what: Part = "a header"
        self.has_connected = False
        self.wants_connection = False

    def begin(self, host: str) -> None:
        """A request to `host` begins; a redirect is one more, within the same time."""
        self.host = host
        self.received = 0
        self.begin_rate()
        self.has_connected = False
        self.wants_connection = False

    def begin_rate(self) -> None:
        """From here on the server has its time to reach the minimum rate. It may need some for its first byte."""
        self._rate_since = time.monotonic()
        self._rate_received = self.received

    def begin_connection(self) -> None:
        """A connection is about to be made."""
        self.has_connected = True
        self.connect_deadline = min(self.deadline, time.monotonic() + self.connect_seconds)

    def allow(self, count: int, what: Part) -> None:
        """From here on `count` bytes more may be received, of `what`."""
        self.max_received = self.received + count
        self.what = what

    def left(self) -> float:
        """Seconds left of all, more than 0. Raises `FetchError`."""
        seconds = self.deadline - time.monotonic()
        if seconds <= 0:
            raise self.out_of_time()
        return seconds

    def connect_left(self) -> float:
        """Seconds left for the connection, more than 0. Raises `FetchError`."""
        seconds = self.connect_deadline - time.monotonic()
        if seconds <= 0:
            raise self.not_connected()
        return seconds

    def read_left(self) -> float:
        """Seconds that the server may be silent now, more than 0. Raises `FetchError`."""
        return min(self.read_seconds, self.left())

    def receive(self, count: int) -> None:
        """Counts bytes that came; 0 is the end of the connection.

        Raises `FetchError` beyond what is allowed, and for an end within a header, because `http.client` takes what
        came until then for the whole header.
        """
        self.received += count
        if count == 0 and self.what == "a header":
            when = "before the end of its answer" if self.received else "without an answer"
            raise FetchError("connection", f"{self.host} closed the connection {when}", host=self.host)
        if self.min_rate and count:
            seconds, received = time.monotonic() - self._rate_since, self.received - self._rate_received
            if seconds > self.rate_seconds and received < self.min_rate * seconds:
                raise self.too_slow(received / seconds)
        if self.received > self.max_received:
            raise FetchError("too big", f"{self.host} sends more than is allowed for {self.what}", host=self.host)

    def out_of_time(self) -> FetchError:
        """The error of a request that took too long."""
        reason = f"{self.host} did not answer completely within {self.seconds:g} s"
        return FetchError("timeout", reason, host=self.host)

    def too_slow(self, rate: float) -> FetchError:
        """The error of a server that sends less than it has to."""
        reason = f"{self.host} sends {rate:,.0f} bytes a second; a download has to bring {self.min_rate:,.0f}"
        return FetchError("timeout", reason, host=self.host)

    def not_connected(self) -> FetchError:
        """The error of a connection that took too long."""
        if time.monotonic() >= self.deadline:
            return self.out_of_time()
        reason = f"{self.host} did not accept a connection within {self.connect_seconds:g} s"
        return FetchError("timeout", reason, host=self.host)

    def silent(self) -> FetchError:
        """The error of a server that sent nothing for too long."""
        if time.monotonic() >= self.deadline:
            return self.out_of_time()
        return FetchError("timeout", f"{self.host} sent nothing for {self.read_seconds:g} s", host=self.host)


_thread = threading.local()


@contextmanager
def spending(budget: Budget) -> Iterator[None]:
    """Makes `budget` the one of this thread's sockets."""
    _thread.budget = budget
    try:
        yield
    finally:
        _thread.budget = None


def current() -> Budget:
    """The budget of this thread's request. There is one: our sockets are used for nothing else."""
    budget: Budget | None = getattr(_thread, "budget", None)
    assert budget is not None, "a socket of the HTTP client is used outside of a request"
    return budget
