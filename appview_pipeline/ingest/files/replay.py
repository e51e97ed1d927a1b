"""Replay: a capture file through the one write path."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from appview_pipeline.indexing.registry import IndexedCollections
from appview_pipeline.indexing.validators import record_validators
from appview_pipeline.ingest.decoding import mostly_applied, read_changes
from appview_pipeline.ingest.files.capture_file import CaptureReader
from appview_pipeline.ingest.writer import Writer
from appview_pipeline.settings import Settings
from appview_pipeline.store.applied import AppliedRevs, applied_revs
from appview_pipeline.store.batch import Report
from appview_pipeline.store.database import Database


@dataclass
class Summary:
    """What a replay did. `frames` read, `events` among them, `rejected` dead letters, `stale` applied before."""

    frames: int = 0
    events: int = 0
    rejected: int = 0
    stale: int = 0
    seconds: float = 0.0

    @property
    def events_per_second(self) -> float:
        return self.events / self.seconds if self.seconds else 0.0

    def add(self, reports: list[Report]) -> None:
        for report in reports:
            self.frames += report.frames
            self.events += report.events
            self.rejected += report.rejected
            self.stale += report.stale


def replay(
    settings: Settings,
    database: Database,
    path: Path,
    *,
    batch_size: int | None = None,
    progress: Callable[[int], object] = lambda read: None,
) -> Summary:
    """Applies the frames of the capture at `path` in batches of `batch_size` (default: `APPVIEW_BATCH_EVENTS`).

    Moves no relay's cursor. Replayed again, wholly or in part, it changes nothing. `progress` is told the bytes of the
    file read since the last call. Raises `OperatorError` for a file that is no capture or that ends in a torn frame.

    While PostgreSQL applies one batch the next one is decoded.
    """
    validators = record_validators(settings.lexicon_dir)
    collections = IndexedCollections(settings.extra_collections)
    writer = Writer(database, settings, f"replay:{path.name}")
    summary = Summary()
    started = time.monotonic()

    def look_up(dids: set[str]) -> dict[str, AppliedRevs]:
        with database.connect("reader") as connection:
            return applied_revs(connection, dids)

    with CaptureReader(path) as frames, ThreadPoolExecutor(1, "apply") as pool:
        applying: Future[list[Report]] | None = None
        look_first = False
        read_before = 0
        for batch in _batches(iter(frames), batch_size or settings.batch_events):
            decoding = time.monotonic()
            changes = read_changes(batch, validators, collections, look_up if look_first else None)
            folded = writer.fold(changes)
            decode_ms = (time.monotonic() - decoding) * 1000
            if applying is not None:
                reports = applying.result()
                summary.add(reports)
                look_first = mostly_applied(reports)
            applying = pool.submit(writer.write, changes, time.time(), decode_ms, folded)
            progress(frames.consumed - read_before)
            read_before = frames.consumed
        if applying is not None:
            summary.add(applying.result())
    summary.seconds = time.monotonic() - started
    return summary


def _batches(frames: Iterator[bytes], size: int) -> Iterator[list[bytes]]:
    while batch := list(islice(frames, size)):
        yield batch
