"""Migrations: from every version to the same schema, by several processes at once."""

from __future__ import annotations

import subprocess
import sys

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


def test_renamed_tables_and_columns_keep_their_rows(empty_url: str) -> None:
    like = "app.bsky.feed.like"
    migrate.upgrade(empty_url, "0014")
    rows(empty_url, "INSERT INTO pipeline.silenced (record_uri, did, reason) VALUES ('at://a/b/1', 'did:a', 'like')")
    rows(empty_url, "INSERT INTO pipeline.told_otherwise (uri) VALUES ('at://a/b/2')")
    rows(empty_url, "INSERT INTO pipeline.dependency (fact, uri) VALUES ('did:a did:b', 'at://a/b/3')")
    rows(
        empty_url,
        "INSERT INTO pipeline.version (uri, rev, collection, deleted, fact, record) "
        f"VALUES ('at://did:a/{like}/1', '3a', '{like}', false, 'like did:a at://b', '{{\"sortAt\": \"now\"}}')",
    )
    migrate.upgrade(empty_url)
    assert rows(empty_url, "SELECT * FROM pipeline.muted_notification") == [("at://a/b/1", "did:a", "like")]
    assert rows(empty_url, "SELECT * FROM pipeline.kept_notification") == [("at://a/b/2",)]
    assert rows(empty_url, "SELECT relationship, uri FROM pipeline.dependency") == [("did:a did:b", "at://a/b/3")]
    states = f"SELECT uri, rev, sort_at, relationship FROM pipeline.states_of_pair('{like}', 'did:a', 'at://b')"
    assert rows(empty_url, states) == [(f"at://did:a/{like}/1", "3a", "now", "like did:a at://b")]
    stated = f"""SELECT pipeline.relationship_of('at://did:a/{like}/1', '{{"subject": {{"uri": "at://b"}}}}')"""
    assert rows(empty_url, stated) == [("like did:a at://b",)]


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


def test_accounts_that_had_opted_out_before_are_excluded(empty_url: str) -> None:
    migrate.upgrade(empty_url, "0015")
    rows(
        empty_url,
        "INSERT INTO pipeline.actor_setting (did, data_collection_forbidden) "
        "VALUES ('did:plc:known', true), ('did:plc:unknown', true), ('did:plc:other', false)",
    )
    for did in ("did:plc:known", "did:plc:other"):
        rows(empty_url, "INSERT INTO pipeline.repo (did) VALUES (%s)", did)
        rows(empty_url, "INSERT INTO bsky.actor (did, \"indexedAt\") VALUES (%s, '2026-01-01T00:00:00.000Z')", did)
    migrate.upgrade(empty_url)
    excluded = "SELECT did, excluded FROM pipeline.repo ORDER BY did"
    assert rows(empty_url, excluded) == [("did:plc:known", True), ("did:plc:other", False), ("did:plc:unknown", True)]
    assert rows(empty_url, "SELECT did FROM pipeline.identity WHERE queue IS NOT NULL") == [("did:plc:other",)]


def test_labelers_that_are_indexed_already_get_their_definitions(empty_url: str) -> None:
    migrate.upgrade(empty_url, "0023")
    did, now = "did:plc:" + "a" * 24, "2026-01-01T00:00:00.000Z"
    uri = f"at://{did}/app.bsky.labeler.service/self"
    record = '{"policies": {"labelValues": ["porn"], "labelValueDefinitions": [{"identifier": "x"}]}}'
    rows(empty_url, "INSERT INTO bsky.labeler VALUES (%s, 'cid', %s, %s, %s)", uri, did, now, now)
    columns = 'uri, cid, did, json, "indexedAt"'
    rows(empty_url, f"INSERT INTO bsky.record ({columns}) VALUES (%s, 'cid', %s, %s, %s)", uri, did, record, now)
    migrate.upgrade(empty_url)
    found = rows(
        empty_url,
        "SELECT src, val, severity, default_setting, updated_at = %s FROM pipeline.label_definition ORDER BY position",
        now,
    )
    assert found == [(did, "x", None, "warn", True), (did, "porn", None, None, True)]
