"""The sequence number that a subscription resumes after when its connection has ended."""

from __future__ import annotations

import time

from appview_pipeline.network.frame_buffer import FrameBuffer
from appview_pipeline.network.sequence import CONFIRMING, LeapingNumbers, StreamNumbers
from appview_pipeline.protocol.event_stream import seq_of


class ResumePoint:
    """Moves with the numbers of the frames in `buffer`, unless they are doubtful. For the network's thread.

    `cursor`: the number to resume after; None: at the newest event, 0: at the oldest that the server has.
    `numbers`: which of them are doubtful; they begin at `cursor`.
    """

    def __init__(self, cursor: int | None, numbers: StreamNumbers | LeapingNumbers, buffer: FrameBuffer) -> None:
        self.cursor = cursor
        self._numbers = numbers
        self._buffer = buffer

    def begin(self, seq: int) -> None:
        """A connection without a cursor to resume from begins with the event `seq`."""
        self._numbers.add(seq, time.monotonic())

    def go_back(self, seq: int) -> None:
        """A connection begins with `seq`, which is before the cursor."""
        self._numbers.go_back(seq)

    def reach(self, seq: int, events: int) -> None:
        """Takes the number of the last of `events` frames into account; where it is doubtful, a few before it, too."""
        numbers, now = self._numbers, time.monotonic()
        if numbers.add(seq, now, events) == "doubtful":
            for back in range(2, min(events, CONFIRMING) + 1):
                frame = self._buffer.recent(back)
                if frame is None:
                    break
                before = seq_of(frame)
                if before is not None and numbers.follows(before, events):
                    numbers.add(before, now, events)
                    break
        self.cursor = numbers.reached

    def skip_event(self) -> None:
        """Goes past the event after the cursor, which can't be received. Not for numbers that leap."""
        assert self.cursor is not None and isinstance(self._numbers, StreamNumbers)
        self.cursor += 1
        if self._numbers.main is not None:
            self._numbers.advance(self.cursor, 1)
