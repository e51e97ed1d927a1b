"""What ends a leased process between two ticks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from appview_pipeline.defs.firehose import sensor as sensor_module
from appview_pipeline.defs.leases import stopping as stopping_module
from appview_pipeline.defs.leases.code_server import code_server
from appview_pipeline_tests.support.code_server import Servicer
from appview_pipeline_tests.support.dagster_events import switch_off
from appview_pipeline_tests.support.waiting import wait_for


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


def test_between_two_ticks_a_stopping_code_server_ends_the_consumer(
    ticks: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    servicer = Servicer()
    monkeypatch.setattr(stopping_module, "_call_of_tick", lambda: (None, code_server(servicer)))
    ticks(None)
    assert sensor_module._state.process.pid is not None
    servicer._shutdown_once_executions_finish_event.set()
    assert gone_within(6)


def test_between_two_ticks_a_stopping_daemon_ends_the_consumer(ticks: Callable[..., Any]) -> None:
    _, instance = ticks(None)
    instance.daemon_cursor_storage.set_cursor_values({stopping_module.DAEMON_STOPPING: "another daemon"})
    assert gone_within(6)
    wait_for(lambda: ticks(None) and sensor_module._state.process.pid is not None)
    assert not gone_within(2.5), "the next daemon's tick starts another, which goes on"
