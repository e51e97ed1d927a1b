"""Noticing, in a tick and between two ticks, that consuming should end: the sensor switched off, the code server
stopped or reloaded, `dagster dev` being shut down, or one of Dagster's processes dead.

Dagster tells a tick nothing of the kind and waits for it, which would make Ctrl-C take as long as a tick. These are
watched instead; where one is missing (another way of deployment, another system) the others still work:
- the sensor's state in the instance;
- the service threads of the code server, which end when it is told to stop (signal, reload, lost heartbeat);
- the pipes by which `dagster dev` tells its daemon and webserver to stop. They close the moment it does, while the
  code server hears of it only after the daemon has waited for the tick. They also go with those processes, however they
  end. Linux only;
- `dagster dev` itself, or whatever process of Dagster started this one, and the daemon where it is on this machine and
  the only one here (another one may be another Dagster's): their process ids. Linux only;
- the daemon's call, during a tick: its connection breaks when the daemon dies, on whatever machine it is.

Between two ticks the death of any other daemon can't be seen: nothing is connected then, and its heartbeat
in Dagster's storage comes every 30 s. The consumer's lease ends it (`APPVIEW_LEASE_SECONDS`).
"""

from __future__ import annotations

import math
import os
import sys
import threading
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorStatus, InstigatorType

_CALLS = ("ExternalSensorExecution", "SyncExternalSensorExecution")
"""The methods of Dagster's code server in which a tick runs."""
_SERVICE_THREADS = ("grpc-server-heartbeat", "grpc-server-cleanup")
_PROC = Path("/proc")
_HERE = ("unix:", "ipv4:127.", "ipv6:[::1]", "ipv6:%5B::1%5D")
"""How gRPC's address of a caller on this machine begins."""
_LAST_SECONDS = 2.0
"""A call that ended with less than so many seconds left has run out of time: the daemon is alive."""


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


def _processes() -> list[int]:
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()] if _PROC.is_dir() else []


def _shutdown_pipes(launcher: int) -> list[Path]:
    """The shutdown pipes of `dagster dev`'s daemon and webserver, if `launcher` is one."""
    if launcher <= 1:
        return []
    pipes = []
    for pid in _processes():
        if _parent(pid) == launcher:
            arguments = _arguments(pid)
            if "--shutdown-pipe" in arguments[:-1]:
                pipe = _PROC / str(pid) / "fd" / arguments[arguments.index("--shutdown-pipe") + 1]
                if os.path.lexists(pipe):
                    pipes.append(pipe)
    return pipes


def _is_dagster(pid: int) -> bool:
    return any("dagster" in argument for argument in _arguments(pid)[:3])


def _is_daemon(pid: int) -> bool:
    arguments = _arguments(pid)
    return "dagster._daemon" in arguments or any(it.endswith("/dagster-daemon") for it in arguments[:2])


def _only_daemon() -> int | None:
    daemons = [pid for pid in _processes() if _is_daemon(pid)]
    # A daemon may have children that look like it until they start their own program.
    first = [pid for pid in daemons if _parent(pid) not in daemons]
    return first[0] if len(first) == 1 else None


def _call_of_tick() -> Any:
    """The gRPC call (`grpc.ServicerContext`) that this thread answers; None outside of a code server."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name in _CALLS:
            return frame.f_locals.get("_context")
        frame = frame.f_back  # type: ignore[assignment]
    return None


class Stopping:
    """Why consuming should end, if it should. Made by the tick of `context`; serves until the next one has begun."""

    def __init__(self, context: dg.SensorEvaluationContext) -> None:
        self._sensor = context.sensor_name
        self._repository = context.repository_name
        self._threads = [thread for thread in threading.enumerate() if thread.name in _SERVICE_THREADS]
        self._parent = os.getppid()
        self._launcher = _parent(self._parent)
        self._pipes = _shutdown_pipes(self._launcher)
        self._has_dagster_parent = _is_dagster(self._parent)
        self._call = _call_of_tick()
        # A daemon here that doesn't call from here is another Dagster's, whose end is none of our business.
        calls_from_here = self._call is None or self._call.peer().startswith(_HERE)
        self._daemon = _only_daemon() if calls_from_here and not self._pipes else None

    def seconds_left(self) -> float:
        """How long the daemon still waits for this tick; for ever where nothing waits."""
        remaining = self._call.time_remaining() if self._call is not None else None
        return math.inf if remaining is None else float(remaining)

    def tick_abandoned(self) -> str | None:
        """Says so when the daemon has gone that waits for this tick; not when it has waited for as long as it may."""
        if self._call is None or self._call.is_active():
            return None
        remaining = self._call.time_remaining()
        if remaining is not None and remaining < _LAST_SECONDS:
            return None
        return "the daemon has ended"

    def shutdown(self) -> str | None:
        """Says so when the processes around this code server are going away. Cheap."""
        if any(not thread.is_alive() for thread in self._threads):
            return "the code server is stopping or reloading"
        if not all(os.path.lexists(pipe) for pipe in self._pipes):
            return "Dagster is shutting down"
        if self._has_dagster_parent and os.getppid() != self._parent:
            return "the process that ran this code server has ended"
        if self._pipes and _parent(self._parent) != self._launcher:
            return "dagster dev has ended"
        if self._daemon is not None and not _is_daemon(self._daemon):
            return "the daemon has ended"
        return None

    def switched_off(self, instance: dg.DagsterInstance) -> str | None:
        """Says so when the sensor is off. Asks Dagster's storage (some milliseconds)."""
        for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
            repository = state.origin.repository_origin.repository_name
            if (
                state.instigator_name == self._sensor
                and repository == (self._repository or repository)
                and state.status == InstigatorStatus.STOPPED
            ):
                return "the sensor is switched off"
        return None
