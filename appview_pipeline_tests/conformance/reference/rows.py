"""Rows of schema `bsky` as the reference knows it, so that its database and ours can be compared."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

import libipld

from appview_pipeline_tests.conformance.reference.catalog import OUR_ADDITIONS
from appview_pipeline_tests.support.database import connect

Rows = dict[str, Counter[str]]
"""The rows of each table, each row one line of JSON."""

_SURROGATE = {("notification", "id")}
_ADDED = {tuple(name.partition(" ")[0].split(".")) for kind, name in OUR_ADDITIONS if kind == "column"}
_BOOKKEEPING = ("kysely_migration", "kysely_migration_lock")
_AGGREGATES = {"post_agg": "uri", "profile_agg": "did"}


def bsky_rows(url: str, only: Collection[str] = ()) -> Rows:
    """All rows of the reference's tables (of those in `only`, if it names any), without our columns and surrogate keys.
    Aggregates that count nothing are left out: ours have no row then."""
    found: Rows = {}
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT table_name, array_agg(column_name::text ORDER BY column_name) FROM information_schema.columns "
            "JOIN information_schema.tables USING (table_schema, table_name) "
            "WHERE table_schema = 'bsky' AND table_type = 'BASE TABLE' GROUP BY 1"
        )
        for table, columns in cursor.fetchall():
            if table in _BOOKKEEPING or (only and table not in only):
                continue
            kept = [name for name in columns if (table, name) not in _SURROGATE and (table, name) not in _ADDED]
            cursor.execute(f'SELECT {", ".join(f"{chr(34)}{name}{chr(34)}" for name in kept)} FROM bsky."{table}"')
            rows = [dict(zip(kept, row, strict=True)) for row in cursor.fetchall()]
            if key := _AGGREGATES.get(table):
                rows = [row for row in rows if any(value for name, value in row.items() if name != key)]
            found[table] = Counter(json.dumps(row, default=str, sort_keys=True) for row in rows)
    return found


def differing(got: Rows, want: Rows) -> Counter[str]:
    """What distinguishes two databases: a line for each row that only one of them has."""
    lines: Counter[str] = Counter()
    for table in got.keys() | want.keys():
        ours, theirs = got.get(table, Counter()), want.get(table, Counter())
        lines.update({f"{table}: too much {row}": count for row, count in (ours - theirs).items()})
        lines.update({f"{table}: missing {row}": count for row, count in (theirs - ours).items()})
    return lines


def documents_of(frames: Iterable[bytes]) -> dict[str, dict[str, Any]]:
    """DID documents of all accounts in the frames. Their handles resolve nowhere unless a test says so."""
    bodies = (libipld.decode_dag_cbor_multi(frame)[1] for frame in frames)
    return {did: document_of(did) for body in bodies if (did := body.get("repo") or body.get("did"))}


def document_of(did: str, handle: str | None = None) -> dict[str, Any]:
    """A DID document with all that the reference asks for; the key is nobody's."""
    return {
        "id": did,
        "alsoKnownAs": [f"at://{handle or did.rpartition(':')[2][:8] + '.test'}"],
        "verificationMethod": [
            {
                "id": f"{did}#atproto",
                "type": "Multikey",
                "controller": did,
                "publicKeyMultibase": "zQ3shXjHeiBuRCKmM36cuYnm7YEMzhGnCmCyW92sRJ9pribSF",
            }
        ],
        "service": [
            {"id": "#atproto_pds", "type": "AtprotoPersonalDataServer", "serviceEndpoint": "https://pds.example"}
        ],
    }
