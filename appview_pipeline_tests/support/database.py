"""The tests' PostgreSQL server: where its data lies, and statements on its maintenance database."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2

from appview_pipeline.store.embedded.attach import EmbeddedPostgres


def memory_folder() -> Path | None:
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
