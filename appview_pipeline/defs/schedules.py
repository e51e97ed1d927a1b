"""What the schedules share: a cron expression out of a setting, which a person may have got wrong."""

from __future__ import annotations

from dagster._utils.schedules import is_valid_cron_schedule

from appview_pipeline import settings
from appview_pipeline.errors import OperatorError
from appview_pipeline.settings import Settings


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
