"""The databases of a side's server: prefilled ones as templates, a copy of one for every run, and their numbers."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import psycopg2

from appview_pipeline_tests.benchmark.corpus import Corpus
from appview_pipeline_tests.benchmark.keys import insert_identities
from appview_pipeline_tests.benchmark.prefill import flush, prefill
from appview_pipeline_tests.benchmark.sides import Server

POLL_SECONDS = 0.01
# Copying more costs minutes and pushes what the run needs out of the page cache: then the run uses the original.
MAX_COPIED = 4_000_000


def query(libpq: str, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """The rows of one statement on a connection of its own, outside of a transaction."""
    with closing(psycopg2.connect(libpq)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []


class Databases:
    """The databases of one server. With `keys` the empty one knows the accounts' identities, too; prefilled ones do."""

    def __init__(self, server: Server, corpus: Corpus, *, keys: bool = False) -> None:
        self.server = server
        self.corpus = corpus
        self.keys = keys
        self._prepared: set[str] = set()
        self._runs = 0

    def prepare(self, records: int) -> str:
        """The name of the database prefilled with `records` records, made at the first call."""
        name = f"prefilled_{records}"
        if name not in self._prepared:
            query(self.server.libpq("postgres"), f"CREATE DATABASE {name}")
            side = self.server.side
            subprocess.run(
                [sys.executable, "-m", "appview_pipeline.cli", "migrate"],
                cwd=side.checkout, env=side.environment(APPVIEW_DATABASE_URL=self.server.url(name)),
                check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            prefill(self.server.libpq(name), self.corpus, records)
            if records == 0 and self.keys:
                insert_identities(self.server.libpq(name), self.corpus)
                query(self.server.libpq(name), "VACUUM ANALYZE pipeline.identity")
                flush(self.server.libpq(name))
            self._prepared.add(name)
        return name

    @contextmanager
    def fresh(self, records: int) -> Iterator[str]:
        """The name of a database with `records` records that nobody has written to, dropped after the block."""
        original = name = self.prepare(records)
        maintenance = self.server.libpq("postgres")
        if records <= MAX_COPIED:
            self._runs += 1
            name = f"run_{self._runs}"
            query(maintenance, f"CREATE DATABASE {name} TEMPLATE {original} STRATEGY file_copy")
            flush(self.server.libpq(name))
        else:
            self._prepared.remove(original)
        try:
            yield name
        finally:
            query(maintenance, f"DROP DATABASE {name} WITH (FORCE)")


@dataclass
class Arrivals:
    """Watches which sequence number is readable, and since when, on a connection of its own; a context manager.

    `seen`: (seq, monotonic clock) each time that it moved. `backend` is the server process that this costs.
    """

    libpq: str
    relay: str
    shards: int = 1
    seen: list[tuple[int, float]] = field(default_factory=list)

    def __enter__(self) -> Arrivals:
        self._stopping = threading.Event()
        self._connection = psycopg2.connect(self.libpq)
        self._connection.autocommit = True
        self.backend = self._connection.info.backend_pid
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join()
        self._connection.close()

    def _watch(self) -> None:
        with self._connection.cursor() as cursor:
            while not self._stopping.wait(POLL_SECONDS):
                # Of several consumers the slowest counts; none has finished before all have begun.
                cursor.execute(
                    "SELECT min(seq) FROM pipeline.cursor WHERE relay = %s HAVING count(*) >= %s",
                    (self.relay, self.shards),
                )
                row, at = cursor.fetchone(), time.monotonic()
                if row and row[0] and (not self.seen or row[0] > self.seen[-1][0]):
                    self.seen.append((row[0], at))

    @property
    def newest(self) -> int:
        """The newest readable sequence number, 0 for none."""
        return self.seen[-1][0] if self.seen else 0

    def readable_at(self, seq: int) -> float:
        """When (monotonic clock) the event could first be read. It must have been seen."""
        return self.seen[bisect_left(self.seen, (seq, 0.0))][1]


def wal_position(libpq: str) -> int:
    return int(query(libpq, "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')")[0][0])


@dataclass(frozen=True)
class TableSize:
    """A table's rows, and its bytes with and without (`table`) those of its indexes."""

    name: str
    rows: int
    table: int
    index: int


def table_sizes(libpq: str) -> list[TableSize]:
    """All tables of our schemas, largest first; rows as of the last ANALYZE."""
    statement = """
        SELECT n.nspname || '.' || c.relname, greatest(c.reltuples, 0)::bigint, pg_table_size(c.oid),
            pg_indexes_size(c.oid)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('bsky', 'pipeline') AND c.relkind IN ('r', 'm')
        ORDER BY pg_total_relation_size(c.oid) DESC"""
    return [TableSize(*row) for row in query(libpq, statement)]
