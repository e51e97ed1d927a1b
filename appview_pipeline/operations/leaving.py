"""`appview-pipeline leave`: the database goes back to the reference's own indexer (docs/serve.md, Going back)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from appview_pipeline import backoff
from appview_pipeline.errors import OperatorError
from appview_pipeline.store import leaving
from appview_pipeline.store.adoption import forget_unfinished
from appview_pipeline.store.database import Connection, Database
from appview_pipeline.store.leaving import Unfinished


@dataclass(frozen=True)
class Leaving:
    """Whether the database was given back before, and what the reference's indexer will not do."""

    was_left: bool
    unfinished: Unfinished

    def lines(self) -> list[str]:
        """What the operator should know, one sentence each."""
        return [
            words.format(count=count)
            for count, words in (
                (self.unfinished.opt_outs, "Accounts that have opted out: {count}. It indexes them again."),
                (
                    self.unfinished.removals,
                    "Accounts whose removal has not ended: {count}. It does not go on with that.",
                ),
                (self.unfinished.gaps, "Open gaps: {count}. It does not fetch what is missing."),
                (self.unfinished.labelers, "Labelers: {count}. It does not read their streams."),
                (
                    self.unfinished.takedowns,
                    "Deleted records that were taken down: {count}. Created again, they are shown.",
                ),
            )
            if count
        ]


def leave(database: Database, *, check: bool = False, progress: Callable[[str], None] = lambda step: None) -> Leaving:
    """Gives the database back to the reference's own indexer; with `check` it only looks. It may be repeated.

    An adoption that has not ended is given up: the next one looks at everything again. Raises `OperatorError` while
    processes of this project are connected: their batches would fail, and they would write
    beside the reference's indexer.
    """
    with database.dedicated("maintenance") as connection:
        found = Leaving(leaving.is_left(connection), leaving.unfinished(connection))
        if not check:
            _refuse_while_at_work(connection)
            # An index on a large table takes longer than anything else that this role does.
            with connection.cursor() as cursor:
                cursor.execute("SET statement_timeout = 0")
            leaving.give_back(connection, progress)
            forget_unfinished(connection)
        return found


def _refuse_while_at_work(connection: Connection) -> None:
    """Raises `OperatorError` where others of ours are connected, once they had time to end."""
    deadline = time.monotonic() + backoff.SESSION_LOCK.longest
    while others := leaving.at_work(connection):
        if time.monotonic() >= deadline:
            named = ", ".join(f"{name} ({count})" for name, count in others.items())
            raise OperatorError(
                f"Processes of appview-pipeline are still connected to the database: {named}. Stop Dagster and all "
                "commands that use it, then run `appview-pipeline leave` again."
            )
        time.sleep(backoff.SESSION_LOCK.every)
