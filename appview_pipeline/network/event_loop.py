"""The event loop of a subscription's thread: it wakes up less often than frames arrive, and can end at any moment."""

from __future__ import annotations

import asyncio
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

GATHER_SECONDS = 0.02
CALM_BYTES = 8_000_000
"""How long frames may wait in the kernel so that several are received at once; only after a second that brought less
than so many bytes, which is three times the network's usual pace."""


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
        answer: asyncio.Future[list[Any]] = self.create_future()

        def settle(addresses: list[Any] | None, error: OSError | UnicodeError | None) -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(addresses or [])

        def resolve() -> None:
            result: tuple[list[Any] | None, OSError | UnicodeError | None]
            try:
                result = (socket.getaddrinfo(host, port, family, type, proto, flags), None)
            except UnicodeError as error:  # a label that is empty or too long
                result = (None, socket.gaierror(socket.EAI_NONAME, f"not a host name: {error}"))
            except OSError as error:
                result = (None, error)
            if not self.is_closed():
                self.call_soon_threadsafe(settle, *result)

        threading.Thread(target=resolve, name="resolve", daemon=True).start()
        return await answer
