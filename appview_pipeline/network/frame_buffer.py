"""Frames that were received and not yet taken: the network's thread fills the buffer, the consumer's empties it.

There is no lock. Each attribute has one thread that writes it. The consumer says how many frames it waits for, looks,
and only then sleeps; the network adds a frame and only then looks whether to wake it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

FRAME_OVERHEAD = 64
"""Bytes that a frame costs beside its own: a flood of tiny frames must fill the buffer too."""

_NOBODY_WAITS = 1 << 62


class FrameBuffer:
    """A queue of frames, full from `limit_bytes` on until half of that has been taken.

    `on_drained` is called in the consumer's thread when a full buffer has been emptied so far. Adding never fails: the
    caller stops reading from the network when `announce` says that the buffer is full. `news` is set with every frame,
    for a consumer of several buffers.
    """

    def __init__(self, limit_bytes: int, on_drained: Callable[[], None], news: threading.Event | None = None) -> None:
        self._limit = limit_bytes
        self._on_drained = on_drained
        self._news = news
        self._frames: deque[bytes] = deque()  # added to by the network, taken from by the consumer
        self._weight_in = 0  # network
        self._weight_out = 0  # consumer
        self._wanted = 1  # how many frames the consumer waits for: both; the network resets it before it wakes
        self._ready = threading.Event()
        self._is_woken = False  # set by whoever calls `wake`, reset by the consumer
        self._is_closed = False
        self.received_frames = 0  # network: of all time
        self.is_full = False  # network

    @property
    def received_bytes(self) -> int:
        """Bytes of all frames, those taken included."""
        return self._weight_in - FRAME_OVERHEAD * self.received_frames

    @property
    def weight(self) -> int:
        """Bytes of the frames that wait to be taken, with their overhead."""
        return max(0, self._weight_in - self._weight_out)

    def __len__(self) -> int:
        return len(self._frames)

    # For the network's thread.

    def add(self, frame: bytes) -> None:
        """Adds a frame; `announce` follows."""
        self._frames.append(frame)
        self.received_frames += 1
        self._weight_in += len(frame) + FRAME_OVERHEAD

    def announce(self) -> bool:
        """Wakes the consumer if the frames that it waits for are there. True when the buffer has become full."""
        if len(self._frames) >= self._wanted:
            self._wanted = _NOBODY_WAITS
            self._ready.set()
        if self._news is not None:
            self._news.set()
        if self._weight_in - self._weight_out < self._limit or self.is_full:
            return False
        self.is_full = True
        self._ready.set()
        return True

    def reopen(self) -> bool:
        """Ends being full if enough has been taken for that; says whether it did."""
        if self._weight_in - self._weight_out > self._limit // 2:
            return False
        self.is_full = False
        return True

    def recent(self, back: int) -> bytes | None:
        """The frame added `back` frames ago (1: the last one); None when the consumer has taken it."""
        try:
            return self._frames[-back]
        except IndexError:
            return None

    # For the consumer's thread.

    def take(self, limit: int, timeout: float) -> list[bytes]:
        """The oldest frames, at most `limit`; waits up to `timeout` seconds for that many to be there.

        Returns sooner when the buffer is full or closed, and after `wake`.
        """
        frames = self._frames
        deadline = time.monotonic() + timeout
        while True:
            self._ready.clear()
            self._wanted = limit
            # After saying what is wanted: a frame that is added later than this look sets `_ready`.
            if len(frames) >= limit or (self.is_full and frames) or self._is_woken or self._is_closed:
                break
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                break
            self._ready.wait(remaining)
        self._is_woken = False
        popleft = frames.popleft
        taken = [popleft() for _ in range(min(limit, len(frames)))]
        self._weight_out += sum(map(len, taken)) + FRAME_OVERHEAD * len(taken)
        if self.is_full and self._weight_in - self._weight_out <= self._limit // 2:
            self._on_drained()
        return taken

    # For any thread.

    def wake(self) -> None:
        """Makes a `take` that waits, or else the next one, return at once."""
        self._is_woken = True
        self._ready.set()

    def close(self) -> None:
        """No frame will be added any more: `take` no longer waits."""
        self._is_closed = True
        self._ready.set()
