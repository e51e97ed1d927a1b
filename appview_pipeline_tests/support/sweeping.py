"""Sweeps of one table, as if everything in it were old."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from appview_pipeline.store.database import Database
from appview_pipeline.store.sweeps import sweep_to_its_end

ALL_OLD = datetime(2200, 1, 1, tzinfo=timezone.utc)


def sweep(database: Database, name: str, *, days: float | None = None, limit: int = 1_000) -> int:
    """Sweeps what is older than `days`; None: everything. Returns how many rows were deleted."""
    before = ALL_OLD if days is None else datetime.now(timezone.utc) - timedelta(days=days)
    with database.connect("maintenance") as connection:
        return sweep_to_its_end(connection, name, before, limit)


def sweep_tombstones(database: Database) -> int:
    return sweep(database, "tombstones", limit=3)
