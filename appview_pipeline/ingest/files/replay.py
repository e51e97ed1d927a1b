"""Replay: a capture file through the one write path."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from appview_pipeline.indexing.changes import Change
from appview_pipeline.indexing.registry import IndexedCollections
from appview_pipeline.indexing.validators import record_validators
from appview_pipeline.ingest.decoding import LookUp, applied_revs_in, read_changes
from appview_pipeline.ingest.files.capture_file import CaptureReader
from appview_pipeline.ingest.pipeline import run_pipeline
from appview_pipeline.ingest.verification import verifier_for
from appview_pipeline.ingest.writer import Writer
from appview_pipeline.settings import Settings
from appview_pipeline.store.batch import Report
from appview_pipeline.store.database import Database


@dataclass
class ReplaySummary:
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
        """Adds what a batch did."""
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
) -> ReplaySummary:
    """Applies the frames of the capture at `path` in batches of `batch_size` (default: `APPVIEW_BATCH_EVENTS`).

    Moves no relay's cursor. Replayed again, wholly or in part, it changes nothing. `progress` gets the bytes of the
    file read since its last call. Raises `OperatorError` for a file that is no capture or that ends in a torn frame.
    """
    validators, collections = record_validators(settings.lexicon_dir), IndexedCollections(settings.extra_collections)
    summary = ReplaySummary()
    verifier = verifier_for(settings, database)
    started = time.monotonic()

    def decode(frames: list[bytes], look_up: LookUp | None) -> Sequence[Change]:
        return read_changes(frames, validators, collections, look_up, verifier)

    with CaptureReader(path) as frames:
        run_pipeline(
            _batches(frames, batch_size or settings.batch_events, progress),
            decode,
            Writer(database, settings, f"replay:{path.name}"),
            look_up=applied_revs_in(database),
            on_applied=summary.add,
        )
    summary.seconds = time.monotonic() - started
    return summary


def _batches(capture: CaptureReader, size: int, progress: Callable[[int], object]) -> Iterator[list[bytes]]:
    frames, read_before = iter(capture), 0
    while batch := list(islice(frames, size)):
        yield batch
        progress(capture.consumed - read_before)
        read_before = capture.consumed
