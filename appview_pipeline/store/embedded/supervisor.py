"""The process that owns the embedded PostgreSQL: `python -m appview_pipeline.store.embedded.supervisor STATE_DIR`.

Started (detached) by the first process that needs the database, see `attach`. It runs the server as its child, starts
it again when it dies, and ends it once no process has used it for a while: when `users.lock` was free at every look for
`--idle-seconds`. Signals: TERM and INT stop the server, HUP makes it read its settings again.

Several of these may be waiting for users on one machine, so this imports little: no SQLAlchemy, no Dagster.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections import deque
from pathlib import Path
from types import FrameType

import psycopg2

from appview_pipeline import backoff
from appview_pipeline.backoff import (
    IDLE_POLL_SECONDS,
    POLL_SECONDS,
    SERVER_RESTARTS,
    SERVER_RESTARTS_SECONDS,
    STARTING_IDLE_SECONDS,
)
from appview_pipeline.errors import OperatorError
from appview_pipeline.store.embedded import state_folder
from appview_pipeline.store.embedded.server import PostgresServer
from appview_pipeline.store.embedded.state_folder import StateFolder
from appview_pipeline.store.embedded.supervisor_status import SupervisorStatus, new_status, write_status

DATABASE = "appview"
IDLE_SECONDS = 20.0


class _Idle:
    """Measures for how long no process has held `users.lock`."""

    def __init__(self, state: StateFolder, limit: float) -> None:
        self._lock = state.open("users.lock", os.O_RDWR)
        self._limit = limit
        self._since: float | None = None
        self._next_look = 0.0

    def seconds(self) -> float:
        return 0.0 if self._since is None else time.monotonic() - self._since

    def restart(self) -> None:
        """Measures from now on."""
        self._since = None

    def is_over(self, at_least: float = 0.0) -> bool:
        """True once it has lasted for the limit and for `at_least` seconds.

        The lock is then kept, so that no process attaches while we stop.
        """
        now = time.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + min(IDLE_POLL_SECONDS, self._limit / 4)
        if not state_folder.lock(self._lock, "exclusive"):
            self._since = None
            return False
        self._since = now if self._since is None else self._since
        if now - self._since >= max(self._limit, at_least):
            return True
        state_folder.unlock(self._lock)
        return False


class _Signals:
    """Turns signals into flags that end a wait."""

    def __init__(self) -> None:
        self.stop = False
        self.reload = False
        self._wake, wake = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.stop |= number in (signal.SIGTERM, signal.SIGINT)
        self.reload |= number == signal.SIGHUP

    def wait(self, seconds: float) -> None:
        """Returns after `seconds`, or earlier at a signal (the server's death is one)."""
        if select.select([self._wake], [], [], seconds)[0]:
            os.read(self._wake, 4096)


def supervise(state: StateFolder, owner_lock: int, *, binaries: Path | None, idle_seconds: float) -> None:
    """Runs the server until no process uses it or a signal asks to stop. The caller holds `owner_lock`.

    Raises `OperatorError` when the server cannot be started or dies again and again; users then read that sentence in
    the status.
    """
    status = new_status()
    write_status(state, status)
    server = PostgresServer(state, binaries=binaries)
    try:
        _run(state, owner_lock, server, status, idle_seconds)
    except BaseException as error:
        if not isinstance(error, OperatorError):
            error = OperatorError(
                f"The embedded PostgreSQL's supervisor failed ({type(error).__name__}: {error}): see {state.log}."
            )
        if state.is_current("owner.lock", owner_lock):
            write_status(state, status.failed(str(error)))
        raise
    finally:
        server.stop()
    if state.is_current("owner.lock", owner_lock):
        write_status(state, status.now("stopped"))


def _run(
    state: StateFolder, owner_lock: int, server: PostgresServer, status: SupervisorStatus, idle_seconds: float
) -> None:
    signals = _Signals()
    idle = _Idle(state, idle_seconds)
    restarts = _Restarts(state)
    if not state.data_dir.exists():
        _say(f"creating the data directory {state.data_dir}")
    server.prepare()
    _say(f"starting PostgreSQL {server.version} on {state.data_dir}")
    server.start()
    ready = checkpointed = False
    # The folder may be removed while we run: then the one at its path is no longer ours.
    while not signals.stop and state.is_current("owner.lock", owner_lock):
        # A start that is under way is not given up: its users may be coming back for it.
        if idle.is_over(at_least=0.0 if ready else STARTING_IDLE_SECONDS):
            break
        if (code := server.exit_code()) is not None:
            if not ready and not server.failed_transiently():
                raise OperatorError(server.failure())
            _say(f"PostgreSQL ended by itself (exit status {code})")
            wait = restarts.next_wait()
            ready = False
            write_status(state, status)
            signals.wait(wait)
            server.start()
        elif not ready and server.is_ready():
            ready = _become_ready(state, server, status)
            idle.restart()
        if signals.reload:
            signals.reload = False
            server.reload()
        if idle.seconds() == 0.0:
            checkpointed = False
        elif ready and not checkpointed and idle.seconds() > idle_seconds / 4:
            # Done while we wait anyway, so that the stop itself is short.
            checkpointed = True
            threading.Thread(target=_checkpoint, args=(server,), daemon=True).start()
        state_folder.rotate_log(state)
        signals.wait(min(IDLE_POLL_SECONDS, idle_seconds / 4) if ready else POLL_SECONDS)
    _say("stopping: " + ("asked to by a signal" if signals.stop else "no process uses it"))


def _become_ready(state: StateFolder, server: PostgresServer, status: SupervisorStatus) -> bool:
    try:
        server.create_database(DATABASE)
    except psycopg2.Error as error:
        # Most likely it has just died, which the next look will find.
        _say(f"no connection to PostgreSQL: {str(error).strip()}")
        time.sleep(POLL_SECONDS)
        return False
    write_status(state, status.now("ready", str(server.socket_dir), server.version))
    _say(f"ready: {server.socket_dir}")
    return True


class _Restarts:
    """Decides how long to wait before a server that died is started again, and when to give up."""

    def __init__(self, state: StateFolder) -> None:
        self._state = state
        self._deaths: deque[float] = deque(maxlen=SERVER_RESTARTS)
        self._backoff = backoff.server()

    def next_wait(self) -> float:
        """Seconds until the next start; none after a first death. Raises `OperatorError` after too many."""
        now = time.monotonic()
        if len(self._deaths) == self._deaths.maxlen and now - self._deaths[0] < SERVER_RESTARTS_SECONDS:
            raise OperatorError(
                f"The embedded PostgreSQL died {len(self._deaths) + 1} times within "
                f"{SERVER_RESTARTS_SECONDS / 60:.0f} minutes: see {self._state.log}, or set DATABASE_URL to another "
                "server."
            )
        if self._deaths:
            self._backoff.connected_for(now - self._deaths[-1])
        self._deaths.append(now)
        return self._backoff.next() if len(self._deaths) > 1 else 0.0


def _checkpoint(server: PostgresServer) -> None:
    try:
        server.checkpoint()
    except psycopg2.Error as error:
        _say(f"no checkpoint before stopping: {str(error).strip()}")


def _say(text: str) -> None:
    stamp = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    print(f"{stamp} [{os.getpid()}] supervisor: {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m appview_pipeline.store.embedded.supervisor", description=__doc__)
    parser.add_argument("state_dir", type=Path)
    parser.add_argument("--postgres-bin", type=Path)
    parser.add_argument("--idle-seconds", type=float, default=IDLE_SECONDS)
    parser.add_argument("--owner-lock", type=int, help="descriptor that holds owner.lock; detaches from its parent")
    arguments = parser.parse_args()
    if arguments.owner_lock is not None and os.fork():
        # The starter only waits for this exit. The supervisor is no child of it, so it need not reap it, and tools that
        # end a process "and its children" do not find it.
        os._exit(0)
    try:
        state = state_folder.create(arguments.state_dir)
        owner_lock = arguments.owner_lock
        if owner_lock is None:
            owner_lock = state.open("owner.lock", os.O_RDWR)
            if not state_folder.lock(owner_lock, "exclusive"):
                raise OperatorError(f"{state.path} has a supervisor already: nothing to do.")
        else:
            os.set_inheritable(owner_lock, False)
        supervise(state, owner_lock, binaries=arguments.postgres_bin, idle_seconds=arguments.idle_seconds)
    except OperatorError as error:
        _say(str(error))
        return 1
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
