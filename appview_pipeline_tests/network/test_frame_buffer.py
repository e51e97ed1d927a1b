"""The buffer between the network's thread and the consumer's."""

from __future__ import annotations

import threading
import time

from appview_pipeline.network.frame_buffer import FRAME_OVERHEAD, FrameBuffer

SIZE = 1_000 - FRAME_OVERHEAD


def filled(frames: int, limit_bytes: int = 10_000) -> tuple[FrameBuffer, list[bool], list[None]]:
    """A buffer with so many frames that weigh 1,000 bytes each, what `announce` said, and the calls of `on_drained`."""
    drained: list[None] = []
    buffer = FrameBuffer(limit_bytes, lambda: drained.append(None))
    full = []
    for number in range(frames):
        buffer.add(number.to_bytes(2, "big") * (SIZE // 2))
        full.append(buffer.announce())
    return buffer, full, drained


def test_frames_come_out_in_order_and_are_counted() -> None:
    buffer, _, _ = filled(5)
    assert (len(buffer), buffer.received_frames, buffer.received_bytes, buffer.weight) == (5, 5, 5 * SIZE, 5_000)
    taken = buffer.take(2, 0) + buffer.take(9, 0)
    assert [int.from_bytes(frame[:2], "big") for frame in taken] == [0, 1, 2, 3, 4]
    assert (len(buffer), buffer.received_frames, buffer.received_bytes, buffer.weight) == (0, 5, 5 * SIZE, 0)


def test_full_is_said_once_and_ends_when_half_is_taken() -> None:
    buffer, full, drained = filled(12)
    assert full == [False] * 9 + [True, False, False]
    buffer.take(6, 0)
    assert (buffer.is_full, drained, buffer.reopen()) == (True, [], False)
    buffer.take(1, 0)
    assert drained == [None]  # 5,000 bytes are left
    assert buffer.reopen() and not buffer.is_full


def test_a_full_buffer_is_taken_from_without_waiting() -> None:
    buffer, _, _ = filled(10)
    began = time.monotonic()
    assert len(buffer.take(1_000, 5)) == 10
    assert time.monotonic() - began < 1


def test_the_newest_frames_can_be_looked_at_until_they_are_taken() -> None:
    buffer, _, _ = filled(3)
    newest = buffer.recent(1)
    assert newest is not None and int.from_bytes(newest[:2], "big") == 2
    assert buffer.recent(4) is None
    buffer.take(3, 0)
    assert buffer.recent(1) is None


def test_a_waiting_take_ends_at_the_wanted_number_a_wake_or_the_close() -> None:
    for action, expected in (("add", 2), ("wake", 1), ("close", 1)):
        buffer, _, _ = filled(1)
        found: list[bytes] = []
        taker = threading.Thread(target=lambda buffer=buffer, found=found: found.extend(buffer.take(2, 20)))
        taker.start()
        time.sleep(0.05)
        assert taker.is_alive()
        if action == "add":
            buffer.add(b"")
            buffer.announce()
        else:
            getattr(buffer, action)()
        taker.join(5)
        assert not taker.is_alive() and len(found) == expected, action
