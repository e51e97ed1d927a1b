"""A survey: what a relay lists of repositories, compared with what is indexed (sql/backfill/survey.sql)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from psycopg2.extensions import connection as Connection

from appview_pipeline.store.sql import sections

_FILE = "backfill/survey.sql"


class Behind(NamedTuple):
    """A repository of which something is missing here: the rev that is `listed`, and the newest one that we know (None:
    nothing of it)."""

    did: str
    listed: str
    known: str | None


class StreamLag(NamedTuple):
    """`relay_time`: the time that the newest events applied state; `seconds` since they were applied."""

    relay_time: datetime
    seconds: float


class Listed(NamedTuple):
    """A repository as the relay lists it, and the time in which something of it may have been missed, as revs."""

    did: str
    rev: str
    since: str
    until: str


class ListedAccount(NamedTuple):
    """An account as the relay lists it: whether it is active, and if not, why (None: unknown). `until`: later events of
    it were not missed."""

    did: str
    active: bool
    status: str | None
    until: datetime


def accounts_changed(connection: Connection, listed: Sequence[ListedAccount]) -> list[ListedAccount]:
    """Those of the accounts of a list whose status is another one here, and of which no later event is known."""
    with connection.cursor() as cursor:
        values = {
            "dids": [it.did for it in listed],
            "active": [it.active for it in listed],
            "statuses": [it.status for it in listed],
            "until": [it.until for it in listed],
        }
        cursor.execute(sections(_FILE)["accounts"], values)
        found = {did for (did,) in cursor.fetchall()}
    return [it for it in listed if it.did in found]


def repositories_behind(connection: Connection, listed: Sequence[Listed]) -> list[Behind]:
    """Those of the repositories of a list of which something is missing here."""
    with connection.cursor() as cursor:
        values = {
            "dids": [it.did for it in listed],
            "revs": [it.rev for it in listed],
            "since": [it.since for it in listed],
            "until": [it.until for it in listed],
        }
        cursor.execute(sections(_FILE)["behind"], values)
        return [Behind(*row) for row in cursor.fetchall()]


def stream_lag(connection: Connection, relay: str) -> StreamLag | None:
    """How far the stream of a relay is applied; None: nothing was within the last hour."""
    with connection.cursor() as cursor:
        cursor.execute(sections(_FILE)["lag"], {"relay": relay})
        row = cursor.fetchone()
    return None if row is None else StreamLag(*row)
