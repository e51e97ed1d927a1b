"""What is read of a frame without decoding it."""

from __future__ import annotations

from typing import Any

from appview_pipeline.protocol import peek
from appview_pipeline_tests.support.scripted_servers import control, error_frame


def test_what_is_peeked_at_never_raises(conformance: Any) -> None:
    for path in sorted((conformance / "malformed").glob("*.frame")):
        data = path.read_bytes()
        assert peek.seq_of(data) is None or path.name not in ("a-empty.frame", "a-random.frame", "a-header-only.frame")
        noticed = peek.control_of(data)
        assert (noticed is not None) == (path.name.startswith("a-error-") or path.name.startswith("a-info-")), path.name
    assert peek.seq_of(control({"op": 1, "t": "#commit"}, {"seq": True})) is None
    assert peek.seq_of(control({"op": 1, "t": "#commit"}, {"seq": -1})) is None
    assert peek.seq_of(control({"op": 1, "t": "#commit"}, {"seq": 2**53})) is None
    hostile = peek.control_of(error_frame("Bad\nName\u202e", "x" * 10_000))
    assert hostile is not None and hostile.name == "Bad Name" and len(hostile.message) == 200
