"""The state folder of the embedded PostgreSQL: where it is, its files and its two locks.

    pgdata/               the data directory
    run/                  the server's Unix socket (elsewhere when the path would be too long for one)
    owner.lock            exclusive flock of the supervisor, from before its process starts until it has ended
    users.lock            shared flock of every process that uses the database
    embedded.json         what the supervisor is doing (`supervisor_status.py`)
    postgres.log          output of the supervisor and of the server
    postgresql.user.conf  server settings of the operator

The folder and its files are their owner's alone (and the server's user may pass): another local user could otherwise
hold a lock, and with it keep the server up, or keep it from being started.

Only flocks show which processes live: the kernel frees them at any death. No process id is ever believed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from appview_pipeline.errors import OperatorError
from appview_pipeline.store.embedded import server_user
from appview_pipeline.store.embedded.server_user import ServerUser

# The supervisor's log is kept in two files (`postgres.log`, `postgres.log.1`) of at most about this many bytes each.
LOG_BYTES = 16_000_000

# A Unix socket's path holds 103 bytes on macOS and 107 on Linux; the server appends this name to the folder.
SOCKET_PORT = 5432
_SOCKET_NAME = f"/.s.PGSQL.{SOCKET_PORT}"
_SOCKET_PATH_BYTES = 103
# PostgreSQL joins names of up to about 100 bytes to the data directory's path, within 1,023 bytes.
_STATE_PATH_BYTES = 800

_PRIVATE = ("owner.lock", "users.lock", "embedded.json", "postgres.log", "postgres.log.1", "first_hour")
_OURS = frozenset((*_PRIVATE, "pgdata", "run", "postgresql.user.conf", "dagster"))

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StateFolder:
    """Paths in one state folder. `path` is absolute and free of symbolic links."""

    path: Path

    @property
    def data_dir(self) -> Path:
        return self.path / "pgdata"

    @property
    def log(self) -> Path:
        return self.path / "postgres.log"

    @property
    def user_conf(self) -> Path:
        return self.path / "postgresql.user.conf"

    def open(self, name: str, flags: int) -> int:
        """Opens (creating it if need be) the file `name`; a descriptor that programs we start do not inherit.

        Only its owner may open it, since every user that can read a file can lock it. A symbolic link is refused: root
        may be working in the folder of another user, who could lead it to any file.
        """
        flags |= os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(self.path / name, flags, 0o600)
            owner, found = self.path.stat(), os.fstat(descriptor)
            if os.geteuid() == 0 and found.st_uid != owner.st_uid:
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            if found.st_mode & 0o077 and os.geteuid() in (0, found.st_uid):  # as earlier versions made it
                os.fchmod(descriptor, 0o600)
        except OSError as error:
            raise OperatorError(
                f"Cannot open {self.path / name} ({error.strerror}): start as the user that owns this folder or set "
                "APPVIEW_STATE_DIR to a folder that you can write to."
            ) from None
        return descriptor

    def is_current(self, name: str, descriptor: int) -> bool:
        """Whether `descriptor` is still the file `name` (not so when the folder was removed meanwhile)."""
        try:
            return os.path.samestat(os.fstat(descriptor), (self.path / name).stat())
        except OSError:
            return False


def create(path: Path) -> StateFolder:
    """The state folder at `path`, created where missing. Raises `OperatorError` when that is not possible."""
    try:
        path = path.expanduser().resolve()
        _make_folders(path)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OperatorError(
            f"Cannot create the state folder {path} ({reason}): set APPVIEW_STATE_DIR to a folder that you can write "
            "to."
        ) from None
    if len(os.fsencode(path)) > _STATE_PATH_BYTES:
        raise OperatorError(
            f"The state folder's path is {len(os.fsencode(path)):,} bytes long and PostgreSQL can use at most "
            f"{_STATE_PATH_BYTES}: set APPVIEW_STATE_DIR to a shorter path."
        )
    if not os.access(path, os.W_OK | os.X_OK):
        raise OperatorError(
            f"The state folder {path} is not writable by this user: start as the user that owns it or set "
            "APPVIEW_STATE_DIR to a folder that you can write to."
        )
    return StateFolder(path)


def _make_folders(path: Path) -> None:
    if path.is_dir():
        return
    if path.exists():
        raise NotADirectoryError(0, "it is not a folder")
    _make_folders(path.parent)
    with contextlib.suppress(FileExistsError):  # another process starting at the same time
        path.mkdir()
        if os.geteuid() == 0:  # whatever root's umask: the server's user has to pass through what we create
            path.chmod(0o755)


def restrict(state: StateFolder, user: ServerUser) -> None:
    """Closes the folder and its files to all but their owner and the server's `user`; earlier versions left them open.

    The folder itself is left as it is when it holds other files than ours: it may be one that others use too.
    """
    try:
        for name in _PRIVATE:
            if (state.path / name).is_file() and not (state.path / name).is_symlink():
                os.close(state.open(name, os.O_RDONLY))
        if state.user_conf.is_file() and not state.user_conf.is_symlink():
            _only_for(state.user_conf, user, owns=0o600, group=0o640)
        if all(_is_ours(entry.name) for entry in state.path.iterdir()):
            _only_for(state.path, user, owns=0o700, group=0o710)
    except OSError as error:
        _log.warning("%s can't be closed to this machine's other users (%s)", state.path, error.strerror)


def _only_for(path: Path, user: ServerUser, *, owns: int, group: int) -> None:
    """Mode `owns` where `path` is `user`'s, else `group`, and the group of `user`. Its owner and root can do it."""
    found = path.stat()
    if os.geteuid() not in (0, found.st_uid):
        return
    if not user.owns(found) and found.st_gid != user.gid:
        os.chown(path, -1, user.gid)
    if stat.S_IMODE(found.st_mode) != (mode := owns if user.owns(found) else group):
        path.chmod(mode)


def _is_ours(name: str) -> bool:
    return name in _OURS or name.startswith(("initdb-", "binaries-", "embedded.json."))


def socket_dir(state: StateFolder, user: ServerUser) -> Path:
    """Creates and returns the folder of the server's socket: mode 0700, owned by `user`.

    It is `run/` in the state folder, or `/tmp/appview-<uid>-<hash of the state folder>` where a socket's path would be
    too long or holds what PostgreSQL's lists of folders cannot. Raises `OperatorError` when it is another user's.
    """
    folder = state.path / "run"
    if len(os.fsencode(folder)) + len(_SOCKET_NAME) > _SOCKET_PATH_BYTES or set(str(folder)) & set(",\"'\\\n"):
        name = hashlib.sha256(os.fsencode(state.path)).hexdigest()[:16]
        folder = Path("/tmp") / f"appview-{user.uid}-{name}"  # noqa: S108  (0700 and its owner is checked)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        user.own(folder)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (user.uid, os.geteuid()):
        raise OperatorError(
            f"{folder}, where the database's socket belongs, is not a folder of `{user.name}`: remove it or set "
            "APPVIEW_STATE_DIR to another, shorter path."
        )
    user.own(folder)
    folder.chmod(0o700)
    return folder


def lock(descriptor: int, kind: Literal["shared", "exclusive"]) -> bool:
    """Takes the flock if it is free; returns whether it did. Raises `OperatorError` where there are no flocks."""
    operation = fcntl.LOCK_SH if kind == "shared" else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise OperatorError(
            f"The state folder's file system does not lock files ({error.strerror}): set APPVIEW_STATE_DIR to a folder "
            "on a local disk."
        ) from None
    return True


def unlock(descriptor: int) -> None:
    """Releases the flock on this open file, also for every process that inherited it."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def default_state_dir() -> Path:
    """The state folder when no setting names one.

    `.appview` in the checkout that this package runs from. Where root's database user could not reach that, or this
    user could not write it, and where there is no checkout: a folder in the system's (root) or the user's state folder.
    """
    checkout = Path(__file__).resolve().parents[3]
    is_checkout = (checkout / "workspace.yaml").exists()
    is_root = os.geteuid() == 0
    if is_checkout:
        inside = checkout / ".appview"
        if is_root:
            usable = server_user.first_barrier(inside, server_user.choose(inside / "pgdata")) is None
        else:
            usable = os.access(inside if inside.exists() else checkout, os.W_OK)
        if usable:
            return inside
    if is_root:
        base = Path("/var/lib/appview-pipeline")
    else:
        base = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "appview-pipeline"
    return base / hashlib.sha256(os.fsencode(checkout)).hexdigest()[:12] if is_checkout else base


def rotate_log(state: StateFolder) -> None:
    """Moves the log's text to `postgres.log.1` once it has grown beyond `LOG_BYTES`.

    Copied and cut short, not renamed: the running server keeps writing (appending) to the same open file.
    """
    try:
        if state.log.stat().st_size <= LOG_BYTES:
            return
    except FileNotFoundError:
        return
    source = state.open("postgres.log", os.O_RDWR)
    target = state.open("postgres.log.1", os.O_WRONLY | os.O_TRUNC)
    with os.fdopen(source, "rb+") as log, os.fdopen(target, "wb") as old:
        log.seek(-LOG_BYTES, os.SEEK_END)
        while chunk := log.read(1 << 20):
            old.write(chunk)
        log.truncate(0)


def log_end(state: StateFolder, start: int = 0) -> str:
    """The end of the log, from byte `start` on (all of it, when the log was cut meanwhile), at most 64 KiB."""
    try:
        with state.log.open("rb") as log:
            size = os.fstat(log.fileno()).st_size
            log.seek(max(start if start <= size else 0, size - 65_536))
            return log.read().decode("utf-8", "replace")
    except OSError:
        return ""


def last_log_line(state: StateFolder) -> str:
    """The newest line of the log, at most 300 characters of it; empty where there is none."""
    lines = log_end(state).splitlines()
    return lines[-1][:300] if lines else ""
