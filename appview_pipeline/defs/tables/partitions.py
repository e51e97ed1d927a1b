"""Time partitions. The hour of a row is the hour (UTC) in which we applied its record: `record."appliedAt"`.

They begin with the hour of the first batch that was applied. Dagster wants to know it when the definitions load, which
must not wait for a database: an embedded one is not started then, so its state folder has the hour in a file.
"""

from __future__ import annotations

import logging
import os
from datetime import datetime, timedelta, timezone

import dagster as dg

from appview_pipeline import settings as settings_module
from appview_pipeline.errors import OperatorError
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Connection, open_database
from appview_pipeline.store.embedded.state_folder import StateFolder, default_state_dir
from appview_pipeline.store.errors import DatabaseError
from appview_pipeline.store.reports import first_applied

log = logging.getLogger(__name__)

FILE = "first_hour"
EARLIEST = datetime(2026, 11, 24, tzinfo=timezone.utc)
"""No partition is older, and all since then are there while a database can't be asked: no hour may ever be missing."""


def _hour_of(moment: datetime) -> datetime:
    return moment.astimezone(timezone.utc).replace(minute=0, second=0, microsecond=0)


def _state_folder(settings: Settings) -> StateFolder:
    return StateFolder((settings.state_dir or default_state_dir()).expanduser().resolve())


def first_hour(settings: Settings) -> datetime:
    """The hour of the first batch; the present hour where nothing was applied yet."""
    now = _hour_of(datetime.now(timezone.utc))
    try:
        if settings.database_url is None:
            text = (_state_folder(settings).path / FILE).read_text(encoding="ascii")
            return min(max(_hour_of(datetime.fromisoformat(text.strip())), EARLIEST), now)
        database = open_database(settings)
        try:
            with database.connect("reader") as connection:
                first = first_applied(connection)
        finally:
            database.close()
        return now if first is None else min(max(_hour_of(first), EARLIEST), now)
    except FileNotFoundError:
        return now
    except (OperatorError, DatabaseError, OSError, ValueError) as error:
        log.warning("The first hour is not known, so partitions begin on %s: %s", f"{EARLIEST:%Y-%m-%d}", error)
        return EARLIEST


def remember_first_hour(settings: Settings, connection: Connection) -> None:
    """Notes the first hour for the next start, where the database is an embedded one."""
    if settings.database_url is not None:
        return
    state = _state_folder(settings)
    if (state.path / FILE).exists() or (first := first_applied(connection)) is None:
        return
    with os.fdopen(state.open(FILE, os.O_WRONLY), "w", encoding="ascii") as file:
        file.write(f"{_hour_of(first).isoformat()}\n")


def _start() -> datetime:
    try:
        return first_hour(settings_module.load())
    except OperatorError:  # the sensor's ticks report a setting that can't be read
        return EARLIEST


# The current hour is a partition too (end_offset), or what is being indexed now would not show.
HOURS = dg.HourlyPartitionsDefinition(start_date=_start(), timezone="UTC", end_offset=1)


def key_of(hour: datetime) -> str:
    """The partition key of an hour given by its start."""
    return hour.astimezone(timezone.utc).strftime(HOURS.fmt)


def next_hour(hour: datetime) -> datetime:
    """The start of the hour after."""
    return hour + timedelta(hours=1)
