"""The steps of an adoption that several processes go through, range by range (store/adoption_ranges.py).

This process hands the ranges out, and the others go through them, a session each. Each may be killed at any moment, and
ends by itself when this one does. So the next call goes on with the ranges as they are, with any number of processes.

They come to the same tables in any order. What a record's own rows should be follows from records and past states
alone. Whoever changes something on which rows of others depend holds the locks of the write path, and evaluates those
others anew (store/repair.py); whoever only compares, and finds nothing wrong, writes nothing.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from multiprocessing import connection as pipes
from multiprocessing.synchronize import Event

from appview_pipeline import backoff
from appview_pipeline.errors import OperatorError, Stopped
from appview_pipeline.indexing.registry import EFFECTS
from appview_pipeline.ingest.adopted_records import AdoptedRecords
from appview_pipeline.ingest.rerun import retry_while_busy
from appview_pipeline.settings import Settings
from appview_pipeline.store import adoption_steps as steps
from appview_pipeline.store.adoption_ranges import Range, move_range, note_work, open_ranges, wait_for_others
from appview_pipeline.store.database import Connection, Database
from appview_pipeline.store.repair import prepare_repair

log = logging.getLogger(__name__)

ROWS = 5_000
"""Rows of a table that one transaction goes through."""
RECORDS = 2_000
"""Records that are read at once."""

Do = Callable[[str, str, str | None], tuple[str | None, Mapping[str, int]]]
"""Goes through the next rows of a part after one URI, at most up to another (None: to the end). Returns up to where
(None: that was all), and what was done; may leave a transaction open, which the caller commits."""


@contextmanager
def session(database: Database) -> Iterator[Connection]:
    """A connection of an adoption, with the functions of its statements."""
    with database.connect("maintenance") as connection:
        steps.prepare_session(connection)
        yield connection


@contextmanager
def _work_session(database: Database) -> Iterator[Connection]:
    """The same, outside of the pool, for going through ranges: when it has ended, nothing of it is at work any more."""
    with database.dedicated("maintenance") as connection:
        connection.autocommit = False
        steps.prepare_session(connection)
        note_work(connection)
        yield connection
        connection.commit()


def go_through(
    settings: Settings,
    database: Database,
    step: str,
    processes: int,
    progress: Callable[[int], object],
    stopped: Callable[[], bool],
) -> None:
    """Goes through all ranges of a step that have not ended, with as many processes as are asked for and needed.

    `progress`: called with the rows that were gone through. Raises `Stopped` where `stopped` says so, between two
    transactions, and the error of a process that fails.
    """
    wait_for_others(database)
    with database.connect("maintenance") as connection:
        ranges = open_ranges(connection, step)
    if min(processes, len(ranges)) > 1:
        _Processes(settings, database, step, min(processes, len(ranges)), progress, stopped).run(ranges)
        return
    with _work_session(database) as connection:
        do = _DOING[step](settings, database, connection)
        for one in ranges:
            _go_through_one(connection, one, do, progress, stopped)


def _go_through_one(
    connection: Connection, one: Range, do: Do, progress: Callable[[int], object], stopped: Callable[[], bool]
) -> None:
    def attempt(position: str) -> tuple[str | None, Mapping[str, int]]:
        reached, counts = do(one.part, position, one.until)
        with connection.cursor() as cursor:
            move_range(cursor, one, position, reached, counts)
        connection.commit()
        return reached, counts

    position: str | None = one.position
    while position is not None:
        if stopped():
            raise Stopped
        position, counts = retry_while_busy(connection, partial(attempt, position))
        progress(counts.get("records", 0) or sum(counts.values()))


# --- what is done ---


def _history(settings: Settings, database: Database, connection: Connection) -> Do:
    steps.prepare_history(connection)
    ways = {"posts": ("next", steps.note_history), "reposts": ("next_repost", steps.note_reposts)}

    def do(part: str, after: str, until: str | None) -> tuple[str | None, Mapping[str, int]]:
        statement, note = ways[part]
        with connection.cursor() as cursor:
            reached = steps.next_key(cursor, "history", statement, after, ROWS)
            if until is not None and (reached is None or reached >= until):
                return None, note(EFFECTS, cursor, after, until)
            return reached, note(EFFECTS, cursor, after, reached)

    return do


def _records(settings: Settings, database: Database, connection: Connection) -> Do:
    prepare_repair(connection, EFFECTS)
    records = AdoptedRecords(settings, database, connection)
    return lambda part, after, until: records.repair_next(after, until, RECORDS)


_DOING: Mapping[str, Callable[[Settings, Database, Connection], Do]] = {"history": _history, "records": _records}
PARTS: Mapping[str, tuple[str, ...]] = {"history": ("posts", "reposts"), "records": ("records",)}
"""The steps that go through ranges, and the parts of each."""


# --- processes ---

Told = tuple[str, int | str]
"""What a process says: `next`, it wants a range; `rows`, it has gone through so many; `failed` and `mistake`, an error
in words, the second one a person's."""


class _Processes:
    """Some processes, and the ranges that they have not got yet."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        step: str,
        number: int,
        progress: Callable[[int], object],
        stopped: Callable[[], bool],
    ) -> None:
        self._progress, self._stopped = progress, stopped
        # Not forked: a fork would share the connections and threads of this process.
        context = multiprocessing.get_context("spawn")
        self._stop = context.Event()
        self._running: dict[pipes.Connection, multiprocessing.process.BaseProcess] = {}
        for _ in range(number):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work, args=(settings, database.url, step, theirs, self._stop), daemon=True
            )
            process.start()
            theirs.close()
            self._running[ours] = process

    def run(self, ranges: list[Range]) -> None:
        """Hands the ranges out until all have ended."""
        waiting = list(reversed(ranges))
        try:
            while self._running:
                for pipe in pipes.wait(list(self._running), backoff.ADOPTION_POLL_SECONDS):
                    assert isinstance(pipe, pipes.Connection)
                    self._listen(pipe, waiting)
                if self._stopped():
                    self._stop.set()
            if self._stopped():
                raise Stopped
        finally:
            for process in self._running.values():
                process.kill()
                process.join()

    def _listen(self, pipe: pipes.Connection, waiting: list[Range]) -> None:
        try:
            what, value = pipe.recv()
            if what == "rows":
                self._progress(value)
            elif what == "next":
                pipe.send(waiting.pop() if waiting and not self._stop.is_set() else None)
            elif what == "mistake":
                raise OperatorError(value)
            else:
                raise RuntimeError(f"A process of the adoption failed: {value}")
        except (EOFError, BrokenPipeError, ConnectionResetError):
            process = self._running.pop(pipe)
            process.join()
            if process.exitcode:
                raise OperatorError(
                    f"A process of the adoption has ended with code {process.exitcode}: run `appview-pipeline adopt` "
                    "again to go on."
                ) from None


def _work(settings: Settings, url: str, step: str, pipe: pipes.Connection, stop: Event) -> None:
    """What a process does: asks for ranges and goes through them, until there are none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches it through `stop`, in order
    threading.Thread(target=_end_with_parent, daemon=True).start()
    database = Database(url, settings)

    def tell(what: str, value: int | str = 0) -> None:
        pipe.send((what, value))

    try:
        with _work_session(database) as connection:
            do = _DOING[step](settings, database, connection)
            tell("next")
            while (one := pipe.recv()) is not None:
                _go_through_one(connection, one, do, partial(tell, "rows"), stop.is_set)
                tell("next")
    except Stopped:
        pass
    except OperatorError as error:
        tell("mistake", str(error))
    except Exception as error:
        log.exception("The process ends.")
        tell("failed", f"{type(error).__name__}: {error}")
    finally:
        database.close()


def _end_with_parent() -> None:
    """Ends this process when the one that started it has ended, however that was."""
    process = multiprocessing.parent_process()
    if process is not None:
        process.join()
    os._exit(1)
