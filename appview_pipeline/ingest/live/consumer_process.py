"""The consumer as a leased process (`leases/leased_process.py`)."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from appview_pipeline.leases.leased_process import EXIT_LOCK_LOST, EXIT_LOCKED, LeasedProcess

COMMAND = (sys.executable, "-m", "appview_pipeline.ingest.live.consumer")

_SENTENCES = {
    EXIT_LOCKED: "another consumer is at work on this relay; waiting for it to end",
    EXIT_LOCK_LOST: "the database connection that held the stream's lock was lost; the consumer is started again",
}


def consumer_process(command: Sequence[str] = COMMAND) -> LeasedProcess:
    """The consumer of the settings' relay and shard, not yet started."""
    return LeasedProcess(name="consumer", command=command, sentences=_SENTENCES)
