"""Plays a conformance scenario through the pipeline: its events, its labels, what its identity directory answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from appview_pipeline.indexing.changes import Change
from appview_pipeline.protocol.label_frames import labels_frame, read_labels_frame
from appview_pipeline.store.database import Database
from appview_pipeline.store.labels import LabelRow
from appview_pipeline_tests.support.batches import batches_of, feed
from appview_pipeline_tests.support.label_rows import apply_rows, rows_of_wire
from appview_pipeline_tests.support.scenario_directory import Directory, let_time_pass, resolve_queued
from appview_pipeline_tests.support.scenarios import Scenario


def play(database: Database, scenario: Scenario, source: str, size: int) -> Iterator[str]:
    """Writes a scenario to an empty database, in batches of `size` (0: one), and yields the name of each checkpoint
    ("final": the end) when the database is there. `source`: as of `segments`."""
    directory = Directory(scenario.actors)
    played_until: datetime | None = None
    steps_of_others = zip(scenario.directory_steps(), scenario.label_steps(), strict=True)
    for (checkpoint, changes), (steps, labels) in zip(segments(scenario, source), steps_of_others, strict=True):
        directory.follow(steps)
        directory.hear(changes)
        played_until = _catch_up(database, directory, played_until, changes)
        feed(database, batches_of(changes, size))
        resolve_queued(database, directory)
        for some in in_batches(label_rows(labels, source), size):
            apply_rows(database, some)
        yield checkpoint


def segments(scenario: Scenario, source: str) -> list[tuple[str, list[Change]]]:
    """The changes up to each checkpoint. `source`: "steps" of the scenario's file, or "frames" of the wire."""
    return scenario.changes() if source == "steps" else scenario.changes_of_frames()


def label_rows(frames: Sequence[tuple[int, list[dict[str, Any]]]], source: str) -> list[LabelRow]:
    """The labels of label frames, as the scenario has them or (source "frames") as read from the wire."""
    if source == "frames":
        read = [read_labels_frame(labels_frame(seq, labels)) for seq, labels in frames]
        return [row for frame in read if frame is not None for row in rows_of_wire(frame[0], frame[1])]
    return [row for seq, labels in frames for row in rows_of_wire(seq, labels)]


def in_batches(labels: Sequence[LabelRow], size: int) -> list[Sequence[LabelRow]]:
    """Batches of `size` labels; 0: one."""
    step = size or max(1, len(labels))
    return [labels[start : start + step] for start in range(0, len(labels), step)]


def _catch_up(
    database: Database, directory: Directory, played_until: datetime | None, changes: Sequence[Change]
) -> datetime | None:
    """Lets the time until the events pass, and resolves what is due by then. Returns the time of the last event."""
    times = [datetime.fromisoformat(change.time.replace("Z", "+00:00")) for change in changes if change.time]
    until = max(times, default=played_until)
    if until is not None and played_until is not None:
        let_time_pass(database, (until - played_until).total_seconds())
        resolve_queued(database, directory)
    return until
