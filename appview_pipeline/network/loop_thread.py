"""A thread with an event loop, for one subscription or for many.

A subscription of its own thread needs three file descriptors more than its socket, and a thread. That is nothing for
one relay. With 200 labelers it is most of the 1,024 descriptors that a process usually may have.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from appview_pipeline.network.event_loop import SubscriptionLoop

log = logging.getLogger(__name__)


class LoopThread:
    """Starts with the first piece of work, and ends with `stop`. Thread-safe."""

    def __init__(self, name: str = "subscriptions") -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: SubscriptionLoop | None = None
        self._thread: threading.Thread | None = None
        self._is_stopped = False
        self._received: dict[object, Callable[[], int]] = {}

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def begin(
        self,
        work: Callable[[], Coroutine[Any, Any, None]],
        received: Callable[[], int],
        ended: Callable[[BaseException | None], None],
    ) -> Callable[[], None]:
        """Runs `work` in the loop, and returns a function that cancels it soon.

        `received` gives the bytes that the work has received so far. `ended` is called in the loop at the end, with
        what the work raised. Raises RuntimeError after `stop`.
        """
        with self._lock:
            if self._is_stopped:
                raise RuntimeError("the loop was stopped")
            if self._loop is None:
                self._loop = SubscriptionLoop(self._received_bytes)
                self._loop.set_exception_handler(_log_trouble)
                self._thread = threading.Thread(target=self._run, args=(self._loop,), name=self._name, daemon=True)
                self._thread.start()
        loop, key = self._loop, object()
        task: asyncio.Task[None] | None = None

        def done(task: asyncio.Task[None]) -> None:
            self._received.pop(key, None)
            ended(asyncio.CancelledError() if task.cancelled() else task.exception())

        def start() -> None:
            nonlocal task
            self._received[key] = received
            task = loop.create_task(work())
            task.add_done_callback(done)

        def cancel() -> None:
            if task is not None:
                task.cancel()

        self.call(start)
        return lambda: self.call(cancel)  # which comes after `start`, as calls come in their order

    def call(self, function: Callable[[], None]) -> None:
        """Runs `function` in the loop soon; does nothing where the loop has not begun or has ended."""
        loop = self._loop
        if loop is None:
            return
        try:
            loop.call_soon_threadsafe(function)
        except RuntimeError:
            if not loop.is_closed():
                raise

    def stop(self) -> None:
        """Ends the thread, once all its work has ended or been cancelled. May be called repeatedly."""
        with self._lock:
            was_stopped, self._is_stopped = self._is_stopped, True
        if self._loop is not None and self._thread is not None:
            if not was_stopped:
                self.call(self._loop.stop)
            self._thread.join(5)

    def __enter__(self) -> LoopThread:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self, loop: SubscriptionLoop) -> None:
        try:
            loop.run_forever()
        finally:
            loop.finish()

    def _received_bytes(self) -> int:
        return sum(received() for received in self._received.values())


def _log_trouble(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Logs a report of the event loop in one line, without its traceback. A transport's error also shows as the end of
    its connection."""
    error = context.get("exception")
    log.log(logging.DEBUG if isinstance(error, OSError) else logging.WARNING, "%s: %r", context.get("message"), error)
