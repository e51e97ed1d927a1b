"""What ends a leased process between two ticks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from appview_pipeline.defs.firehose import sensor as sensor_module
from appview_pipeline_tests.support.dagster_events import switch_off


def gone_within(seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while sensor_module._state.process.pid is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    return sensor_module._state.process.pid is None


def test_between_two_ticks_switching_off_ends_the_consumer(ticks: Callable[..., Any]) -> None:
    _, instance = ticks(None)
    assert not gone_within(2.5), "with the sensor on it goes on without a tick"
    switch_off(instance)
    assert gone_within(6)


def test_between_two_ticks_a_stopping_code_server_ends_the_consumer(ticks: Callable[..., Any]) -> None:
    stop = threading.Event()
    service = threading.Thread(target=stop.wait, name="grpc-server-cleanup")
    service.start()
    ticks(None)
    assert sensor_module._state.process.pid is not None
    stop.set()
    assert gone_within(6)
