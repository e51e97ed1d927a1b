"""The databases that reads are measured on: ours, and the same rows in the schema of the reference's migrator."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2

from appview_pipeline_tests.benchmark.corpus import START, Corpus
from appview_pipeline_tests.benchmark.databases import query
from appview_pipeline_tests.benchmark.prefill import count_profiles, prefill

SQL = Path(__file__).with_name("reads.sql")
PREFILLED = 0.7
"""The share of the records that the prefill makes; the others come from reads.sql."""
DAY = 86_400.0
BEGIN = START - 31 * DAY
"""The time of the first record (seconds since 1970), as in the prefill. All are of thirty days."""
MIDDLE = BEGIN + 15 * DAY


def fill(libpq: str, corpus: Corpus, records: int) -> None:
    """Fills a migrated, empty database with about `records` records and what readers ask for beside them."""
    prefill(libpq, corpus, int(records * PREFILLED))
    _, *sections = SQL.read_text().split("\n-- :")
    for section in sections:
        statements = section.partition("\n")[2]
        with closing(psycopg2.connect(libpq)) as connection, connection, connection.cursor() as cursor:
            cursor.execute("SET work_mem = '256MB'; SET maintenance_work_mem = '512MB'; SET synchronous_commit = off")
            cursor.execute(statements, {"records": records, "begin": int(BEGIN * 1_000_000)})
    count_profiles(libpq)


def copy_rows(source: str, target: str) -> dict[str, int]:
    """Copies the rows of schema bsky into another database that has the tables, in the order of their pages.

    Only the columns that the target has; generated ones make themselves. Returns the rows by table.
    """
    statement = """
        SELECT relname, array_agg(quote_ident(attname) ORDER BY attnum)
        FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
        WHERE relnamespace = 'bsky'::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped
            AND attgenerated = '' AND relname NOT LIKE 'kysely%%'
        GROUP BY 1 ORDER BY 1"""
    copied = {}
    for table, columns in query(target, statement):
        names = ", ".join(columns)
        rows = io.BytesIO()
        with closing(psycopg2.connect(source)) as connection, connection.cursor() as cursor:
            cursor.copy_expert(f'COPY (SELECT {names} FROM bsky."{table}") TO STDOUT', rows)
        rows.seek(0)
        with closing(psycopg2.connect(target)) as connection, connection, connection.cursor() as cursor:
            cursor.execute("SET synchronous_commit = off")
            cursor.execute(f'DELETE FROM bsky."{table}"')
            cursor.copy_expert(f'COPY bsky."{table}" ({names}) FROM STDIN', rows)
            copied[str(table)] = cursor.rowcount
    return copied


def settle(libpqs: Sequence[str]) -> None:
    """Writes all tables and indexes anew, and gathers statistics: databases that were filled in different ways are
    comparable."""

    def one(libpq: str) -> None:
        for statement in (
            "SET maintenance_work_mem = '512MB'; VACUUM (FULL)",
            "VACUUM (FREEZE, ANALYZE)",
            "CHECKPOINT",
        ):
            with closing(psycopg2.connect(libpq)) as connection:
                connection.autocommit = True
                with connection.cursor() as cursor:
                    for part in statement.split("; "):
                        cursor.execute(part)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, libpqs))


@dataclass(frozen=True)
class Subjects:
    """Whom and what the reads ask for. Accounts are DIDs; posts, lists and others AT URIs.

    `star` is followed by a twentieth of as many accounts as there are records; `reader` follows thousands, and has the
    private data; `writer` has written a tenth of all records. `known` is a post that a twentieth liked, `deep` the root
    of a thread of three hundred levels and `deepest` its end, `thread` one of the writer's own threads.
    """

    star: str
    reader: str
    writer: str
    ordinary: str
    known: str
    deep: str
    deepest: str
    thread: str
    post: str
    gated: str
    long_list: str
    moderation_list: str
    reference_list: str
    small_list: str
    pack: str
    handle: str
    writer_handle: str
    accounts: list[str]
    labelers: list[str]
    posts: list[str]
    lists: list[str]
    packs: list[str]
    records: dict[str, list[str]]
    """Up to 50 URIs of each collection."""

    nobody: str = "did:plc:nobodynobodynobodynobody"

    @property
    def nothing(self) -> str:
        """A post that is not there."""
        return f"at://{self.nobody}/app.bsky.feed.post/3kaaaaaaaaaa2"


def subjects(libpq: str) -> Subjects:
    """Finds them in a database that `fill` filled."""

    def column(statement: str, *parameters: Any) -> list[str]:
        return [str(value) for (value,) in query(libpq, statement, *parameters)]

    def account(n: int) -> str:
        return column("SELECT did FROM reads.account WHERE n = %s", n)[0]

    def made(n: int) -> str:
        return column("SELECT uri FROM reads.act WHERE kind = 'post' AND n = %s", n)[0]

    ordinary = column(
        "WITH posts AS (SELECT creator, count(*) AS number FROM bsky.post JOIN reads.account ON did = creator "
        "WHERE n > 100 GROUP BY creator) "
        "SELECT creator FROM posts ORDER BY abs(number - (SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY number) "
        "FROM posts)), creator LIMIT 1"
    )[0]
    lists = column("SELECT uri FROM reads.list ORDER BY n LIMIT 50")
    answered = column(
        'SELECT p.uri FROM bsky.post p JOIN bsky.post_agg a USING (uri) WHERE "replyParent" IS NULL '
        'AND "replyCount" BETWEEN 2 AND 5 ORDER BY p.uri LIMIT 1'
    )
    collections = column("SELECT DISTINCT split_part(uri, '/', 4) FROM bsky.record ORDER BY 1")
    records = {
        collection: column(
            "SELECT uri FROM bsky.record WHERE split_part(uri, '/', 4) = %s ORDER BY md5(uri) LIMIT 50", collection
        )
        for collection in collections
    }
    return Subjects(
        star=account(0), reader=account(1), writer=account(2), ordinary=ordinary,
        known=made(-1), deep=made(0), deepest=made(-2_000_300), thread=made(30), post=answered[0],
        gated=column('SELECT "postUri" FROM bsky.thread_gate ORDER BY 1 LIMIT 1')[0],
        long_list=lists[0], moderation_list=lists[1], reference_list=lists[2], small_list=lists[3],
        pack=column("SELECT uri FROM reads.act WHERE kind = 'starterpack' AND n = 0")[0],
        handle=column("SELECT handle FROM bsky.actor WHERE did = %s", ordinary)[0],
        writer_handle=column("SELECT handle FROM bsky.actor WHERE did = %s", account(2))[0],
        accounts=column("SELECT did FROM reads.account WHERE n < 100 ORDER BY n"),
        labelers=column("SELECT did FROM reads.account WHERE n BETWEEN 10 AND 19 ORDER BY n"),
        posts=column("SELECT uri FROM reads.post ORDER BY n DESC LIMIT 100"),
        lists=lists,
        packs=column("SELECT uri FROM reads.act WHERE kind = 'starterpack' ORDER BY n LIMIT 50"),
        records=records,
    )  # fmt: skip
