"""A PostgreSQL for tests: as durable as in production, on a disk that can be full, restarted when it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appview_pipeline.store.embedded import state_folder
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline.store.embedded.server import PostgresServer
from appview_pipeline.store.embedded.state_folder import StateFolder

START_SECONDS = 120.0
FILL_TRIES = 100
INDEX, DAGSTER = "index", "dagster"


class DurableServer:
    """A server in `folder`. Its methods are called from the main thread: the server ends with the one that started it.

    `disk`: the folder of a file system of its own, of `size` bytes, which `fill` fills; None: there is none.
    `restarts` counts the starts after an end that nobody had asked for.
    """

    def __init__(self, folder: Path, disk: Path | None, size: int, settings: str = "") -> None:
        self.disk = disk
        self._size = size
        self._settings = settings
        self._state = StateFolder(folder)
        self._owner_lock = self._state.open("owner.lock", os.O_RDWR)
        state_folder.lock(self._owner_lock, "exclusive")
        self._server = PostgresServer(self._state)
        self.restarts = 0

    def start(self) -> None:
        """The first start, with the two databases of a deployment."""
        self._server.prepare()
        self._state.user_conf.write_text(self._settings)
        self._server.start()
        self._server.wait_until_ready(START_SECONDS)
        self._made = EmbeddedPostgres(self._server.socket_dir, self._server.version, self._state, lambda: None)
        for name in (INDEX, DAGSTER):
            self._server.create_database(name)

    def url(self, name: str = INDEX) -> str:
        """SQLAlchemy's URL of a database."""
        return self._made.url(name)

    @property
    def folder(self) -> Path:
        return self._state.path

    def keep_running(self) -> bool:
        """Starts the server again if it has ended, as a restart policy does. Returns whether it had."""
        if self._server.exit_code() is None:
            return False
        self.restarts += 1
        self._server.start()
        return True

    def restart(self) -> None:
        """A fast restart: sessions are ended, then comes a checkpoint."""
        self._server.stop()
        self._server.start()

    def crash(self) -> None:
        """Ends it without a checkpoint; recovery follows."""
        assert self._server._process is not None
        self._server._process.send_signal(signal.SIGQUIT)
        self._server._process.wait(START_SECONDS)
        self._server.start()

    def fill(self) -> None:
        """Leaves no room on its disk. The disk is made smaller, since a file that fills it would take memory."""
        assert self.disk is not None
        for _ in range(FILL_TRIES):  # the server writes meanwhile
            usage = shutil.disk_usage(self.disk)
            if _resize(self.disk, usage.used):
                return
        raise AssertionError(f"{self.disk} could not be made as small as what it holds")

    def drain(self) -> None:
        """There is room again."""
        assert self.disk is not None
        assert _resize(self.disk, self._size), f"{self.disk} could not be made larger again"

    def is_ready(self) -> bool:
        """Whether it accepts connections."""
        return self._server.is_ready()

    def said(self) -> str:
        """Its log."""
        return self._state.log.read_text(errors="replace")

    def stop(self) -> None:
        self._server.stop()
        os.close(self._owner_lock)


@contextmanager
def durable_server(size: int, settings: str = "") -> Iterator[DurableServer]:
    """A server on a file system in memory of `size` bytes where we may mount one, else on the system's disk.

    `settings`: lines of postgresql.conf.
    """
    folder = Path(tempfile.mkdtemp(prefix="appview-durable-")).resolve()
    folder.chmod(0o755)  # PostgreSQL does not run as root, and its user must get there
    mounted = _mount(folder, size)
    server = None
    try:
        (folder / "state").mkdir()
        server = DurableServer(folder / "state", folder if mounted else None, size, settings)
        server.start()
        yield server
    finally:
        if server is not None:
            if server.disk is not None:
                server.drain()
            server.stop()
        if mounted:
            subprocess.run(["umount", str(folder)], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _mount(folder: Path, size: int) -> bool:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    options = f"size={size},mode=755"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "appview-durable", str(folder)], check=False)
    return done.returncode == 0


def _resize(folder: Path, size: int) -> bool:
    # Whole pages, and 0 would be no limit.
    options = f"remount,size={max(size, 4_096)}"
    done = subprocess.run(["mount", "-o", options, str(folder)], check=False, stderr=subprocess.DEVNULL)
    return done.returncode == 0
