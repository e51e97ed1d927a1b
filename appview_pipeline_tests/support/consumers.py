"""Consumers as processes, started and ended by a test, and what they have reached in the database."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from appview_pipeline.ingest.live.consumer_process import COMMAND
from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.tables import dump, rows
from appview_pipeline_tests.support.waiting import wait_for

Start = Callable[..., "Consumer"]


class Consumer:
    """A running consumer; its lease is renewed until `forget`, `give_back` or `kill`."""

    command = COMMAND

    def __init__(self, database_url: str, relay_url: str, **environment: str) -> None:
        inherited = {key: text for key, text in os.environ.items() if not key.startswith("APPVIEW_")}
        self.process = subprocess.Popen(
            [sys.executable, *self.command[1:]],
            cwd=CHECKOUT,
            env={
                **inherited,
                "PYTHONUNBUFFERED": "1",
                "APPVIEW_DATABASE_URL": database_url,
                "APPVIEW_RELAY_URL": relay_url,
                "APPVIEW_START_CURSOR": "0",
                "APPVIEW_BATCH_SECONDS": "0.1",
                **environment,
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.lines: list[str] = []
        self._forgotten = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._renewer = threading.Thread(target=self._renew, daemon=True)
        self._renewer.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self._line, ""))

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode()

    def _renew(self) -> None:
        assert self.process.stdin is not None
        while not self._forgotten.is_set() and self.process.poll() is None:
            with contextlib.suppress(BrokenPipeError, ValueError):
                os.write(self.process.stdin.fileno(), b".")
            self._forgotten.wait(0.5)

    def forget(self) -> None:
        """Stops renewing the lease."""
        self._forgotten.set()

    def give_back(self) -> None:
        """Closes the lease."""
        self.forget()
        self._renewer.join(60)
        assert self.process.stdin is not None
        self.process.stdin.close()

    def end(self, how: int = signal.SIGTERM) -> float:
        """Sends a signal. Returns the seconds until the process had ended."""
        began = time.monotonic()
        self.process.send_signal(how)
        self.code(15)
        return time.monotonic() - began

    def code(self, seconds: float = 30.0) -> int:
        """Waits for its end. Returns the exit code."""
        code = self.process.wait(seconds)
        self._reader.join(5)
        return code

    @property
    def said(self) -> str:
        return "".join(self.lines)

    def clean_up(self) -> None:
        self.forget()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()


def until(condition: Callable[[], object], consumer: Consumer, seconds: float = 120.0) -> None:
    """Waits for a condition; when it fails, the consumer's output is in the failure."""
    wait_for(condition, seconds, lambda: consumer.said)


def cursor(database: Database, relay: str) -> int | None:
    found = rows(database.url, "SELECT seq FROM pipeline.cursor WHERE relay = %s", relay)
    return found[0][0] if found else None


def is_past(database: Database, relay: str, seq: int) -> bool:
    return (cursor(database, relay) or 0) > seq


def without_cursor(database: Database) -> dict[str, list[str]]:
    return {table: lines for table, lines in dump(database.url).items() if table != "pipeline.cursor"}
