"""What else is known of an account beside its identity, for people: hosting, opt-out, removal, servers in trouble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg2.extensions import connection as Connection

from appview_pipeline.store.sql import sections


@dataclass(frozen=True)
class AccountDetails:
    """An account in `pipeline.repo` (`active` is None where it has no row), `bsky.actor`, `pipeline.actor_setting` and
    `pipeline.removal`; the columns there have comments."""

    active: bool | None
    status: str | None
    account_at: datetime | None
    status_doubtful: bool | None
    pds_status: str | None
    pds_asked_at: datetime | None
    is_indexed: bool
    shown_handle: str | None
    upstream_status: str | None
    takedown_ref: str | None
    collection_forbidden: bool
    removal: str | None
    removal_requested_at: datetime | None
    removal_finished_at: datetime | None


@dataclass(frozen=True)
class TroubledUpstream:
    """A row of `pipeline.upstream` of a server that is left alone."""

    host: str
    breaker: str
    open_until: datetime | None
    parked_until: datetime | None
    reason: str | None


def account_details(connection: Connection, did: str) -> AccountDetails:
    """All that is known of an account besides its identity."""
    with connection.cursor() as cursor:
        cursor.execute(sections("identity/read.sql")["hosting"], {"did": did})
        (row,) = cursor.fetchall()
        return AccountDetails(*row)


def troubled_upstreams(connection: Connection, hosts: Sequence[str]) -> list[TroubledUpstream]:
    """Those of the servers that resolution leaves alone now."""
    with connection.cursor() as cursor:
        cursor.execute(sections("identity/read.sql")["upstreams"], {"hosts": list(hosts)})
        return [TroubledUpstream(*row) for row in cursor.fetchall()]
