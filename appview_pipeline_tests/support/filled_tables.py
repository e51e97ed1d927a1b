"""Rows for the large tables of a database at any schema version: as many as one wants, with all that must be there."""

from __future__ import annotations

from appview_pipeline_tests.support.database import connect

LARGE = (
    "bsky.record",
    "bsky.post",
    "bsky.post_embed_record",
    "bsky.like",
    "bsky.repost",
    "bsky.follow",
    "bsky.notification",
    "bsky.feed_item",
    "bsky.post_agg",
    "bsky.profile",
    "bsky.profile_agg",
    "bsky.actor",
    "bsky.label",
    "pipeline.repo",
    "pipeline.tombstone",
    "pipeline.version",
    "pipeline.dependency",
    "pipeline.reply_to_other",
    "pipeline.identity",
    "pipeline.pending",
    "pipeline.backfill_queue",
    "pipeline.dead_letter",
    "pipeline.gap",
)
"""Tables that grow with records, accounts or labels, and those that upstream's mistakes fill."""

_POST = "'at://did:plc:' || n % 100 || '/app.bsky.feed.post/' || n"
_VALUES = {
    "uri": _POST,
    "postUri": _POST,
    "did": "'did:plc:' || n",
    "kind": "'chain'",
    "json": """'{"text": "' || n || '"}'""",
    "rev": "'3l' || n",
    "replyParent": f"CASE WHEN n % 3 = 0 THEN {_POST} END",
    "replyRoot": f"CASE WHEN n % 3 = 0 THEN {_POST} END",
}
"""Columns that other tables or checks look at; others get something of their type."""

_BY_TYPE = {
    "boolean": "false",
    "integer": "n",
    "bigint": "n",
    "smallint": "0",
    "jsonb": "'{}'",
    "bytea": "int4send(n)",
    "timestamp with time zone": "now()",
}


def fill(url: str, number: int) -> set[str]:
    """Puts `number` rows into each large table that the database has; returns these tables."""
    filled = set()
    with connect(url) as connection, connection.cursor() as cursor:
        for table in LARGE:
            schema, name = table.split(".")
            cursor.execute(
                """
                SELECT column_name, data_type
                FROM information_schema.columns
                WHERE table_schema = %s AND table_name = %s AND is_generated = 'NEVER'
                    AND (column_name = ANY (%s) OR (is_nullable = 'NO' AND column_default IS NULL))
                ORDER BY ordinal_position
                """,
                (schema, name, list(_VALUES)),
            )
            columns = cursor.fetchall()
            if not columns:
                continue
            names = ", ".join(f'"{column}"' for column, _ in columns)
            values = ", ".join(
                _VALUES.get(column) or _BY_TYPE.get(kind, f"'{column} ' || n") for column, kind in columns
            )
            cursor.execute(
                f'INSERT INTO {schema}."{name}" ({names}) SELECT {values} FROM generate_series(1, {number}) n'
            )
            filled.add(table)
        connection.commit()
        connection.autocommit = True
        cursor.execute("ANALYZE")
    return filled
