"""Which operating-system user runs the embedded PostgreSQL server.

PostgreSQL refuses to run as root. Started by root (containers, CI), it runs as the owner of its existing data
directory, else as `postgres`, else as `nobody`. No user is ever created and no folder that is not ours is made
accessible: where that user cannot reach something, an error says so.
"""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appview_pipeline.errors import OperatorError

PROGRAM_SECONDS = 120.0
"""Longest that a program may take that does next to nothing, such as `postgres --version`: slow machines need some."""


@dataclass(frozen=True)
class ServerUser:
    """The user of the server's processes; `switch` is true when we are root and have to change to it."""

    uid: int
    gid: int
    name: str
    switch: bool

    def popen(self) -> dict[str, Any]:
        """Arguments for `subprocess.Popen` that start a process as this user, without our supplementary groups."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.switch else {}

    def own(self, path: Path) -> None:
        """Gives `path`, a file or folder of ours, to this user."""
        if self.switch:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def owns(self, status: os.stat_result) -> bool:
        """Whether the file or folder with that status is this user's."""
        return status.st_uid == self.uid


# What a process needs to be found and to run. There is no password among it (DATABASE_URL, PGPASSWORD, a proxy's): the
# environment of a process can be read for as long as it lives, and may be written down when it crashes.
_NEEDED = ("PATH", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH")


def environment(*more: str) -> dict[str, str]:
    """The environment of the embedded server's processes: the variables of ours that they need, and `more`."""
    return {name: os.environ[name] for name in (*_NEEDED, *more) if name in os.environ}


def choose(data_dir: Path) -> ServerUser:
    """The user to run the server on `data_dir` (which need not exist yet) as.

    Raises `OperatorError` when there is none, or when the data directory belongs to another user.
    """
    owner = _owner(data_dir)
    me = os.geteuid()
    if me != 0:
        if owner not in (None, me):
            raise OperatorError(
                f"The database folder {data_dir} belongs to {_name(owner)}, not to {_name(me)}: start as that user or "
                "set APPVIEW_STATE_DIR to a folder of your own."
            )
        try:
            name = pwd.getpwuid(me).pw_name
        except KeyError:
            raise OperatorError(
                f"User id {me} has no name on this system, which PostgreSQL needs to create a database folder: add it "
                "to /etc/passwd, start as another user, or set DATABASE_URL."
            ) from None
        return ServerUser(me, os.getegid(), name, switch=False)
    if owner:
        status = data_dir.stat()
        return ServerUser(status.st_uid, status.st_gid, _name(owner), switch=True)
    for candidate in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(candidate)
        except KeyError:
            continue
        return ServerUser(entry.pw_uid, entry.pw_gid, candidate, switch=True)
    raise OperatorError(
        "PostgreSQL refuses to run as root and this system has neither a user `postgres` nor `nobody`: start as an "
        "ordinary user or set DATABASE_URL."
    )


def first_barrier(path: Path, user: ServerUser) -> Path | None:
    """The outermost folder on the way to (and including) `path` that `user` may not enter, by mode bits.

    Folders that do not exist yet are no barrier: we create them enterable.
    """
    for folder in (*reversed(path.parents), path):
        try:
            status = folder.stat()
        except FileNotFoundError:
            return None
        except OSError:
            return folder
        if status.st_uid == user.uid:
            needed = stat.S_IXUSR
        elif status.st_gid == user.gid:
            needed = stat.S_IXGRP
        else:
            needed = stat.S_IXOTH
        if not status.st_mode & needed:
            return folder
    return None


def runs(user: ServerUser, argv: list[str]) -> bool:
    """Whether `user` can run `argv` (exit status 0 within `PROGRAM_SECONDS`).

    Raises `OperatorError` when this system does not let root become that user.
    """
    try:
        done = subprocess.run(
            argv,
            cwd="/",
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROGRAM_SECONDS,
            **user.popen(),
        )
    except (FileNotFoundError, NotADirectoryError, subprocess.TimeoutExpired):
        return False
    except (OSError, subprocess.SubprocessError) as error:
        if user.switch and not _can_become(user):
            raise OperatorError(
                f"PostgreSQL refuses to run as root and this system does not let root become `{user.name}` ({error}): "
                "start as an ordinary user or set DATABASE_URL."
            ) from None
        return False
    return done.returncode == 0


def _can_become(user: ServerUser) -> bool:
    try:
        argv = ["/bin/sh", "-c", ":"]
        return subprocess.run(argv, cwd="/", env=environment(), check=False, **user.popen()).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def _owner(path: Path) -> int | None:
    try:
        return path.stat().st_uid
    except FileNotFoundError:
        return None
    except OSError:
        return os.geteuid()  # unreachable: the next function that opens it says so


def _name(uid: int | None) -> str:
    if uid is None:
        return "nobody"
    try:
        return f"`{pwd.getpwuid(uid).pw_name}`"
    except KeyError:
        return f"user id {uid}"
