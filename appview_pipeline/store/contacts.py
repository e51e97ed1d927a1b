"""A hook for services that match contacts: notifications of reason `contact-match`.

Address books are private, and no event of the network has them. So nothing here calls this: the operator's own service
does, as docs/operations.md describes.
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
    """An account that another one has among its contacts.

    `did`: the account that was found. `uri`, `cid`: a record of it that the notification names, its profile, say: the
    same record notifies once. `at`: when they were matched (None: now).
    """

    did: str
    uri: str
    cid: str
    at: datetime | None = None


def notify_contact_match(connection: Connection, did: str, matches: Iterable[ContactMatch]) -> int:
    """Notifies the account `did` of contacts that are on the network, of each once, however often this is called.

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
