"""What the schedules share: a cron expression out of a setting, and asking for a run or saying why there is none."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg
from dagster._utils.schedules import is_valid_cron_schedule

from appview_pipeline import backoff, settings
from appview_pipeline.defs.database import database
from appview_pipeline.defs.runs import is_under_way
from appview_pipeline.errors import OperatorError
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Connection
from appview_pipeline.store.errors import DatabaseError


def known_settings() -> Settings:
    """The settings; the defaults where one can't be read, which the ticks of the sensors say."""
    try:
        return settings.load()
    except OperatorError:
        return Settings()


def cron_trouble(variable: str, text: str) -> str | None:
    """What is wrong with the cron expression of a setting, and what to do; None: nothing."""
    if is_valid_cron_schedule(text):
        return None
    return f"{variable}={text!r} must be a cron expression (minute, hour, day, month, weekday): correct it or unset it."


def usable_cron(variable: str, wanted: str, default: str) -> str:
    """The cron expression, or its default: a wrong one must not keep Dagster from loading everything else. Each
    evaluation of the schedule says so."""
    return default if cron_trouble(variable, wanted) else wanted


def run_unless_under_way(
    context: dg.ScheduleEvaluationContext,
    job: str,
    *,
    switched_off: Callable[[Settings], str | None] | None = None,
    due: Callable[[Connection], dg.RunRequest | dg.SkipReason] | None = None,
) -> dg.RunRequest | dg.SkipReason:
    """A run of a job, or why there is none.

    `switched_off`: why the settings want no run, if they don't. `due`: asks the database, on a connection that reads,
    whether there is anything to do; without it there always is. The database is asked last, and never while a run is
    under way. A setting or a database that can't be read is a reason, too.
    """
    try:
        if switched_off is not None and (reason := switched_off(settings.load())):
            return dg.SkipReason(reason)
    except OperatorError as error:
        return dg.SkipReason(str(error))
    if is_under_way(context.instance, job):
        return dg.SkipReason(f"A run of {job} is under way.")
    if due is None:
        return dg.RunRequest()
    try:
        with database(backoff.SCHEDULE_SECONDS).connect("reader") as connection:
            return due(connection)
    except (OperatorError, DatabaseError) as error:
        return dg.SkipReason(f"The database can't be asked: {error}")
