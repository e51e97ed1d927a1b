"""A code server that is asked to end does not wait for its runs; one that is reloaded does."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from appview_pipeline import backoff
from appview_pipeline.defs.leases.code_server import CodeServer, code_server
from appview_pipeline_tests.support.code_server import Servicer
from appview_pipeline_tests.support.waiting import wait_for


def run_until(event: multiprocessing.synchronize.Event, stubborn: bool) -> None:
    """A run's process: it ends when it is canceled, or not at all."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    event.wait()
    while stubborn:
        time.sleep(1.0)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as made:
        yield made


@dg.job
def some_job() -> None:
    """Nothing."""


def start_run(servicer: Servicer, instance: dg.DagsterInstance, *, stubborn: bool) -> str:
    run = instance.create_run_for_job(some_job, status=dg.DagsterRunStatus.STARTED)
    context = multiprocessing.get_context("fork")
    event = context.Event()
    process = context.Process(target=run_until, args=(event, stubborn), daemon=True)
    process.start()
    servicer._executions[run.run_id] = (process, instance.get_ref())
    servicer._termination_events[run.run_id] = event
    return run.run_id


class Ends:
    """Whether all of Dagster ends."""

    reason: str | None = None
    asked = 0

    def dagster_ends(self) -> str | None:
        self.asked += 1
        return self.reason


def test_its_runs_are_canceled_and_then_killed(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "RUN_END_SECONDS", 300.0)
    monkeypatch.setattr(backoff, "DAGSTER_END_SECONDS", 300.0)
    servicer, ends = Servicer(), Ends()
    server = CodeServer(servicer, lambda: None)
    server.follow(ends)
    willing, stubborn = (start_run(servicer, instance, stubborn=it) for it in (False, True))
    assert not server.is_stopping()

    servicer._shutdown_once_executions_finish_event.set()
    assert server.is_stopping()
    wait_for(lambda: ends.asked > 2, 60)
    processes = [process for process, _ in servicer._executions.values()]
    assert all(process.is_alive() for process in processes), "reloaded: its runs go on"

    ends.reason = "Dagster is shutting down"
    wait_for(lambda: processes[0].exitcode == 0, 60)
    monkeypatch.setattr(backoff, "RUN_END_SECONDS", 0.0)
    wait_for(lambda: processes[1].exitcode == -signal.SIGKILL)
    statuses = [instance.get_run_by_id(run).status for run in (willing, stubborn)]  # type: ignore[union-attr]
    # A run that ends by itself says so itself, which this one does not.
    assert statuses == [dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED]


def test_after_a_signal_it_ends_in_time_whatever_it_waits_for(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "DAGSTER_END_SECONDS", 0.1)
    monkeypatch.setattr(backoff, "RUN_END_SECONDS", 300.0)
    ended = threading.Event()

    class Signaled(Servicer):
        def cleanup(self) -> bool:  # as Dagster's method is called, in the main thread, after a signal
            self._shutdown_once_executions_finish_event.set()
            return ended.wait(60)

    servicer = Signaled()
    run = start_run(servicer, instance, stubborn=True)
    process = servicer._executions[run][0]
    try:
        CodeServer(servicer, ended.set)
        assert servicer.cleanup()
        wait_for(lambda: process.exitcode == -signal.SIGKILL)
    finally:
        process.kill()  # or pytest would wait for it


def test_a_servicer_has_one_code_server() -> None:
    servicer = Servicer()
    assert code_server(servicer) is code_server(servicer) is not None
    assert code_server(object()) is None
