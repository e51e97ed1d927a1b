"""A process that writes batches and may be killed, as cheap as a fork: started once, it forks a writer for each job.

The writer is what the consumer is: it reads the stream's cursor, then writes batches that move it, through the real
write path, on a connection of its own. It says `began <pid>`, `applied <batches>` after each batch, and, when it kills
itself, `dying <statement> <whether a transaction is open>`; the process that forked it says how it `ended`.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from psycopg2.extensions import TRANSACTION_STATUS_IDLE
from psycopg2.extensions import connection as Connection

from appview_pipeline.indexing.changes import Change
from appview_pipeline.ingest.writer import Position, Writer
from appview_pipeline.settings import Settings
from appview_pipeline.store.batch import CursorMoved
from appview_pipeline.store.cursors import cursor_of
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.statement_hooks import HookedDatabase, statement_name

RELAY = "wss://relay.example"
SHARD = "0/1"
CURSOR_MOVED = 3


@dataclass(frozen=True)
class Moment:
    """When a writer is killed, or kills itself.

    `before` or `after` a statement of batch `batch` (from 1), by name or number (the COMMIT is one too);
    `unacknowledged`: when that batch is committed, before it says so; `later`: `delay` seconds after the one before it.
    """

    kind: Literal["before", "after", "unacknowledged", "later"]
    batch: int
    statement: str | int = ""
    delay: float = 0.0


@dataclass(frozen=True)
class Job:
    url: str
    source: str
    batches: Sequence[Sequence[Change]]
    moment: Moment | None = None


@dataclass(frozen=True)
class End:
    """How a writer ended. `acknowledged`: batches; `dying`: the statement at which it killed itself."""

    killed: bool
    acknowledged: int
    dying: str | None = None
    in_transaction: bool = False


class WriterProcess:
    """The parent of the writers, from the test's side."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "appview_pipeline_tests.properties.writer_process"],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._jobs, self._words = self._process.stdin, self._process.stdout

    def close(self) -> None:
        self._jobs.close()
        assert self._process.wait(30) == 0
        self._words.close()

    def run(self, job: Job) -> End:
        """Has a job done, until it is complete or its writer is killed."""
        pickle.dump(job, self._jobs)
        self._jobs.flush()
        acknowledged, pid = 0, None
        dying, in_transaction = None, False
        later = job.moment if job.moment is not None and job.moment.kind == "later" else None
        while True:
            word, _, rest = self._words.readline().decode().strip().partition(" ")
            match word:
                case "began":
                    pid = int(rest)
                case "applied":
                    acknowledged = int(rest)
                case "dying":
                    dying, _, in_one = rest.rpartition(" ")
                    in_transaction = in_one == "True"
                case "ended":
                    status = int(rest)
                    assert status in (0, -signal.SIGKILL, CURSOR_MOVED), f"the writer ended with {status}"
                    return End(status == -signal.SIGKILL, acknowledged, dying, in_transaction)
                case _:
                    raise AssertionError(f"the writer process says {word} {rest}")
            if later is not None and word != "dying" and acknowledged == later.batch - 1:
                time.sleep(later.delay)
                assert pid is not None
                # Nobody else has this process id yet: the parent leaves the process a zombie until the next job.
                os.kill(pid, signal.SIGKILL)
                later = None


# --- the other side --------------------------------------------------------------------------------------------------


def _say(words: str) -> None:
    os.write(sys.stdout.fileno(), f"{words}\n".encode())


def _write(job: Job) -> int:
    moment = job.moment
    batch, count, prepared = 0, 0, False

    def die_if(kind: str, statement: str, connection: Connection) -> None:
        if (
            moment is not None
            and (moment.kind, moment.batch) == (kind, batch)
            and moment.statement in (statement, count)
        ):
            in_transaction = connection.info.transaction_status != TRANSACTION_STATUS_IDLE
            _say(f"dying {statement} {in_transaction}")
            os.kill(os.getpid(), signal.SIGKILL)

    @contextmanager
    def around(name: str, connection: Connection) -> Iterator[None]:
        nonlocal count, prepared
        if prepared:
            count += 1
            die_if("before", name, connection)
        yield
        if prepared:
            die_if("after", name, connection)
        prepared = prepared or name == "commit"

    _say(f"began {os.getpid()}")
    settings = Settings(database_url=job.url)
    database = HookedDatabase(job.url, settings, around)
    with database.connect("reader") as connection:
        position = Position(RELAY, SHARD, cursor_of(connection, RELAY, SHARD))
    writer = Writer(database, settings, job.source, position)
    for batch, changes in enumerate(job.batches, 1):
        count, prepared = 0, False
        try:
            writer.write(changes, time.time())
        except CursorMoved:
            return CURSOR_MOVED
        if moment == Moment("unacknowledged", batch):
            os.kill(os.getpid(), signal.SIGKILL)
        _say(f"applied {batch}")
    return 0


def main() -> None:
    """Forks a writer for each job that comes in, one after the other, until there are no more."""
    pid = None
    statement_name("")  # fills caches that each writer would have to fill
    while True:
        try:
            job = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        if pid is not None:
            os.waitpid(pid, 0)
        pid = os.fork()
        if pid == 0:
            try:
                os._exit(_write(job))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert end is not None
        _say(f"ended {end.si_status if end.si_code == os.CLD_EXITED else -end.si_status}")


if __name__ == "__main__":
    # The pickled jobs name the classes by this module's own name.
    from appview_pipeline_tests.properties import writer_process

    writer_process.main()
