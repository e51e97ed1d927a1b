"""How long a consumer lives: as long as somebody renews its lease, and no longer than it is told to."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time

from appview_pipeline.settings import Settings

log = logging.getLogger(__name__)

GRACE_SECONDS = 4.0
"""What is left for the batch in hand once the end is decided; then the process ends and the batch rolls back."""


class Lifetime:
    """Watches standard input (any byte renews the lease, its end is the end) and the signals SIGTERM and SIGINT.

    Must be made in the main thread. `stopped()` says whether to come to an end; `GRACE_SECONDS` after it first did, the
    process is ended by force. The lease bridges what a busy machine pauses between two ticks; whatever else should end
    the consumer closes standard input, or takes the process along that holds its other end.
    """

    def __init__(self, lease_seconds: float = Settings.lease_seconds, grace_seconds: float = GRACE_SECONDS) -> None:
        self.reason = ""
        self._stop = threading.Event()
        self._renewed = time.monotonic()
        self._lease_seconds = lease_seconds
        self._grace_seconds = grace_seconds
        self._finished = threading.Event()
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda number, _: self._end(f"signal {signal.Signals(number).name}"))
        threading.Thread(target=self._listen, name="lease", daemon=True).start()
        threading.Thread(target=self._watch, name="lease-watch", daemon=True).start()

    def set_lease(self, seconds: float) -> None:
        """How long to go on without a renewal from now on (`APPVIEW_LEASE_SECONDS`)."""
        self._lease_seconds = seconds

    def stopped(self) -> bool:
        """Whether the end is decided."""
        return self._stop.is_set()

    def finish(self) -> None:
        """The consumer has come to its end by itself: no force is needed."""
        self._finished.set()

    def _end(self, reason: str) -> None:
        if not self._stop.is_set():
            self.reason = reason
            self._stop.set()

    def _listen(self) -> None:
        while os.read(sys.stdin.fileno(), 4096):
            self._renewed = time.monotonic()
        self._end("the lease was given back")

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            if time.monotonic() - self._renewed > self._lease_seconds:
                self._end(f"the lease was not renewed for {self._lease_seconds:g} s")
        if not self._finished.wait(self._grace_seconds):
            log.warning("Ending without the batch in hand, which rolls back (%s)", self.reason)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
