"""The table groups' assets: columns, and what materializing them by hand measures."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from appview_pipeline.defs.definitions import defs
from appview_pipeline.defs.tables.groups import GROUPS
from appview_pipeline.defs.tables.partitions import key_of
from appview_pipeline.indexing.registry import COLLECTIONS
from appview_pipeline.store.columns import tables
from appview_pipeline_tests.support.dagster_events import add_batch, execute, materialize, values
from appview_pipeline_tests.support.database import connect


def test_every_collection_of_the_index_is_in_a_group() -> None:
    named = [collection for group in GROUPS for collection in group.collections or ()]
    assert len(named) == len(set(named))
    # A collection without rows of its own is in `record` alone.
    assert set(named) == {nsid for nsid, collection in COLLECTIONS.items() if collection.stages}


def test_declared_columns_are_the_databases(database_url: str) -> None:
    with connect(database_url) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT table_schema || '.' || table_name, column_name, udt_name, is_nullable = 'YES' "
            "FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name) "
            "WHERE table_schema IN ('bsky', 'pipeline') AND table_type = 'BASE TABLE' ORDER BY 1, ordinal_position"
        )
        real: dict[str, list[tuple[str, str, bool]]] = {}
        for table, *column in cursor.fetchall():
            real.setdefault(table, []).append((column[0], column[1], column[2]))
    short = {
        "text[]": "_text",
        "bigint": "int8",
        "bigserial": "int8",
        "integer": "int4",
        "serial": "int4",
        "smallint": "int2",
        "boolean": "bool",
        "real": "float4",
        "double precision": "float8",
    }
    declared = {
        table: [(c.name, short.get(c.type, c.type.partition("(")[0]), c.nullable) for c in columns]
        for table, columns in tables().items()
    }
    for group in GROUPS:
        for table in group.tables:
            assert declared[f"bsky.{table}"] == real[f"bsky.{table}"]
    assert {table: declared[table] for table in real if table in declared} == {
        table: columns for table, columns in real.items() if table in declared
    }


def test_every_column_is_described() -> None:
    graph = defs.resolve_asset_graph()
    schemas = {
        key.to_user_string(): graph.get(key).metadata.get("dagster/column_schema")
        for key in graph.materializable_asset_keys
    }
    columns = [(key, column) for key, schema in schemas.items() if schema is not None for column in schema.columns]
    assert len(columns) > 150
    assert [(key, column.name) for key, column in columns if not column.description] == []


def test_measuring_by_hand(index: None, database_url: str) -> None:
    hour = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0)
    with connect(database_url) as connection:
        add_batch(connection, at=hour + timedelta(minutes=1), written={"like": 3, "post_agg": 1})
        execute(
            connection,
            """INSERT INTO bsky.record (uri, cid, did, json, "indexedAt", "appliedAt")
               SELECT format('at://did:plc:a%s/app.bsky.feed.like/1', n), 'c', format('did:plc:a%s', n), '{}', 'now',
                 date_trunc('hour', now()) FROM generate_series(1, 3) n""",
            """INSERT INTO bsky."like" (uri, cid, creator, subject, "subjectCid", "createdAt", "indexedAt")
               SELECT uri, cid, did, 'at://did:plc:b/app.bsky.feed.post/1', 'c', 'now', 'now' FROM bsky.record""",
            """INSERT INTO bsky.post_agg (uri, "likeCount") VALUES ('at://did:plc:b/app.bsky.feed.post/1', 3)""",
        )
        result = materialize("likes", "post_aggregates", "record", partition=key_of(hour))
        by_asset = {m.asset_key.to_user_string(): values(m.metadata) for m in result.materializations()}
        assert by_asset["likes"]["details"]["records"] == by_asset["likes"]["details"]["repositories"] == 3
        assert by_asset["likes"]["rows_in_hour"] == 3
        assert by_asset["likes"]["bytes_on_disk"] > 0
        assert by_asset["record"]["details"]["records"] == 3
        assert {(it.tags or {})["dagster/data_version"] for it in result.materializations()} == {"in_sync"}
        check, rotating = sorted(result.evaluations(), key=lambda it: it.check_name)
        assert rotating.passed and rotating.check_name == "rotating_recount"
        assert check.passed and values(check.metadata) == {"compared": 1, "differing": 0}
        execute(connection, """UPDATE bsky.post_agg SET "likeCount" = 4""")
        for check in materialize("post_aggregates", partition=key_of(hour)).evaluations():
            assert not check.passed and "at://did:plc:b/app.bsky.feed.post/1" in (check.description or "")
