"""Ends what an earlier PostgreSQL server left on a data directory: its processes and its pid files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from appview_pipeline.backoff import POLL_SECONDS
from appview_pipeline.errors import OperatorError
from appview_pipeline.store.embedded.state_folder import SOCKET_PORT, StateFolder

STOP_SECONDS = 60.0
"""A fast shutdown ends with a checkpoint, which takes its time on a slow disk. Then the harder signals follow."""
HARD_STOP_SECONDS = 20.0


def clear(state: StateFolder, socket_dir: Path) -> None:
    """Ends every PostgreSQL process on the data directory and removes stale pid files.

    A killed server's sessions may live on for a moment, and a killed supervisor's server takes time to shut down.
    The pid files are removed because their pids may by now be those of innocent processes, which would keep
    PostgreSQL from starting. Only `postgres` processes that work in our data directory get a signal.

    Raises `OperatorError` when one of them does not end.
    """
    postmaster = pid_file_lines(state)[:1]
    for number, seconds in (
        (signal.SIGINT, STOP_SECONDS),
        (signal.SIGQUIT, HARD_STOP_SECONDS),
        (signal.SIGKILL, HARD_STOP_SECONDS),
    ):
        left = list(_processes(state))
        if number == signal.SIGINT:  # only the postmaster knows an orderly shutdown
            left = [pid for pid in left if [str(pid)] == postmaster]
        for pid in left:
            _send(pid, number)
        deadline = time.monotonic() + seconds
        while left and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            running = set(_processes(state))
            left = [pid for pid in left if pid in running]
    if left := list(_processes(state)):
        raise OperatorError(
            f"An earlier PostgreSQL server on {state.data_dir} does not end (process {left[0]}): end it or "
            "restart this machine."
        )
    for pid_file in (
        state.data_dir / "postmaster.pid",
        socket_dir / f".s.PGSQL.{SOCKET_PORT}",
        socket_dir / f".s.PGSQL.{SOCKET_PORT}.lock",
    ):
        pid_file.unlink(missing_ok=True)


def pid_file_lines(state: StateFolder) -> list[str]:
    """The lines of the server's pid file: its pid first, its state eighth. Empty where there is no such file."""
    try:
        return (state.data_dir / "postmaster.pid").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _processes(state: StateFolder) -> Iterator[int]:
    """Process ids of PostgreSQL servers and sessions working in the data directory, without zombies."""
    if sys.platform != "linux":
        yield from _postmaster_by_ps(state)
        return
    try:
        data_dir = state.data_dir.stat()
    except FileNotFoundError:  # removed while we ran
        return
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            program = (entry / "exe").readlink().name.removesuffix(" (deleted)")
            ours = program == "postgres" and os.path.samestat((entry / "cwd").stat(), data_dir)
        except OSError:  # gone meanwhile, or another user's
            continue
        if ours:
            yield int(entry.name)


def _postmaster_by_ps(state: StateFolder) -> Iterator[int]:
    for pid in pid_file_lines(state)[:1]:
        if pid.isdigit():
            argv = ["ps", "-o", "stat=,command=", "-p", pid]
            found = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
            if "postgres" in found and str(state.data_dir) in found and not found.startswith("Z"):
                yield int(pid)


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
