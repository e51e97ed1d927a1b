"""Transactions of the write path, tried again while their error is a passing one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from appview_pipeline import backoff
from appview_pipeline.errors import OperatorError, Stopped
from appview_pipeline.indexing.registry import EFFECTS
from appview_pipeline.store.apply import apply, prepare
from appview_pipeline.store.batch import DEAD_LETTER_LIMITS, BatchToApply, CursorMove, DeadLetterLimits, Report
from appview_pipeline.store.database import Connection, Database
from appview_pipeline.store.errors import Cancelled, LockWait, Transient
from appview_pipeline.store.postgres import limit_transaction

log = logging.getLogger(__name__)

_T = TypeVar("_T")


class TookTooLong(Exception):
    """A transaction was cancelled as often as it may be. The sentence says at which statement, last."""


@dataclass(frozen=True)
class AtWork:
    """A write under way: since when (`time.monotonic`), how many changes, and the process id of the PostgreSQL backend
    that runs it (None: between two tries)."""

    since: float
    changes: int
    backend: int | None


class Transactions:
    """Runs the transactions of one writer. Not for use by two threads at once.

    `statement_seconds` is the time that a statement has, `APPVIEW_STATEMENT_TIMEOUT`; a `share` is a part of it.
    `retries` counts the failures that were tried again.
    """

    def __init__(self, database: Database, stopped: Callable[[], bool]) -> None:
        self._database = database
        self._stopped = stopped
        self.statement_seconds = database.roles["writer"].statement
        self.retries = 0
        self.at_work: AtWork | None = None

    def retry(
        self, attempt: Callable[[float], _T], *, share: float = 1.0, max_cancelled: int | None, is_single: bool
    ) -> _T:
        """What `attempt` gives, tried again while its error is a passing one. `attempt` gets the share that it has.

        `is_single`: the transaction is of one change, which can't be halved. Raises `TookTooLong` when cancelled
        `max_cancelled` times (None: never), `Stopped`, and the errors that don't pass.
        """
        pause = backoff.batch()
        cancelled, by_others = 0, 0
        while True:
            began = time.monotonic()
            try:
                return attempt(share)
            except (Transient, OperatorError) as error:
                self.retries += 1
                if self.at_work is not None:
                    self.at_work = replace(self.at_work, backend=None)
                sentence = reason_of(error)
                if isinstance(error, Cancelled):
                    sentence = f"{error.statement}: {sentence}"
                    if is_single and time.monotonic() - began < 0.9 * share * self.statement_seconds:
                        by_others += 1
                    else:
                        cancelled += 1
                    if max_cancelled is not None and (
                        cancelled >= max_cancelled or by_others >= backoff.CANCELLATIONS_BY_OTHERS
                    ):
                        raise TookTooLong(sentence) from error
                elif isinstance(error, LockWait):
                    share = 1.0  # the time of a part is for its work, not for others'
                wait = pause.next()
                log.warning("Batch not written, trying again in %.1f s: %s", wait, sentence)
                self.wait(wait)

    def apply(
        self,
        batch: BatchToApply,
        share: float,
        *,
        move: CursorMove | None = None,
        limits: DeadLetterLimits = DEAD_LETTER_LIMITS,
        dry_run: bool = False,
    ) -> Report:
        """`store.apply.apply` in a transaction in which each statement has `share` of the usual time."""
        with self._connection(share) as connection:
            return apply(connection, batch, move=move, limits=limits, dry_run=dry_run)

    @contextmanager
    def _connection(self, share: float) -> Iterator[Connection]:
        with self._database.connect("writer") as connection:
            if self.at_work is not None:
                self.at_work = replace(self.at_work, backend=connection.info.backend_pid)
            prepare(connection, EFFECTS)
            limit_transaction(connection, self._database.roles["writer"], share)
            yield connection

    def wait(self, seconds: float) -> None:
        """Waits so long. Raises `Stopped`."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._stopped():
                raise Stopped
            time.sleep(min(left, backoff.STOP_POLL_SECONDS))
        if self._stopped():
            raise Stopped


def reason_of(error: Exception) -> str:
    """An error in one line that a dead letter can keep."""
    return str(error).strip().partition("\n")[0].replace("\0", "")[:500]
