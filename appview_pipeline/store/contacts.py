"""A hook for whoever matches contacts: notifications of reason `contact-match`.

Matching address books is private business that no event of the network tells of, so nothing here calls this; the
operator's own service does, in the words of docs/operations.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone

from psycopg2.extensions import connection as Connection
from psycopg2.extras import execute_values

from appview_pipeline.store.sql import sections


@dataclass(frozen=True)
class ContactMatch:
    """Somebody whom an account knows from its contacts: `did`, and a record of that account that the notification
    names (its profile, say), which makes it the same when it is told of again. `at`: when they were matched (None:
    now).
    """

    did: str
    uri: str
    cid: str
    at: datetime | None = None


def notify_contact_match(connection: Connection, did: str, matches: Iterable[ContactMatch]) -> int:
    """Tells the account `did` of contacts of its that are on the network, each once however often it is called.

    Returns how many notifications were written. Part of the caller's transaction, which is the caller's to commit.
    """
    rows = []
    for match in matches:
        at = (match.at or datetime.now(timezone.utc)).astimezone(timezone.utc)
        sort_at = at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03}Z"
        rows.append((did, match.uri, match.cid, match.did, sort_at))
    if not rows:
        return 0
    with connection.cursor() as cursor:
        written = execute_values(
            cursor, sections("apply/contact_match.sql")["notify"], sorted(rows), page_size=len(rows), fetch=True
        )
    return len(written)
