"""Why a leased process should end: its sensor was switched off, the code server was stopped or reloaded, `dagster dev`
shuts down, the daemon is asked to end, or one of Dagster's processes died.

Dagster does not notify a tick of any of these, and waits for it, so Ctrl-C would take as long as a tick. These signs
are watched instead. Where one is missing (another way of deployment, another system) the others still work:
- the sensor's state in the instance;
- the code server, which notes that it is asked to stop (signal, reload, lost heartbeat), and then waits for its runs;
- a mark in Dagster's storage that the daemon leaves when it is asked to end (`defs/daemon.py`), on any machine;
- the pipes by which `dagster dev` asks its daemon and webserver to stop. They close the moment it does, while the code
  server hears of it only after the daemon has waited for the tick. They also go with those processes, however they end.
  Linux only;
- the process ids of `dagster dev`, or of the process of Dagster that started this one, and of the daemon where it is on
  this machine and the only one here (another one may be another Dagster's). Linux only;
- the daemon's call, during a tick: its connection breaks when the daemon dies, on any machine.

Between two ticks the death of a daemon on another machine can't be seen: nothing is connected then, and its heartbeat
in Dagster's storage comes every 30 s. The lease ends the process (`APPVIEW_LEASE_SECONDS`).
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorStatus, InstigatorType

from appview_pipeline.defs.leases.code_server import CodeServer, code_server

_CALLS = ("ExternalSensorExecution", "SyncExternalSensorExecution")
"""The methods of Dagster's code server in which a tick runs."""
DAEMON_STOPPING = "APPVIEW_DAEMON_STOPPING"
"""The mark's key; its value is another one each time."""
_DAEMON_MODULES = ("dagster._daemon", "appview_pipeline.defs.daemon")
_DAEMON_COMMANDS = ("/dagster-daemon", "/appview-pipeline-daemon")
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
    return any(it in arguments for it in _DAEMON_MODULES) or any(it.endswith(_DAEMON_COMMANDS) for it in arguments[:2])


def _only_daemon() -> int | None:
    daemons = [pid for pid in _processes() if _is_daemon(pid)]
    # A daemon may have children that look like it until they start their own program.
    first = [pid for pid in daemons if _parent(pid) not in daemons]
    return first[0] if len(first) == 1 else None


def _call_of_tick() -> tuple[Any, CodeServer | None]:
    """The gRPC call (`grpc.ServicerContext`) that this thread answers, and what answers it; None outside of a code
    server."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name in _CALLS:
            return frame.f_locals.get("_context"), code_server(frame.f_locals.get("self"))
        frame = frame.f_back  # type: ignore[assignment]
    return None, None


def daemon_mark(instance: dg.DagsterInstance) -> str | None:
    """The mark that a daemon left which was asked to end."""
    return instance.daemon_cursor_storage.get_cursor_values({DAEMON_STOPPING}).get(DAEMON_STOPPING)


class Stopping:
    """The reasons to end a leased process. Made by the tick of `context`; good until the next tick has begun."""

    def __init__(self, context: dg.SensorEvaluationContext) -> None:
        self._sensor = context.sensor_name
        self._repository = context.repository_name
        self._parent = os.getppid()
        self._launcher = _parent(self._parent)
        self._pipes = _shutdown_pipes(self._launcher)
        self._has_dagster_parent = _is_dagster(self._parent)
        self._call, self._server = _call_of_tick()
        # A daemon here that does not call from here is another Dagster's: its end does not matter. Without a call, a
        # script evaluates the tick in its own process, and no daemon has to do with it.
        calls_from_here = self._call is not None and self._call.peer().startswith(_HERE)
        self._daemon = _only_daemon() if calls_from_here and not self._pipes else None
        self._mark = daemon_mark(context.instance)
        if self._server is not None:
            self._server.follow(self)

    def seconds_left(self) -> float:
        """How long the daemon still waits for this tick, in seconds; infinite where nothing waits."""
        remaining = self._call.time_remaining() if self._call is not None else None
        return math.inf if remaining is None else float(remaining)

    def tick_abandoned(self) -> str | None:
        """The reason, when the daemon that waits for this tick has died; None also when it has only run out of time."""
        if self._call is None or self._call.is_active():
            return None
        remaining = self._call.time_remaining()
        if remaining is not None and remaining < _LAST_SECONDS:
            return None
        return "the daemon has ended"

    def shutdown(self) -> str | None:
        """The reason, when the processes around this code server are ending. Cheap."""
        if self._server is not None and self._server.is_stopping():
            return "the code server is stopping or reloading"
        if (reason := self.dagster_ends()) is not None:
            return reason
        if self._daemon is not None and not _is_daemon(self._daemon):
            return "the daemon has ended"
        return None

    def dagster_ends(self) -> str | None:
        """The reason, when `dagster dev` or what else started this code server ends: it is not only reloaded."""
        if not all(os.path.lexists(pipe) for pipe in self._pipes):
            return "Dagster is shutting down"
        if self._has_dagster_parent and os.getppid() != self._parent:
            return "the process that ran this code server has ended"
        if self._pipes and _parent(self._parent) != self._launcher:
            return "dagster dev has ended"
        return None

    def switched_off(self, instance: dg.DagsterInstance) -> str | None:
        """The reason, when the sensor is off or the daemon was asked to end. Asks Dagster's storage (some
        milliseconds)."""
        if daemon_mark(instance) != self._mark:
            return "the daemon is stopping"
        for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
            repository = state.origin.repository_origin.repository_name
            if (
                state.instigator_name == self._sensor
                and repository == (self._repository or repository)
                and state.status == InstigatorStatus.STOPPED
            ):
                return "the sensor is switched off"
        return None
