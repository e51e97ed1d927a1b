"""Ends a leased process while no tick is at work, for the reasons for which a tick ends it."""

from __future__ import annotations

import logging
import threading
import time

import dagster as dg
from dagster._core.instance.ref import InstanceRef

from appview_pipeline.defs.leases.stopping import Stopping
from appview_pipeline.leases.leased_process import LeasedProcess

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
# Ctrl-C must end everything within 10 s; Dagster itself takes about 3 of them.
STOP_PATIENCE = 3.5


class WatchBetweenTicks:
    """A thread that watches for as long as this code server lives; `working` is held by the tick at work.

    The lease is longer than what a busy machine pauses between two ticks, so it can't be what notices these.
    """

    def __init__(self, process: LeasedProcess, working: threading.Lock) -> None:
        self._process = process
        self._working = working
        self._stopping: Stopping | None = None
        self._instance_ref: InstanceRef | None = None
        threading.Thread(target=self._run, name=f"{process.name} watch", daemon=True).start()

    def follow(self, context: dg.SensorEvaluationContext, stopping: Stopping) -> None:
        """Goes by what the newest tick knows of Dagster's processes."""
        # The tick's own instance is closed with it.
        self._stopping = stopping
        self._instance_ref = context.instance.get_ref() if context.instance.is_persistent else None

    def _run(self) -> None:
        instance: dg.DagsterInstance | None = None
        while True:
            time.sleep(LOOK_SECONDS)
            stopping, ref = self._stopping, self._instance_ref
            if stopping is None or self._process.pid is None or self._working.locked():
                continue
            try:
                if instance is None and ref is not None:
                    instance = dg.DagsterInstance.from_ref(ref)
                reason = stopping.shutdown() or (stopping.switched_off(instance) if instance is not None else None)
            except Exception as error:  # Dagster's storage may be anything, and away for a while
                log.warning("Dagster's storage can't say whether the sensor is on: %s", str(error).partition("\n")[0])
                instance = None
                continue
            if reason is not None and self._working.acquire(blocking=False):
                try:
                    log.info("%s: the %s ends", reason, self._process.name)
                    self._process.stop(STOP_PATIENCE)
                finally:
                    self._working.release()
