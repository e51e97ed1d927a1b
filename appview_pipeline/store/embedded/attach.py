"""Using the embedded PostgreSQL: it starts when a process first needs it, and stops after the last one.

`attach` is all that a process needs. It holds a shared lock for as long as the process lives or until `close`. The
first process starts a detached supervisor (see `supervisor`), which stops the server once no process has held the lock
for 20 s. Whichever of them is killed, the kernel frees its locks, and the next `attach` starts what is missing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import psycopg2

from appview_pipeline.backoff import POLL_SECONDS, REPORT_SECONDS, SUPERVISOR_TRIES
from appview_pipeline.errors import OperatorError
from appview_pipeline.settings import Settings
from appview_pipeline.store.embedded import server_user, state_folder
from appview_pipeline.store.embedded.state_folder import SOCKET_PORT, StateFolder
from appview_pipeline.store.embedded.supervisor import DATABASE, IDLE_SECONDS
from appview_pipeline.store.embedded.supervisor_status import SupervisorStatus, new_status, read_status, write_status

# What the supervisor needs of the environment beside what the server needs: where Python finds its modules, and how it
# reads file names.
_PYTHON_NEEDS = ("PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "PYTHONUTF8", "VIRTUAL_ENV", "LANG", "LC_ALL", "LC_CTYPE")

_log = logging.getLogger(__name__)


class EmbeddedPostgres:
    """A running server that stays up at least until `close` or the end of this process."""

    def __init__(
        self,
        socket_dir: Path,
        version: str,
        state: StateFolder,
        close: Callable[[], None],
        ensure_running: Callable[[], object] | None = None,
    ) -> None:
        self.socket_dir = socket_dir
        self.version = version
        self.state_dir = state.path
        self._close: Callable[[], None] | None = close
        self._ensure_running = ensure_running

    def url(self, database: str = DATABASE) -> str:
        """SQLAlchemy URL of one of its databases.

        The port only names the socket's file; it is given because PGPORT in the environment would count otherwise.
        """
        host = quote(str(self.socket_dir), safe="/")
        return f"postgresql+psycopg2://postgres@/{quote(database, safe='')}?host={host}&port={SOCKET_PORT}"

    def ensure_running(self) -> None:
        """Returns once the server accepts connections, starting what was killed. Cheap when it runs.

        For a process that finds its connections broken. The URL stays the same. Raises `OperatorError` as `attach`.
        """
        if self._ensure_running is not None:
            self._ensure_running()

    def close(self) -> None:
        """Lets go of the server; does nothing the second time."""
        if self._close is not None:
            release, self._close = self._close, None
            release()

    def __enter__(self) -> EmbeddedPostgres:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Wait:
    """A wait for the server, which may take long: on a slow machine, or while it recovers from a crash.

    Says every 15 s that it goes on, and ends with an `OperatorError` after `limit` seconds, or after `patience` seconds
    of a caller that will come back.
    """

    def __init__(self, state: StateFolder, limit: float, patience: float | None = None) -> None:
        self._state = state
        self._limit = limit
        self._patience = patience
        self._began = time.monotonic()
        self._next_report = REPORT_SECONDS

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def pause(self, doing: str) -> None:
        """Sleeps for a moment; `doing` is what the server is doing."""
        waited = self.seconds
        if self._patience is not None and waited > self._patience:
            raise OperatorError(
                f"The embedded PostgreSQL is still {doing}, which takes minutes on a slow machine or after a crash: "
                f"wait, or see {self._state.log}."
            )
        if waited > self._limit:
            raise OperatorError(
                f"The embedded PostgreSQL is still {doing} after {self._limit:g} s: see {self._state.log}, and raise "
                "APPVIEW_DATABASE_START_SECONDS if it only needs more time."
            )
        if waited >= self._next_report:
            self._next_report += REPORT_SECONDS
            _log.info(
                "The embedded PostgreSQL is still %s after %.0f s. The last line of %s: %s",
                doing,
                waited,
                self._state.log,
                state_folder.last_log_line(self._state) or "(none)",
            )
        time.sleep(POLL_SECONDS)


def attach(
    settings: Settings, *, patience: float | None = None, idle_seconds: float = IDLE_SECONDS
) -> EmbeddedPostgres:
    """Joins the embedded server of `settings.state_dir`, starting it if need be, and returns once it is usable.

    `idle_seconds` is how long a server that this call starts waits for new users after its last one (for tests).
    A lock taken before a fork is also the forked child's; programs started by this process do not inherit it.

    Goes on as long as the supervisor does. Raises `OperatorError` with the reason when that has failed, or when there
    is no usable server within `settings.database_start_seconds`; also after `patience` seconds, for a caller that must
    return before: the start goes on, and the caller joins it when it calls again.
    """
    state = state_folder.create(settings.state_dir or state_folder.default_state_dir())
    # Refuses a database of another user at once.
    state_folder.restrict(state, server_user.choose(state.data_dir))
    wait = _Wait(state, settings.database_start_seconds, patience)
    users_lock = _hold_users_lock(state, wait)

    def ensure_running() -> SupervisorStatus:
        again = _Wait(state, settings.database_start_seconds)
        return _wait_until_ready(state, settings.postgres_bin, idle_seconds, again)

    try:
        status = _wait_until_ready(state, settings.postgres_bin, idle_seconds, wait)
    except BaseException:
        os.close(users_lock)
        raise
    return EmbeddedPostgres(
        Path(status.socket_dir),
        status.version,
        state,
        # Closing frees the lock, unlike unlocking, only when a forked child does not hold it too.
        close=lambda: os.close(users_lock),
        ensure_running=ensure_running,
    )


def _hold_users_lock(state: StateFolder, wait: _Wait) -> int:
    """Takes the shared lock, waiting for a supervisor that is stopping (it keeps the lock until it has ended)."""
    while True:
        descriptor = state.open("users.lock", os.O_RDWR)
        try:
            while not state_folder.lock(descriptor, "shared"):
                wait.pause("stopping")
        except BaseException:
            os.close(descriptor)
            raise
        if state.is_current("users.lock", descriptor):
            return descriptor
        os.close(descriptor)  # the folder was removed and created again meanwhile


def _wait_until_ready(
    state: StateFolder, postgres_bin: Path | None, idle_seconds: float, wait: _Wait
) -> SupervisorStatus:
    """Returns the status of a running server. The caller holds the users' lock, which keeps the server from stopping.

    The process that gets the owner's lock has the duty to start the supervisor, and passes the lock on to it: at any
    moment at most one process starts or supervises, and a death anywhere frees the lock for the next one.
    """
    silent_starts = 0
    before = read_status(state)
    owner_lock = state.open("owner.lock", os.O_RDWR)
    try:
        while True:
            status = read_status(state)
            if state_folder.lock(owner_lock, "exclusive"):
                # There is no supervisor. Was there one while we waited, which failed?
                status = read_status(state)
                if status and status.phase == "failed" and (before is None or status.run != before.run):
                    raise OperatorError(status.reason)
                if silent_starts >= SUPERVISOR_TRIES:
                    raise OperatorError(
                        f"The embedded PostgreSQL's supervisor ended {silent_starts} times without a reason: see "
                        f"{state.log}, or set DATABASE_URL to another server."
                    )
                silent_starts += 1
                write_status(state, new_status())  # the status of the one before no longer counts
                _start_supervisor(state, owner_lock, postgres_bin, idle_seconds)
                passed_on, owner_lock = owner_lock, state.open("owner.lock", os.O_RDWR)
                os.close(passed_on)
            elif status and _is_usable(status, state):
                level = logging.INFO if wait.seconds > 0.1 else logging.DEBUG
                _log.log(
                    level, "Embedded PostgreSQL %s is ready after %.1f s: %s", status.version, wait.seconds, state.path
                )
                return status
            wait.pause("starting")
    finally:
        os.close(owner_lock)


def _start_supervisor(state: StateFolder, owner_lock: int, postgres_bin: Path | None, idle_seconds: float) -> None:
    """Starts the supervisor as a process of its own, which keeps `owner_lock` and nothing else of ours."""
    argv = [sys.executable, "-m", "appview_pipeline.store.embedded.supervisor", str(state.path)]
    argv += ["--owner-lock", str(owner_lock), "--idle-seconds", str(idle_seconds)]
    if postgres_bin is not None:
        argv += ["--postgres-bin", str(postgres_bin.expanduser().absolute())]
    package_parent = str(Path(__file__).resolve().parents[3])
    environment = server_user.environment(*_PYTHON_NEEDS)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (package_parent, os.environ.get("PYTHONPATH"))))
    state_folder.rotate_log(state)
    log = state.open("postgres.log", os.O_WRONLY | os.O_APPEND)
    try:
        starter = subprocess.Popen(
            argv,
            cwd="/",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=(owner_lock,),
        )
        # It only forks the supervisor, and holds the owner's lock meanwhile. When that takes longer, the caller waits.
        with contextlib.suppress(subprocess.TimeoutExpired):
            starter.wait(30)
    except OSError as error:
        raise OperatorError(
            f"Cannot start the embedded PostgreSQL's supervisor ({error}): set DATABASE_URL to another server."
        ) from None
    finally:
        os.close(log)


def _is_usable(status: SupervisorStatus, state: StateFolder) -> bool:
    if status.phase != "ready":
        return False
    try:
        with closing(
            psycopg2.connect(
                host=status.socket_dir, port=SOCKET_PORT, user="postgres", dbname=DATABASE, connect_timeout=10
            )
        ):
            # Not so when a new supervisor has just taken over: then this was the old one's server, which is ending.
            return read_status(state) == status
    except psycopg2.OperationalError:
        return False
