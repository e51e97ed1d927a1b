"""Frames of any event stream: what is read of those that are about the stream, or damaged."""

from __future__ import annotations

from typing import Any

from appview_pipeline.protocol.event_stream import StreamError, control_of, printable, seq_of
from appview_pipeline_tests.support.scripted_servers import control, error_frame


def test_reading_a_control_frame_or_a_sequence_number_never_raises(conformance: Any) -> None:
    for path in sorted((conformance / "malformed").glob("*.frame")):
        data = path.read_bytes()
        assert seq_of(data) is None or path.name not in ("a-empty.frame", "a-random.frame", "a-header-only.frame")
        noticed = control_of(data)
        assert (noticed is not None) == (path.name.startswith("a-error-") or path.name.startswith("a-info-")), path.name
    assert seq_of(control({"op": 1, "t": "#commit"}, {"seq": True})) is None
    assert seq_of(control({"op": 1, "t": "#commit"}, {"seq": -1})) is None
    assert seq_of(control({"op": 1, "t": "#commit"}, {"seq": 2**53})) is None
    hostile = control_of(error_frame("Bad\nName\u202e", "x" * 10_000))
    assert isinstance(hostile, StreamError) and hostile.message is not None and len(hostile.message) <= 1024
    assert printable(hostile.name) == "Bad Name" and len(printable(hostile.message)) == 200
