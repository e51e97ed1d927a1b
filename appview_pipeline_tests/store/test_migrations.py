"""Migrations: from every version to the same schema, by several processes, from the wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from appview_pipeline.store import migrate, sql
from appview_pipeline_tests.conformance.reference import check
from appview_pipeline_tests.conformance.reference.catalog import snapshot
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.database import connect
from appview_pipeline_tests.support.tables import rows


def test_a_fresh_database_is_migrated_and_migrating_again_changes_nothing(empty_url: str) -> None:
    assert migrate.current(empty_url) is None
    assert migrate.upgrade(empty_url) == migrate.head()
    with connect(empty_url) as connection:
        first = snapshot(connection, "bsky"), snapshot(connection, "pipeline")
        assert migrate.upgrade(empty_url) == migrate.head() == migrate.current(empty_url)
        assert (snapshot(connection, "bsky"), snapshot(connection, "pipeline")) == first
    assert len(first[0]) > 500 and len(first[1]) > 150


def test_upgrading_from_every_version_ends_in_the_same_schema(server_url: str, empty_url: str) -> None:
    migrate.upgrade(empty_url)
    with connect(empty_url) as connection:
        whole = snapshot(connection, "bsky"), snapshot(connection, "pipeline")
    versions = sorted(p.name[:4] for p in (CHECKOUT / "sql" / "schema").glob("*.sql"))
    assert versions[-1] == migrate.head()
    with check.scratch_database(server_url) as url:
        for version in versions:
            assert migrate.upgrade(url, version) == version == migrate.current(url)
        with connect(url) as connection:
            assert (snapshot(connection, "bsky"), snapshot(connection, "pipeline")) == whole


def test_several_processes_migrate_one_database_at_once(empty_url: str) -> None:
    code = (
        "import sys; from appview_pipeline.store import migrate; sys.stdin.read(1); print(migrate.upgrade(sys.argv[1]))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, empty_url], cwd=CHECKOUT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(4)
    ]  # fmt: skip
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    results = [process.communicate(timeout=120) for process in processes]
    assert [out.strip() for out, _ in results] == [migrate.head()] * 4, results
    assert rows(empty_url, "SELECT version_num FROM pipeline.schema_version") == [(migrate.head(),)]


def test_a_failed_migration_leaves_the_version_before_it(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate.upgrade(empty_url, "0001")
    whole = sql.read
    monkeypatch.setattr(sql, "read", lambda name: whole(name) + "; SELECT 1 / 0")
    with pytest.raises(Exception, match="division by zero"):
        migrate.upgrade(empty_url)
    assert migrate.current(empty_url) == "0001"
    assert rows(empty_url, "SELECT to_regclass('pipeline.repo')") == [(None,)]
    monkeypatch.undo()
    assert migrate.upgrade(empty_url) == migrate.head()


@pytest.mark.slow
def test_the_wheel_holds_the_sql_and_migrates_by_itself(empty_url: str, tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="69")
    source = tmp_path / "source"  # a copy, since building leaves its traces
    for folder in ("appview_pipeline", "sql"):
        shutil.copytree(CHECKOUT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(CHECKOUT / file, source)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, source],
        check=True, timeout=300,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        shipped = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    here = {f"appview_pipeline/{p.relative_to(CHECKOUT)}" for p in (CHECKOUT / "sql").rglob("*.sql")}
    assert here and here <= shipped
    code = "import sys; from appview_pipeline.store import migrate as m; print(m.__file__, m.upgrade(sys.argv[1]))"
    result = subprocess.run(
        [sys.executable, "-c", code, empty_url], cwd=tmp_path, check=True, text=True, capture_output=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
    )  # fmt: skip
    assert result.stdout.startswith(str(tmp_path)) and result.stdout.strip().endswith(f" {migrate.head()}")
