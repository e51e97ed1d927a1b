"""What a person asks for from a terminal: the repositories of some accounts, or of the whole network."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from appview_pipeline import backoff
from appview_pipeline.backfill.listing import ListingSummary, list_network
from appview_pipeline.backfill.progress import Progress, WorkSummary
from appview_pipeline.backfill.worker import work
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline.store.repo_states import read_repos
from appview_pipeline.store.session_lock import LockTaken

log = logging.getLogger(__name__)


@dataclass
class BackfillSummary:
    """What was done. `incomplete`: of the accounts that were asked for, those that are not complete, and why.
    `listing`: what the hosts listed (None: nobody asked, or another process does it)."""

    work: WorkSummary
    incomplete: dict[str, str] = field(default_factory=dict)
    listing: ListingSummary | None = None

    def as_json(self) -> dict[str, Any]:
        """All of it as one JSON object."""
        found: dict[str, Any] = {
            **asdict(self.work),
            "seconds": round(self.work.seconds, 3),
            "records_per_second": round(self.work.record_rate, 1),
            "incomplete": self.incomplete,
        }
        if self.listing is not None:
            found["listing"] = asdict(self.listing)
        return found


def backfill_accounts(
    settings: Settings,
    database: Database,
    dids: Collection[str],
    *,
    days: int | None = None,
    progress: Progress = lambda summary: None,
    stopped: Callable[[], bool] = lambda: False,
) -> BackfillSummary:
    """Fetches the repositories of these accounts now, each once, whatever pauses the queue has noted of them.

    `days`: only their records of the last so many days (None: everything). One that can't be fetched stays queued.
    """
    done = work(settings, database, dids=dids, days=-1 if days is None else days, progress=progress, stopped=stopped)
    with database.connect("reader") as connection:
        states = read_repos(connection, dids)
    summary = BackfillSummary(done)
    for did in dids:
        state = states.get(did)
        if did in done.reasons:
            summary.incomplete[did] = done.reasons[did]
        elif state is None or (state.sync_state != "synchronized" and not (days is not None and state.is_partial)):
            summary.incomplete[did] = (state.sync_reason if state is not None else None) or "it was not fetched"
    return summary


def backfill_network(
    settings: Settings,
    database: Database,
    *,
    days: int | None = None,
    progress: Progress = lambda summary: None,
    stopped: Callable[[], bool] = lambda: False,
) -> BackfillSummary:
    """Fetches every repository that the hosts of the network list, while they are still being listed.

    `days`: only records of the last so many days (None: everything). Ends when all hosts are listed, and nothing more
    may be fetched now. Where another process lists the hosts, that goes on, and this one fetches.
    """
    listing = _Listing(settings, database, stopped)
    total = WorkSummary()
    while True:
        is_listed = not listing.is_alive()  # read before: what is listed until now is worked off after
        done = work(
            settings,
            database,
            days=-1 if days is None else days,
            progress=partial(_show, progress, total),
            stopped=stopped,
        )
        total = _sum(total, done)
        if stopped() or is_listed:
            break
        listing.wait_for_more()
    listing.join()
    listing.check()
    return BackfillSummary(total, listing=listing.summary)


def _show(progress: Progress, earlier: WorkSummary, so_far: WorkSummary) -> None:
    progress(_sum(earlier, so_far))


class _Listing(threading.Thread):
    """Lists the hosts beside the fetching."""

    def __init__(self, settings: Settings, database: Database, stopped: Callable[[], bool]) -> None:
        super().__init__(name="listing", daemon=True)
        self._settings = settings
        self._database = database
        self._stopped = stopped
        self._failure: BaseException | None = None
        self._queued = self._worked_off = 0
        self.summary: ListingSummary | None = None
        self.start()

    def run(self) -> None:
        try:
            self.summary = list_network(
                self._settings, self._database, progress=self._note_queued, stopped=self._stopped
            )
        except LockTaken as taken:
            log.info("The hosts are not listed here: %s", taken)
        except BaseException as error:  # for `check`, on the thread that can do something about it
            self._failure = error

    def _note_queued(self, so_far: ListingSummary) -> None:
        self._queued = so_far.queued

    def wait_for_more(self) -> None:
        """Waits until it has queued more than when this was called last, or has ended."""
        while self.is_alive() and self._queued == self._worked_off and not self._stopped():
            self.join(backoff.IDLE_POLL_SECONDS)
        self._worked_off = self._queued

    def check(self) -> None:
        """Raises what ended it, if anything did."""
        if self._failure is not None:
            raise self._failure


def _sum(one: WorkSummary, other: WorkSummary) -> WorkSummary:
    """Both, one after the other."""
    failures = dict(one.failures)
    for kind, count in other.failures.items():
        failures[kind] = failures.get(kind, 0) + count
    return WorkSummary(
        repositories=one.repositories + other.repositories,
        records=one.records + other.records,
        created=one.created + other.created,
        updated=one.updated + other.updated,
        deleted=one.deleted + other.deleted,
        refused=one.refused + other.refused,
        bytes=one.bytes + other.bytes,
        failed=one.failed + other.failed,
        parked=one.parked + other.parked,
        fetching=other.fetching,
        seconds=one.seconds + other.seconds,
        left=other.left,
        failures=failures,
        reasons={**one.reasons, **other.reasons},
        ended=other.ended,
    )
