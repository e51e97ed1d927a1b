"""Noticing from within a tick that it should end: its sensor switched off, its code server stopped or reloaded, or
`dagster dev` being shut down.

Dagster tells a tick nothing of the kind and waits for it, which would make Ctrl-C take as long as a tick. Three things
are watched instead; where one is missing (another way of deployment, another system) the others still work:
- the sensor's state in the instance;
- the service threads of the code server, which end when it is told to stop (signal, reload, lost heartbeat);
- the pipes by which `dagster dev` tells its daemon and webserver to stop. They close the moment it does, while the
  code server hears of it only after the daemon has waited for the tick. Linux only.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorStatus, InstigatorType

_SERVICE_THREADS = ("grpc-server-heartbeat", "grpc-server-cleanup")
_PROC = Path("/proc")


def _parent(pid: int) -> int:
    """The parent's process id, 0 where unknown."""
    try:
        # The command's name, in brackets, may hold anything, so count from its end.
        return int((_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def _arguments(pid: int) -> list[str]:
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return []


def _shutdown_pipes() -> list[Path]:
    """The shutdown pipes of `dagster dev`'s daemon and webserver, if that is what runs this code server."""
    launcher = _parent(os.getppid())
    if launcher <= 1 or not _PROC.is_dir():
        return []
    pipes = []
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and _parent(int(entry.name)) == launcher:
            arguments = _arguments(int(entry.name))
            if "--shutdown-pipe" in arguments[:-1]:
                pipe = entry / "fd" / arguments[arguments.index("--shutdown-pipe") + 1]
                if os.path.lexists(pipe):
                    pipes.append(pipe)
    return pipes


class Stopping:
    """Why the tick of `context` should end, if it should."""

    def __init__(self, context: dg.SensorEvaluationContext) -> None:
        self._instance = context.instance
        self._sensor = context.sensor_name
        self._repository = context.repository_name
        self._threads = [thread for thread in threading.enumerate() if thread.name in _SERVICE_THREADS]
        self._pipes = _shutdown_pipes()

    def shutdown(self) -> str | None:
        """Says so when the processes around this tick are going away. Cheap."""
        if any(not thread.is_alive() for thread in self._threads):
            return "the code server is stopping or reloading"
        if not all(os.path.lexists(pipe) for pipe in self._pipes):
            return "Dagster is shutting down"
        return None

    def switched_off(self) -> str | None:
        """Says so when the sensor is off. Asks Dagster's storage (some milliseconds)."""
        for state in self._instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
            repository = state.origin.repository_origin.repository_name
            if (
                state.instigator_name == self._sensor
                and repository == (self._repository or repository)
                and state.status == InstigatorStatus.STOPPED
            ):
                return "the sensor is switched off"
        return None
