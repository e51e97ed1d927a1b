"""Time partitions. The hour of a row is the hour (UTC) in which we applied its record: `record."appliedAt"`."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import dagster as dg

# The first hour in which anything can have been applied: there was no code before.
FIRST_HOUR = datetime(2026, 11, 24, tzinfo=timezone.utc)

# The current hour is a partition too (end_offset), or what is being indexed now would not show.
HOURS = dg.HourlyPartitionsDefinition(start_date=FIRST_HOUR, timezone="UTC", end_offset=1)


def key_of(hour: datetime) -> str:
    """The partition key of an hour given by its start."""
    return hour.astimezone(timezone.utc).strftime(HOURS.fmt)


def next_hour(hour: datetime) -> datetime:
    """The start of the hour after."""
    return hour + timedelta(hours=1)
