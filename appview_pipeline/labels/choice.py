"""Which labelers are read: those of `APPVIEW_LABELERS`, or the ones that the index knows of and people like."""

from __future__ import annotations

from appview_pipeline.settings import Settings
from appview_pipeline.store.backfill_queue import ASKED, enqueue_new
from appview_pipeline.store.database import Connection
from appview_pipeline.store.labelers import popular_labelers, want

ALL = "all"
"""The value of `APPVIEW_LABELERS` that stands for every labeler of the index."""


def choose(connection: Connection, settings: Settings) -> list[str]:
    """The labelers to be read, as of now, in the order of their DIDs; notes that in `pipeline.labeler`.

    With `all` they are the accounts with a labeler record, without those that are not active, at most
    `APPVIEW_LABELERS_LIMIT`. Accounts that are excluded (opted out or deleted) are never among them.

    The repositories of labelers that the settings name are queued to be fetched, unless they were fetched before: their
    records say what their labels mean, and without them readers don't show the labeler.
    """
    if ALL in settings.labelers:
        return want(connection, popular_labelers(connection, settings.labelers_limit))
    dids = want(connection, settings.labelers)
    enqueue_new(connection, dids, reason="requested", priority=ASKED)
    return dids
