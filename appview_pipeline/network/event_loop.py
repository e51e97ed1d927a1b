"""The event loop of subscriptions: it wakes up less often than frames arrive, and can end at any moment."""

from __future__ import annotations

import asyncio
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

GATHER_SECONDS = 0.02
CALM_BYTES = 8_000_000
"""How long frames may wait in the kernel so that several are received at once; only after a second that brought less
than so many bytes, which is three times the network's usual pace."""


T = TypeVar("T")


class _GatheringSelector(selectors.DefaultSelector):
    """While little arrives, lets messages gather for a moment before it reports them.

    Waking up for each frame takes more CPU at the network's usual pace than decoding it. When much arrives there must
    be no wait: the kernel would take the pause for a long way to the server, and buffer all the more.
    """

    def __init__(self, received: Callable[[], int]) -> None:
        super().__init__()
        self._received = received
        self._second = time.monotonic()
        self._received_before = 0  # when this second began
        self._is_calm = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(timeout)
        now, received = time.monotonic(), self._received()
        if received - self._received_before >= CALM_BYTES or now - self._second >= 1:
            self._is_calm = received - self._received_before < CALM_BYTES
            self._received_before, self._second = received, now
        if ready and self._is_calm:
            time.sleep(GATHER_SECONDS)
        return ready


class SubscriptionLoop(asyncio.SelectorEventLoop):
    """An event loop that can end at any moment. `received` gives the bytes received so far.

    The standard one resolves names in an executor, whose threads the interpreter waits for at exit, and a resolver
    without a network takes half a minute. And it leaves open the socket of a connection that was cancelled while it
    was being made.
    """

    def __init__(self, received: Callable[[], int]) -> None:
        super().__init__(_GatheringSelector(received))
        self._last_socket: socket.socket | None = None

    def finish(self) -> None:
        """Lets connections that were given up close, then closes the loop."""
        for _ in range(3):
            self.run_until_complete(asyncio.sleep(0))
        if self._last_socket is not None:
            with suppress(OSError):  # already closed, mostly
                self._last_socket.shutdown(socket.SHUT_RDWR)
        self.close()

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connects, and remembers the socket."""
        self._last_socket = sock
        await super().sock_connect(sock, address)

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[Any]:
        """Resolves a name in a daemon thread, which nothing waits for."""

        def resolve() -> list[Any]:
            try:
                return socket.getaddrinfo(host, port, family, type, proto, flags)
            except UnicodeError as error:  # a label that is empty or too long
                raise socket.gaierror(socket.EAI_NONAME, f"not a host name: {error}") from None

        return await self.in_thread(resolve)

    async def in_thread(self, function: Callable[[], T]) -> T:
        """The result of a function that blocks, run in a daemon thread of its own; raises what it raises.

        A caller that no longer waits leaves the thread alone, and so do the loop's end and the interpreter's.
        """
        answer: asyncio.Future[T] = self.create_future()

        def settle(result: T | None, error: Exception | None) -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)  # type: ignore[arg-type]

        def run() -> None:
            outcome: tuple[T | None, Exception | None]
            try:
                outcome = function(), None
            except Exception as error:
                outcome = None, error
            with suppress(RuntimeError):  # the loop has ended meanwhile
                self.call_soon_threadsafe(settle, *outcome)

        threading.Thread(target=run, name="look-up of a host", daemon=True).start()
        return await answer
