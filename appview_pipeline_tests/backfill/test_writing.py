"""The writing side of a backfill: how much is written together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

from appview_pipeline.backfill.writing import SMALLEST_ROWS, Abandoned, Part, WritingThread
from appview_pipeline.indexing.changes import Change, RecordDelete
from appview_pipeline.ingest.writer import Writer
from appview_pipeline.store.batch import Report
from appview_pipeline_tests.support.waiting import wait_for


class FakeWriter:
    """Holds its locks for so many seconds a record, or fails."""

    def __init__(self, seconds: float, failure: Exception | None = None) -> None:
        self.seconds, self.failure = seconds, failure
        self.sizes: list[int] = []

    def write(self, changes: Sequence[Change], received_at: float) -> list[Report]:
        if self.failure is not None:
            raise self.failure
        rows = sum(len(change.deletes) for change in changes)
        self.sizes.append(rows)
        return [Report("backfill", locked_seconds=rows * self.seconds)]


def part(did: str, rows: int, *, is_last: bool = True) -> Part:
    deletes = [RecordDelete(f"at://{did}/c/{n}", did, "c", "3l", "", None) for n in range(rows)]
    return Part(did, [Change(size=0, deletes=deletes)], is_last)


def thread(writer: FakeWriter, rows: int) -> tuple[WritingThread, list[str]]:
    written: list[str] = []
    return WritingThread(cast(Writer, writer), rows, written.append), written


def test_small_repositories_are_written_together_and_in_order() -> None:
    writer = FakeWriter(0.0)
    writing, written = thread(writer, 100)
    for number in range(50):
        writing.put(part(f"did:plc:{number}", 10))
    writing.end(5.0)
    assert written == [f"did:plc:{number}" for number in range(50)]
    assert max(writer.sizes) <= 100 and len(writer.sizes) < 12


def test_transactions_are_as_large_as_the_live_writer_can_wait_for() -> None:
    writer = FakeWriter(0.0001)
    writing, _ = thread(writer, 20_000)
    for number in range(30):
        writing.put(part(f"did:plc:{number}", 2_000))
    writing.end(5.0)
    assert sum(writer.sizes) == 60_000 and SMALLEST_ROWS <= writing.rows <= 8_500
    assert max(writer.sizes) <= 8_500, "0.7 s are 7,000 records"


def test_a_writer_that_fails_is_no_secret() -> None:
    writing, written = thread(FakeWriter(0.0, ZeroDivisionError()), 10)
    writing.put(part("did:plc:a", 10))
    wait_for(lambda: writing.failure is not None, 5)
    with pytest.raises(Abandoned):
        writing.put(part("did:plc:b", 1))
    with pytest.raises(ZeroDivisionError):
        writing.check()
    assert written == []
