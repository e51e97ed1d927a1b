"""A private PostgreSQL server for tests, which leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

from appview_pipeline.errors import OperatorError
from appview_pipeline.store.embedded import state_folder
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline.store.embedded.server import PostgresServer
from appview_pipeline.store.embedded.state_folder import StateFolder
from appview_pipeline.store.embedded.supervisor import DATABASE

_PREFIX = "appview-ephemeral-"
_START_SECONDS = 600.0


def ephemeral(*, parent: Path | None = None, postgres_bin: Path | None = None) -> EmbeddedPostgres:
    """A private server in a new folder: no durability, no supervisor; `close` stops and deletes it.

    Call from the main thread; the server ends with this process, however that ends. The folder is created in `parent`
    (default: the system's temporary folder); what killed processes left there is deleted.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    _delete_abandoned(parent)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent)).resolve()
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
        server.wait_until_ready(_START_SECONDS)
        server.create_database(DATABASE)
    except BaseException:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
        os.close(owner_lock)
        raise
    return EmbeddedPostgres(server.socket_dir, server.version, state, close)


def _delete_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
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
