"""What a collection declares about itself: how a record of it becomes rows, and what these do to the database.

A collection is one module of `collections/` that holds a `COLLECTION`; `registry.py` finds it there. The statements are
in the SQL file of the same name in `sql/apply/`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from appview_pipeline.store.effects import Effect

Value = str | int | bool | bytes | None
Row = tuple[Value, ...]


class RecordWrite(NamedTuple):
    """A record as a commit (or a repository export) says it is from `rev` on."""

    uri: str
    cid: str
    did: str
    collection: str
    rkey: str
    rev: str
    """The commit's rev (a TID); orders the writes and deletes of a repository."""
    record: dict[str, Any]
    """The decoded record; CID links are 36 bytes."""
    json: str
    """The record as atproto JSON, without U+0000, which PostgreSQL can't hold."""
    indexed_at: str
    """When the relay saw it (the event's `time`); ISO 8601, UTC, milliseconds."""
    seq: int | None
    action: str
    """`create` or `update`, as the commit says."""
    is_quiet: bool = False
    """It notifies nobody: it is from a repository's export, and older than APPVIEW_NOTIFY_WINDOW."""


Rows = dict[str, list[Row]]
"""Rows by staging table."""


def _accept(write: RecordWrite) -> str | None:
    return None


def _no_rows(write: RecordWrite, rows: Rows) -> None:
    return None


@dataclass(frozen=True, kw_only=True, eq=False)
class Collection(Effect):
    """A record type of the index: its effect on the database, and how its records become rows.

    `check` gives the reason why a record that its lexicon allows is refused all the same (None: it is not); a refused
    record is a dead letter and leaves no trace in the tables. `stage` appends the record's rows to the lists of its
    `stages`; a collection without stages lives in `bsky.record` alone.
    """

    stage: Callable[[RecordWrite, Rows], None] = _no_rows
    check: Callable[[RecordWrite], str | None] = _accept
    is_validated: bool = True
    """Whether its records must be what its lexicon says."""
