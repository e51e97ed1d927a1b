"""Random repositories out of however many."""

from __future__ import annotations

import random

from psycopg2.extensions import connection as Connection

from appview_pipeline.store.sql import sections

FEW = 100_000
"""Repositories that are all looked at."""
_BASE32 = "234567abcdefghijklmnopqrstuvwxyz"


def sample_repositories(connection: Connection, wanted: int) -> list[str]:
    """Up to `wanted` random repositories that are `synchronized`, not partial, and of active accounts, in random
    order.

    Of many, those that follow random DIDs of the PLC directory, which are hashes: hardly any DID of another method is
    among them.
    """
    statements = sections("backfill/audit.sql")
    with connection.cursor() as cursor:
        cursor.execute(statements["count"], {"limit": FEW + 1})
        (count,) = cursor.fetchall()[0]
        if count <= FEW:
            cursor.execute(statements["any"], {"wanted": wanted})
        else:
            points = ["did:plc:" + "".join(random.choices(_BASE32, k=24)) for _ in range(2 * wanted + 20)]
            cursor.execute(statements["after"], {"points": points})
        found = [did for (did,) in cursor.fetchall()]
    random.shuffle(found)
    return found[:wanted]
