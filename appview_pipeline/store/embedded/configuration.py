"""Settings of the embedded PostgreSQL server, scaled to this machine (or to the memory its container may use)."""

from __future__ import annotations

import os
from pathlib import Path

_MIB = 1 << 20

# Shown to the operator, never changed by us once it exists.
USER_CONF = """\
# Settings of yours for the embedded PostgreSQL server, read after its own (pgdata/appview.conf).
# Applied at the server's next start, or at once for most of them with: SELECT pg_reload_conf();
#
# For example, faster commits on a slow disk. A crash of the server then loses the last moments (under a second), never
# consistency: a batch and the stream's cursor are one transaction, so what is lost is read again from the relay.
#synchronous_commit = off
"""


def server_settings(memory: int, disk: int, *, ephemeral: bool, lz4: bool) -> dict[str, str]:
    """Server settings for a machine with `memory` bytes and a file system of `disk` bytes.

    `ephemeral`: nothing has to survive a crash (tests).
    """
    settings = {
        # A Unix socket in a folder of mode 0700 is the only way in; pg_hba.conf trusts it and rejects TCP.
        "listen_addresses": "",
        "unix_socket_permissions": "0700",
        "max_connections": "100",
        "shared_buffers": _mebibytes(memory // 4, 64, 8192),
        "effective_cache_size": _mebibytes(memory // 2, 128, 65536),
        "work_mem": _mebibytes(memory // 256, 4, 32),
        "maintenance_work_mem": _mebibytes(memory // 16, 64, 512),
        # Each session's own, allocated as used: micro-batches are staged in temporary tables.
        "temp_buffers": _mebibytes(memory // 64, 8, 64),
        # The first change of a page after a checkpoint logs the whole page: few checkpoints, and pages compressed where
        # that is cheap (pglz takes a tenth of a batch's CPU).
        "max_wal_size": _mebibytes(disk // 20, 1024, 16384),
        "min_wal_size": "512MB",
        "checkpoint_timeout": "30min",
        # While a batch is applied its WAL is written beside it, not by it: by default that begins too late, and the
        # buffers are full before.
        "wal_buffers": _mebibytes(memory // 256, 4, 64),
        "wal_writer_delay": "20ms",
        "wal_compression": "lz4" if lz4 else "off",
        # No replicas of an embedded server, but backups while it runs (backup.py), which `minimal` does not allow. The
        # log grows by 0.3 % for it.
        "wal_level": "replica",
        "max_wal_senders": "0",
        # Micro-batches commit a few times a second, so `off` would gain next to nothing, and a consumer that outlives
        # a crash of the server could believe in a batch that is gone.
        "synchronous_commit": "on",
        "random_page_cost": "1.1",
        # Our statements are short; compiling them costs more than it saves.
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_destination": "stderr",
        "logging_collector": "off",
        "log_line_prefix": "%m [%p] %q%a ",
        "log_lock_waits": "on",
    }
    if ephemeral:
        settings |= {
            "fsync": "off",
            "full_page_writes": "off",
            "synchronous_commit": "off",
            "wal_level": "minimal",
            "shared_buffers": _mebibytes(memory // 16, 32, 128),
            "max_wal_size": "1GB",
            "min_wal_size": "80MB",
        }
    return settings


def conf_text(settings: dict[str, str]) -> str:
    """`settings` in the syntax of postgresql.conf."""
    head = "# Written anew at every start. Your own settings belong in postgresql.user.conf of the state folder.\n"
    return head + "".join(f"{name} = '{value}'\n" for name, value in settings.items())


def usable_memory() -> int:
    """Bytes of memory of this machine, or of the control group (container, service) that we run in, if less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    root = Path("/sys/fs/cgroup")
    groups = [root / "memory"]  # version 1
    try:
        own = Path("/proc/self/cgroup").read_text(encoding="ascii", errors="replace")
    except OSError:
        own = ""
    for line in own.splitlines():
        if line.startswith("0::/"):
            group = root / line.removeprefix("0::/")
            groups += [folder for folder in (group, *group.parents) if folder.is_relative_to(root)]
    for group in groups:
        for name in ("memory.max", "memory.limit_in_bytes"):
            try:
                text = (group / name).read_text(encoding="ascii").strip()
            except OSError:
                continue
            if text.isdigit():
                limits.append(int(text))
    return min(limits)


def _mebibytes(size: int, low: int, high: int) -> str:
    return f"{min(max(size // _MIB, low), high)}MB"
