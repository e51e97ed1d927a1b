"""The database being indexed into, opened when first needed and kept open by this process."""

import threading
import time

import dagster as dg

from appview_pipeline import settings
from appview_pipeline.errors import OperatorError
from appview_pipeline.store.database import Database, open_database

_lock = threading.Lock()
_open: Database | None = None


def database(patience: float | None = None) -> Database:
    """The database that the settings name; an embedded one runs for as long as this process does.

    Raises `OperatorError` in one sentence when it can't be opened; also when the embedded one is still starting after
    `patience` seconds: the start goes on, and a later call finds it done.
    """
    global _open
    began = time.monotonic()
    if not _lock.acquire(timeout=-1 if patience is None else patience):
        raise OperatorError("The database is still being opened: wait.")
    try:
        if _open is None:
            left = None if patience is None else patience - (time.monotonic() - began)
            _open = open_database(settings.load(), patience=left)
        return _open
    finally:
        _lock.release()


def reopen() -> None:
    """Closes the database, so that the next use opens it afresh: after its server went away."""
    global _open
    with _lock:
        closing, _open = _open, None
    if closing is not None:
        closing.close()


class IndexDatabase(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The database being indexed into, as the environment's settings name it (docs/settings.md)."""

    def open(self) -> Database:
        """The open database. Raises `OperatorError` in one sentence when it can't be opened."""
        return database()


defs = dg.Definitions(resources={"index": IndexDatabase()})
