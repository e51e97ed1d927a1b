"""DID documents of labelers, fetched without holding up the callers."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Protocol

from appview_pipeline.identity.cache import KnownIdentity


class Get(Protocol):
    """`IdentityCache.get`."""

    def __call__(self, did: str, *, force: bool = False) -> KnownIdentity: ...


class Resolutions:
    """Calls `get` in a few threads. They are not joined: one that hangs must not hold up the end of the process."""

    def __init__(self, get: Get, threads: int) -> None:
        self._get = get
        self._limit = threads
        self._started = 0
        self._open = 0
        self._lock = threading.Lock()
        self._tasks: SimpleQueue[tuple[str, bool, Future[KnownIdentity]]] = SimpleQueue()

    def ask(self, did: str, *, force: bool = False) -> Future[KnownIdentity]:
        """The identity of an account, once it is there. `force`: the network is asked, whatever is known."""
        answer: Future[KnownIdentity] = Future()
        with self._lock:
            self._open += 1
            is_new = self._started < min(self._open, self._limit)
            self._started += is_new
        self._tasks.put((did, force, answer))
        if is_new:
            threading.Thread(target=self._work, name=f"labeler resolution {self._started}", daemon=True).start()
        return answer

    def _work(self) -> None:
        while True:
            did, force, answer = self._tasks.get()
            try:
                answer.set_result(self._get(did, force=force))
            except Exception as error:  # raised by whoever takes the answer
                answer.set_exception(error)
            finally:
                with self._lock:
                    self._open -= 1
