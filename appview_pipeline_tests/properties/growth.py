"""How the cost of a batch grows with its size, when its events belong together: chains, edits, gates, duplicates.

A shape is a way for n events to belong together: what is in the database before, and the batch that is measured.
Cost is counted in rows that PostgreSQL's plans touched (its own EXPLAIN ANALYZE of every statement, by auto_explain),
which is the same on every machine; `python -m appview_pipeline_tests.benchmark.growth` measures CPU besides.
"""

from __future__ import annotations

import inspect
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from appview_pipeline.indexing.changes import Change
from appview_pipeline.ingest.writer import Writer
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline_tests.properties import growth_of_pairs, growth_of_threads
from appview_pipeline_tests.properties.growth_stories import WHEN, Story
from appview_pipeline_tests.support.changes import change_of
from appview_pipeline_tests.support.commits import (
    Commit,
)

SHAPES: dict[str, Callable[[int], Story]] = {
    name: shape
    for module in (growth_of_threads, growth_of_pairs)
    for name, shape in vars(module).items()
    if inspect.isfunction(shape) and shape.__module__ == module.__name__ and not name.startswith("_")
}
"""All public functions of the modules of shapes."""


class Measured:
    """A database that measures batches. All batches get the same connection: the pool has no other in use."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.writer = Writer(database, Settings(database_url=database.url), "test")
        self.seq = 0

    def changes(self, commits: Sequence[Commit]) -> list[Change]:
        """The commits as the next events of the stream."""
        changes = [change_of(commit, self.seq + number) for number, commit in enumerate(commits, 1)]
        self.seq += len(commits)
        return changes

    def write_changes(self, changes: Sequence[Change]) -> None:
        """Writes changes as one batch."""
        if changes:
            self.writer.write(changes, time.time())

    def write(self, commits: Sequence[Commit]) -> None:
        """Writes the commits as one batch."""
        self.write_changes(self.changes(commits))

    def prepare(self, story: Story) -> None:
        """Brings the database to where the measured batch begins."""
        with self.database.connect("writer") as connection, connection.cursor() as cursor:
            for root, did in story.mutes:
                cursor.execute("INSERT INTO bsky.thread_mute VALUES (%s, %s, %s)", (root, did, WHEN))
            for creator, subject in story.subscriptions:
                cursor.execute(
                    'INSERT INTO bsky.activity_subscription (creator, "subjectDid", key, "indexedAt", post, reply) '
                    "VALUES (%s, %s, 'k', %s, true, true)",
                    (creator, subject, WHEN),
                )
        # A usual batch comes first: the plans are made before what they have to cope with.
        self.write([story.post("z", f"z{number}") for number in range(10)])
        self.write(story.before)

    @contextmanager
    def counting(self) -> Iterator[Counter[str]]:
        """Counts, for the block, the rows that each statement's plan touched, by the statement's first words."""
        rows: Counter[str] = Counter()
        with self.database.connect("writer") as connection, connection.cursor() as cursor:
            cursor.execute(
                "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_analyze = on; "
                "SET auto_explain.log_timing = off; SET auto_explain.log_format = json; "
                "SET auto_explain.log_level = notice; SET auto_explain.log_nested_statements = on; "
                "SET client_min_messages = notice"
            )
            connection.notices = notices = _Unbounded()
        yield rows
        with self.database.connect("writer") as connection, connection.cursor() as cursor:
            cursor.execute("SET auto_explain.log_min_duration = -1; SET client_min_messages = warning")
        for notice in notices:
            if "plan:" in notice:
                explained = json.loads(notice[notice.index("{") :])
                rows[_name(explained["Query Text"])] += touched(explained["Plan"])


class _Unbounded(list):  # type: ignore[type-arg]
    """psycopg2 keeps the last fifty notices only, unless it is given something else to append to."""


def _name(query: str) -> str:
    words = query.split('"')
    return words[1].split(",")[0] if query.startswith(("PREPARE", "EXECUTE")) else " ".join(query.split()[:6])


def touched(plan: dict[str, Any]) -> int:
    """Rows that a plan's nodes read, kept or dropped, over all of their loops."""
    removed = sum(value for key, value in plan.items() if key.startswith("Rows Removed"))
    rows = round((plan["Actual Rows"] + removed) * plan["Actual Loops"])
    return rows + sum(touched(child) for child in plan.get("Plans", ()))


@dataclass(frozen=True)
class Cost:
    """What the measured batch of a shape cost."""

    events: int
    rows: Counter[str]

    @property
    def total(self) -> int:
        return self.rows.total()


def measure(database: Database, shape: Callable[[int], Story], n: int) -> Cost:
    """Counts the rows touched by a shape's batch in an empty database."""
    measured = Measured(database)
    story = shape(n)
    measured.prepare(story)
    with measured.counting() as rows:
        measured.write(story.batch)
    return Cost(len(story.batch), rows)
