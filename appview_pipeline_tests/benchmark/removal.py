"""The removal of a large account beside live traffic: how long it takes, and how long the live writer waits for it.

`python -m appview_pipeline_tests.benchmark.removal` prints a line for each part, in a PostgreSQL of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import click

from appview_pipeline.indexing.changes import Change
from appview_pipeline.ingest.recount import recount
from appview_pipeline.ingest.removal import RemovalSummary, remove_accounts
from appview_pipeline.ingest.writer import Writer
from appview_pipeline.protocol.syntax import tid_from_micros
from appview_pipeline.settings import Settings
from appview_pipeline.store import migrate
from appview_pipeline.store.counters import TABLES
from appview_pipeline.store.database import Database
from appview_pipeline.store.embedded.ephemeral import ephemeral
from appview_pipeline_tests.support.changes import change_of
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.commits import FOLLOW, LIKE, POST, REPOST, Commit, Op
from appview_pipeline_tests.support.database import memory_folder
from appview_pipeline_tests.support.tables import one, rows

START = 1_750_000_000_000_000
WHEN = "2025-06-15T15:06:40.000Z"
CID = "bafyreie5cvv4h45feadgeuwhbcutmh6t2ceseocckahdoe6uat64zmz454"
BIG = "did:plc:big"
OTHERS = 500
POSTS_OF_OTHERS = 10
"""At least: of a large account's likes and reposts no two are of one post."""
OPS = 100
"""Operations in a commit of the large account."""
LIVE_SECONDS = 0.25
"""Between two batches of the live writer."""


@dataclass
class Author:
    """An account that makes commits, one a microsecond."""

    did: str
    moment: int = START
    since: str | None = None
    records: int = 0

    def commit(self, *records: tuple[str, dict[str, Any]]) -> Change:
        """A commit that creates records of these collections."""
        ops = []
        for collection, record in records:
            self.records += 1
            value = {"$type": collection, "createdAt": WHEN, **record}
            ops.append(Op("create", collection, f"r{self.records:07}", CID, value))
        self.moment += 1_000_000
        rev = tid_from_micros(self.moment)
        change = change_of(Commit(self.did, rev, WHEN, tuple(ops)), 1, self.since)
        assert not change.dead_letters, change.dead_letters
        self.since = rev
        return change


def ref(uri: str) -> dict[str, str]:
    return {"uri": uri, "cid": CID}


def other(number: int) -> str:
    return f"did:plc:other{number % OTHERS}"


def post_of_other(number: int, each: int = POSTS_OF_OTHERS) -> str:
    """A post of another account, of which each has so many."""
    return f"at://{other(number)}/{POST}/r{1 + number // OTHERS % each:07}"


def _record_of_big(number: int, each: int) -> tuple[str, dict[str, Any]]:
    """Of 20 records 8 are likes, 5 posts, 3 replies, 2 follows, 2 reposts."""
    kind, subject = number % 20, number * 7
    if kind < 8:
        return LIKE, {"subject": ref(post_of_other(subject, each))}
    if kind < 13:
        return POST, {"text": f"post {number}"}
    if kind < 16:
        root = ref(post_of_other(subject, each))
        return POST, {"text": f"reply {number}", "reply": {"root": root, "parent": root}}
    if kind < 18:
        return FOLLOW, {"subject": f"did:plc:stranger{number}" if number > 20 * OTHERS else other(number)}
    return REPOST, {"subject": ref(post_of_other(subject, each))}


def fill(database: Database, records: int) -> None:
    """The others' posts, the large account's records, and what others did to it."""
    writer = Writer(database, Settings(database_url=database.url), "fill")
    each = max(POSTS_OF_OTHERS, records // OTHERS)
    people = [Author(other(number)) for number in range(OTHERS)]
    for first in range(0, OTHERS, 20):
        posts = [(POST, {"text": "hi"})] * each
        writer.write([it.commit(*posts) for it in people[first : first + 20]], time.time())
    big = Author(BIG)
    for first in range(0, records, 20 * OPS):
        numbers = range(first, min(first + 20 * OPS, records))
        changes = [
            big.commit(*(_record_of_big(number, each) for number in numbers[at : at + OPS]))
            for at in range(0, len(numbers), OPS)
        ]
        writer.write(changes, time.time())
    uris = [f"at://{BIG}/{POST}/r{1 + number:07}" for number in range(8, records, 20)]
    for first in range(0, len(uris), 2_000):
        writer.write(
            [
                people[number % OTHERS].commit(
                    (LIKE, {"subject": ref(uri)}),
                    (POST, {"text": "re", "reply": {"root": ref(uri), "parent": ref(uri)}}),
                )
                for number, uri in enumerate(uris[first : first + 2_000])
            ],
            time.time(),
        )


# --- the live writer, a process of its own ----------------------------------------------------------------------------


def live(url: str, rate: int) -> None:
    """Writes `rate` commits a second of others until its input ends; prints the seconds that each batch took."""
    settings = Settings(database_url=url)
    writer = Writer(Database(url, settings), settings, "live")
    people = [Author(f"did:plc:live{number}") for number in range(200)]
    ended = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    number, due = 0, time.monotonic()
    while not ended.is_set():
        changes = []
        for _ in range(max(1, int(rate * LIVE_SECONDS))):
            number += 1
            root = ref(post_of_other(number))
            records: list[tuple[str, dict[str, Any]]] = [
                (LIKE, {"subject": root}),
                (POST, {"text": "live", "reply": {"root": root, "parent": root}}),
                (LIKE, {"subject": ref(f"at://{BIG}/{POST}/r{9 + 20 * (number % 2_000):07}")}),
            ]
            changes.append(people[number % len(people)].commit(records[number % 3]))
        began = time.monotonic()
        reports = writer.write(changes, time.time())
        print(json.dumps([time.monotonic() - began, len(changes), len(reports), writer.retries]), flush=True)
        due += LIVE_SECONDS
        time.sleep(max(0.0, due - time.monotonic()))


@dataclass
class Live:
    """What the live writer says: seconds of each batch, with when it was written."""

    batches: list[tuple[float, float]] = field(default_factory=list)
    retries: int = 0

    def between(self, first: float, last: float) -> str:
        """What the batches of a span of time took, in words."""
        took = sorted(seconds for at, seconds in self.batches if first <= at <= last)
        if not took:
            return "no batch"
        half, most = took[len(took) // 2], took[min(len(took) - 1, len(took) * 99 // 100)]
        return (
            f"{len(took):,} batches, median {half * 1000:,.0f} ms, 99 % within {most * 1000:,.0f} ms, "
            f"longest {took[-1] * 1000:,.0f} ms"
        )


@contextmanager
def live_writer(url: str, rate: int) -> Iterator[Live]:
    """The live writer, for the block."""
    found = Live()
    process = subprocess.Popen(
        [sys.executable, "-m", "appview_pipeline_tests.benchmark.removal", "--live", url, "--rate", str(rate)],
        cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            seconds, _, _, found.retries = json.loads(line)
            found.batches.append((time.monotonic(), seconds))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield found
    finally:
        process.communicate()
        reader.join()
        assert process.returncode == 0


@dataclass
class Measured:
    """A removal: what the job did, and the live writer's batches before and during it, in words."""

    summary: RemovalSummary
    before: str
    during: str
    retries: int
    differing: int
    left: int


def measure(database: Database, records: int, rate: int, seconds: float) -> Measured:
    """Fills the database, then removes the large account beside the live writer."""
    fill(database, records)
    rows(database.url, "ANALYZE")
    with live_writer(database.url, rate) as found:
        deadline = time.monotonic() + 60
        while len(found.batches) < 4 and time.monotonic() < deadline:
            time.sleep(0.1)
        began = time.monotonic()
        time.sleep(seconds)
        rows(database.url, "INSERT INTO pipeline.removal (did, reason) VALUES (%s, 'deleted')", BIG)
        removing = time.monotonic()
        summary = remove_accounts(Settings(database_url=database.url), database)
        ended = time.monotonic()
    differing = sum(recount(database, table, rewrite=False).differing for table in TABLES)
    left = one(database.url, "SELECT count(*) FROM bsky.record WHERE did = %s", BIG)
    return Measured(
        summary, found.between(began, removing), found.between(removing, ended), found.retries, differing, left
    )


@click.command(context_settings={"show_default": True})
@click.option("--records", default=100_000, help="Records of the account that is removed.")
@click.option("--rate", default=200, help="Commits a second of the live writer.")
@click.option("--seconds", default=10.0, help="How long the live writer is measured by itself, before.")
@click.option("--live", "live_url", hidden=True)
def main(records: int, rate: int, seconds: float, live_url: str | None) -> None:
    """Measures the removal of an account beside live traffic."""
    if live_url is not None:
        live(live_url, rate)
        return
    with ephemeral(parent=memory_folder()) as server:
        migrate.upgrade(server.url())
        database = Database(server.url(), Settings(database_url=server.url()))
        try:
            found = measure(database, records, rate, seconds)
        finally:
            database.close()
    did = found.summary
    click.echo(
        f"removed       {did.records:,} records and {did.rows:,} rows beside them in {did.seconds:,.1f} s "
        f"({did.records / did.seconds:,.0f} records/s), {did.batches:,} batches"
    )
    click.echo(f"longest lock  {did.longest_lock * 1000:,.0f} ms")
    click.echo(f"live before   {found.before}")
    click.echo(f"live during   {found.during}; {found.retries:,} retries")
    click.echo(f"counters      {found.differing:,} differ from a recount; {found.left:,} records are left")


if __name__ == "__main__":
    main()
