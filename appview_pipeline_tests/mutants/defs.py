"""Defects in what Dagster does."""

from __future__ import annotations

from appview_pipeline_tests.mutants.mutant import Mutant

DEFS = (
    Mutant(
        name="switched-off-and-running",
        file="appview_pipeline/defs/leases/leased_tick.py",
        old="                reason = self.stopping.switched_off(self.context.instance)",
        new="                reason = None",
        promise="Switching a sensor off ends its process within seconds.",
        documented="docs/operations.md#the-sensors",
        tests=("defs/labels/test_tick.py::test_switching_the_sensor_off_ends_the_process",),
    ),
    Mutant(
        name="nobody-watches-between-ticks",
        file="appview_pipeline/defs/leases/watch.py",
        old="            if reason is not None and self._working.acquire(blocking=False):",
        new="            if False and self._working.acquire(blocking=False):",
        promise="Between two ticks, too, a leased process ends when its sensor is switched off.",
        documented="docs/operations.md#the-sensors",
        tests=("defs/leases/test_watch.py::test_between_two_ticks_switching_off_ends_the_consumer",),
    ),
    Mutant(
        name="ticks-longer-than-the-daemon-waits",
        file="appview_pipeline/defs/leases/leased_tick.py",
        old="        self.seconds = min(TICK_SECONDS, TICK_PART * self.stopping.seconds_left())",
        new="        self.seconds = TICK_SECONDS",
        promise="A tick ends before the daemon gives up on it.",
        documented="docs/operations.md#the-sensors",
        tests=("defs/firehose/test_tick.py::test_a_tick_ends_before_the_daemon_gives_up_on_it",),
    ),
    Mutant(
        name="previews-are-ticks",
        file="appview_pipeline/defs/leases/leased_tick.py",
        old="    return not context.log_key or not context.log_key[-1].isdigit()",
        new="    return False",
        promise="A preview of a tick, or a second tick, only looks.",
        documented="docs/operations.md#the-sensors",
        tests=("defs/firehose/test_tick.py::test_preview_and_second_tick_only_look",),
    ),
    Mutant(
        name="batches-are-reported-twice",
        file="appview_pipeline/defs/firehose/tick.py",
        old=(
            "            state.position = Reported(one.last_id, state.position.groups_batch, one.last_seq "
            "or state.position.seq)\n"
        ),
        new="",
        promise="Every batch is reported once; a tick that dies loses nothing.",
        documented="docs/operations.md#the-sensors",
        tests=("defs/firehose/test_tick.py::test_ticks_report_every_batch_once",),
    ),
    Mutant(
        name="a-silent-relay-is-well",
        file="appview_pipeline/operations/stream_conditions.py",
        old="    behind = max([idle, *lags])",
        new="    behind = max([0.0, *lags])",
        promise="The lag of the stream is checked also when nothing comes.",
        documented="docs/operations.md#keeps_up",
        tests=("operations/test_conditions.py::test_it_fails_in_words",),
    ),
    Mutant(
        name="removals-that-fail-succeed",
        file="appview_pipeline/defs/removal.py",
        old="    context.add_output_metadata(metadata)\n    if failed:",
        new="    context.add_output_metadata(metadata)\n    if False:",
        promise="A removal that does not go on fails the run, with its reason.",
        documented="docs/accounts.md#removal",
        tests=("defs/test_removal.py::test_a_removal_that_fails_fails_the_run_with_its_reason",),
    ),
    Mutant(
        name="a-code-server-waits-for-its-runs",
        file="appview_pipeline/defs/leases/code_server.py",
        old="                        event.set()",
        new="                        pass",
        promise="A code server that is asked to end cancels its runs.",
        documented="docs/operations.md#running-it",
        tests=("defs/leases/test_code_server.py::test_its_runs_are_canceled_and_then_killed",),
    ),
    Mutant(
        name="a-reload-cancels-runs",
        file="appview_pipeline/defs/leases/code_server.py",
        old="        while not (self._was_signaled() or (self._ending is not None and self._ending.dagster_ends())):",
        new="        while False:",
        promise="A code server that is only reloaded lets its runs finish.",
        documented="docs/operations.md#running-it",
        tests=("defs/leases/test_code_server.py::test_its_runs_are_canceled_and_then_killed",),
    ),
    Mutant(
        name="a-signal-looks-like-a-reload",
        file="appview_pipeline/defs/leases/code_server.py",
        old='            if frame.f_code.co_name == "cleanup" and frame.f_locals.get("self") is self._servicer:',
        new="            if False:",
        promise="SIGTERM ends a code server within 10 s, whatever it waits for.",
        documented="docs/operations.md#running-it",
        tests=("defs/leases/test_code_server.py::test_after_a_signal_it_ends_in_time_whatever_it_waits_for",),
    ),
    Mutant(
        name="the-daemons-mark-is-overlooked",
        file="appview_pipeline/defs/leases/stopping.py",
        old="        if daemon_mark(instance) != self._mark:",
        new="        if False:",
        promise="Ticks in flight end when the daemon is asked to end.",
        documented="docs/operations.md#running-it",
        tests=("defs/leases/test_watch.py::test_between_two_ticks_a_stopping_daemon_ends_the_consumer",),
    ),
    Mutant(
        name="a-second-run-of-a-job",
        file="appview_pipeline/defs/schedules.py",
        old="    if is_under_way(context.instance, job):",
        new="    if False:",
        promise="A schedule asks for no run of a job while another one waits or runs.",
        documented="docs/operations.md#the-sensors",
        tests=("defs/test_schedules.py::test_no_run_is_asked_for_beside_another",),
    ),
)
