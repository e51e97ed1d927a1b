"""What accounts' own PDSes say of them, stored beside what the relay says (sql/account/status.sql)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg2.extensions import connection as Connection

from appview_pipeline import backoff
from appview_pipeline.store.sql import sections

ACTIVE, GONE, TOMBSTONED = "active", "gone", "tombstoned"


@dataclass(frozen=True)
class PdsStatus:
    """What an account's PDS says of it.

    `status`: "active", a hosting status ("deactivated", "deleted", ...), "gone" (the PDS has no such repository, or the
    account has no PDS), or "tombstoned" (its DID was given up); None: no answer, for the `reason`. `is_final`: asking
    again will not change that. `retry_after`, `blames_account`: as of `network.fetch_errors.FetchError`.
    """

    did: str
    status: str | None
    reason: str | None = None
    is_final: bool = False
    retry_after: float | None = None
    blames_account: bool = True


def save_statuses(connection: Connection, statuses: Sequence[PdsStatus]) -> None:
    """Stores answers, with what follows from them: who is hidden, and who is removed. Commits nothing.

    Statuses without an answer count as well: after several tries (`pipeline.identity.attempts`) the relay's word
    stands.
    """
    by_did = {status.did: status for status in statuses}
    if not by_did:
        return
    status_sql = sections("account/status.sql")
    parameters = {
        "dids": list(by_did),
        "statuses": [status.status for status in by_did.values()],
        "finals": [status.is_final for status in by_did.values()],
        "tries": backoff.HOSTING_STATUS_TRIES,
    }
    with connection.cursor() as cursor:
        cursor.execute(status_sql["lock"], parameters)
        cursor.execute(status_sql["save"], parameters)
