"""A PostgreSQL server of a test's own that can crash and come back."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appview_pipeline.store.embedded import state_folder
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline.store.embedded.server import PostgresServer
from appview_pipeline.store.embedded.state_folder import StateFolder
from appview_pipeline.store.embedded.supervisor import DATABASE

START_SECONDS = 60.0


class RestartedServer:
    """A running server, not safe against a crash of the machine; `url` is SQLAlchemy's, of its one database."""

    def __init__(self, server: PostgresServer, url: str) -> None:
        self._server = server
        self.url = url

    def restart(self) -> None:
        """Crashes the server, its clients' sessions with it, and starts it again. From the main thread."""
        self.crash()
        self.start()

    def crash(self) -> None:
        """Crashes the server, its clients' sessions with it."""
        assert self._server._process is not None
        self._server._process.send_signal(signal.SIGQUIT)
        self._server._process.wait(START_SECONDS)

    def start(self) -> None:
        """Starts it again. From the main thread."""
        self._server.start()
        self._server.wait_until_ready(START_SECONDS)


@contextmanager
def restartable(parent: Path | None = None) -> Iterator[RestartedServer]:
    """A server in a new folder (in `parent`; None: the system's temporary folder), deleted after the block."""
    folder = Path(tempfile.mkdtemp(prefix="appview-restarted-", dir=parent)).resolve()
    state = StateFolder(folder)
    owner_lock = state.open("owner.lock", os.O_RDWR)
    state_folder.lock(owner_lock, "exclusive")
    server = PostgresServer(state, ephemeral=True)
    try:
        server.prepare()
        server.start()
        server.wait_until_ready(START_SECONDS)
        server.create_database(DATABASE)
        yield RestartedServer(server, EmbeddedPostgres(server.socket_dir, server.version, state, lambda: None).url())
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
        if folder not in server.socket_dir.parents:
            shutil.rmtree(server.socket_dir, ignore_errors=True)
        os.close(owner_lock)
