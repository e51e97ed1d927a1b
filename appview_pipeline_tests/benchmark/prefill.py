"""A database that holds a million or ten million records before the first frame comes: see prefill.sql."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2.extensions import connection as Connection

from appview_pipeline_tests.benchmark.corpus import Corpus
from appview_pipeline_tests.benchmark.keys import insert_identities

# A larger chunk goes through an index with a longer sorted run, a smaller one takes less memory.
CHUNKS = 20
SMALLEST_CHUNK = 100_000
# Accounts beside the corpus' own: in the real network there are 430 records an account.
RECORDS_PER_ACCOUNT = 400
_DAYS = 30
# Independent of each other, and about the same work: they fill side by side, each goes through all chunks.
_LANES = (("records", "notifications"), ("likes", "others"))
# While it fills, nothing has to survive: without these the disk is the limit, and the measured server has its own back.
_HURRY = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_wal_size": "8GB",
    "autovacuum": "off",
    "temp_buffers": "256MB",
    "work_mem": "128MB",
}


def _sections(posts_have_revs: bool) -> dict[str, str]:
    """The statements by name. An older revision, which this one is compared with, has no `rev` in bsky.post."""
    text = Path(__file__).with_suffix(".sql").read_text()
    text = text.replace("{rev_column}", ", rev" if posts_have_revs else "")
    text = text.replace("{rev_of_post}", ", split_part(uri, '/', 5)" if posts_have_revs else "")
    _, *parts = text.split("\n-- :")
    return {name.strip(): text for name, _, text in (part.partition("\n") for part in parts)}


def prefill(libpq: str, corpus: Corpus, records: int) -> None:
    """Fills the migrated, empty database with about `records` records: a minute a million.

    A few likes, reposts and follows repeat one that is there and have a record but no row of their own. Ends with
    VACUUM ANALYZE and a checkpoint: what comes next starts from a server that has nothing left to do.
    """
    if records:
        parameters = _parameters(corpus, records)
        with _in_a_hurry(libpq):
            with closing(psycopg2.connect(libpq)) as connection:
                with connection.cursor() as cursor:
                    cursor.execute(
                        "SELECT EXISTS (SELECT FROM information_schema.columns "
                        "WHERE (table_schema, table_name, column_name) = ('bsky', 'post', 'rev'))"
                    )
                    sections = _sections(cursor.fetchone() == (True,))
                _run(connection, sections["functions"], parameters)
                _copy_known(connection, corpus)
                for name in ("accounts", "posts", "known", "profiles"):
                    _run(connection, sections[name], parameters)
                with connection.cursor() as cursor:
                    cursor.execute("SELECT count(*) FROM bench.post")
                    (parameters["posts"],) = cursor.fetchone() or (0,)
            with ThreadPoolExecutor(len(_LANES)) as pool:
                list(pool.map(lambda lane: _fill(libpq, lane, sections, parameters), _LANES))
            with closing(psycopg2.connect(libpq)) as connection:
                for name in ("counters", "profile_counters", "clean"):
                    _run(connection, sections[name], parameters)
            insert_identities(libpq, corpus)
            # Before autovacuum is on again: there is nothing left for it to do.
            _vacuum(libpq)
    flush(libpq)


def count_profiles(libpq: str) -> None:
    """Fills `bsky.profile_agg`, which is empty, from the follows and the posts that are there."""
    with closing(psycopg2.connect(libpq)) as connection:
        _run(connection, _sections(posts_have_revs=True)["profile_counters"], {})


def _vacuum(libpq: str) -> None:
    def vacuum(table: str) -> None:
        with closing(psycopg2.connect(libpq)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f"VACUUM ANALYZE {table}")

    with closing(psycopg2.connect(libpq)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' "
            "AND relnamespace IN ('bsky'::regnamespace, 'pipeline'::regnamespace) ORDER BY pg_relation_size(oid) DESC"
        )
        tables = [str(name) for (name,) in cursor.fetchall()]
    with ThreadPoolExecutor(len(_LANES)) as pool:
        list(pool.map(vacuum, tables))


def flush(libpq: str) -> None:
    """A checkpoint, and everything on disk: also what was written while nothing had to be."""
    with closing(psycopg2.connect(libpq)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("CHECKPOINT")
    os.sync()


def _parameters(corpus: Corpus, records: int) -> dict[str, Any]:
    past = corpus.past
    known_posts, known_accounts = len(past["posts"]), len(past["accounts"])
    accounts = known_accounts + records // RECORDS_PER_ACCOUNT
    numbers = max(1, records - known_posts - accounts)  # what is left are numbered records
    span = _DAYS * 86_400 * 1_000_000
    return {
        "numbers": numbers,
        "known_accounts": known_accounts,
        "accounts": accounts,
        "known_posts": known_posts,
        "begin": int(past["start"] * 1_000_000) - span - 86_400 * 1_000_000,
        "step": span / numbers,
    }


def _run(connection: Connection, statements: str, parameters: dict[str, Any]) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute(statements, parameters)


def _copy_known(connection: Connection, corpus: Corpus) -> None:
    for table, columns, rows in (
        ("known_account", "did, handle, rev, commit_cid, data_cid", corpus.past["accounts"]),
        ("known_post", "uri, cid, creator, root, root_cid", corpus.past["posts"]),
    ):
        text = io.StringIO("".join("\t".join(row) + "\n" for row in rows))
        with connection, connection.cursor() as cursor:
            cursor.copy_expert(f"COPY bench.{table} ({columns}) FROM STDIN", text)


def _fill(libpq: str, lane: tuple[str, ...], sections: dict[str, str], parameters: dict[str, Any]) -> None:
    numbers = parameters["numbers"]
    size = max(SMALLEST_CHUNK, numbers // CHUNKS)
    with closing(psycopg2.connect(libpq)) as connection:
        for low in range(1, numbers + 1, size):
            chunk = {**parameters, "low": low, "high": min(low + size - 1, numbers)}
            _run(connection, "".join(sections[name] for name in ("chunk", *lane)), chunk)


@contextmanager
def _in_a_hurry(libpq: str) -> Iterator[None]:
    def alter(statements: list[str]) -> None:
        with closing(psycopg2.connect(libpq)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                for statement in [*statements, "SELECT pg_reload_conf()"]:
                    cursor.execute(statement)

    alter([f"ALTER SYSTEM SET {name} = '{value}'" for name, value in _HURRY.items()])
    try:
        yield
    finally:
        alter([f"ALTER SYSTEM RESET {name}" for name in _HURRY])
