"""The embedded PostgreSQL: starts by itself when first needed, shared by all processes, stops after the last of them.

`attach` is all that a process needs. It holds a shared lock for as long as the process lives or until `close`; the
first one starts a detached supervisor (see `supervisor`), which stops the server once nobody has held the lock for
20 s. Whatever is killed, the kernel frees its locks, and the next `attach` starts what is missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import psycopg2

from appview_pipeline.errors import OperatorError
from appview_pipeline.settings import Settings
from appview_pipeline.store.embedded import server_user, state_folder
from appview_pipeline.store.embedded.server import PostgresServer
from appview_pipeline.store.embedded.state_folder import SOCKET_PORT, StateFolder, SupervisorStatus
from appview_pipeline.store.embedded.supervisor import DATABASE, IDLE_SECONDS

# Recovery after a crash reads up to 4 GB of log: 20 s on a fast disk, minutes on a slow one.
START_SECONDS = 300.0
# A supervisor that ends without a word (killed, broken installation) this often in a row is given up.
_MOST_SILENT_STARTS = 3

# Beside what the server needs, for the supervisor: where Python finds its modules, and how it reads file names.
_PYTHON_NEEDS = ("PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "PYTHONUTF8", "VIRTUAL_ENV", "LANG", "LC_ALL", "LC_CTYPE")

_EPHEMERAL = "appview-ephemeral-"

_log = logging.getLogger(__name__)


class EmbeddedPostgres:
    """A running server that stays up at least until `close` or the end of this process."""

    def __init__(
        self,
        socket_dir: Path,
        version: str,
        state: StateFolder,
        close: Callable[[], None],
        ensure: Callable[[float], SupervisorStatus] | None = None,
    ) -> None:
        self.socket_dir = socket_dir
        self.version = version
        self.state_dir = state.path
        self._close: Callable[[], None] | None = close
        self._ensure = ensure

    def url(self, database: str = DATABASE) -> str:
        """SQLAlchemy URL of one of its databases.

        The port only names the socket's file; it is given because PGPORT in the environment would count otherwise.
        """
        host = quote(str(self.socket_dir), safe="/")
        return f"postgresql+psycopg2://postgres@/{quote(database, safe='')}?host={host}&port={SOCKET_PORT}"

    def ensure_running(self, start_timeout: float = START_SECONDS) -> None:
        """Returns once the server accepts connections, starting what was killed. Cheap when it runs.

        For a process that finds its connections broken. The URL stays the same. Raises `OperatorError` as `attach`.
        """
        if self._ensure is not None:
            self._ensure(start_timeout)

    def close(self) -> None:
        """Lets go of the server; does nothing the second time."""
        if self._close is not None:
            release, self._close = self._close, None
            release()

    def __enter__(self) -> EmbeddedPostgres:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def attach(
    settings: Settings, *, start_timeout: float = START_SECONDS, idle_seconds: float = IDLE_SECONDS
) -> EmbeddedPostgres:
    """Joins the embedded server of `settings.state_dir`, starting it if need be, and returns once it is usable.

    `idle_seconds` is how long a server that this call starts waits for new users after its last one (for tests).
    A lock taken before a fork is also the forked child's; programs started by this process do not inherit it.

    Raises `OperatorError` with the reason when there is no usable server within `start_timeout` seconds.
    """
    state = state_folder.create(settings.state_dir or default_state_dir())
    # Somebody else's database: said at once.
    state_folder.restrict(state, server_user.choose(state.data_dir))
    deadline = time.monotonic() + start_timeout
    users_lock = _hold_users_lock(state, deadline, start_timeout)

    def ensure(timeout: float) -> SupervisorStatus:
        return _wait_until_ready(state, settings.postgres_bin, idle_seconds, timeout)

    try:
        status = ensure(start_timeout)
    except BaseException:
        os.close(users_lock)
        raise
    # Closing frees the lock, unlike unlocking, only when a forked child does not hold it too.
    return EmbeddedPostgres(Path(status.socket_dir), status.version, state, lambda: os.close(users_lock), ensure)


def ephemeral(*, parent: Path | None = None, postgres_bin: Path | None = None) -> EmbeddedPostgres:
    """A private server for tests in a new folder: no durability, no supervisor; `close` stops and deletes it.

    Call from the main thread; the server ends with this process, however that ends. The folder is created in `parent`
    (default: the system's temporary folder); what killed processes left there is deleted.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    _delete_left_ephemerals(parent)
    folder = Path(tempfile.mkdtemp(prefix=_EPHEMERAL, dir=parent)).resolve()
    state = StateFolder(folder)
    owner_lock = state.open("owner.lock", os.O_RDWR)
    state_folder.lock(owner_lock, "exclusive")
    server = PostgresServer(state, binaries=postgres_bin, ephemeral=True)
    owner = os.getpid()

    def close() -> None:
        if os.getpid() != owner:  # a forked child's copy of this object
            return
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
        if folder not in server.socket_dir.parents:
            shutil.rmtree(server.socket_dir, ignore_errors=True)
        os.close(owner_lock)

    try:
        server.prepare()
        server.start()
        server.wait_until_ready(60)
        server.create_database(DATABASE)
    except BaseException:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
        os.close(owner_lock)
        raise
    return EmbeddedPostgres(server.socket_dir, server.version, state, close)


def _delete_left_ephemerals(parent: Path) -> None:
    for folder in parent.glob(f"{_EPHEMERAL}*"):
        try:
            found = folder.lstat()
            if found.st_uid != os.geteuid() or not (folder / "owner.lock").exists():
                continue
            if time.time() - found.st_mtime < 60:  # may be about to be locked
                continue
            owner_lock = StateFolder(folder).open("owner.lock", os.O_RDWR)
        except (OSError, OperatorError):  # another process deletes it
            continue
        if state_folder.lock(owner_lock, "exclusive"):
            shutil.rmtree(folder, ignore_errors=True)
        os.close(owner_lock)


def default_state_dir() -> Path:
    """The state folder when no setting names one.

    `.appview` in the checkout that this package runs from. Where root's database user could not reach that, or this
    user could not write it, and where there is no checkout: a folder in the system's (root) or the user's state folder.
    """
    checkout = Path(__file__).resolve().parents[3]
    is_checkout = (checkout / "workspace.yaml").exists()
    is_root = os.geteuid() == 0
    if is_checkout:
        inside = checkout / ".appview"
        if is_root:
            usable = server_user.first_barrier(inside, server_user.choose(inside / "pgdata")) is None
        else:
            usable = os.access(inside if inside.exists() else checkout, os.W_OK)
        if usable:
            return inside
    if is_root:
        base = Path("/var/lib/appview-pipeline")
    else:
        base = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "appview-pipeline"
    return base / hashlib.sha256(os.fsencode(checkout)).hexdigest()[:12] if is_checkout else base


def _hold_users_lock(state: StateFolder, deadline: float, timeout: float) -> int:
    """Takes the shared lock, waiting for a supervisor that is stopping (it keeps the lock until it has ended)."""
    while True:
        descriptor = state.open("users.lock", os.O_RDWR)
        try:
            while not state_folder.lock(descriptor, "shared"):
                if time.monotonic() > deadline:
                    raise OperatorError(
                        f"The embedded PostgreSQL has been stopping for {timeout:g} s: see {state.log} and start again."
                    )
                time.sleep(0.02)
        except BaseException:
            os.close(descriptor)
            raise
        if state.is_current("users.lock", descriptor):
            return descriptor
        os.close(descriptor)  # the folder was removed and made anew meanwhile


def _wait_until_ready(
    state: StateFolder, postgres_bin: Path | None, idle_seconds: float, timeout: float
) -> SupervisorStatus:
    """Returns the status of a running server. The caller holds the users' lock, so that nobody stops it for idleness.

    Who gets the owner's lock has the duty to start the supervisor, and passes the lock on to it: at any moment at most
    one process starts or supervises, and a death anywhere frees the lock for the next one.
    """
    began = time.monotonic()
    told = False
    silent_starts = 0
    before = state_folder.read_status(state)
    owner_lock = state.open("owner.lock", os.O_RDWR)
    try:
        while True:
            status = state_folder.read_status(state)
            if state_folder.lock(owner_lock, "exclusive"):
                # Nobody is in charge. Did somebody try while we waited, and fail?
                status = state_folder.read_status(state)
                if status and status.phase == "failed" and (before is None or status.run != before.run):
                    raise OperatorError(status.reason)
                if silent_starts >= _MOST_SILENT_STARTS:
                    raise OperatorError(
                        f"The embedded PostgreSQL's supervisor ended {silent_starts} times without a reason: see "
                        f"{state.log}, or set DATABASE_URL to another server."
                    )
                silent_starts += 1
                state_folder.write_status(state, state_folder.new_status())  # the old one's word no longer counts
                _start_supervisor(state, owner_lock, postgres_bin, idle_seconds)
                passed_on, owner_lock = owner_lock, state.open("owner.lock", os.O_RDWR)
                os.close(passed_on)
            elif status and _is_usable(status, state):
                return _report(status, state, time.monotonic() - began)
            waited = time.monotonic() - began
            if waited > 5 and not told:
                told = True
                _log.info("waiting for the embedded PostgreSQL, which may be recovering from a crash: %s", state.log)
            if waited > timeout:
                raise OperatorError(
                    f"The embedded PostgreSQL is not ready after {timeout:g} s: see {state.log} and start again."
                )
            time.sleep(0.03)
    finally:
        os.close(owner_lock)


def _report(status: SupervisorStatus, state: StateFolder, waited: float) -> SupervisorStatus:
    level = logging.INFO if waited > 0.1 else logging.DEBUG
    _log.log(level, "embedded PostgreSQL %s is ready after %.1f s: %s", status.version, waited, state.path)
    return status


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
        with contextlib.suppress(subprocess.TimeoutExpired):  # then it is slow, and our caller's time limit counts
            starter.wait(30)  # it only forks the supervisor
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
                host=status.socket_dir, port=SOCKET_PORT, user="postgres", dbname=DATABASE, connect_timeout=5
            )
        ):
            # Not so when a new supervisor took over just now: this was the old one's server, which is ending.
            return state_folder.read_status(state) == status
    except psycopg2.OperationalError:
        return False
