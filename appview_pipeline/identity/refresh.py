"""The refresh: every account whose document and handle were resolved too long ago is resolved again.

Handles that are not verified are due hourly, all other accounts daily. The job `refresh_dids` runs it beside the
identity process, with slots of its own. What is due is moved into the queue `refresh` a batch at a time, so a run that
ends early has lost nothing: the next one goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from appview_pipeline import backoff
from appview_pipeline.identity.attempt import Attempt, attempt
from appview_pipeline.identity.questions import questions
from appview_pipeline.identity.slots import refresh_limits
from appview_pipeline.identity.worker import Worker
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline.store.identities import Wanted, queue_refresh
from appview_pipeline.store.identity_reports import refresh_due
from appview_pipeline.store.session_lock import SessionLock, session_lock

LOCK = "refresh of identities"
"""Name of the lock that makes a refresh the only one of its database."""

QUEUED_AT_ONCE = 1_000
"""Accounts that are moved into the queue `refresh` at once."""


@dataclass(frozen=True)
class RefreshSummary:
    """What a refresh did. `due`: accounts that were due when it began, counted up to a limit. `failed`: accounts that
    gave no answer; the identity process tries them again. `ended`: why it ended, or "" while it goes on."""

    due: int
    resolved: int = 0
    failed: int = 0
    verified: int = 0
    not_verified: int = 0
    seconds: float = 0.0
    ended: str = ""


def refresh(
    settings: Settings,
    database: Database,
    *,
    max_seconds: float,
    progress: Callable[[RefreshSummary], None] = lambda _: None,
    stopped: Callable[[], bool] = lambda: False,
) -> RefreshSummary:
    """Resolves the accounts that are due, for at most `max_seconds`. `progress` is called after each step.

    Raises `LockTaken` at once where another refresh is at work, `LockLost`, and `OperatorError` without a database.
    """
    taken = "another refresh is at work on this database"
    with (
        session_lock(database, LOCK, taken=taken, stopped=stopped, patience=0.0) as connection,
        questions(settings) as (asked, _),
    ):
        lock = SessionLock(connection, "the refresh", "its lock")

        def one(wanted: Wanted) -> Attempt:
            return attempt(wanted, asked)

        with database.connect("reader") as reading:
            so_far = RefreshSummary(due=refresh_due(reading))
        worker = Worker(database, settings, refresh_limits(settings), one, stopped=stopped)
        began = time.monotonic()
        is_exhausted = False
        try:
            while not so_far.ended:
                lock.ensure()
                worker.step()
                if worker.ran_dry and not is_exhausted:
                    queued = worker.with_database(lambda connection: queue_refresh(connection, QUEUED_AT_ONCE))
                    is_exhausted = queued == 0
                    if queued:
                        worker.look_again()
                so_far = _summary(so_far, worker, began)
                if stopped():
                    so_far = replace(so_far, ended="it was asked to end")
                elif is_exhausted and worker.ran_dry and worker.is_idle:
                    so_far = replace(so_far, ended="nothing more was due")
                elif so_far.seconds >= max_seconds:
                    so_far = replace(so_far, ended=f"its {max_seconds:,.0f} s were over")
                elif worker.turned_away_in_a_row >= backoff.REFRESH_TURNED_AWAY:
                    so_far = replace(so_far, ended="the servers that it asks are left alone for now")
                progress(so_far)
        finally:
            worker.end()
        return replace(_summary(so_far, worker, began), ended=so_far.ended)


def _summary(before: RefreshSummary, worker: Worker, began: float) -> RefreshSummary:
    counts = worker.counts
    return RefreshSummary(
        due=before.due,
        resolved=counts.resolved,
        failed=counts.failed,
        verified=counts.verified,
        not_verified=counts.not_verified,
        seconds=time.monotonic() - began,
    )
