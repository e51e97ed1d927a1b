"""Frames as batches: decoded, and written as the consumer writes them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from appview_pipeline.indexing.changes import Change
from appview_pipeline.indexing.registry import IndexedCollections
from appview_pipeline.indexing.validators import record_validators
from appview_pipeline.ingest.decoding import read_changes
from appview_pipeline.ingest.verification import Verifier
from appview_pipeline.ingest.writer import Position, Writer
from appview_pipeline.settings import Settings
from appview_pipeline.store.batch import Report
from appview_pipeline.store.database import Database


def changes_of(*frames: bytes, validators: Any = None, verifier: Verifier | None = None) -> list[Change]:
    """What frames ask of the database."""
    return read_changes(frames, validators or record_validators(None), IndexedCollections(), verifier=verifier)


def writer_for(database: Database, position: Position | None = None, source: str = "test", **settings: Any) -> Writer:
    return Writer(database, Settings(database_url=database.url, **settings), source, position)


def index(
    database: Database, *frames: bytes, source: str = "test", validators: Any = None, **settings: Any
) -> list[Report]:
    """Writes frames as one batch."""
    return writer_for(database, source=source, **settings).write(
        changes_of(*frames, validators=validators), time.time()
    )


def batches_of(changes: Sequence[Change], size: int) -> list[Sequence[Change]]:
    """Batches of `size` changes; 0: a single one."""
    size = size or max(len(changes), 1)
    return [changes[start : start + size] for start in range(0, len(changes), size)]


def feed(database: Database, batches: Iterable[Sequence[Change]]) -> None:
    """Writes batches as the consumer does, one transaction each."""
    writer = Writer(database, Settings(database_url=database.url), "test")
    for batch in batches:
        writer.write(batch, time.time())
