"""What ends a leased process in a tick."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, InstigatorType, SensorInstigatorData
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from appview_pipeline.defs.leases import stopping as stopping_module
from appview_pipeline.defs.leases.stopping import Stopping


def test_a_sensor_switched_off_is_noticed(tmp_path: Path) -> None:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        context = dg.build_sensor_context(instance, sensor_name="firehose_sensor")
        context._repository_name = "__repository__"
        stopping = Stopping(context)
        assert stopping.switched_off(instance) is None and stopping.shutdown() is None
        repository = RemoteRepositoryOrigin(InProcessCodeLocationOrigin(LoadableTargetOrigin()), "__repository__")
        for name, status, seen in (
            ("another_sensor", InstigatorStatus.STOPPED, False),
            ("firehose_sensor", InstigatorStatus.STOPPED, True),
        ):
            origin = repository.get_instigator_origin(name)
            instance.add_instigator_state(
                InstigatorState(origin, InstigatorType.SENSOR, status, SensorInstigatorData())
            )
            assert (stopping.switched_off(instance) is not None) == seen


class Call:
    """A gRPC call as a tick sees it."""

    def __init__(self, active: bool, remaining: float | None, peer: str = "unix:") -> None:
        self.is_active = lambda: active
        self.time_remaining = lambda: remaining
        self.peer = lambda: peer


def ExternalSensorExecution(context: Any, _context: Any) -> Stopping:  # as Dagster's method is called
    return Stopping(context)


def test_a_daemon_that_dies_is_told_from_one_that_has_waited_long_enough(tmp_path: Path) -> None:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        context = dg.build_sensor_context(instance, sensor_name="firehose_sensor")
        for active, remaining, ends in (
            (True, 30.0, False),
            (False, 30.0, True),
            (False, None, True),
            (False, 0.0, False),
        ):
            stopping = ExternalSensorExecution(context, _context=Call(active, remaining))
            assert (stopping.tick_abandoned() is not None) == ends
        assert Stopping(context).tick_abandoned() is None, "no code server, no call"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes through /proc")
@pytest.mark.parametrize(
    ("peer", "noticed"),
    [
        pytest.param(None, False, id="no call"),
        pytest.param("unix:", True, id="socket"),
        pytest.param("ipv4:127.0.0.1:40000", True, id="ipv4"),
        pytest.param("ipv6:%5B::1%5D:40000", True, id="ipv6"),
        pytest.param("ipv4:10.1.2.3:40000", False, id="another Dagster's"),
    ],
)
def test_the_death_of_the_daemon_on_this_machine_is_noticed(
    peer: str | None, noticed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "dagster._daemon", "run"])
    try:
        monkeypatch.setattr(stopping_module, "_processes", lambda: [os.getpid(), daemon.pid])
        with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
            context = dg.build_sensor_context(instance, sensor_name="firehose_sensor")
            if peer is None:
                stopping = Stopping(context)
            else:
                stopping = ExternalSensorExecution(context, _context=Call(True, 30.0, peer))
            assert stopping.shutdown() is None
            daemon.kill()
            daemon.wait()
            assert stopping.shutdown() == ("the daemon has ended" if noticed else None)
    finally:
        daemon.kill()
        daemon.wait()
