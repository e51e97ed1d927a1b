"""A leased process: a child that works without pause, started, kept on its lease, listened to and stopped.

Whatever must not wait for Dagster's ticks runs in such a child; this is its parent's side, and `lease.py` is its own.
What passes between the two:
- stdin: any byte renews the child's lease; end of file, or a lapsed lease (`APPVIEW_LEASE_SECONDS`), ends it after the
  batch in hand;
- stdout and stderr: its log lines, and lines that begin with `STATUS`: what keeps it from its work, if anything;
- exit code: the `EXIT_...` below; any other means that it crashed.

A process that is gone is started again after a pause that grows while it keeps failing (`backoff.leased_process`).
Nothing here blocks for longer than `stop`'s patience.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from appview_pipeline import backoff
from appview_pipeline.backoff import Backoff

EXIT_ENDED = 0
"""It was asked to end."""
EXIT_LOCKED = 3
"""Another process holds its lock."""
EXIT_OPERATOR_ERROR = 4
"""An operator's mistake; its last line says which."""
EXIT_LOCK_LOST = 5
"""The connection that held its lock is gone."""

STATUS = "status: "
"""Begins a line of the child that is not for the log: a sentence about its trouble, or nothing where it works."""

MAX_LINES = 500
MAX_LINE_LENGTH = 2_000


@dataclass(frozen=True)
class Ended:
    """How a child ended. `code` as in `subprocess.Popen.returncode`; `last_line`: the last line of its output;
    `sentence`: for a person."""

    code: int
    last_line: str
    ran_seconds: float
    sentence: str


@dataclass
class LeasedProcess:
    """At most one child of this process. All methods may be called from any thread.

    `name`: what it is, in a sentence. `command` is started with this process's environment and `environment`.
    `sentences`: what an exit code of it means, where there is more to say than for all leased processes.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    sentences: Mapping[int, str] = field(default_factory=dict)
    ended: Ended | None = None
    starts: int = 0
    trouble: str | None = None
    """What keeps it from its work, and what to do about it: how the last child ended, until the next one says that it
    works or has run for as long as `backoff` calls healthy; or what the running one says. None: nothing known."""
    _process: subprocess.Popen[bytes] | None = None
    _started_at: float = 0.0
    _not_before: float = 0.0
    pauses: Backoff = field(default_factory=backoff.leased_process)
    _lines: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_LINES))
    _dropped: int = 0
    _last_line: str = ""
    _is_successor: bool = False
    _reader: threading.Thread | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _output_lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def pid(self) -> int | None:
        """The running child's process id."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def keep(self) -> bool:
        """Renews the lease of the running child, or starts one unless it is too early. Says whether one runs."""
        with self._lock:
            self._notice_end()
            if self._process is None:
                if time.monotonic() < self._not_before:
                    return False
                self._start()
            elif self._is_successor and time.monotonic() - self._started_at > self.pauses.healthy:
                self._is_successor, self.trouble = False, None
            self._renew()
            return True

    @property
    def pause_left(self) -> float:
        """Seconds until `keep` may start another child."""
        return max(0.0, self._not_before - time.monotonic())

    def stop(self, patience: float = backoff.GRACE_SECONDS) -> None:
        """Ends the child: asks it to finish its batch, and kills it after `patience` seconds.

        Killing loses nothing: the batch in hand rolls back together with its cursor.
        """
        with self._lock:
            process = self._process
            if process is None:
                return
            self._close_lease(process)
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self._notice_end()
            # It was asked to end, so it may be started again at once.
            self._not_before, self.pauses.failures = 0.0, 0
            self._is_successor, self.trouble = False, None

    def lines(self) -> list[str]:
        """The lines of the child since the last call, oldest first; of too many, the newest `MAX_LINES`."""
        with self._output_lock:
            dropped, self._dropped = self._dropped, 0
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
        return [f"({dropped:,} earlier lines left out)", *lines] if dropped else lines

    def _start(self) -> None:
        self._last_line = ""
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **self.environment, "PYTHONUNBUFFERED": "1"},
            # Its own session: Ctrl-C in the terminal reaches it through its lease, in order, not by a signal that
            # would race with it.
            start_new_session=True,
        )
        assert self._process.stdin is not None
        # A child that hangs lets its lease pipe fill up; renewing must not hang with it.
        os.set_blocking(self._process.stdin.fileno(), False)
        self._started_at = time.monotonic()
        self.starts += 1
        name = f"{self.name} output"
        self._reader = threading.Thread(target=self._read, args=(self._process,), name=name, daemon=True)
        self._reader.start()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout:
            while raw := process.stdout.readline(MAX_LINE_LENGTH):
                line = raw.decode("utf-8", "replace").rstrip()
                if not line:
                    continue
                if line.startswith(STATUS.rstrip()):
                    self._is_successor, self.trouble = False, line.removeprefix(STATUS.rstrip()).strip() or None
                    continue
                with self._output_lock:
                    self._dropped += len(self._lines) == MAX_LINES
                    self._lines.append(line)
                    self._last_line = line

    def _renew(self) -> None:
        assert self._process is not None and self._process.stdin is not None
        # A full pipe means that renewals are waiting already; a broken one that the child is ending, which the next
        # call notices.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._process.stdin.fileno(), b".")

    def _close_lease(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()

    def _notice_end(self) -> None:
        process = self._process
        if process is None or process.poll() is None:
            return
        self._process = None
        self._close_lease(process)
        if self._reader is not None:
            # The pipe is at its end unless a grandchild holds it open, which is not worth waiting for.
            self._reader.join(1.0)
        ran = time.monotonic() - self._started_at
        self.ended = Ended(process.returncode, self._last_line, ran, self._sentence(process.returncode, ran))
        self._is_successor, self.trouble = True, self.ended.sentence
        self.pauses.connected_for(ran)
        self._not_before = time.monotonic() + self.pauses.next()

    def _sentence(self, code: int, ran_seconds: float) -> str:
        if code in self.sentences:
            return self.sentences[code]
        if code == EXIT_ENDED:
            return f"the {self.name} ended"
        if code == EXIT_LOCKED:
            return f"another {self.name} is at work; waiting for it to end"
        if code == EXIT_LOCK_LOST:
            return f"the database connection that held its lock was lost; the {self.name} is started again"
        if code == EXIT_OPERATOR_ERROR and self._last_line:
            return self._last_line
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"the {self.name} crashed ({how}) after {ran_seconds:.0f} s: {self._last_line or 'it said nothing'}"
