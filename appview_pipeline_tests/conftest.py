"""Fixtures that all tests share: a throw-away PostgreSQL, migrated databases cloned from a template, the corpus."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from appview_pipeline.store import embedded
from appview_pipeline.store.embedded import EmbeddedPostgres

CHECKOUT = Path(__file__).resolve().parents[1]

_database_numbers = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedPostgres]:
    """A private PostgreSQL server without durability, on the binaries that the product would choose."""
    with embedded.ephemeral(parent=_memory_folder()) as postgres:
        yield postgres


@pytest.fixture(scope="session")
def template_database(server: EmbeddedPostgres) -> str:
    """Name of a database at the newest schema version that nobody connects to: the template of `database_url`."""
    from appview_pipeline.store import migrate

    name = "appview_template"
    run_sql(server, f'CREATE DATABASE "{name}"')
    migrate.upgrade(server.url(name))
    run_sql(server, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    # A pool that the migration left open would keep the template from being cloned.
    run_sql(server, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", name)
    return name


@pytest.fixture
def database_url(server: EmbeddedPostgres, template_database: str) -> Iterator[str]:
    """SQLAlchemy URL of a fresh database at the newest schema version, dropped after the test."""
    name = f"appview_test_{next(_database_numbers)}"
    run_sql(server, f'CREATE DATABASE "{name}" TEMPLATE "{template_database}" STRATEGY file_copy')
    yield server.url(name)
    run_sql(server, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="session")
def conformance() -> Path:
    """Folder of the conformance data, which lies beside the checkout and is never part of it."""
    folder = CHECKOUT.parent / "shared" / "conformance"
    if not folder.is_dir():
        pytest.skip(f"no conformance data in {folder}")
    return folder


def _memory_folder() -> Path | None:
    """A file system in memory with room for the tests, where cloning a database takes 20 ms instead of 400 ms."""
    folder = Path("/dev/shm")
    try:
        roomy = shutil.disk_usage(folder).free > 2_000_000_000
    except OSError:
        return None
    return folder if roomy and os.access(folder, os.W_OK) else None


def run_sql(server: EmbeddedPostgres, statement: str, *parameters: Any) -> None:
    """Runs a statement on the server's maintenance database, outside of any transaction."""
    with closing(psycopg2.connect(host=str(server.socket_dir), port=5432, user="postgres", dbname="postgres")) as con:
        con.autocommit = True
        with con.cursor() as cursor:
            cursor.execute(statement, parameters or None)
