"""pg_dump and pg_restore, as docs/backup.md has them: the restored database goes on as the original does."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from appview_pipeline.settings import Settings
from appview_pipeline.store import migrate
from appview_pipeline.store.database import Database
from appview_pipeline.store.database_url import libpq_url
from appview_pipeline.store.embedded.ephemeral import ephemeral
from appview_pipeline_tests.conformance.reference import check
from appview_pipeline_tests.conformance.reference.catalog import snapshot
from appview_pipeline_tests.support.busy_world import busy_frames
from appview_pipeline_tests.support.database import connect
from appview_pipeline_tests.support.tables import assert_equal, dump, replayed_frames

PROGRAMS = sorted(
    (path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/pg_dump") if (path.parent / "initdb").exists()),
    key=lambda path: int(path.parent.name),
)


@pytest.fixture
def server_url() -> Iterator[str]:
    """A server of the same version as the programs, which the embedded server's wheel does not have."""
    if not PROGRAMS:
        pytest.skip("no pg_dump with a server of its version")
    with ephemeral(postgres_bin=PROGRAMS[-1]) as server:
        yield server.url("postgres")


def program(name: str, *arguments: str | Path) -> None:
    done = subprocess.run([PROGRAMS[-1] / name, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_a_restored_dump_goes_on_as_the_original(server_url: str, tmp_path: Path) -> None:
    frames = list(busy_frames(300))
    with check.scratch_database(server_url) as url, check.scratch_database(server_url) as restored:
        migrate.upgrade(url)
        original = Database(url, Settings(database_url=url))
        replayed_frames(original, tmp_path, frames[:200])
        program("pg_dump", "--format=directory", "--jobs=2", f"--file={tmp_path / 'dump'}", libpq_url(url))
        program("pg_restore", "--jobs=2", "--no-owner", f"--dbname={libpq_url(restored)}", tmp_path / "dump")
        assert migrate.upgrade(restored) == migrate.head()
        with connect(url) as one, connect(restored) as other:
            for schema in ("bsky", "pipeline"):
                found, want = snapshot(other, schema), snapshot(one, schema)
                assert found.keys() == want.keys()
                # PostgreSQL writes the bodies of functions in another way when it has read them once.
                assert {key for key in want if found[key] != want[key] and key[0] != "function"} == set()
        assert_equal(dump(restored), dump(url))
        copy = Database(restored, Settings(database_url=restored))
        for database in (original, copy):
            replayed_frames(database, tmp_path, frames[200:])
            database.close()
        assert_equal(dump(restored), dump(url))
