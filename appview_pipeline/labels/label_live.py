"""The label process: the streams of all labelers into the database, until the lease ends.

A process of its own, without Dagster: `python -m appview_pipeline.labels.label_live`. The label sensor starts it and
keeps its lease (`leases/leased_process.py` says how, and what the exit codes mean). One runs for each database.
"""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from appview_pipeline import backoff
from appview_pipeline.errors import OperatorError, Stopped
from appview_pipeline.identity.attempt import attempt
from appview_pipeline.identity.cache import IdentityCache
from appview_pipeline.identity.questions import questions
from appview_pipeline.ingest.interpreter import favour_throughput
from appview_pipeline.ingest.pipeline import run_pipeline
from appview_pipeline.ingest.watchdog import Watchdog
from appview_pipeline.labels.choice import ALL, choose
from appview_pipeline.labels.resolutions import Resolutions
from appview_pipeline.labels.streams import Streams, Taken
from appview_pipeline.labels.writer import LabelWriter
from appview_pipeline.leases.lease import report_trouble, run_leased
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database, open_database
from appview_pipeline.store.errors import Transient
from appview_pipeline.store.labelers import LOCK, reread
from appview_pipeline.store.labels import LabelReport, announce_expired
from appview_pipeline.store.session_lock import SessionLock, session_lock

log = logging.getLogger("appview_pipeline.labels")

OTHER_FILES = 200
"""Open files that the process may need beside the connections to labelers."""


@dataclass
class LabelSummary:
    """What was applied since the process began. `events`: labels and negations; of these `added` new ones, `repeated`
    such as had been applied before, `changed` those that changed what is in effect, `withheld` those of labelers that
    have opted out. `rejected` and `frames` as counted by the streams."""

    events: int = 0
    added: int = 0
    repeated: int = 0
    changed: int = 0
    withheld: int = 0
    rejected: int = 0
    batches: int = 0
    seconds: float = 0.0
    labelers: dict[str, str] = field(default_factory=dict)
    """The labelers with their states, and why they wait or are parked."""

    def add(self, reports: Sequence[LabelReport]) -> None:
        """Adds what a batch did."""
        for report in reports:
            self.batches += 1
            self.events += report.events
            self.added += report.added
            self.repeated += report.repeated
            self.changed += report.changed
            self.withheld += report.withheld


def label_live(
    settings: Settings,
    stopped: Callable[[], bool],
    *,
    from_start: bool = False,
    progress: Callable[[LabelSummary], object] = lambda so_far: None,
    trouble: Callable[[str | None], object] = report_trouble,
) -> LabelSummary:
    """Reads the streams of the settings' labelers until `stopped`.

    `from_start`: each is read from its beginning once more. `trouble`: gets what keeps the process from its work, in
    words; None: nothing does. Raises `OperatorError` (bad setting, no database), `LockTaken` (another label process),
    `LockLost`.
    """
    allow_files(settings)
    database = open_database(settings)
    try:
        taken = "another label process is at work on this database"
        with (
            session_lock(database, LOCK, taken=taken, stopped=stopped) as connection,
            questions(settings) as (asked, client),
        ):
            lock = SessionLock(connection, "the label process", "its lock")
            identities = IdentityCache(database, settings, lambda wanted: attempt(wanted, asked))
            streams = Streams(
                settings, database, Resolutions(identities.get, settings.resolutions), client.hosts, stopped=stopped
            )
            writer = LabelWriter(database, settings, stopped=stopped)
            if from_start:
                _reread(database, settings)
            process = Process(database, streams, lock, stopped, trouble, progress)
            trouble(None)
            try:
                with Watchdog(database, writer, settings.slow_batch_seconds):
                    run_pipeline(
                        process.batches(),
                        streams.decode,
                        writer,
                        before_apply=lock.ensure,
                        on_applied=process.applied,
                        on_failure=streams.wake,
                    )
            except Stopped:
                log.info("Ended before the batch in hand was written; it is read again at the next start")
            finally:
                process.end()
            return process.summary
    finally:
        database.close()


def _reread(database: Database, settings: Settings) -> None:
    with database.connect("writer") as connection:
        for did in choose(connection, settings):
            reread(connection, did)


@dataclass
class Process:
    """The loop's parts, each in its time."""

    database: Database
    streams: Streams
    lock: SessionLock
    stopped: Callable[[], bool]
    trouble: Callable[[str | None], object]
    progress: Callable[[LabelSummary], object]
    summary: LabelSummary = field(default_factory=LabelSummary)
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        """Everything is due."""
        self._expired_due = 0.0
        self._logged_at = time.monotonic()
        self._logged = replace(self.summary)
        self._away = backoff.database_away()
        self._said: str | None = None

    def batches(self) -> Iterator[list[Taken]]:
        """What the streams have brought, until `stopped`; nothing where they are quiet."""
        while not self.stopped():
            self.lock.ensure()
            self._step()
            yield self.streams.take()
            self._log_if_due()

    def applied(self, reports: list[LabelReport]) -> None:
        """Notes what a batch did."""
        self.summary.add(reports)
        self._note()
        self.progress(self.summary)

    def end(self) -> None:
        """Closes the streams, and says so where the database is there."""
        self._note()
        self.streams.close()
        if self.stopped() and self._said is None:  # else another process may be at work by now
            try:
                self.streams.say_the_end()
            except (Transient, OperatorError) as error:
                log.warning("The states of labelers could not be written: %s", error)

    def _note(self) -> None:
        self.summary.seconds = time.monotonic() - self.began
        self.summary.rejected = sum(stream.rejected_in_all for stream in self.streams.streams)
        self.summary.labelers = {
            stream.did: stream.state if stream.reason is None else f"{stream.state}: {stream.reason}"
            for stream in self.streams.streams
        }

    def _step(self) -> None:
        """Does what is due. While the database is away it waits, and says so."""
        try:
            self.streams.step()
            if (now := time.monotonic()) >= self._expired_due:
                with self.database.connect("writer") as connection:
                    announce_expired(connection)
                self._expired_due = now + backoff.LABELS_EXPIRED_SECONDS
        except (Transient, OperatorError) as error:
            self._wait(str(error).strip().partition("\n")[0])
            return
        if self._said is not None:
            self._said = None
            self.trouble(None)
        self._away.failures = 0

    def _wait(self, sentence: str) -> None:
        wait = self._away.next()
        log.warning("The database did not take a statement, trying again in %.1f s: %s", wait, sentence)
        if self._said is None:
            self._said = sentence
            self.trouble(sentence)
        until = time.monotonic() + wait
        while time.monotonic() < until and not self.stopped():
            time.sleep(min(wait, backoff.STOP_POLL_SECONDS))

    def _log_if_due(self) -> None:
        now = time.monotonic()
        if (seconds := now - self._logged_at) < backoff.SUMMARY_SECONDS:
            return
        self._note()
        log.debug(
            "%.0f labels/s",
            (self.summary.events - self._logged.events) / seconds,
            extra={
                "labels": self.summary.events - self._logged.events,
                "changed": self.summary.changed - self._logged.changed,
                "rejected": self.summary.rejected - self._logged.rejected,
                "connected": sum(stream.state == "connected" for stream in self.streams.streams),
                "labelers": len(self.streams.streams),
            },
        )
        self._logged_at, self._logged = now, replace(self.summary)


def allow_files(settings: Settings) -> None:
    """Raises the limit of this process's open files to what its labelers may need: each has a connection. Where the
    system does not allow so many, it logs how many it may lack."""
    labelers = settings.labelers_limit if ALL in settings.labelers else len(settings.labelers)
    needed = labelers + OTHER_FILES
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY or limit >= needed:
        return
    allowed = needed if most == resource.RLIM_INFINITY else min(needed, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
    if allowed < needed:
        log.warning(
            "%s labelers may need %s open files, and this process may have %s: raise its limit (ulimit -n), or lower "
            "APPVIEW_LABELERS_LIMIT",
            f"{labelers:,}",
            f"{needed:,}",
            f"{allowed:,}",
        )


def main() -> int:
    """Reads labels as a leased process; the exit code says how it ended."""
    return run_leased("labels", _work)


def _work(settings: Settings, stopped: Callable[[], bool]) -> None:
    favour_throughput()
    label_live(settings, stopped)


if __name__ == "__main__":
    sys.exit(main())
