"""Runs one PostgreSQL server as a direct child of this process: create, start, watch, stop.

Used by the supervisor and, for tests, by the test process itself. The caller holds the state folder's `owner.lock`,
which makes it the only one to touch the data directory; what an earlier owner left behind is cleared at each start.
"""

from __future__ import annotations

import ctypes
import locale
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import psycopg2

from appview_pipeline.errors import OperatorError
from appview_pipeline.store.embedded import binaries, configuration, server_user, state_folder
from appview_pipeline.store.embedded.state_folder import SOCKET_PORT, StateFolder, rotate_log, socket_dir

# A fast shutdown ends with a checkpoint; on a slow disk that takes its time. Then the hard ways.
_STOP_SECONDS = 60.0
_HARD_STOP_SECONDS = 20.0

_PR_SET_PDEATHSIG = 1
# Loaded before any fork: the child of one may not load libraries.
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

# What the server says when it does not start, and what to do about it. First match wins.
_REMEDIES = (
    (r"No space left on device", "free some disk space and start again"),
    (r"postgresql\.user\.conf", "correct that file"),
    (r"lock file|pre-existing shared memory|Address already in use", "stop the other server that uses this folder"),
    (r"has invalid permissions|wrong ownership", "set APPVIEW_STATE_DIR to a folder on a local disk"),
    (r"[Pp]ermission denied", "give the named file to the user of the database folder, or set APPVIEW_STATE_DIR"),
    (r"shared memory|semaphores|[Cc]annot allocate memory", "lower shared_buffers in postgresql.user.conf"),
    (r"user does not exist", "add this user to /etc/passwd, start as another user, or set DATABASE_URL"),
    (r"database files are incompatible", "set APPVIEW_POSTGRES_BIN to the binaries that made the data directory"),
)
# Another server was just ending: worth another try.
_TRANSIENT = re.compile(r"lock file|pre-existing shared memory|Address already in use|is shutting down")


class PostgresServer:
    """The server on one state folder. Not thread-safe; `start` must be called from the main thread.

    (The kernel ties the server's life to the thread that started it.)
    """

    def __init__(self, state: StateFolder, *, binaries: Path | None = None, ephemeral: bool = False) -> None:
        self.state = state
        self._configured_binaries = binaries
        self._ephemeral = ephemeral
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def prepare(self) -> None:
        """Finds user and binaries, and creates the data directory if there is none.

        Raises `OperatorError` for each thing that an operator has to put right.
        """
        data_dir = self.state.data_dir
        self._user = server_user.choose(data_dir)
        state_folder.restrict(self.state, self._user)
        barrier = server_user.first_barrier(self.state.path, self._user)
        if barrier and not server_user.runs(self._user, ["/bin/sh", "-c", 'cd -- "$1"', "sh", str(self.state.path)]):
            raise OperatorError(
                f"The database's user `{self._user.name}` (PostgreSQL refuses to run as root) cannot enter {barrier}: "
                "set APPVIEW_STATE_DIR to a folder it can reach, such as /var/lib/appview-pipeline."
            )
        found = binaries.find(self._configured_binaries, self._data_major())
        self._binaries = binaries.runnable_by(self._user, found, self.state)
        self.socket_dir = socket_dir(self.state, self._user)
        if not data_dir.exists():
            self._create_data_dir()
        if not self.state.user_conf.exists():
            with os.fdopen(self.state.open("postgresql.user.conf", os.O_WRONLY), "w", encoding="utf-8") as file:
                file.write(configuration.USER_CONF)
        state_folder.restrict(self.state, self._user)
        text = configuration.conf_text(
            configuration.server_settings(
                configuration.usable_memory(),
                shutil.disk_usage(data_dir).total,
                ephemeral=self._ephemeral,
                lz4=self._accepts("wal_compression=lz4"),
            )
        )
        # Written by the server's user: root never opens a file in a folder of somebody else's for writing.
        self._run(["/bin/sh", "-c", 'cat >"$1"', "sh", str(data_dir / "appview.conf")], text)

    @property
    def version(self) -> str:
        """Of the binaries, such as "18.6"."""
        return self._binaries.version

    def start(self) -> None:
        """Starts the server process. It is usable once `is_ready`; crash recovery can take minutes.

        Raises `OperatorError` when an earlier server on this data directory cannot be ended.
        """
        self._clear_remains()
        rotate_log(self.state)
        log = self.state.open("postgres.log", os.O_WRONLY | os.O_APPEND)
        self._log_start = os.fstat(log).st_size
        argv = [
            str(self._binaries.folder / "postgres"),
            *("-D", str(self.state.data_dir)),
            *("-p", str(SOCKET_PORT)),
            *("-k", str(self.socket_dir)),
        ]
        try:
            self._process = subprocess.Popen(
                argv,
                cwd="/",
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a terminal's Ctrl-C is for its programs, not for their database
                preexec_fn=_end_with_us(signal.SIGINT),
                **self._user.popen(),
            )
        finally:
            os.close(log)

    def exit_code(self) -> int | None:
        """None while the server runs, else its exit status or minus the signal that ended it."""
        assert self._process is not None, "not started"
        return self._process.poll()

    def is_ready(self) -> bool:
        """Whether the server says that it accepts connections."""
        if self._process is None or self._process.poll() is not None:
            return False
        lines = self._pid_file_lines()
        return len(lines) > 7 and lines[0] == str(self._process.pid) and lines[7].strip() == "ready"

    def wait_until_ready(self, seconds: float) -> None:
        """Raises `OperatorError` when the server ends or is not ready in that time."""
        deadline = time.monotonic() + seconds
        while not self.is_ready():
            if self.exit_code() is not None:
                raise OperatorError(self.failure())
            if time.monotonic() > deadline:
                raise OperatorError(
                    f"The embedded PostgreSQL is not ready after {seconds:g} s: see {self.state.log} and start again."
                )
            time.sleep(0.02)

    def create_database(self, name: str) -> None:
        """Creates the database unless it exists. Raises `psycopg2.Error` when the server is going down."""
        with closing(self._connect()) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
            if cursor.fetchone() is None:
                cursor.execute(f'CREATE DATABASE "{name}"')

    def checkpoint(self) -> None:
        """Writes out all changed pages now, so that a stop or the recovery after a crash is quick."""
        with closing(self._connect()) as connection, connection.cursor() as cursor:
            cursor.execute("CHECKPOINT")

    def reload(self) -> None:
        """Makes the server read its settings again."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """Ends the server, its clients' sessions with it: fast, then without a checkpoint, then by force."""
        if self._process is None:
            return
        for number, seconds in (
            (signal.SIGINT, 1.0 if self._ephemeral else _STOP_SECONDS),
            (signal.SIGQUIT, _HARD_STOP_SECONDS),
            (signal.SIGKILL, _HARD_STOP_SECONDS),
        ):
            if self._process.poll() is None:
                self._process.send_signal(number)
                try:
                    self._process.wait(seconds)
                except subprocess.TimeoutExpired:
                    continue
            break
        self._clear_remains()

    def failure(self) -> str:
        """Why the server ended, in one sentence with a remedy, from what it wrote to its log."""
        message = _last_error(self._log_text())
        if not message:
            message = f"exit status {self._process.poll() if self._process else None}"
        return f"The embedded PostgreSQL did not start ({message}): {_remedy(message, self.state)}."

    def failed_transiently(self) -> bool:
        """Whether the server ended because of another one that was about to be gone, or by a signal."""
        code = self.exit_code()
        return (code is not None and code < 0) or bool(_TRANSIENT.search(_last_error(self._log_text())))

    # Creating the data directory

    def _data_major(self) -> int | None:
        if not self.state.data_dir.exists():
            return None
        try:
            return int((self.state.data_dir / "PG_VERSION").read_text(encoding="ascii").partition(".")[0])
        except (OSError, ValueError):
            raise OperatorError(
                f"{self.state.data_dir} is not a PostgreSQL data directory (no readable PG_VERSION): move it away to "
                "start with an empty database, or set APPVIEW_STATE_DIR to another folder."
            ) from None

    def _create_data_dir(self) -> None:
        """Runs initdb aside and renames, so that a data directory that exists is a whole one."""
        for unfinished in self.state.path.glob("initdb-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        building = Path(tempfile.mkdtemp(prefix="initdb-", dir=self.state.path))
        self._user.own(building)
        building.chmod(0o700)
        if building.stat().st_mode & 0o077:
            raise OperatorError(
                f"The file system of {self.state.path} does not keep file permissions, which PostgreSQL insists on: "
                "set APPVIEW_STATE_DIR to a folder on a local disk."
            )
        argv = [str(self._binaries.folder / "initdb"), "-D", str(building), "-U", "postgres", "-E", "UTF8"]
        argv += ["--auth-local=trust", "--auth-host=reject", "--no-instructions", *_locale(self._binaries.major)]
        argv += ["--no-sync"] if self._ephemeral else []
        self._run(argv)
        # Kept beside what initdb found out about this machine, which comes first and is overridden.
        includes = "\ninclude 'appview.conf'\ninclude_if_exists '../postgresql.user.conf'\n"
        self._run(["/bin/sh", "-c", 'cat >>"$1"', "sh", str(building / "postgresql.conf")], includes)
        building.rename(self.state.data_dir)
        if not self._ephemeral:
            folder = os.open(self.state.path, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)

    def _accepts(self, setting: str) -> bool:
        """Whether these binaries know the setting `name=value`: `-C` checks it without starting a server."""
        program = str(self._binaries.folder / "postgres")
        # Without the configuration files, where an operator's error must not matter here.
        argv = [program, "-D", str(self.state.data_dir), "-c", f"config_file={os.devnull}", "-c", setting]
        return server_user.runs(self._user, [*argv, "-C", setting.partition("=")[0]])

    def _run(self, argv: Sequence[str], text: str = "") -> None:
        try:
            done = subprocess.run(
                argv,
                cwd="/",
                env=_environment(),
                input=text,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                preexec_fn=_end_with_us(signal.SIGKILL),
                **self._user.popen(),
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise OperatorError(
                f"Cannot run {argv[0]} as `{self._user.name}` ({error}): start as an ordinary user or set DATABASE_URL."
            ) from None
        if done.returncode:
            with os.fdopen(self.state.open("postgres.log", os.O_WRONLY | os.O_APPEND), "a", encoding="utf-8") as log:
                log.write(done.stdout)
            message = _last_error(done.stdout) or f"exit status {done.returncode}"
            raise OperatorError(
                f"The embedded PostgreSQL's data directory cannot be created ({message}): "
                f"{_remedy(message, self.state)}."
            )

    # What an earlier server left behind

    def _clear_remains(self) -> None:
        """Ends every PostgreSQL process on our data directory and removes stale pid files.

        A killed server's sessions may live on for a moment, and a killed supervisor's server takes time to shut down.
        The pid files are removed because their pids may by now be those of innocent processes, which would keep
        PostgreSQL from starting; nothing is ever signalled but a `postgres` process working in our data directory.
        """
        postmaster = self._pid_file_lines()[:1]
        for number, seconds in (
            (signal.SIGINT, _STOP_SECONDS),
            (signal.SIGQUIT, _HARD_STOP_SECONDS),
            (signal.SIGKILL, _HARD_STOP_SECONDS),
        ):
            left = list(self._processes())
            if number == signal.SIGINT:  # only the postmaster knows an orderly shutdown
                left = [pid for pid in left if [str(pid)] == postmaster]
            for pid in left:
                _send(pid, number)
            deadline = time.monotonic() + seconds
            while left and time.monotonic() < deadline:
                time.sleep(0.02)
                running = set(self._processes())
                left = [pid for pid in left if pid in running]
        if left := list(self._processes()):
            raise OperatorError(
                f"An earlier PostgreSQL server on {self.state.data_dir} does not end (process {left[0]}): end it or "
                "restart this machine."
            )
        for pid_file in (
            self.state.data_dir / "postmaster.pid",
            self.socket_dir / f".s.PGSQL.{SOCKET_PORT}",
            self.socket_dir / f".s.PGSQL.{SOCKET_PORT}.lock",
        ):
            pid_file.unlink(missing_ok=True)

    def _processes(self) -> Iterator[int]:
        """Process ids of PostgreSQL servers and sessions working in our data directory, zombies not among them."""
        if sys.platform != "linux":
            yield from self._postmaster_by_ps()
            return
        try:
            data_dir = self.state.data_dir.stat()
        except FileNotFoundError:  # removed while we ran
            return
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                program = (entry / "exe").readlink().name.removesuffix(" (deleted)")
                ours = program == "postgres" and os.path.samestat((entry / "cwd").stat(), data_dir)
            except OSError:  # gone meanwhile, or somebody else's
                continue
            if ours:
                yield int(entry.name)

    def _postmaster_by_ps(self) -> Iterator[int]:
        for pid in self._pid_file_lines()[:1]:
            if pid.isdigit():
                argv = ["ps", "-o", "stat=,command=", "-p", pid]
                found = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
                if "postgres" in found and str(self.state.data_dir) in found and not found.startswith("Z"):
                    yield int(pid)

    def _pid_file_lines(self) -> list[str]:
        try:
            return (self.state.data_dir / "postmaster.pid").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []

    def _log_text(self) -> str:
        try:
            with self.state.log.open("rb") as log:
                size = os.fstat(log.fileno()).st_size
                # From where this server's output starts (all of it, when the log was cut meanwhile), bounded.
                start = self._log_start if self._log_start <= size else 0
                log.seek(max(start, size - 65536))
                return log.read().decode("utf-8", "replace")
        except OSError:
            return ""

    def _connect(self) -> psycopg2.extensions.connection:
        connection = psycopg2.connect(
            host=str(self.socket_dir),
            port=SOCKET_PORT,
            user="postgres",
            dbname="postgres",
            connect_timeout=10,
            application_name="appview supervisor",
        )
        connection.autocommit = True
        return connection


def _locale(major: int) -> list[str]:
    """initdb's flags for texts that sort by their bytes on every machine, with Unicode's letters and cases.

    The C library's character classes are wanted besides the built-in provider's: pg_trgm asks only them, and with
    those of "C" it finds no trigrams in any but ASCII text.
    """
    flags = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if major >= 17 else []
    before = locale.setlocale(locale.LC_CTYPE)
    character_classes = "C"
    for candidate in ("C.UTF-8", "en_US.UTF-8"):
        try:
            locale.setlocale(locale.LC_CTYPE, candidate)
        except locale.Error:
            continue
        character_classes = candidate
        break
    locale.setlocale(locale.LC_CTYPE, before)
    return [*flags, "--locale=C", f"--lc-ctype={character_classes}"]


def _environment() -> dict[str, str]:
    """What the server needs of our environment, and messages in English."""
    return {**server_user.environment(), "LANG": "C", "LC_ALL": "C"}


def _end_with_us(number: int) -> Callable[[], None] | None:
    """For Popen's preexec_fn: the child gets signal `number` when this thread ends, however it ends. Linux only.

    Elsewhere the next start finds and ends what was left.
    """
    if _LIBC is None:
        return None
    parent = os.getpid()
    set_option = _LIBC.prctl

    def ask_kernel() -> None:
        set_option(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it ended before we could ask
            os._exit(1)

    return ask_kernel


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _last_error(output: str) -> str:
    """The last error in a server's or initdb's output, with the line that explains a configuration error."""
    errors = re.findall(r"(?:FATAL|PANIC|ERROR|error):\s+(.*)", output)
    if not errors:
        return ""
    message: str = errors[-1].strip().rstrip(".:")
    if "contains errors" in message:
        details = [text for text in re.findall(r"LOG:\s+(.*)", output) if "parameter" in text or "error in" in text]
        if details:
            message = f"{details[-1].strip()} in {message}"
    return message


def _remedy(message: str, state: StateFolder) -> str:
    for pattern, remedy in _REMEDIES:
        if re.search(pattern, message):
            return remedy
    return f"see {state.log} or set DATABASE_URL"
