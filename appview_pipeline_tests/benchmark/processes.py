"""What processes cost, read from /proc: CPU seconds and memory, children included."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command's name; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def children() -> dict[int, list[int]]:
    """All processes by their parent."""
    found: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            found.setdefault(int(fields[1]), []).append(int(entry.name))
    return found


def tree(pid: int) -> list[int]:
    """`pid` and all that descend from it."""
    by_parent, found = children(), [pid]
    for parent in found:
        found += by_parent.get(parent, [])
    return found


def cpu_seconds(pid: int, without: Collection[int] = ()) -> float:
    """CPU time used so far by `pid`, its descendants, and those of them that have ended and been waited for."""
    ticks = 0
    for one in tree(pid):
        fields = _stat(one)
        if fields and one not in without:
            ticks += sum(map(int, fields[11:15]))
    return ticks / TICKS


@dataclass(frozen=True)
class Scheduled:
    """Seconds that a process has run, and that it was ready to run while others had the processors."""

    cpu: float
    waited: float


def scheduled(pid: int) -> Scheduled:
    """Of the main thread of process `pid` so far, to the nanosecond; both 0 where the kernel does not count."""
    try:
        cpu, waited, _ = Path(f"/proc/{pid}/schedstat").read_text().split()
    except OSError:
        return Scheduled(0.0, 0.0)
    return Scheduled(int(cpu) / 1e9, int(waited) / 1e9)


def _kilobytes(pid: int, file: str, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:  # it ended while we looked
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(name + ":")), 0)


def peak_megabytes(pid: int) -> float:
    """The most memory that was resident at once (VmHWM), added up over `pid` and its descendants."""
    return sum(_kilobytes(one, "status", "VmHWM") for one in tree(pid)) / 1_000


def megabytes(pid: int) -> float:
    """The memory that is resident now (VmRSS), of this process alone."""
    return _kilobytes(pid, "status", "VmRSS") / 1_000


def pss_megabytes(pids: Iterable[int]) -> float:
    """Memory in use, what several processes share counted once."""
    return sum(_kilobytes(pid, "smaps_rollup", "Pss") for pid in pids) / 1_000
