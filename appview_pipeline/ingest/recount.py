"""Recounts of counters: of all, or of the next few in a rotation that reaches all of them in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from appview_pipeline.ingest.rerun import retry_while_busy
from appview_pipeline.store import counters
from appview_pipeline.store.counters import RewrittenCounter
from appview_pipeline.store.database import Database

KEYS_AT_ONCE = 2_000
"""Keys recounted in one transaction."""
MAX_EXAMPLES = 20


@dataclass
class RecountSummary:
    """What a recount found. `examples`: some of the keys that differed; `changes`: some of what was rewritten.

    `complete`: the table's last key was reached.
    """

    compared: int = 0
    differing: int = 0
    examples: list[str] = field(default_factory=list)
    changes: list[RewrittenCounter] = field(default_factory=list)
    complete: bool = False
    seconds: float = 0.0


Progress = Callable[[RecountSummary], object]


def recount(
    database: Database, table: str, *, rewrite: bool, progress: Progress = lambda so_far: None
) -> RecountSummary:
    """Recounts every counter of `table` (of `store.counters.TABLES`), and with `rewrite` sets right what differs."""
    return _recount(database, table, rewrite=rewrite, progress=progress)


def recount_some(database: Database, table: str, limit: int) -> RecountSummary:
    """Recounts the next `limit` counters of `table` in rotation, changing none of them."""
    with database.connect("maintenance") as connection:
        after = counters.position(connection, table)
    return _recount(database, table, after=after, limit=limit)


def _recount(
    database: Database,
    table: str,
    *,
    after: str = "",
    limit: int | None = None,
    rewrite: bool = False,
    progress: Progress = lambda so_far: None,
) -> RecountSummary:
    """Recounts `limit` counters (None: all) after the key `after`, and with a limit moves the rotation on."""
    started = time.monotonic()
    summary = RecountSummary()
    with database.connect("maintenance") as connection:
        counters.prepare_recount(connection)
        while not summary.complete and (limit is None or summary.compared < limit):
            at_once = KEYS_AT_ONCE if limit is None else min(KEYS_AT_ONCE, limit - summary.compared)

            def next_few(after: str = after, at_once: int = at_once) -> counters.Recount:
                return counters.recount_next(connection, table, after, at_once, rewrite=rewrite)

            some = retry_while_busy(connection, next_few)
            summary.compared += some.compared
            summary.differing += len(some.differing)
            summary.examples += some.differing[: MAX_EXAMPLES - len(summary.examples)]
            summary.changes += some.changes[: MAX_EXAMPLES - len(summary.changes)]
            summary.complete = some.reached is None
            after = some.reached or ""
            progress(summary)
        if limit is not None:
            counters.advance(connection, table, after or None)
    summary.seconds = time.monotonic() - started
    return summary
