"""What metrics and probes are answered from: the database, read at most once every few seconds, whoever asks.

A database that is away, slow or of another schema is an answer too, and a quick one.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from appview_pipeline import backoff
from appview_pipeline.errors import OperatorError
from appview_pipeline.operations.conditions import judge_all
from appview_pipeline.operations.verdict import Verdict
from appview_pipeline.settings import Settings
from appview_pipeline.store import migrate
from appview_pipeline.store.database import Database, open_database
from appview_pipeline.store.errors import DatabaseError
from appview_pipeline.store.health_report import HealthReport, read_health
from appview_pipeline.store.totals import Totals, count_reports, read_totals, seconds_behind

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """What was read of the database in `seconds`.

    `obstacle`: why nothing was read, in a sentence; None: something was. `has_schema`: the schema is this code's.
    Without an obstacle there are a `report` and what the conditions say of it, the `verdicts`. `totals`: None where
    they could not be read in time.
    """

    seconds: float
    obstacle: str | None = None
    is_reached: bool = True
    has_schema: bool = True
    report: HealthReport | None = None
    verdicts: Sequence[Verdict] = ()
    totals: Totals | None = None


@dataclass
class Counts:
    """What readings came to since this process began."""

    readings: int = 0
    failures: int = 0


class Index:
    """The database, as a process sees it that goes on while the database is away. For one thread at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database: Database | None = None
        self._counting: threading.Thread | None = None
        self._said: str | None = None

    def read(self) -> Reading:
        """Reads the database. Raises nothing that has to do with the database or its schema."""
        began = time.monotonic()
        is_reached, has_schema = False, True
        try:
            database = self._open()
            with database.connect("health") as connection:
                is_reached, has_schema = True, False
                migrate.refuse_other_version(migrate.stored_version(connection), database.url)
                has_schema = True
                behind = seconds_behind(connection)
                if behind > backoff.METRICS_COUNT_SECONDS:
                    self._count(database)
                report = read_health(connection, self._settings)
                totals = read_totals(connection) if behind <= backoff.METRICS_COUNTED_SECONDS else None
        except (OperatorError, DatabaseError) as error:
            obstacle = str(error) if isinstance(error, OperatorError) else f"The database can't be read ({error})."
            return Reading(time.monotonic() - began, obstacle=obstacle, is_reached=is_reached, has_schema=has_schema)
        verdicts = judge_all(report, self._settings)
        return Reading(time.monotonic() - began, report=report, verdicts=verdicts, totals=totals)

    def close(self) -> None:
        """Closes the connections."""
        if self._database is not None:
            self._database.close()

    def _open(self) -> Database:
        if self._database is None:
            self._database = open_database(
                self._settings, migrate=False, patience=backoff.METRICS_WAIT_SECONDS, check=False
            )
        return self._database

    def _count(self, database: Database) -> None:
        """Counts reports that their sweep has not counted lately, beside the readings."""
        if self._counting is None or not self._counting.is_alive():
            self._counting = threading.Thread(target=self._count_now, args=(database,), name="count", daemon=True)
            self._counting.start()

    def _count_now(self, database: Database) -> None:
        try:
            with database.connect("maintenance") as connection:
                count_reports(connection)
        except (OperatorError, DatabaseError) as error:
            if str(error) != self._said:  # a standby, or a role that may only read: the sweep counts
                log.warning("Reports of processes can't be counted here (%s); the job sweep does it.", error)
                self._said = str(error)


@dataclass
class Readings:
    """Readings for all who ask, one at a time. `read` runs in a thread of its own, and may take as long as it likes."""

    read: Callable[[], Reading]
    counts: Counts = field(default_factory=Counts)
    _newest: Reading | None = None
    _read_at: float = 0.0
    _under_way: asyncio.Future[Reading] | None = None

    async def latest(self) -> Reading:
        """A reading that is no older than `METRICS_FRESH_SECONDS`, after `METRICS_WAIT_SECONDS` at most. Call it in the
        event loop's thread."""
        if self._newest is not None and time.monotonic() - self._read_at < backoff.METRICS_FRESH_SECONDS:
            return self._newest
        if self._under_way is None:
            self._under_way = asyncio.get_running_loop().create_future()
            # Not of a pool: a process that should end would wait for its threads.
            threading.Thread(
                target=self._run, args=(asyncio.get_running_loop(), self._under_way), name="reading", daemon=True
            ).start()
        under_way = self._under_way
        await asyncio.wait({under_way}, timeout=backoff.METRICS_WAIT_SECONDS)
        if under_way.done():
            return under_way.result()
        seconds = backoff.METRICS_WAIT_SECONDS
        return Reading(seconds, obstacle=f"The database has not answered for {seconds:g} s.", is_reached=False)

    def _run(self, loop: asyncio.AbstractEventLoop, under_way: asyncio.Future[Reading]) -> None:
        try:
            result: Reading | BaseException = self.read()
        except BaseException as error:  # a defect: whoever asked gets it
            result = error
        try:
            loop.call_soon_threadsafe(self._settle, under_way, result)
        except RuntimeError:
            log.debug("A reading has come after the end.")

    def _settle(self, under_way: asyncio.Future[Reading], result: Reading | BaseException) -> None:
        self._under_way = None
        self.counts.readings += 1
        if isinstance(result, BaseException):
            self.counts.failures += 1
            under_way.set_exception(result)
            return
        if result.obstacle is not None:
            self.counts.failures += 1
        before = None if self._newest is None else self._newest.obstacle
        if result.obstacle not in (None, before):
            log.warning("%s", result.obstacle)
        elif before is not None and result.obstacle is None:
            log.info("The database can be read again.")
        self._newest, self._read_at = result, time.monotonic()
        under_way.set_result(result)
