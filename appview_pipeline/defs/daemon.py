"""`appview-pipeline-daemon run`: dagster-daemon, which ends within 10 s of SIGTERM or SIGINT.

Dagster's own waits for all ticks in flight, and the ticks of our sensors last most of a minute. The code server may be
on another machine, where nothing shows that the daemon is to end. So this one leaves a mark in Dagster's storage, which
ticks look for each second (`defs/leases/stopping.py`). They end, their cursors are saved, and the daemon ends. Where
that takes too long (the storage is away, a tick hangs) it ends by force: the next daemon goes on as after a crash.

Arguments are those of dagster-daemon.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import uuid

import dagster as dg
from dagster._daemon.cli import cli

from appview_pipeline import backoff
from appview_pipeline.defs.leases.stopping import DAEMON_STOPPING

_ENDING = (signal.SIGTERM, signal.SIGINT)


def _watch(signals: int) -> None:
    """Reads the numbers of signals that come, and ends this process in time after one that ends it."""
    while number := os.read(signals, 1):
        if number[0] in _ENDING:
            break
    threading.Thread(target=_leave_mark, name="daemon's mark", daemon=True).start()
    time.sleep(backoff.DAGSTER_END_SECONDS)
    print(
        "The daemon ends without the ticks in flight; the next daemon begins them again.", file=sys.stderr, flush=True
    )
    os._exit(0)


def _leave_mark() -> None:
    try:
        with dg.DagsterInstance.get() as instance:
            instance.daemon_cursor_storage.set_cursor_values({DAEMON_STOPPING: str(uuid.uuid4())})
    except Exception as error:  # Dagster's storage may be anything, and away
        message = str(error).partition("\n")[0]
        print(f"Dagster's storage can't say that the daemon ends: {message}", file=sys.stderr, flush=True)


def main() -> None:
    """Entry point."""
    # Dagster replaces the handlers of these signals again and again; the numbers come whoever handles them.
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), name="end of the daemon", daemon=True).start()
    cli(obj={})


if __name__ == "__main__":
    main()
