"""A child under its lease, with stand-ins for the consumer."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appview_pipeline import backoff
from appview_pipeline.ingest.live.consumer_process import consumer_process
from appview_pipeline.leases import leased_process
from appview_pipeline.leases.leased_process import LeasedProcess
from appview_pipeline.settings import Settings

OBEDIENT = """
import os, sys
print("up", flush=True)
while os.read(0, 100): pass
print("lease closed", flush=True)
"""
DEAF = "import time, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def child(code: str) -> LeasedProcess:
    return consumer_process(command=(sys.executable, "-c", code))


@pytest.fixture
def make() -> Iterator[Callable[[str], LeasedProcess]]:
    made: list[LeasedProcess] = []

    def factory(code: str) -> LeasedProcess:
        made.append(child(code))
        return made[-1]

    yield factory
    for process in made:
        process.stop(0.1)


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_is_started_once_and_ends_when_asked(make: Callable[[str], LeasedProcess]) -> None:
    consumer = make(OBEDIENT)
    assert consumer.keep() and consumer.keep()
    assert consumer.starts == 1
    until(lambda: consumer.pid and consumer._last_line == "up")
    consumer.stop()
    assert consumer.pid is None
    assert consumer.ended is not None and consumer.ended.code == 0
    assert consumer.lines() == ["up", "lease closed"]
    assert consumer.keep(), "may be started again at once"


def test_a_deaf_child_is_killed_in_time(make: Callable[[str], LeasedProcess]) -> None:
    consumer = make(DEAF)
    consumer.keep()
    until(lambda: consumer._last_line == "up")
    started = time.monotonic()
    consumer.stop(0.5)
    assert time.monotonic() - started < 2
    assert consumer.ended is not None and consumer.ended.code == -signal.SIGKILL


def test_renewing_never_blocks_on_a_child_that_does_not_read(make: Callable[[str], LeasedProcess]) -> None:
    consumer = make(DEAF)
    consumer.keep()
    started = time.monotonic()
    for _ in range(100_000):
        consumer._renew()
    assert time.monotonic() - started < 5


def test_a_crash_is_reported_and_followed_by_longer_and_longer_pauses(
    make: Callable[[str], LeasedProcess],
) -> None:
    consumer = make("print('all is lost', flush=True); raise SystemExit(7)")
    consumer.pauses = dataclasses.replace(backoff.leased_process(), first=0.2)
    pauses = []
    for _ in range(3):
        until(consumer.keep)
        until(lambda: not consumer.keep())
        pauses.append(consumer.pause_left)
    assert pauses == sorted(pauses) and pauses[2] > 2.5 * pauses[0]
    assert consumer.ended is not None
    assert "exit code 7" in consumer.ended.sentence and "all is lost" in consumer.ended.sentence


def test_an_operators_mistake_is_reported_in_its_own_words(make: Callable[[str], LeasedProcess]) -> None:
    consumer = make("print('set X'); raise SystemExit(4)")
    consumer.keep()
    until(lambda: not consumer.keep())
    assert consumer.ended is not None and consumer.ended.sentence == "set X"


def test_too_much_output_is_cut_not_kept(make: Callable[[str], LeasedProcess], monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = make("print('x' * 100_000); [print(n) for n in range(2000)]; raise SystemExit(0)")
    consumer.keep()
    until(lambda: not consumer.keep())
    lines = consumer.lines()
    assert len(lines) == leased_process.MAX_LINES + 1
    assert "left out" in lines[0] and lines[-1] == "1999"


LEASED = """
from appview_pipeline.leases.lease import Lease
lease = Lease(seconds=3.0)
print("up", flush=True)
while not lease.stopped(): lease._stop.wait(0.05)
lease.finish()
print(lease.reason, flush=True)
"""


def test_a_pause_between_two_ticks_that_is_shorter_than_the_lease_does_not_end_the_child(
    make: Callable[[str], LeasedProcess],
) -> None:
    """Scaled: 3 s stand for the 90 s of `APPVIEW_LEASE_SECONDS`, and the pauses for more than 30 s each."""
    assert Settings.lease_seconds >= 60
    consumer = make(LEASED)
    assert consumer.keep()
    until(lambda: consumer._last_line == "up")
    pid = consumer.pid
    for _ in range(3):
        time.sleep(3.0 * 35 / 90)
        assert consumer.keep() and consumer.pid == pid
    began = time.monotonic()
    until(lambda: consumer.pid is None)
    assert 2.5 < time.monotonic() - began < 4.5
    assert not consumer.keep()
    assert "the lease was not renewed for 3 s" in consumer._last_line and consumer.starts == 1


def test_the_child_ends_at_once_when_its_lease_is_given_back(make: Callable[[str], LeasedProcess]) -> None:
    consumer = make(LEASED)
    assert consumer.keep()
    until(lambda: consumer._last_line == "up")
    consumer.stop(60.0)
    assert consumer.ended is not None and consumer.ended.last_line == "the lease was given back"


def test_the_child_ends_with_a_parent_that_is_killed() -> None:
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time\n"
            "from appview_pipeline.ingest.live.consumer_process import consumer_process\n"
            f"consumer = consumer_process(command=(sys.executable, '-c', {OBEDIENT!r}))\n"
            "consumer.keep(); print(consumer.pid, flush=True); time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert alive(pid)
    parent.kill()
    parent.wait()
    until(lambda: not alive(pid))


def test_a_lost_lock_is_not_called_another_consumer(make: Callable[[str], LeasedProcess]) -> None:
    consumer = make("print('the lock is gone'); raise SystemExit(5)")
    consumer.keep()
    until(lambda: not consumer.keep())
    assert consumer.ended is not None
    assert "lock was lost" in consumer.ended.sentence and "another consumer" not in consumer.ended.sentence
