"""The pipeline: while PostgreSQL applies one batch, the next one is received and decoded.

Every source of changes uses it (the live stream, a capture file, the streams of labelers). A source gives batches of
whatever it receives, and a function that makes changes of one. In memory there are never more than two batches: the one
that is being applied and the one after it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from appview_pipeline.ingest.decoding import LookUp


class Reported(Protocol):
    """What the pipeline needs of the report of a batch: how many events it had, and how many of them had been applied
    before."""

    @property
    def events(self) -> int: ...

    @property
    def stale(self) -> int: ...


_T = TypeVar("_T")
_C = TypeVar("_C")
_In = TypeVar("_In", contravariant=True)
_B = TypeVar("_B")
_R = TypeVar("_R", bound=Reported)

STALE_PART = 5
"""Where a fifth or more of a batch had been applied before, the next one is looked up before it is decoded."""


class BatchWriter(Protocol[_In, _B, _R]):
    """What the pipeline needs of a writer: of changes (`ingest/writer.py`), or of labels (`labels/writer.py`)."""

    def build(self, changes: Sequence[_In]) -> _B:
        """The batch of `changes`, encoded; may be called while another thread writes."""
        ...

    def write(
        self, changes: Sequence[_In], received_at: float, decode_ms: float = 0.0, built: _B | None = None
    ) -> list[_R]:
        """Writes `changes`, of which `built` was made."""
        ...


def run_pipeline(
    batches: Iterable[_T],
    decode: Callable[[_T, LookUp | None], Sequence[_C]],
    writer: BatchWriter[_C, _B, _R],
    *,
    look_up: LookUp | None = None,
    before_apply: Callable[[], object] = lambda: None,
    on_applied: Callable[[list[_R]], object] = lambda reports: None,
    on_failure: Callable[[], object] = lambda: None,
) -> None:
    """Decodes `batches` and has `writer` apply their changes, in order and one at a time; returns when all are applied.

    - `decode` makes the changes of a batch; none is fine. It gets `look_up` only where much of the batch before had
      been applied already, as in a replay: it can then skip such commits early.
    - `before_apply` is called before each batch is given to the writer, and ends the pipeline when it raises.
    - `on_applied` gets the reports of each batch. Like the two above, it is called in the caller's thread.
    - `on_failure` is called in the writer's thread when a batch could not be applied. A source that waits for its next
      batch should then give one at once, be it empty: the pipeline raises the failure as soon as it has the batch.

    Raises whatever one of these or the writer raises; nothing more is applied then, but a batch in hand is finished.
    """
    with ThreadPoolExecutor(1, "apply") as pool:
        applying = _Applying(pool, writer, on_applied, on_failure)
        for batch in batches:
            received_at, began = time.time(), time.monotonic()
            applying.settle_if_done()
            changes = decode(batch, look_up if applying.last_was_stale else None)
            if changes:
                built = writer.build(changes)
                decode_ms = (time.monotonic() - began) * 1000
                applying.settle()
                before_apply()
                applying.begin(changes, received_at, decode_ms, built)
        applying.settle()


@dataclass
class _Applying(Generic[_C, _B, _R]):
    """The one batch that the writer is at work on, if any."""

    pool: ThreadPoolExecutor
    writer: BatchWriter[_C, _B, _R]
    on_applied: Callable[[list[_R]], object]
    on_failure: Callable[[], object]
    last_was_stale: bool = False
    in_hand: Future[list[_R]] | None = None

    def begin(self, changes: Sequence[_C], received_at: float, decode_ms: float, built: _B) -> None:
        assert self.in_hand is None
        self.in_hand = self.pool.submit(self.writer.write, changes, received_at, decode_ms, built)
        self.in_hand.add_done_callback(self._notice_failure)

    def settle_if_done(self) -> None:
        if self.in_hand is not None and self.in_hand.done():
            self.settle()

    def settle(self) -> None:
        """Waits for the batch in hand, and raises what it failed with."""
        if self.in_hand is None:
            return
        in_hand, self.in_hand = self.in_hand, None
        reports = in_hand.result()
        self.last_was_stale = mostly_stale(reports)
        self.on_applied(reports)

    def _notice_failure(self, batch: Future[list[_R]]) -> None:
        if batch.exception() is not None:
            self.on_failure()


def mostly_stale(reports: Iterable[Reported]) -> bool:
    """Whether so much of a batch had been applied before that the next one is worth looking up first."""
    events = stale = 0
    for report in reports:
        events += report.events
        stale += report.stale
    return stale * STALE_PART >= events > 0
