"""Private state of the AppView's users and the marks of moderators: rows that the pipeline reads and never changes.

`note` sees every such row with its place and the transaction that wrote it: two notes are equal where nobody wrote
the rows anew, not even as they were.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from psycopg2.extensions import connection as Connection

from appview_pipeline_tests.support.frames import WHEN

PRIVATE_TABLES = (
    *("mute", "list_mute", "thread_mute", "actor_state", "private_data", "activity_subscription", "bookmark", "draft"),
    *("notification_push_token", "blob_takedown", "suggested_feed", "suggested_follow", "tagged_suggestion"),
    *("subscription", "did_cache", "view_param"),
    *("moderation_action", "moderation_action_subject_blob", "moderation_event", "moderation_report"),
    *("moderation_report_resolution", "moderation_subject_status"),
)
"""Tables of schema bsky that no statement of the pipeline writes."""

_COLUMNS = {
    # A mark on a record that is deleted is kept beside it until the record is there again.
    "record takedowns": 'SELECT uri, "takedownRef" FROM bsky.record WHERE "takedownRef" IS NOT NULL '
    "UNION SELECT uri, ref FROM pipeline.record_takedown",
    "account takedowns": 'SELECT did, "takedownRef" FROM bsky.actor WHERE "takedownRef" IS NOT NULL',
    "trusted verifiers": "SELECT did, 'trusted' FROM bsky.actor WHERE \"trustedVerifier\"",
    "age assurance": 'SELECT did, concat_ws(\' \', "ageAssuranceStatus", "ageAssuranceLastInitiatedAt", '
    '"ageAssuranceAccess", "ageAssuranceCountryCode", "ageAssuranceRegionCode") FROM bsky.actor '
    'WHERE "ageAssuranceStatus" IS NOT NULL',
    "tags": "SELECT uri, tags::text FROM bsky.record WHERE tags IS NOT NULL",
}
_BOOKMARKS = 'SELECT "subjectUri", count(*)::text FROM bsky.bookmark GROUP BY 1'
_COUNTED = 'SELECT uri, "bookmarkCount"::text FROM bsky.post_agg WHERE "bookmarkCount" <> 0'


@dataclass
class Note:
    """`rows`: of each private table. `marks`: by their kind, what is said of each account or record. `uncounted`: posts
    whose bookmarks are counted otherwise than there are."""

    rows: dict[str, list[str]] = field(default_factory=dict)
    marks: dict[str, dict[str, str]] = field(default_factory=dict)
    uncounted: list[tuple[str, str]] = field(default_factory=list)


def rows_of(connection: Connection) -> dict[str, list[str]]:
    """The rows of the private tables, each with its place and the transaction that wrote it."""
    found = {}
    with connection.cursor() as cursor:
        for table in PRIVATE_TABLES:
            cursor.execute(f"SELECT t.ctid::text || ' ' || t.xmin || ' ' || t::text FROM bsky.{table} t ORDER BY 1")
            found[table] = [row for (row,) in cursor.fetchall()]
    return found


def note(connection: Connection) -> Note:
    """The private state as it is now. Ends the transaction of `connection`."""
    found = Note(rows_of(connection))
    with connection.cursor() as cursor:
        for kind, query in _COLUMNS.items():
            cursor.execute(query)
            found.marks[kind] = dict(cursor.fetchall())
        cursor.execute(f"({_BOOKMARKS} EXCEPT {_COUNTED}) UNION ({_COUNTED} EXCEPT {_BOOKMARKS}) ORDER BY 1, 2")
        found.uncounted = cursor.fetchall()
    connection.commit()
    return found


_INSERTS = {
    "mute": '%(who)s AS "mutedByDid", %(whom)s AS "subjectDid", %(at)s AS "createdAt", true AS "onlyReposts"',
    "list_mute": '%(who)s AS "mutedByDid", %(uri)s AS "listUri", %(at)s AS "createdAt"',
    "thread_mute": '%(who)s AS "mutedByDid", %(uri)s AS "rootUri", %(at)s AS "createdAt"',
    "actor_state": '%(who)s AS did, %(at)s AS "lastSeenNotifs", true AS "priorityNotifs"',
    "private_data": """%(who)s AS "actorDid", 'app.example.data' AS namespace, %(number)s AS key, %(json)s AS payload,
        %(at)s AS "indexedAt", %(at)s AS "updatedAt\"""",
    "activity_subscription": """%(who)s AS creator, %(whom)s AS "subjectDid", %(number)s AS key, %(at)s AS "indexedAt",
        true AS post, true AS reply""",
    "bookmark": """%(who)s AS creator, %(number)s AS key, %(uri)s AS "subjectUri", 'bafy' AS "subjectCid",
        %(at)s AS "indexedAt\"""",
    "draft": """%(who)s AS creator, %(number)s AS key, %(at)s AS "createdAt", %(at)s AS "updatedAt",
        %(json)s AS payload""",
    "notification_push_token": "%(who)s AS did, 'web' AS platform, %(number)s AS token, 'app' AS \"appId\"",
    "blob_takedown": "%(who)s AS did, %(number)s AS cid, 'TAKEDOWN' AS \"takedownRef\"",
    "suggested_follow": '%(who)s AS did, 1 AS "order"',
    "suggested_feed": '%(uri)s AS uri, 1 AS "order"',
    "tagged_suggestion": "'cats' AS tag, %(who)s AS subject, 'actor' AS \"subjectType\"",
    "moderation_report": """%(who)s AS "subjectDid", 'actor' AS "subjectType", 'spam' AS "reasonType",
        %(whom)s AS "reportedByDid", %(at)s AS "createdAt\"""",
}
"""A row of each table that somebody writes, as a select list."""

_CHANGES = (
    'DELETE FROM bsky.mute WHERE "mutedByDid" = %(who)s',
    'DELETE FROM bsky.thread_mute WHERE "mutedByDid" = %(who)s',
    "DELETE FROM bsky.activity_subscription WHERE creator = %(who)s",
    'DELETE FROM bsky.bookmark WHERE creator = %(who)s AND "subjectUri" = %(uri)s',
    "UPDATE bsky.actor SET \"takedownRef\" = 'A' || %(number)s WHERE did = %(who)s",
    'UPDATE bsky.actor SET "takedownRef" = NULL WHERE did = %(who)s',
    'UPDATE bsky.actor SET "trustedVerifier" = NOT "trustedVerifier" WHERE did = %(who)s',
    """UPDATE bsky.actor SET "ageAssuranceStatus" = 'pending', "ageAssuranceLastInitiatedAt" = %(at)s,
        "ageAssuranceCountryCode" = 'GB' WHERE did = %(who)s""",
    "UPDATE bsky.record SET \"takedownRef\" = 'R' || %(number)s WHERE uri = %(uri)s",
    'UPDATE bsky.record SET "takedownRef" = NULL WHERE uri = %(uri)s',
    "UPDATE bsky.record SET tags = '[\"t\"]' WHERE uri = %(uri)s",
)
_COUNT_BOOKMARKS = """
  INSERT INTO bsky.post_agg (uri, "bookmarkCount")
  SELECT %(uri)s, count(*) FROM bsky.bookmark WHERE "subjectUri" = %(uri)s
  ON CONFLICT (uri) DO UPDATE SET "bookmarkCount" = excluded."bookmarkCount"
"""


def write_private_state(connection: Connection, rng: Random, dids: Sequence[str], uris: Sequence[str]) -> None:
    """One random act of a user or a moderator, with the effect that the reference's own statements have. Commits."""
    number = str(rng.randrange(1_000))
    given = {"who": rng.choice(dids), "whom": rng.choice(dids), "uri": rng.choice(uris), "number": number}
    given |= {"at": WHEN, "json": json.dumps({"number": number})}
    chosen = rng.choice((*_INSERTS, *_CHANGES))
    with connection.cursor() as cursor:
        if row := _INSERTS.get(chosen):
            # The select list names the columns, in whatever order they are.
            names = re.findall(r"AS (\w+|\"\w+\")", row)
            cursor.execute(f"INSERT INTO bsky.{chosen} ({', '.join(names)}) SELECT {row} ON CONFLICT DO NOTHING", given)
        else:
            cursor.execute(chosen, given)
        if "bookmark" in chosen:
            cursor.execute(_COUNT_BOOKMARKS, given)
    connection.commit()
