"""The database being indexed into, opened when first needed and kept open by this process."""

import threading

import dagster as dg

from appview_pipeline import settings
from appview_pipeline.store.database import Database, open_database

_lock = threading.Lock()
_open: Database | None = None


def database() -> Database:
    """The database that the settings name; an embedded one runs for as long as this process does.

    Raises `OperatorError` in one sentence when it can't be opened.
    """
    global _open
    with _lock:
        if _open is None:
            _open = open_database(settings.load())
        return _open


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
