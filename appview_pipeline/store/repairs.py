"""What a rerun looks at, and what it has found and changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from appview_pipeline.store.batch import BatchToApply, StoredRecord

MAX_EXAMPLES = 10
"""Examples kept for each table."""

Stage = Callable[[Sequence[StoredRecord]], BatchToApply]
"""Stages stored records as a batch; records that can't be read are left out."""


Listed = Mapping[str, str]
"""Entries of the list of a rerun: DIDs by URI."""


@dataclass
class Repairs:
    """What was read and what was changed: rows by table of schema bsky, and some of their URIs or DIDs.

    `locked_seconds`: the longest that a transaction held locks which the live writer may wait for.
    """

    records: int = 0
    locked_seconds: float = 0.0
    changed: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, table: str, rows: int, examples: Iterable[str]) -> None:
        """Counts `rows` changed rows of a table."""
        if rows:
            self.changed[table] = self.changed.get(table, 0) + rows
            kept = self.examples.setdefault(table, [])
            kept.extend([example for example in examples if example not in kept][: MAX_EXAMPLES - len(kept)])

    def merge(self, other: Repairs) -> None:
        """Adds what another chunk did."""
        self.records += other.records
        self.locked_seconds = max(self.locked_seconds, other.locked_seconds)
        for table, rows in other.changed.items():
            self.add(table, rows, other.examples[table])


@dataclass(frozen=True)
class Look:
    """`wrong`: the entries to be repaired; `records`: how many of them have a record (None: not known); `is_whole`: all
    that follows from the others was compared, too, and is right."""

    wrong: Listed
    records: int | None
    is_whole: bool = True
