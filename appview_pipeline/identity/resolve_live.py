"""The identity process: new accounts, events and retries are resolved as they come, until the lease ends.

A process of its own, without Dagster: `python -m appview_pipeline.identity.resolve_live`. The identity sensor starts it
and keeps its lease (`leases/leased_process.py` says how, and what the exit codes mean). One runs for each database.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from appview_pipeline import backoff
from appview_pipeline.identity.attempt import Attempt, attempt
from appview_pipeline.identity.questions import questions
from appview_pipeline.identity.slots import EVENT, NEW, live_limits
from appview_pipeline.identity.worker import Counts, Worker
from appview_pipeline.leases.lease import report_trouble, run_leased
from appview_pipeline.network.upstreams import Upstream
from appview_pipeline.settings import Settings
from appview_pipeline.store import identities
from appview_pipeline.store.database import Connection, Database, open_database
from appview_pipeline.store.identities import Wanted
from appview_pipeline.store.identity_claims import release_queues
from appview_pipeline.store.identity_reports import IdentityReport, accounts_met, add_report
from appview_pipeline.store.session_lock import SessionLock, session_lock
from appview_pipeline.store.upstreams import forget_upstreams, save_upstreams

log = logging.getLogger("appview_pipeline.identity")

LOCK = "identity process"
"""Name of the lock that makes the process the only one of its database."""


def resolve_live(settings: Settings, stopped: Callable[[], bool]) -> None:
    """Resolves accounts until `stopped`.

    Raises `OperatorError` (bad setting, no database), `LockTaken` (another identity process), `LockLost`.
    """
    database = open_database(settings)
    try:
        taken = "another identity process is at work on this database"
        with (
            session_lock(database, LOCK, taken=taken, stopped=stopped) as connection,
            questions(settings) as (asked, client),
        ):
            lock = SessionLock(connection, "the identity process", "its lock")
            _begin(database)

            def one(wanted: Wanted) -> Attempt:
                return attempt(wanted, asked)

            worker = Worker(database, settings, live_limits(settings), one, stopped=stopped, trouble=report_trouble)
            reports = Reports(worker, client.upstreams)
            report_trouble(None)
            try:
                while not stopped():
                    lock.ensure()
                    worker.step()
                    reports.write_if_due()
            finally:
                worker.end()
            reports.write()
    finally:
        database.close()


def _begin(database: Database) -> None:
    """What the process before this one left: accounts that it had taken, and servers that it left alone."""
    with database.connect("maintenance") as connection:
        returned = release_queues(connection, (NEW, EVENT))
        forget_upstreams(connection)
    log.info("Resolving accounts%s", f"; {returned:,} were taken by a process that is gone" if returned else "")


@dataclass
class Reports:
    """Rows of `pipeline.identity_batch` and `pipeline.upstream`: every few seconds, when there is something to say."""

    worker: Worker
    upstreams: Callable[[], list[Upstream]]
    began: float = field(default_factory=time.monotonic)
    _looked: float = 0.0
    _done: Counts = field(default_factory=Counts)
    _written: dict[str, tuple[str, int, bool]] | None = None
    _batch: int | None = None
    """The last batch of the stream whose accounts are reported."""

    def write_if_due(self) -> None:
        """Writes what is new, when its time has come."""
        now = time.monotonic()
        if now - self._looked < backoff.RESOLUTION_REPORT_SECONDS:
            return
        self._looked = now
        is_quiet = self._done == self.worker.counts and now - self.began < backoff.RESOLUTION_QUIET_SECONDS
        if not is_quiet or _states(self.upstreams()) != self._written:
            self.write()

    def write(self) -> None:
        """Writes what was done since the last report; the next one says it where the database is away."""
        counts = Counts(**asdict(self.worker.counts))
        upstreams = self.upstreams()
        now = time.monotonic()

        def write(connection: Connection) -> int:
            queue = identities.queue_state(connection)
            # Retries of servers that hang wait for each other, which is no sign that anybody else waits.
            ages = [queue.queues[name].oldest_seconds for name in (EVENT, NEW)]
            met = accounts_met(connection, self._batch)
            add_report(
                connection,
                IdentityReport(
                    seconds=now - self.began,
                    resolved=counts.resolved - self._done.resolved,
                    failed=counts.failed - self._done.failed,
                    verified=counts.verified - self._done.verified,
                    not_verified=counts.not_verified - self._done.not_verified,
                    statuses=counts.statuses - self._done.statuses,
                    queued=queue.urgent,
                    lookups=met.accounts,
                    hits=met.accounts - met.unresolved,
                    oldest_seconds=max((it for it in ages if it is not None), default=None),
                ),
            )
            save_upstreams(connection, upstreams, time.time())
            return met.batch

        if (batch := self.worker.with_database(write)) is not None:
            self._batch = batch
            self._done, self._written, self.began = counts, _states(upstreams), now


def _states(upstreams: list[Upstream]) -> dict[str, tuple[str, int, bool]]:
    """What a person should see soon when it changes."""
    return {one.host: (one.breaker, one.opened, one.parked_until is not None) for one in upstreams}


def main() -> int:
    """Resolves as a leased process; the exit code says how it ended."""
    # Where the machine is busy the stream goes first: a backlog of accounts has time.
    os.nice(10)
    return run_leased("identity", resolve_live)


if __name__ == "__main__":
    sys.exit(main())
