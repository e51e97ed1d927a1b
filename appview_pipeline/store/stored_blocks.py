"""Records that are stored, found by their CIDs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from psycopg2.extensions import connection as Connection

from appview_pipeline.store.sql import sections

MAX_COLLECTIONS = 50
MAX_RECORDS = 2_000
"""Most collections of repositories that are searched at a time, and records of each: some 50 ms in all."""


class Wanted(NamedTuple):
    """A record that is known by its CID only."""

    did: str
    collection: str
    cid: str
    uri: str


def stored_blocks(connection: Connection, wanted: Iterable[Wanted]) -> dict[tuple[str, str, str], str]:
    """The JSON of those that the repository's collection holds under any key, by (DID, collection, CID)."""
    all_wanted = list(wanted)
    places = list(dict.fromkeys((it.did, it.collection) for it in all_wanted))[:MAX_COLLECTIONS]
    parameters = {
        "dids": [did for did, _ in places],
        "collections": [collection for _, collection in places],
        "cids": [it.cid for it in all_wanted],
        "uris": [it.uri for it in all_wanted],
        "limit": MAX_RECORDS,
    }
    with connection.cursor() as cursor:
        cursor.execute(sections("apply/stored_blocks.sql")[""], parameters)
        return {(did, collection, cid): text for did, collection, cid, text in cursor.fetchall()}
