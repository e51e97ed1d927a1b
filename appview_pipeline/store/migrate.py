"""The version of the database's schema: reading it, and bringing it up to date.

Any number of processes may call `upgrade` at once: one migrates, the others wait for it and find nothing left to do.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import cast

import psycopg2
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg2.errors import LockNotAvailable
from psycopg2.extensions import connection as PsycopgConnection
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from appview_pipeline import backoff
from appview_pipeline.errors import OperatorError
from appview_pipeline.store import database_url, postgres
from appview_pipeline.store.adoption import refuse_unfinished
from appview_pipeline.store.cursors import name_relays
from appview_pipeline.store.operator_errors import obstacle
from appview_pipeline.store.sql import sections

VERSION_SCHEMA = "pipeline"
VERSION_TABLE = "schema_version"

# "appview" in ASCII: the advisory lock that a migrating process holds in the database that it migrates.
_LOCK = 0x61707076696577
MIGRATION = postgres.Role(statement=21_600, lock=60, idle=300)
"""The role of a migration: an index on a large table takes its time; a table in use is tried for a minute."""

log = logging.getLogger(__name__)


def head() -> str:
    """The newest schema version that this code has."""
    version = _scripts().get_current_head()
    assert version is not None
    return version


def current(url: str) -> str | None:
    """The database's schema version, or None where it has never been migrated.

    Raises `OperatorError` when the database can't be reached or read.
    """
    with postgres.transient(url) as connection:
        return version_of(connection)


def version_of(connection: Connection) -> str | None:
    """The schema version, read on `connection`; None where there is none."""
    if connection.scalar(text(f"SELECT to_regclass('{VERSION_SCHEMA}.{VERSION_TABLE}')")) is None:
        return None
    version: str | None = connection.scalar(text(f"SELECT version_num FROM {VERSION_SCHEMA}.{VERSION_TABLE}"))
    return version


def stored_version(connection: PsycopgConnection) -> str | None:
    """The schema version, read on a connection of the pool; None where there is none."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT to_regclass('{VERSION_SCHEMA}.{VERSION_TABLE}')")
        if cursor.fetchone() == (None,):
            return None
        cursor.execute(f"SELECT version_num FROM {VERSION_SCHEMA}.{VERSION_TABLE}")
        row = cursor.fetchone()
    return None if row is None else str(row[0])


def check_version(connection: Connection, url: str) -> None:
    """Raises `OperatorError` unless the schema on `connection` is this code's; `url` is for the sentence."""
    refuse_other_version(version_of(connection), url)


def refuse_other_version(version: str | None, url: str) -> None:
    """Raises `OperatorError` unless the schema's version is this code's; `url` is for the sentence."""
    where = database_url.describe(url)
    if version is None:
        raise OperatorError(f"{where} has no tables of appview-pipeline yet: run `appview-pipeline migrate`.")
    _check_known(version, where)
    if version != head():
        raise OperatorError(
            f"{where} is at schema version {version}, older than this code's {head()}: run `appview-pipeline migrate`."
        )


def upgrade(url: str, to: str = "head", *, adopting: bool = False) -> str:
    """Migrates the database to version `to` and returns its version afterwards.

    Every migration commits by itself, so an interrupted upgrade goes on where it stopped. Others may read and write the
    tables meanwhile: none is locked for longer than a change of the catalog takes. Raises `OperatorError` when
    the database can't be reached, is too old, not UTF-8, or newer than this code, when the role may not create schemas,
    when a schema `bsky` is there that this project did not make, when an adoption is not finished (unless it is this
    one that asks: `adopting`), and with the reason for anything else that stops it.
    """
    where = database_url.describe(url)
    try:
        return _upgrade(url, to, where, adopting=adopting)
    except (psycopg2.Error, SQLAlchemyError) as error:
        raise OperatorError(
            f"The migration of {where} has stopped ({obstacle(error, where)}). What was migrated before "
            "stays: run `appview-pipeline migrate` again."
        ) from error


def stamp(url: str, version: str) -> None:
    """Notes that the database has the form of a version, unless it has one already.

    Raises `OperatorError` as `upgrade` does."""
    where = database_url.describe(url)
    try:
        with postgres.transient(url, MIGRATION, application_name="appview-pipeline adopt") as connection:
            _take_turn(connection, where)
            if version_of(connection) is None:
                connection.commit()
                config = _config()
                config.attributes["connection"] = connection
                command.stamp(config, version)
    except (psycopg2.Error, SQLAlchemyError) as error:
        raise OperatorError(f"The version of {where} could not be noted ({obstacle(error, where)}).") from error


def _upgrade(url: str, to: str, where: str, *, adopting: bool) -> str:
    with postgres.transient(url, MIGRATION, application_name="appview-pipeline migrate") as connection:
        postgres.check_server(connection)
        _take_turn(connection, where)
        if not adopting:
            refuse_unfinished(cast(PsycopgConnection, connection.connection.driver_connection))
        before = version_of(connection)
        if before is None:
            _check_empty(connection, where)
            connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {VERSION_SCHEMA}"))
        else:
            _check_known(before, where)
        connection.commit()

        _migrate(connection, to)
        after = version_of(connection)
        assert after is not None
        if after == head():
            # Earlier versions stored relays by any spelling, passwords included: `status` would show them.
            name_relays(cast(PsycopgConnection, connection.connection.driver_connection))
        if before is None and connection.scalar(text("SELECT to_regclass('bsky.actor_handle_tgrm_idx')")) is None:
            log.warning(
                "pg_trgm is not available in %s: searching actors and starter packs by name will be slow", where
            )
        if after != before:
            log.info("schema of %s migrated from %s to %s", where, before or "nothing", after)
        return after


def _migrate(connection: Connection, to: str) -> None:
    """Runs the migrations up to version `to`.

    Whoever waits for a table's lock holds up all that come after. So a wait is short, and the migration is begun again
    after a pause, until the same version has waited for `MIGRATION.lock` seconds in all.
    """
    config = _config()
    config.attributes["connection"] = connection
    wait = min(MIGRATION.lock, backoff.MIGRATION_LOCK_SECONDS)
    connection.execute(text(f"SET lock_timeout = '{round(wait * 1000)}ms'"))
    connection.commit()
    waiting_at, waiting_since = "", 0.0
    while True:
        try:
            command.upgrade(config, to)
            return
        except (psycopg2.errors.LockNotAvailable, OperationalError) as error:
            if not isinstance(getattr(error, "orig", error), LockNotAvailable):
                raise
            connection.rollback()
            version = version_of(connection) or ""
            connection.commit()
            if waiting_at != version or not waiting_since:
                waiting_at, waiting_since = version, time.monotonic() - wait
                log.info("a table is in use: the migration from %s is tried again", version or "nothing")
            if time.monotonic() - waiting_since + wait > MIGRATION.lock:
                raise
            time.sleep(backoff.MIGRATION_PAUSE_SECONDS)


def _take_turn(connection: Connection, where: str) -> None:
    """Waits until this is the only process migrating the database; the turn ends with the session."""
    take = sections("report/migration.sql")["take_turn"]
    deadline = time.monotonic() + backoff.MIGRATION_SECONDS
    while True:
        with cast(PsycopgConnection, connection.connection.driver_connection).cursor() as cursor:
            cursor.execute(take, {"key": _LOCK})
            (is_mine,) = cursor.fetchone() or (False,)
        connection.rollback()
        if is_mine:
            return
        if time.monotonic() > deadline:
            raise OperatorError(
                f"another process has been migrating {where} for more than {backoff.MIGRATION_SECONDS / 60:g} minutes: "
                "see what holds it up."
            )
        time.sleep(backoff.MIGRATION_POLL_SECONDS)


def _check_known(version: str, where: str) -> None:
    if version not in {script.revision for script in _scripts().walk_revisions()}:
        raise OperatorError(
            f"{where} is at schema version {version}, newer than this code's {head()}: "
            "upgrade appview-pipeline, or use another database."
        )


def _check_empty(connection: Connection, where: str) -> None:
    if connection.scalar(text("SELECT to_regclass('bsky.kysely_migration') IS NOT NULL")):
        raise OperatorError(
            f"{where} has a schema bsky that the reference AppView made: run `appview-pipeline adopt --check` to take "
            "it over, or use an empty database."
        )
    if connection.scalar(text("SELECT to_regnamespace('bsky') IS NOT NULL")):
        raise OperatorError(
            f"{where} already has a schema bsky that appview-pipeline did not make: "
            "use an empty database, or drop or rename that schema."
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())
