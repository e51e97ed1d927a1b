"""Which revs of a repository are known to be applied."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from psycopg2.extensions import connection as Connection

from appview_pipeline.store.sql import sections


class AppliedRevs(NamedTuple):
    """All revs of a repository from `first` to `last`, both included."""

    first: str
    last: str

    def __contains__(self, rev: object) -> bool:
        return isinstance(rev, str) and self.first <= rev <= self.last


def applied_revs(connection: Connection, dids: Collection[str]) -> dict[str, AppliedRevs]:
    """The spans of applied revs of those of `dids` that have one."""
    with connection.cursor() as cursor:
        cursor.execute(sections("apply/applied_revs.sql")[""], {"dids": list(dids)})
        return {did: AppliedRevs(first, last) for did, first, last in cursor.fetchall()}
