"""What a process takes of the machine, as /proc says (Linux only)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Taken:
    """What one process takes: resident memory in bytes, file descriptors, threads, seconds of CPU so far."""

    pid: int
    memory: int
    files: int
    threads: int
    cpu: float


def taken(pid: int) -> Taken | None:
    """What a process takes now; None where it has ended."""
    folder = Path("/proc") / str(pid)
    try:
        status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines() if ":\t" in line)
        times = (folder / "stat").read_text().rpartition(")")[2].split()
        files = sum(1 for _ in (folder / "fd").iterdir())
        return Taken(
            pid=pid,
            memory=int(status["VmRSS"].split()[0]) * 1024,
            files=files,
            threads=int(status["Threads"]),
            cpu=(int(times[11]) + int(times[12])) / _TICKS,
        )
    except (OSError, KeyError, ValueError, IndexError):
        return None
