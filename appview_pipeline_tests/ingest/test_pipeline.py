"""The pipeline: batches are applied in order and one at a time, and a failure surfaces at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from appview_pipeline.indexing.batch import Batch, build
from appview_pipeline.indexing.changes import Change
from appview_pipeline.ingest.decoding import LookUp
from appview_pipeline.ingest.pipeline import mostly_stale, run_pipeline
from appview_pipeline.store.batch import Report


class RecordingWriter:
    """Applies nothing, one batch at a time: `go` lets each of them through, `fail_at` fails at that sequence number."""

    def __init__(self, *, fail_at: int | None = None, stale: int = 0) -> None:
        self.go = threading.Event()
        self.go.set()
        self.begun: list[int | None] = []
        self.applied: list[int | None] = []
        self.times: list[tuple[float, float]] = []
        self._fail_at = fail_at
        self._stale = stale
        self._at_work = threading.Lock()

    def build(self, changes: Sequence[Change]) -> Batch:
        return build(changes, "test", shard="0/1", dead_letter_bytes=0)

    def write(
        self, changes: Sequence[Change], received_at: float, decode_ms: float = 0.0, built: Batch | None = None
    ) -> list[Report]:
        assert self._at_work.acquire(blocking=False), "one batch at a time"
        try:
            assert built is not None
            (seq,) = (change.seq for change in changes)
            self.begun.append(seq)
            self.times.append((received_at, decode_ms))
            assert self.go.wait(10)
            if seq == self._fail_at:
                raise ConnectionError(f"batch {seq}")
            self.applied.append(seq)
            return [Report("test", last_seq=seq, events=10, stale=self._stale)]
        finally:
            self._at_work.release()


def one_change(seq: int, look_up: LookUp | None) -> list[Change]:
    return [Change(1, seq, is_event=True)]


def test_batches_are_applied_in_order_and_reported() -> None:
    writer, reports = RecordingWriter(), list[Report]()
    began = time.time()
    run_pipeline(range(50), one_change, writer, on_applied=reports.extend)
    assert writer.applied == [*range(50)] == [report.last_seq for report in reports]
    assert all(began <= received_at <= time.time() and decode_ms >= 0 for received_at, decode_ms in writer.times)


def test_batches_without_changes_are_not_given_to_the_writer() -> None:
    writer = RecordingWriter()
    run_pipeline(range(6), lambda seq, look_up: one_change(seq, look_up) if seq % 2 else [], writer)
    assert writer.applied == [1, 3, 5]


def test_the_next_batch_is_decoded_while_one_is_applied_and_no_third_is_taken() -> None:
    writer, taken = RecordingWriter(), list[int]()
    writer.go.clear()

    def source() -> Iterator[int]:
        for seq in range(5):
            taken.append(seq)
            yield seq

    def decode(seq: int, look_up: LookUp | None) -> list[Change]:
        if seq == 1:
            # Decoded while batch 0 is at work. It goes on only long after: the pipeline must wait for it.
            threading.Timer(0.3, let_go).start()
        return one_change(seq, look_up)

    before: list[int] = []

    def let_go() -> None:
        before.extend(taken)
        writer.go.set()

    run_pipeline(source(), decode, writer)
    assert before == [0, 1], "one that is applied and one that waits"
    assert taken == writer.applied == [*range(5)]


def test_a_failure_wakes_a_source_that_waits_and_nothing_more_is_applied() -> None:
    writer, woken = RecordingWriter(fail_at=1), threading.Event()

    def source() -> Iterator[int]:
        yield from (0, 1)
        assert woken.wait(10), "the stream is quiet"
        yield 2

    decoded: list[int] = []

    def decode(seq: int, look_up: LookUp | None) -> list[Change]:
        decoded.append(seq)
        return one_change(seq, look_up)

    began = time.monotonic()
    with pytest.raises(ConnectionError, match="batch 1"):
        run_pipeline(source(), decode, writer, on_failure=woken.set)
    assert time.monotonic() - began < 5
    assert (writer.applied, writer.begun, decoded) == ([0], [0, 1], [0, 1])


def test_the_failure_of_the_last_batch_is_raised() -> None:
    with pytest.raises(ConnectionError, match="batch 2"):
        run_pipeline(range(3), one_change, RecordingWriter(fail_at=2))


def test_what_is_checked_before_each_batch_ends_the_pipeline() -> None:
    """A lost lock, say: the batch in hand is finished, and the next one not begun."""
    writer, left = RecordingWriter(), [2]

    def check() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise PermissionError

    with pytest.raises(PermissionError):
        run_pipeline(range(5), one_change, writer, before_apply=check)
    assert writer.applied == [0, 1]


def test_a_source_or_a_decoder_that_fails_leaves_the_batch_in_hand_to_be_finished() -> None:
    def source() -> Iterator[int]:
        yield 0
        raise KeyError

    writer = RecordingWriter()
    with pytest.raises(KeyError):
        run_pipeline(source(), one_change, writer)
    assert writer.applied == [0]

    def decode(seq: int, look_up: LookUp | None) -> list[Change]:
        return one_change(seq, look_up) if seq == 0 else [][0]

    writer = RecordingWriter()
    with pytest.raises(IndexError):
        run_pipeline(range(3), decode, writer)
    assert writer.applied == [0]


@pytest.mark.parametrize(("stale", "looked_up"), [(0, False), (1, False), (2, True), (10, True)])
def test_revs_are_looked_up_once_much_of_a_batch_had_been_applied(stale: int, looked_up: bool) -> None:
    seen: list[bool] = []

    def decode(seq: int, look_up: LookUp | None) -> list[Change]:
        seen.append(look_up is not None)
        return one_change(seq, look_up)

    def source() -> Iterator[int]:
        for seq in range(4):
            while len(writer.applied) < seq:
                time.sleep(0.01)
            time.sleep(0.05)
            yield seq

    writer = RecordingWriter(stale=stale)
    run_pipeline(source(), decode, writer, look_up=lambda dids: {})
    assert seen == [False, *[looked_up] * 3]


def test_a_batch_without_events_is_not_mostly_stale() -> None:
    assert not mostly_stale([])
    assert not mostly_stale([Report("test", stale=0, events=0)])
