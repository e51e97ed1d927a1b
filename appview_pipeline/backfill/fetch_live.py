"""The fetch process: missing records, and signatures that could not be checked yet, until the lease ends.

A process of its own, without Dagster: `python -m appview_pipeline.backfill.fetch_live`. The fetch sensor starts it and
keeps its lease (`leases/leased_process.py` says how, and what the exit codes mean). One runs for each database.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from appview_pipeline import backoff
from appview_pipeline.backfill.fetch import Fetcher
from appview_pipeline.backfill.on_demand import Counts, OnDemand
from appview_pipeline.errors import OperatorError
from appview_pipeline.ingest.signatures import settle_signatures
from appview_pipeline.ingest.writer import Writer
from appview_pipeline.leases.lease import report_trouble, run_leased
from appview_pipeline.network.xrpc import Client
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Connection, Database, open_database
from appview_pipeline.store.errors import Transient
from appview_pipeline.store.fetch_reports import FetchReport, add_fetch_report
from appview_pipeline.store.pending import ON_DEMAND, pending_state
from appview_pipeline.store.session_lock import SessionLock, session_lock

log = logging.getLogger("appview_pipeline.fetching")

LOCK = "fetch process"
"""Name of the lock that makes the process the only one of its database."""
SIGNATURES = "signatures"
"""The source of the dead letters that it writes of commits."""

_T = TypeVar("_T")


def fetch_live(settings: Settings, stopped: Callable[[], bool]) -> None:
    """Fetches missing records and checks signatures until `stopped`.

    Raises `OperatorError` (bad setting, no database), `LockTaken` (another fetch process), `LockLost`.
    """
    database = open_database(settings)
    try:
        taken = "another fetch process is at work on this database"
        with (
            session_lock(database, LOCK, taken=taken, stopped=stopped) as connection,
            Client(settings) as client,
        ):
            lock = SessionLock(connection, "the fetch process", "its lock")
            records = None
            if not settings.skip_pds_fetching:
                writer = Writer(database, settings, ON_DEMAND, stopped=stopped)
                records = OnDemand(settings, database, Fetcher(settings, database, client), writer)
            letters = Writer(database, settings, SIGNATURES, stopped=stopped)
            process = Process(settings, database, letters, records, stopped)
            report_trouble(None)
            log.info(
                "Fetching missing records"
                if records is not None
                else "Fetching no missing records, since APPVIEW_SKIP_PDS_FETCHING is on; checking signatures only"
            )
            try:
                while not stopped():
                    lock.ensure()
                    process.step()
            finally:
                process.end()
    finally:
        database.close()


@dataclass
class Process:
    """The loop's parts, each in its time. `writer` is for what is decided about signatures; `records` None: no missing
    records are fetched."""

    settings: Settings
    database: Database
    writer: Writer
    records: OnDemand | None
    stopped: Callable[[], bool]
    began: float = field(default_factory=time.monotonic)
    """When the report under way began."""

    def __post_init__(self) -> None:
        """Nothing is reported yet, and everything is due."""
        self._signatures_due = 0.0
        self._checked = self._bad = 0
        self._report_due = 0.0
        self._reported: Counts | None = None
        self._away = backoff.database_away()
        self._trouble: str | None = None

    def step(self) -> None:
        """Does what is due. While the database is away it waits, and says so."""
        try:
            if self.records is not None:
                self.records.step()
            else:
                time.sleep(backoff.STOP_POLL_SECONDS)
            self._settle_signatures()
            self._report()
        except (Transient, OperatorError) as error:
            self._wait(str(error).strip().partition("\n")[0])
        else:
            if self._trouble is not None:
                self._trouble = None
                report_trouble(None)
            self._away.failures = 0

    def end(self) -> None:
        """Writes what has come and reports it, where the database is there."""
        if self._trouble is not None:
            return
        try:
            if self.records is not None:
                self.records.finish()
            self._report_due = 0.0
            self._report()
        except (Transient, OperatorError) as error:
            log.warning("What was fetched last is fetched again: %s", error)

    def _wait(self, sentence: str) -> None:
        wait = self._away.next()
        log.warning("The database did not take a statement, trying again in %.1f s: %s", wait, sentence)
        if self._trouble is None:
            self._trouble = sentence
            report_trouble(sentence)
        until = time.monotonic() + wait
        while time.monotonic() < until and not self.stopped():
            time.sleep(min(wait, backoff.STOP_POLL_SECONDS))

    def _settle_signatures(self) -> None:
        if time.monotonic() < self._signatures_due:
            return
        settled = settle_signatures(self.settings, self.database, self.writer)
        self._checked += settled.checked
        self._bad += settled.bad
        # While an index fills, many commits wait for keys that have not come: the others need not wait for them.
        if not settled.has_more:
            self._signatures_due = time.monotonic() + backoff.SIGNATURES_SECONDS

    def _report(self) -> None:
        """Writes a row of `pipeline.fetch_batch` for what was done since the last one: at once where that is something,
        else each minute."""
        now = time.monotonic()
        if now < self._report_due:
            return
        counts = Counts() if self.records is None else self.records.counts
        is_quiet = counts.is_empty and not self._checked
        if is_quiet and self._reported is not None and now - self.began < backoff.FETCH_QUIET_SECONDS:
            return
        with self.database.connect("writer") as connection:
            add_fetch_report(connection, self._report_of(connection, counts, now - self.began))
        if self.records is not None:
            self.records.counts = Counts()
        self._checked = self._bad = 0
        self._reported = counts
        self.began, self._report_due = now, now + backoff.FETCH_REPORT_SECONDS

    def _report_of(self, connection: Connection, counts: Counts, seconds: float) -> FetchReport:
        state = pending_state(connection)
        return FetchReport(
            seconds=seconds,
            asked=counts.asked,
            found=counts.found,
            absent=counts.absent,
            refused=counts.refused,
            invalid=counts.invalid,
            unreachable=counts.unreachable,
            queued_repositories=counts.queued_repositories,
            asked_by_collection=dict(counts.asked_by_collection),
            waiting=state.open,
            oldest_seconds=state.oldest_seconds,
            given_up=state.given_up,
            signatures_checked=self._checked,
            signatures_bad=self._bad,
        )


def main() -> int:
    """Fetches as a leased process; the exit code says how it ended."""
    # Where the machine is busy the stream goes first: what is missing has time.
    os.nice(10)
    return run_leased("fetching", fetch_live)


if __name__ == "__main__":
    sys.exit(main())
