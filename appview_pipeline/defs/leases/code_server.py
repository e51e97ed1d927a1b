"""The code server that this process is, and its end in time.

Where no run launcher puts runs elsewhere, they are children of the code server (`DefaultRunLauncher`, also under
`dagster dev`). Dagster's code server then waits, when it is asked to stop, for as long as they take: many minutes. Here
they are canceled first and killed later. Nothing is lost: each of our runs may be killed at any instruction, and the
next one of its job goes on. A code server that is only reloaded lets its runs finish, as Dagster intends.

All that is Dagster's own and not public is here and in `stopping.py`; dagster is pinned in setup.py.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import dagster as dg

from appview_pipeline import backoff

log = logging.getLogger(__name__)

CANCELED = "The code server of this run was asked to end, so the run ends early. Launch it again to go on."


class Ending(Protocol):
    """What knows whether all of Dagster ends here (`stopping.Stopping`)."""

    def dagster_ends(self) -> str | None:
        """The reason; None: it does not."""


class CodeServer:
    """`servicer`: Dagster's `DagsterApiServer` of this process. Starts a thread that waits for its end."""

    def __init__(self, servicer: Any, end: Callable[[], object] = lambda: os._exit(0)) -> None:
        self._servicer = servicer
        self._asked: threading.Event = servicer._shutdown_once_executions_finish_event
        self._ending: Ending | None = None
        self._end = end
        threading.Thread(target=self._run, name="end of the code server", daemon=True).start()

    def is_stopping(self) -> bool:
        """Whether it was asked to stop: by a signal, by a reload, or because nobody sends heartbeats any more."""
        return self._asked.is_set()

    def follow(self, ending: Ending) -> None:
        """Goes by what the newest tick knows of Dagster's processes."""
        self._ending = ending

    def _was_signaled(self) -> bool:
        """Whether the main thread is past serving: then a signal came, and no reload."""
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        while frame is not None:
            if frame.f_code.co_name == "cleanup" and frame.f_locals.get("self") is self._servicer:
                return True
            frame = frame.f_back
        return False

    def _run(self) -> None:
        self._asked.wait()
        while not (self._was_signaled() or (self._ending is not None and self._ending.dagster_ends())):
            time.sleep(backoff.STOP_POLL_SECONDS)
        # The storage may be away, so canceling may take its time; the end does not wait for it.
        threading.Thread(target=self._end_runs, name="end of runs", daemon=True).start()
        time.sleep(backoff.DAGSTER_END_SECONDS)
        log.warning("The code server ends without what it still waits for")
        for process, _ in list(self._servicer._executions.values()):
            process.kill()
        self._end()

    def _end_runs(self) -> None:
        canceled_at: dict[str, float] = {}
        while True:
            for run_id, (process, ref) in list(self._servicer._executions.items()):
                if run_id not in canceled_at:
                    _report(ref, run_id, lambda instance, run: instance.report_run_canceling(run, CANCELED))
                    if (event := self._servicer._termination_events.get(run_id)) is not None:
                        event.set()
                    canceled_at[run_id] = time.monotonic()
                elif process.is_alive() and time.monotonic() - canceled_at[run_id] >= backoff.RUN_END_SECONDS:
                    _report(ref, run_id, lambda instance, run: instance.report_run_canceled(run, CANCELED))
                    process.kill()
            time.sleep(backoff.STOP_POLL_SECONDS)


def _report(ref: Any, run_id: str, what: Callable[[dg.DagsterInstance, Any], object]) -> None:
    try:
        with dg.DagsterInstance.from_ref(ref) as instance:
            run = instance.get_run_by_id(run_id)
            if run is not None and not run.is_finished:
                what(instance, run)
    except Exception as error:  # Dagster's storage may be anything, and away
        log.warning("Dagster's storage was not told that run %s ends: %s", run_id, str(error).partition("\n")[0])


_lock = threading.Lock()
_known: dict[int, CodeServer] = {}


def code_server(servicer: Any) -> CodeServer | None:
    """The code server of a servicer, always the same one; None for what is no servicer of Dagster's."""
    if not hasattr(servicer, "_shutdown_once_executions_finish_event"):
        return None
    with _lock:
        if id(servicer) not in _known:
            _known[id(servicer)] = CodeServer(servicer)
        return _known[id(servicer)]
