"""The tables in the shape of the conformance data (shared/conformance/golden/README.md), compared."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from psycopg2.extensions import connection as Connection

State = dict[str, Any]


class Cleaner:
    """Empties a database in a few milliseconds. Made for a new database: tables that a migration fills are kept."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables "
                "WHERE schemaname IN ('bsky', 'pipeline') ORDER BY 1"
            )
            tables = [name for (name,) in cursor.fetchall()]
            cursor.execute(" UNION ALL ".join(f"SELECT EXISTS (SELECT FROM {table})" for table in tables))
            filled = [full for (full,) in cursor.fetchall()]
        connection.commit()
        # Triggers that follow from a deletion would fill what is empty already.
        self._statement = "SET LOCAL session_replication_role = replica; " + "; ".join(
            f"DELETE FROM {table}" for table, full in zip(tables, filled, strict=True) if not full
        )

    def __call__(self) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(self._statement)
        self._connection.commit()


ROWS = (
    *(
        "post",
        "like",
        "repost",
        "follow",
        "profile",
        "actor_block",
        "list",
        "list_item",
        "list_block",
        "reference_list_opt_out",
        "feed_generator",
    ),
    *("labeler", "starter_pack", "thread_gate", "post_gate", "verification", "quote", "feed_item", "op_thread_reply"),
    *("post_embed_image", "post_embed_gallery_image", "post_embed_external", "post_embed_record", "post_embed_video"),
)
_PARTS = {
    "notifications": """
      SELECT did AS recipient, author, reason, "recordUri", "recordCid", "reasonSubject", "sortAt"
      FROM bsky.notification""",
    "postAgg": 'SELECT uri, "likeCount", "repostCount", "replyCount", "quoteCount" FROM bsky.post_agg',
    "profileAgg": 'SELECT did, "followersCount", "followsCount", "postsCount" FROM bsky.profile_agg',
    "actors": 'SELECT did, handle, "indexedAt", "upstreamStatus", "takedownRef" FROM bsky.actor',
    "records": 'SELECT uri, cid, "indexedAt" FROM bsky.record',
    "duplicates": 'SELECT uri, "duplicateOf" FROM bsky.duplicate_record',
    "rejected": "SELECT 'at://' || did || '/' || path AS subject, kind, reason FROM pipeline.dead_letter",
    **{table: f'SELECT * FROM bsky."{table}"' for table in ROWS},
}
_DUMP = "SELECT " + ", ".join(
    f"(SELECT coalesce(json_agg(t), '[]') FROM ({query}) t) AS \"{part}\"" for part, query in _PARTS.items()
)


def dump(connection: Connection) -> State:
    """The tables."""
    with connection.cursor() as cursor:
        cursor.execute(_DUMP)
        assert cursor.description is not None
        (found,) = cursor.fetchall()
        parts = dict(zip([column.name for column in cursor.description], found, strict=True))
    connection.commit()
    return {
        "notifications": parts["notifications"],
        "postAgg": {row.pop("uri"): row for row in parts["postAgg"]},
        "profileAgg": {row.pop("did"): row for row in parts["profileAgg"]},
        "actors": {row.pop("did"): row for row in parts["actors"]},
        "records": parts["records"],
        "duplicates": parts["duplicates"],
        "rejected": parts["rejected"],
        "rows": {table: parts[table] for table in ROWS if parts[table]},
    }


Keep = Callable[[str, dict[str, Any]], bool]


def differences(got: State, want: State, keep: Keep = lambda table, row: True) -> list[str]:
    """What distinguishes the tables, a line each; empty when nothing does.

    Not compared: columns that the wanted rows lack, rows that `keep` (table, row) leaves out, aggregates of nothing,
    when exactly a reply left an author's thread, and what the wanted side says to be the wall clock (`<now>`).
    """
    lines = []
    tables_got, tables_want = _tables(got), _tables(want)
    for table in sorted(tables_got.keys() | tables_want.keys()):
        rows_want = [row for row in tables_want.get(table, ()) if keep(table, row)]
        rows_got = [row for row in tables_got.get(table, ()) if keep(table, row)]
        columns = set().union(*rows_want) - {column for row in rows_want for column in row if row[column] == "<now>"}
        counted = _counted(rows_got, columns)
        wanted = _counted(rows_want, columns)
        lines += [f"{table}: missing {row}" for row in sorted((wanted - counted).elements())]
        lines += [f"{table}: too much {row}" for row in sorted((counted - wanted).elements())]
    return lines


def _tables(state: State) -> dict[str, list[dict[str, Any]]]:
    tables = {part: state[part] for part in ("notifications", "records", "duplicates")}
    tables |= state["rows"]
    for part, key in (("postAgg", "uri"), ("profileAgg", "did")):
        tables[part] = [{key: subject, **counts} for subject, counts in state[part].items() if any(counts.values())]
    tables["op_thread_reply"] = [
        {**row, "deletedAt": row["deletedAt"] is not None} for row in tables.get("op_thread_reply", ())
    ]
    return tables


def _counted(rows: Iterable[dict[str, Any]], columns: set[str]) -> Counter[str]:
    return Counter(
        json.dumps({column: value for column, value in row.items() if not columns or column in columns}, sort_keys=True)
        for row in rows
    )
