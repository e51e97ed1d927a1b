"""The child's side of a leased process (`leased_process.py`): it lives as long as its parent renews its lease."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from appview_pipeline import backoff, logs
from appview_pipeline.errors import OperatorError, Stopped
from appview_pipeline.leases.leased_process import (
    EXIT_ENDED,
    EXIT_LOCK_LOST,
    EXIT_LOCKED,
    EXIT_OPERATOR_ERROR,
    STATUS,
)
from appview_pipeline.settings import Settings, load
from appview_pipeline.store.batch import CursorMoved
from appview_pipeline.store.session_lock import LockLost, LockTaken

log = logging.getLogger(__name__)


class Lease:
    """Watches standard input (any byte renews the lease, end of file ends it) and the signals SIGTERM and SIGINT.

    Must be made in the main thread. `stopped()` says whether to come to an end. `grace_seconds` after it first
    says so, the process ends by force. The lease outlasts the pauses of a busy machine between two ticks. Whatever else
    should end the process makes the parent close standard input.
    """

    def __init__(self, seconds: float = Settings.lease_seconds, grace_seconds: float = backoff.GRACE_SECONDS) -> None:
        self.reason = ""
        self._stop = threading.Event()
        self._renewed = time.monotonic()
        self._seconds = seconds
        self._grace_seconds = grace_seconds
        self._finished = threading.Event()
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda number, _: self._end(f"signal {signal.Signals(number).name}"))
        threading.Thread(target=self._listen, name="lease", daemon=True).start()
        threading.Thread(target=self._watch, name="lease-watch", daemon=True).start()

    def set_seconds(self, seconds: float) -> None:
        """How long to go on without a renewal from now on (`APPVIEW_LEASE_SECONDS`)."""
        self._seconds = seconds

    def stopped(self) -> bool:
        """Whether the end is decided."""
        return self._stop.is_set()

    def finish(self) -> None:
        """The process has come to its end by itself: no force is needed."""
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
        while not self._stop.wait(backoff.STOP_POLL_SECONDS):
            if time.monotonic() - self._renewed > self._seconds:
                self._end(f"the lease was not renewed for {self._seconds:g} s")
        if not self._finished.wait(self._grace_seconds):
            log.warning("Ending without the batch in hand, which rolls back (%s)", self.reason)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)


def run_leased(service: str, work: Callable[[Settings, Callable[[], bool]], object]) -> int:
    """Runs `work` in this process until its lease ends, and returns the exit code.

    `service` is its name in the log, which goes to standard output. `work` gets the settings and a function that says
    whether to come to an end.
    """
    log = logging.getLogger(f"appview_pipeline.{service}")
    lease = Lease()
    try:
        settings = load()
        lease.set_seconds(settings.lease_seconds)
        logs.configure(settings, service, sys.stdout)
        logs.log_start(settings, service)
        work(settings, lease.stopped)
    except OperatorError as error:
        print(error, flush=True)
        return EXIT_OPERATOR_ERROR
    except (LockTaken, CursorMoved) as error:
        log.warning("%s", error)
        return EXIT_ENDED if lease.stopped() else EXIT_LOCKED
    except LockLost as error:
        log.warning("%s", error)
        return EXIT_ENDED if lease.stopped() else EXIT_LOCK_LOST
    except Stopped:
        log.info("Ended before the batch in hand was written; it is read again at the next start")
    finally:
        lease.finish()
    log.info("Ended: %s", lease.reason or "its work is done")
    return EXIT_ENDED


def report_trouble(sentence: str | None) -> None:
    """Says to the parent what keeps this process from its work, in one line; None: nothing does."""
    print(f"{STATUS}{sentence or ''}", flush=True)
