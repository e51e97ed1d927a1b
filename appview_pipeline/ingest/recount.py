"""Counters recounted: all of them, or the next few of a rotation that comes round to all of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from appview_pipeline.ingest.rerun import patiently
from appview_pipeline.store import counters
from appview_pipeline.store.counters import RewrittenCounter
from appview_pipeline.store.database import Database

AT_ONCE = 2_000
"""Keys recounted in one transaction."""
SHOWN = 20


@dataclass
class Recounted:
    """What a recount found. `examples`: some of the keys that differed; `changes`: some of what was rewritten.

    `complete`: the table's last key was reached.
    """

    compared: int = 0
    differing: int = 0
    examples: list[str] = field(default_factory=list)
    changes: list[RewrittenCounter] = field(default_factory=list)
    complete: bool = False
    seconds: float = 0.0


def recount(
    database: Database,
    table: str,
    *,
    rewrite: bool,
    progress: Callable[[Recounted], object] = lambda so_far: None,
) -> Recounted:
    """Recounts every counter of `table` (of `store.counters.TABLES`), and with `rewrite` sets right what differs."""
    return _recount(database, table, "", None, rewrite, progress)


def recount_some(database: Database, table: str, most: int) -> Recounted:
    """Recounts the next `most` counters of `table` in rotation, changing none of them."""
    with database.connect("maintenance") as connection:
        after = counters.position(connection, table)
    return _recount(database, table, after, most, False, lambda so_far: None)


def _recount(
    database: Database,
    table: str,
    after: str,
    most: int | None,
    rewrite: bool,
    progress: Callable[[Recounted], object],
) -> Recounted:
    started = time.monotonic()
    recounted = Recounted()
    with database.connect("maintenance") as connection:
        counters.prepare_recount(connection)
        while not recounted.complete and (most is None or recounted.compared < most):
            at_once = AT_ONCE if most is None else min(AT_ONCE, most - recounted.compared)

            def next_few(after: str = after, at_once: int = at_once) -> counters.Recount:
                return counters.recount_next(connection, table, after, at_once, rewrite=rewrite)

            some = patiently(connection, next_few)
            recounted.compared += some.compared
            recounted.differing += len(some.differing)
            recounted.examples += some.differing[: SHOWN - len(recounted.examples)]
            recounted.changes += some.changes[: SHOWN - len(recounted.changes)]
            recounted.complete = some.reached is None
            after = some.reached or ""
            progress(recounted)
        if most is not None:
            counters.advance(connection, table, after or None)
    recounted.seconds = time.monotonic() - started
    return recounted
