"""Runs one PostgreSQL server as a direct child of this process: prepare, start, watch, stop.

Used by the supervisor and, for tests, by the test process itself. The caller holds the state folder's `owner.lock`,
which makes it the only one to touch the data directory; what an earlier server left there is cleared at each start.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import closing
from pathlib import Path

import psycopg2

from appview_pipeline.backoff import POLL_SECONDS
from appview_pipeline.errors import OperatorError
from appview_pipeline.store.embedded import (
    binaries,
    child_process,
    data_directory,
    earlier_server,
    failures,
    server_user,
    state_folder,
)
from appview_pipeline.store.embedded.state_folder import SOCKET_PORT, StateFolder


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
        state = self.state
        user = self._user = server_user.choose(state.data_dir)
        state_folder.restrict(state, user)
        barrier = server_user.first_barrier(state.path, user)
        if barrier and not server_user.runs(user, ["/bin/sh", "-c", 'cd -- "$1"', "sh", str(state.path)]):
            raise OperatorError(
                f"The database's user `{user.name}` (PostgreSQL refuses to run as root) cannot enter {barrier}: "
                "set APPVIEW_STATE_DIR to a folder it can reach, such as /var/lib/appview-pipeline."
            )
        found = binaries.find(self._configured_binaries, data_directory.major_version(state))
        self._binaries = binaries.runnable_by(user, found, state)
        self.socket_dir = state_folder.socket_dir(state, user)
        if not state.data_dir.exists():
            data_directory.create(state, user, self._binaries, ephemeral=self._ephemeral)
        data_directory.configure(state, user, self._binaries, ephemeral=self._ephemeral)
        state_folder.restrict(state, user)

    @property
    def version(self) -> str:
        """Of the binaries, such as "18.6"."""
        return self._binaries.version

    def start(self) -> None:
        """Starts the server process. It is usable once `is_ready`; crash recovery can take minutes.

        Raises `OperatorError` when an earlier server on this data directory cannot be ended.
        """
        earlier_server.clear(self.state, self.socket_dir)
        state_folder.rotate_log(self.state)
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
                env=child_process.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a terminal's Ctrl-C is for its programs, not for their database
                preexec_fn=child_process.end_with_us(signal.SIGINT),
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
        lines = earlier_server.pid_file_lines(self.state)
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
            time.sleep(POLL_SECONDS)

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
            (signal.SIGINT, 1.0 if self._ephemeral else earlier_server.STOP_SECONDS),
            (signal.SIGQUIT, earlier_server.HARD_STOP_SECONDS),
            (signal.SIGKILL, earlier_server.HARD_STOP_SECONDS),
        ):
            if self._process.poll() is None:
                self._process.send_signal(number)
                try:
                    self._process.wait(seconds)
                except subprocess.TimeoutExpired:
                    continue
            break
        earlier_server.clear(self.state, self.socket_dir)

    def failure(self) -> str:
        """Why the server ended, in one sentence with a remedy, from what it wrote to its log."""
        message = self._last_error()
        if not message:
            message = f"exit status {self._process.poll() if self._process else None}"
        return f"The embedded PostgreSQL did not start ({message}): {failures.remedy(message, self.state)}."

    def failed_transiently(self) -> bool:
        """Whether the server ended because of another one that was about to be gone, or by a signal."""
        code = self.exit_code()
        return (code is not None and code < 0) or failures.is_transient(self._last_error())

    def _last_error(self) -> str:
        return failures.last_error(state_folder.log_end(self.state, self._log_start))

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
