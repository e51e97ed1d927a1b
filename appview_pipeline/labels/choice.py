"""Which labelers are read: those of `APPVIEW_LABELERS`, or the ones that the index knows of and people like."""

from __future__ import annotations

from collections.abc import Sequence

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
    """
    dids: Sequence[str] = settings.labelers
    if ALL in dids:
        dids = popular_labelers(connection, settings.labelers_limit)
    return want(connection, dids)


def queue_repositories(connection: Connection, settings: Settings, chosen: Sequence[str]) -> None:
    """Queues the repositories of labelers that the settings name to be fetched, unless they were fetched before: their
    records say what their labels mean, and without them readers don't show the labeler.

    In a transaction of its own. A transaction that excludes an account locks its place in the queue and waits for
    batches of labels, and these wait for rows of labelers.
    """
    if ALL not in settings.labelers:
        enqueue_new(connection, chosen, reason="requested", priority=ASKED)
