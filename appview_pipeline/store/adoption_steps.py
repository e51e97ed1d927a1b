"""The steps of an adoption in the database: each takes a bounded part at a time and may be repeated (sql/adopt/)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from psycopg2 import sql as names
from psycopg2.errors import LockNotAvailable, UniqueViolation
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from appview_pipeline import backoff
from appview_pipeline.errors import OperatorError
from appview_pipeline.store.batch import StoredRecord
from appview_pipeline.store.database import Database
from appview_pipeline.store.derived_rows import DerivedRows, derived_rows, for_table
from appview_pipeline.store.effects import Effects
from appview_pipeline.store.leaving import THEIR_INDEXES
from appview_pipeline.store.migrate import MIGRATION
from appview_pipeline.store.placeholders import fill_placeholders, filled
from appview_pipeline.store.sql import sections

log = logging.getLogger(__name__)

REVS_PAGES = 2_000
"""Pages of bsky.record whose records get their revs in one transaction: 16 MB."""
VACUUMS = 5
"""How often bsky.record is vacuumed while it gets revs, so that it grows by some 20 % and not to its double."""

Counts = dict[str, int]
"""What was done: rows by kind."""

Part = Callable[[Cursor], Counts]
"""A part of a step, in a transaction of the caller's."""

OfSpan = Callable[[Cursor, str, str | None], Counts]
"""What is done with the rows after one key up to another (None: to the end)."""


def of_span(do: OfSpan, after: str, until: str | None) -> Part:
    """`do` for one span of keys."""
    return lambda cursor: do(cursor, after, until)


def rename_schema(connection: Connection, schema: str) -> None:
    """Gives the schema the name bsky, in one transaction with views of its tables under the former name, for
    the same roles. Commits.

    Does nothing where that is done, or the name is bsky.
    """
    statements = sections("adopt/columns.sql")
    if schema == "bsky":
        return
    with connection.cursor() as cursor:
        cursor.execute(statements["has_schema"], {"schema": "bsky"})
        if cursor.fetchone() == (True,):
            connection.rollback()
            return
    connection.rollback()
    quoted = {"{schema}": names.Identifier(schema).as_string(connection)}

    def rename(cursor: Cursor) -> None:
        cursor.execute(fill_placeholders(statements["rename"], quoted))
        cursor.execute(fill_placeholders(statements["bridge"], quoted))
        cursor.execute(statements["bridge_tables"])
        for (table,) in cursor.fetchall():
            name = {"{table}": names.Identifier(table).as_string(connection)}
            cursor.execute(fill_placeholders(statements["bridge_table"], quoted | name))
        cursor.execute(statements["bridge_grants"], {"schema": schema})
        for (grant,) in cursor.fetchall():
            cursor.execute(grant)

    _alter(connection, rename)


def add_columns(connection: Connection) -> None:
    """Adds what the first migration adds to the reference's tables, but for indexes. Commits."""
    statements = sections("adopt/columns.sql")
    for name in ("record", "actor_sync", "profile_agg", "post_agg", "comments"):
        _alter(connection, lambda cursor, name=name: cursor.execute(statements[name]))  # type: ignore[misc]


def build_indexes(database: Database) -> bool:
    """Builds the indexes that the first migration makes, while others read and write. Returns False where it can't,
    since there are repeated notifications."""
    statements = sections("adopt/columns.sql")
    migration = sections("report/migration.sql")
    with _unlimited(database) as cursor:
        for name, index in (
            ("applied_at_index", "record_applied_at_idx"),
            ("notification_index", "notification_record_did_reason_idx"),
        ):
            cursor.execute(migration["invalid_index"], {"schema": "bsky", "index": index})
            if cursor.fetchone() is not None:
                cursor.execute(names.SQL(migration["drop_index"]).format(index=names.Identifier("bsky", index)))
            try:
                cursor.execute(statements[name])
            except UniqueViolation:
                return False
        cursor.execute(statements["notification_index_comment"])
    return True


def complete_migrations(database: Database) -> None:
    """Does what migrations do with rows and indexes that the reference's indexer has made again since they ran."""
    migration = sections("report/migration.sql")
    with _unlimited(database) as cursor:
        for index in THEIR_INDEXES:
            cursor.execute(names.SQL(migration["drop_index"]).format(index=names.Identifier("bsky", index)))
        cursor.execute(sections("schema/online/0011_revs_of_posts.sql")["revs"])


def prepare_session(connection: Connection) -> None:
    """Makes the functions that the statements use in the session."""
    with connection.cursor() as cursor:
        cursor.execute("SET jit = off")
        cursor.execute(sections("adopt/revs.sql")["functions"])
    connection.commit()


def pages_of_records(connection: Connection) -> int:
    """Pages of bsky.record."""
    with connection.cursor() as cursor:
        cursor.execute(sections("adopt/revs.sql")["pages"])
        (pages,) = cursor.fetchone() or (0,)
    connection.rollback()
    return int(pages)


def fill_revs(cursor: Cursor, first: int, until: int, *, from_keys: bool) -> Counts:
    """Gives the records on pages from `first` up to, not including, `until` their revs. `from_keys`: by their keys."""
    cursor.execute(sections("adopt/revs.sql")["fill"], {"from": first, "until": until, "from_keys": from_keys})
    return {"revs": cursor.rowcount}


def has_records_without_rev(connection: Connection, first: int, until: int) -> bool:
    """Whether a record on pages from `first` up to, not including, `until` has no rev."""
    with connection.cursor() as cursor:
        cursor.execute(sections("adopt/revs.sql")["left"], {"from": first, "until": until})
        found = cursor.fetchone() == (True,)
    connection.rollback()
    return found


def vacuum_records(database: Database) -> None:
    """Makes the room of former rows of bsky.record free for new ones."""
    with _unlimited(database) as cursor:
        cursor.execute(sections("adopt/revs.sql")["vacuum"])


def next_key(cursor: Cursor, file: str, name: str, after: str, limit: int) -> str | None:
    """The key up to which the next `limit` rows after `after` reach, by a statement of `sql/adopt/`; None: to the
    end."""
    cursor.execute(sections(f"adopt/{file}.sql")[name], {"after": after, "limit": limit})
    row = cursor.fetchone()
    return None if row is None else row[0]


def remove_repeated(cursor: Cursor, after: str, until: str | None) -> Counts:
    """Removes repeated notifications of the records after `after` up to `until` (None: to the end)."""
    cursor.execute(sections("adopt/notifications.sql")["remove"], {"after": after, "until": until})
    return {"repeated notifications": cursor.rowcount}


def pass_on(cursor: Cursor, after: str, until: str | None) -> Counts:
    """Gives the notifications of likes, reposts and follows that are gone to the records that were promoted."""
    statements = sections("adopt/notifications.sql")
    cursor.execute(statements["pass_on"], {"after": after, "until": until})
    found = cursor.fetchall()
    ids, uris, cids = ([row[column] for row in found] for column in range(3))
    cursor.execute(statements["pass"], {"ids": ids, "uris": uris, "cids": cids})
    return {"passed notifications": len(found)}


def list_accounts(cursor: Cursor, after: str, until: str) -> Counts:
    """Adds the repositories and accounts after `after` up to `until`, and removes what no record covers of those that
    the reference has deleted."""
    statements = sections("adopt/repositories.sql")
    span = {"after": after, "until": until}
    done: Counts = {}
    for name, what in (("returned", "accounts that returned"), ("purged_again", "accounts to be purged again")):
        cursor.execute(statements[name], span)
        done[what] = cursor.rowcount
    cursor.execute(statements["stage"], span)
    cursor.execute("ANALYZE adopted_repo")
    for name, what in (
        ("repos", "repositories"),
        ("statuses", "changed statuses"),
        ("actors", "added accounts"),
        ("identities", "accounts to be resolved"),
        ("last_seen", "deleted accounts"),
        ("received", "notifications of deleted accounts"),
        ("thread_places", "places in threads of deleted accounts"),
        ("notified", "notifications of deleted accounts"),
        ("counters", "counters of deleted accounts"),
    ):
        cursor.execute(statements[name])
        done[what] = done.get(what, 0) + cursor.rowcount
    return done


def prepare_history(connection: Connection) -> None:
    """Makes the table in which the session keeps what `note_history` and `note_reposts` have noted."""
    with connection.cursor() as cursor:
        cursor.execute(sections("adopt/history.sql")["prepare"])
    connection.commit()


def note_history(effects: Effects, cursor: Cursor, after: str, until: str | None) -> Counts:
    """Notes what the posts after `after` up to `until` tell of posts and gates that are gone."""
    statements = filled(effects, "adopt/history.sql")
    span = {"after": after, "until": until}
    cursor.execute(statements["stage"], span)
    done = _gone_posts(cursor, effects)
    cursor.execute(statements["gates"], span)
    done["revs of gates"] = cursor.rowcount
    cursor.execute(statements["gone_gates"], span)
    done["past states"] += cursor.rowcount
    return done


def note_reposts(effects: Effects, cursor: Cursor, after: str, until: str | None) -> Counts:
    """Notes what the reposts after `after` up to `until` tell of posts that are gone."""
    cursor.execute(filled(effects, "adopt/history.sql")["stage_reposts"], {"after": after, "until": until})
    return _gone_posts(cursor, effects)


def _gone_posts(cursor: Cursor, effects: Effects) -> Counts:
    statements = filled(effects, "adopt/history.sql")
    done = 0
    for name in ("states", "deletions", "keep_notifications", "noted"):
        cursor.execute(statements[name])
        done += cursor.rowcount if name in ("states", "deletions") else 0
    return {"past states": done}


def next_records(connection: Connection, after: str, until: str | None, limit: int) -> list[StoredRecord]:
    """The next `limit` records after the URI `after` up to `until` (None: to the end)."""
    with connection.cursor() as cursor:
        cursor.execute(sections("adopt/records.sql")["next"], {"after": after, "until": until, "limit": limit})
        return [StoredRecord(*row) for row in cursor.fetchall()]


def rewrite_record(connection: Connection, uri: str, json: str) -> None:
    """Stores another JSON of a record."""
    with connection.cursor() as cursor:
        cursor.execute(sections("adopt/records.sql")["rewrite"], {"uri": uri, "json": json})


def forget_subjects(connection: Connection) -> None:
    """Forgets the subjects of compared records: all counters are recounted."""
    with connection.cursor() as cursor:
        cursor.execute(sections("adopt/records.sql")["forget_subjects"])


def tables_of_rows(effects: Effects) -> dict[str, DerivedRows]:
    """The tables in which rows without a record may be, by name."""
    return {rows.table: rows for rows in derived_rows(effects)}


def rows_without_record(cursor: Cursor, rows: DerivedRows, after: str, limit: int) -> tuple[str | None, list[str]]:
    """Of the next `limit` rows of a table after the key `after` the URIs of those without a record; and the key up to
    which they reach, None: to the end."""
    # All tables can be searched by their key, whatever a rerun searches them by.
    statements = sections("adopt/records.sql")
    cursor.execute(for_table(statements["rows_next"], rows), {"after": after, "limit": limit})
    row = cursor.fetchone()
    until = None if row is None else row[0]
    cursor.execute(for_table(statements["rows_without_record"], rows), {"after": after, "until": until})
    return until, [uri for (uri,) in cursor.fetchall()]


def raise_floors(cursor: Cursor, after: str, limit: int) -> tuple[str | None, Counts]:
    """Sets the floors of the next `limit` repositories after `after`. Returns the last of them, None without any."""
    return _repositories(cursor, "floors", "floors", after, limit)


def queue_repositories(cursor: Cursor, after: str, limit: int) -> tuple[str | None, Counts]:
    """Queues the next `limit` repositories after `after` to be compared with the network. Returns the last of them."""
    return _repositories(cursor, "queue", "queued repositories", after, limit)


def _repositories(cursor: Cursor, name: str, what: str, after: str, limit: int) -> tuple[str | None, Counts]:
    cursor.execute(sections("adopt/repositories.sql")[name], {"after": after, "limit": limit})
    last, count = cursor.fetchone() or (None, 0)
    return last, {what: count}


def prepare_stream(cursor: Cursor, relay: str, shard: str, seq: int | None) -> None:
    """Sets the stream's cursor to `seq`. None: notes that events are missing until it begins."""
    statements = sections("adopt/repositories.sql")
    place = {"relay": relay, "shard": shard, "seq": seq}
    cursor.execute(statements["gap" if seq is None else "cursor"], place)


def _alter(connection: Connection, change: Callable[[Cursor], object]) -> None:
    """Changes the catalog in a transaction of its own. It waits for a table only for a moment, since all others wait
    behind it, and tries again. Raises `OperatorError` when the table is always in use."""
    deadline = time.monotonic() + MIGRATION.lock
    while True:
        try:
            with connection.cursor() as cursor:
                cursor.execute(f"SET LOCAL lock_timeout = '{round(backoff.MIGRATION_LOCK_SECONDS * 1000)}ms'")
                change(cursor)
            connection.commit()
            return
        except LockNotAvailable as error:
            connection.rollback()
            if time.monotonic() > deadline:
                raise OperatorError(
                    "A table is in use by a long transaction (pg_stat_activity shows which): end it, and run "
                    "`appview-pipeline adopt` again."
                ) from error
            time.sleep(backoff.MIGRATION_PAUSE_SECONDS)
        except BaseException:
            if not connection.closed:
                connection.rollback()
            raise


@contextmanager
def _unlimited(database: Database) -> Iterator[Cursor]:
    """A cursor outside of transactions whose statements may take as long as they need. Nobody waits for them."""
    with database.dedicated("maintenance") as connection, connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = 0; SET lock_timeout = 0")
        yield cursor
