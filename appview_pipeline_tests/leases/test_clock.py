"""A clock that jumps: leases, back-off, pauses and limits of time follow a clock that never goes back."""

from __future__ import annotations

import ast
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appview_pipeline.backoff import Backoff
from appview_pipeline.leases.leased_process import LeasedProcess
from appview_pipeline_tests.support.checkout import CHECKOUT

PRODUCT = CHECKOUT / "appview_pipeline"
TIMED = ("backoff.py", "leases", "defs/leases", "network")
"""What waits, ends or gives up by time."""
BY_THE_WALL = {
    "network/notices.py": "when a notice was, for a person",
    "network/upstreams.py": "until when a server is left alone, for a person",
    "network/subscription.py": "when the last error was, for a person",
    "network/connection.py": "when the last frame came, for a person",
    "network/refusals.py": "Retry-After may be a date, by the server's clock",
    "network/rate_limits.py": "so may a limit's reset",
}
WALL = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow")}


def modules() -> Iterator[Path]:
    for name in TIMED:
        path = PRODUCT / name
        yield from [path] if path.is_file() else sorted(path.glob("*.py"))


def asks_the_wall_clock(path: Path) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return any(
        isinstance(it, ast.Attribute) and isinstance(it.value, ast.Name) and (it.value.id, it.attr) in WALL
        for it in calls
    )


def test_nothing_that_waits_asks_the_clock_on_the_wall() -> None:
    found = {path.relative_to(PRODUCT).as_posix() for path in modules() if asks_the_wall_clock(path)}
    assert found == set(BY_THE_WALL)


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_a_process_and_its_pauses_do_not_notice_a_jump(jump: float, monkeypatch: pytest.MonkeyPatch) -> None:
    child = "import os\nwhile os.read(0, 100): pass"
    process = LeasedProcess("sleeper", (sys.executable, "-c", child), pauses=Backoff(first=60.0, jitter=0.0))
    failing = LeasedProcess(
        "failure", (sys.executable, "-c", "raise SystemExit(9)"), pauses=Backoff(first=60.0, jitter=0.0)
    )
    try:
        assert process.keep() and failing.keep()
        pid = process.pid
        assert failing._process is not None
        failing._process.wait()
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + jump)
        assert process.keep() and process.pid == pid
        assert not failing.keep() and 50 < failing.pause_left <= 60
    finally:
        process.stop()
        failing.stop()
