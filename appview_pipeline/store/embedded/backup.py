"""A base backup of the embedded database, taken while it is used; and the check that one can be restored.

As PostgreSQL's manual has it ("Making a Base Backup Using the Low Level API"): the files are copied as they change, and
the WAL of that time makes them whole again when the server starts on the copy. A temporary replication slot keeps that
WAL meanwhile. No program of PostgreSQL's is needed, which the wheel does not have.

    FOLDER/backup.json                what it is, and where the streams were
    FOLDER/state/pgdata/              the data directory
    FOLDER/state/postgresql.user.conf

`state` is a state folder: restoring is copying it (docs/backup.md).
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import orjson
from psycopg2 import sql as names
from psycopg2.extensions import connection as Connection

from appview_pipeline import __version__
from appview_pipeline.errors import OperatorError
from appview_pipeline.settings import Settings
from appview_pipeline.store import database_url, migrate, postgres
from appview_pipeline.store.embedded import server_user, state_folder
from appview_pipeline.store.embedded.attach import EmbeddedPostgres, attach
from appview_pipeline.store.embedded.server import PostgresServer
from appview_pipeline.store.embedded.server_user import ServerUser
from appview_pipeline.store.embedded.state_folder import StateFolder
from appview_pipeline.store.embedded.supervisor import DATABASE
from appview_pipeline.store.errors import translated
from appview_pipeline.store.operator_errors import in_words
from appview_pipeline.store.sql import sections

ROLE = postgres.Role(statement=21_600, lock=60, idle=21_600)
"""The role of the session that takes the backup. Copying takes its time, in which the session is idle."""

# Contents that PostgreSQL makes anew, or that belong to the server that runs: the folders stay, empty.
_EMPTY = (
    "pg_wal",
    "pg_replslot",
    "pg_dynshmem",
    "pg_notify",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
)
_LEFT_OUT = re.compile(r"postmaster\.(?:pid|opts)|pgsql_tmp.*|pg_internal\.init.*|t\d+_\d+(?:\.\d+|_fsm|_vm)?")
_WAL_FILE = re.compile(r"[0-9A-F]{24}")
_FIRST_WAL_FILE = re.compile(r"^START WAL LOCATION: .*\(file ([0-9A-F]{24})\)", re.MULTILINE)


@dataclass(frozen=True)
class Backup:
    """A backup, as `backup.json` has it. `schema_version`: of the database, which may be older than the code; None: it
    has no tables yet. `cursors`: relay, shard, and the sequence number from which the stream goes on at least.
    `wal_bytes`: of `bytes`, what was written while the files were copied."""

    version: str
    schema_version: str | None
    server_version: str
    began_at: str
    seconds: float
    files: int
    bytes: int
    wal_bytes: int
    cursors: list[tuple[str, str, int]]


@dataclass(frozen=True)
class Restored:
    """What a copy of a backup has when a server runs on it: its schema version, its cursors, the rows of each table."""

    schema_version: str | None
    cursors: list[tuple[str, str, int]]
    rows: dict[str, int]


def back_up(
    settings: Settings, folder: Path, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> Backup:
    """Makes a base backup of the embedded database in `folder`, which must not exist or be empty.

    The database is used as before meanwhile. The folder appears when the backup is whole. `progress` gets the bytes
    that are copied, and about how many there are. Raises OperatorError.
    """
    if settings.database_url is not None:
        raise OperatorError(
            f"{database_url.describe(settings.database_url)} is a database of your own: back it up with pg_basebackup "
            "or pg_dump (docs/backup.md)."
        )
    folder = folder.expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OperatorError(f"{folder} is there already: give a folder that does not exist.")
    with attach(settings) as server:
        state = StateFolder(server.state_dir)
        if folder.is_relative_to(state.data_dir):
            raise OperatorError(f"{folder} is inside of what is to be backed up: give another folder.")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        except OSError as error:
            raise OperatorError(f"{folder} cannot be made ({error.strerror}): give another folder.") from None
        try:
            made = _back_up(server, state, building, progress)
            if folder.exists():
                folder.rmdir()
            building.rename(folder)
        except OSError as error:
            raise OperatorError(f"The backup in {folder} could not be written ({error}).") from None
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return made


def _back_up(
    server: EmbeddedPostgres, state: StateFolder, folder: Path, progress: Callable[[int, int], None]
) -> Backup:
    statements = sections("backup/base.sql")
    user = server_user.choose(state.data_dir)
    url, began, began_at = server.url(), time.monotonic(), datetime.now(timezone.utc)
    with translated(), in_words(url), closing(postgres.connect(url)) as connection:
        postgres.begin_session(connection, "appview-pipeline backup", ROLE)
        connection.autocommit = True
        wal_level, segment_bytes, server_version, tablespaces = _row(connection, statements["settings"])
        if wal_level == "minimal":
            raise OperatorError(
                "The server's log does not have what a backup needs: remove wal_level from "
                f"{state.user_conf}, and stop everything that uses the database for a moment, so that it starts again."
            )
        if tablespaces:
            raise OperatorError(
                "The database has tablespaces of its own, which this backup does not know: use pg_basebackup "
                "(docs/backup.md)."
            )
        _row(connection, statements["keep_wal"])
        _row(connection, statements["start"])
        schema_version = migrate.stored_version(connection)
        cursors = [] if schema_version is None else _rows(connection, statements["cursors"])
        target = folder / "state"
        copy = _Copy(user, _bytes_of(state.data_dir), progress)
        copy.folder(target)
        copy.tree(state.data_dir, target / "pgdata")
        last_wal_file, label = _row(connection, statements["stop"])
        first = _FIRST_WAL_FILE.search(label)
        assert first is not None, label
        for path in sorted((state.data_dir / "pg_wal").iterdir()):
            if _WAL_FILE.fullmatch(path.name) and first[1] <= path.name <= last_wal_file:
                copy.file(path, target / "pgdata" / "pg_wal" / path.name)
                copy.wal_bytes += segment_bytes
        copy.text(target / "pgdata" / "backup_label", label)
        if state.user_conf.exists():
            copy.file(state.user_conf, target / state.user_conf.name)
    made = Backup(
        version=__version__,
        schema_version=schema_version,
        server_version=server_version,
        began_at=began_at.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - began, 1),
        files=copy.files,
        bytes=copy.bytes,
        wal_bytes=copy.wal_bytes,
        cursors=[tuple(row) for row in cursors],
    )
    (folder / "backup.json").write_bytes(orjson.dumps(asdict(made), option=orjson.OPT_INDENT_2) + b"\n")
    folder.chmod(0o711)  # the server's user has to come to its own folder
    os.sync()
    return made


class _Copy:
    """Copies files that are being written, for the server's user alone, and counts."""

    def __init__(self, user: ServerUser, total: int, progress: Callable[[int, int], None]) -> None:
        self._user = user
        self._total = total
        self._progress = progress
        self.files = 0
        self.bytes = 0
        self.wal_bytes = 0

    def folder(self, path: Path) -> None:
        """Makes a folder."""
        path.mkdir()
        path.chmod(0o700)
        self._user.own(path)

    def file(self, source: Path, target: Path) -> None:
        """Copies a file."""
        shutil.copyfile(source, target)
        self._finish(target)

    def text(self, target: Path, text: str) -> None:
        """Writes a file."""
        target.write_text(text, encoding="utf-8")
        self._finish(target)

    def _finish(self, target: Path) -> None:
        target.chmod(0o600)
        self._user.own(target)
        self.files += 1
        self.bytes += target.stat().st_size
        self._progress(self.bytes, self._total)

    def tree(self, source: Path, target: Path) -> None:
        """Copies the data directory, without what makes no sense in a copy."""
        for folder, folders, files in os.walk(source):
            place = Path(folder).relative_to(source)
            self.folder(target / place)
            if place.parts and place.parts[0] in _EMPTY:
                files = []
                # The server expects these two in pg_wal.
                folders[:] = [it for it in folders if it in ("archive_status", "summaries")]
            for name in files:
                if not _LEFT_OUT.fullmatch(name):
                    # One that is gone meanwhile is left out, for the log says so, too.
                    with suppress(FileNotFoundError):
                        self.file(source / place / name, target / place / name)


def check_backup(folder: Path, settings: Settings) -> Restored:
    """Restores a copy of a backup beside it, starts a server on it and reads every row; needs as much room again.

    Raises OperatorError with what is wrong.
    """
    folder = folder.expanduser().absolute()
    if not (folder / "backup.json").exists():
        raise OperatorError(f"{folder} is no backup that `appview-pipeline backup` has made: it has no backup.json.")
    try:
        copy = Path(tempfile.mkdtemp(prefix=f".{folder.name}-check-", dir=folder.parent))
    except OSError as error:
        raise OperatorError(f"There can be no copy beside {folder} ({error.strerror}): move it elsewhere.") from None
    try:
        copy.chmod(0o711)
        _copy_state(folder / "state", copy / "state")
        with (
            _server_on(copy / "state", settings) as url,
            translated(),
            in_words(url),
            closing(postgres.connect(url)) as connection,
        ):
            postgres.begin_session(connection, "appview-pipeline backup", ROLE)
            return _read_all(connection, migrate.current(url))
    except OSError as error:
        raise OperatorError(f"The copy beside {folder} could not be written ({error}).") from None
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def _copy_state(source: Path, target: Path) -> None:
    """Copies a state folder with owners and modes."""
    shutil.copytree(source, target, symlinks=True)
    for path in (target, *target.rglob("*")):
        found = (source / path.relative_to(target)).stat()
        if os.geteuid() == 0:
            os.chown(path, found.st_uid, found.st_gid)


@contextmanager
def _server_on(folder: Path, settings: Settings) -> Iterator[str]:
    """Runs a server on a state folder that nobody else uses; yields the URL of its database."""
    state = StateFolder(folder.resolve())
    owner_lock = state.open("owner.lock", os.O_RDWR)
    state_folder.lock(owner_lock, "exclusive")
    server = PostgresServer(state, binaries=settings.postgres_bin, ephemeral=True)
    try:
        server.prepare()
        server.start()
        server.wait_until_ready(settings.database_start_seconds)
        yield EmbeddedPostgres(server.socket_dir, server.version, state, lambda: None).url(DATABASE)
    finally:
        server.stop()
        os.close(owner_lock)


def _read_all(connection: Connection, schema_version: str | None) -> Restored:
    statements = sections("backup/base.sql")
    counts = {}
    for schema, table in _rows(connection, statements["tables"]):
        counted = names.SQL(statements["count"]).format(table=names.Identifier(schema, table))
        ((counts[f"{schema}.{table}"],),) = _rows(connection, counted)
    cursors = [tuple(row) for row in _rows(connection, statements["cursors"])]
    return Restored(schema_version, cursors, counts)


def _rows(connection: Connection, statement: Any) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


def _row(connection: Connection, statement: str) -> Any:
    (row,) = _rows(connection, statement)
    return row


def _bytes_of(folder: Path) -> int:
    """About the bytes of a data directory that is being written, without its log, of which little is copied."""
    total = 0
    for path in folder.rglob("*"):
        if "pg_wal" not in path.relative_to(folder).parts:
            with suppress(OSError):
                total += path.lstat().st_size
    return total
