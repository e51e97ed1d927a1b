"""Signing keys of accounts, as resolution stores them."""

from __future__ import annotations

from appview_pipeline.store.database import Database
from appview_pipeline.store.identities import Settled, claim, save, want
from appview_pipeline_tests.simulated_network.accounts import Key, multikey


def did_key(key: Key) -> str:
    """The public key of a private one, as `pipeline.identity` has it."""
    return f"did:key:{multikey(key)}"


def save_key(
    database: Database,
    did: str,
    key: Key | None,
    pds: str | None = None,
    *,
    labeler: str | None = None,
    label_key: Key | None = None,
) -> None:
    """What a resolution of an account does that finds this key and this PDS, this label service and its key (None: the
    document has none)."""
    with database.connect("writer") as connection:
        want(connection, [did])
        found = claim(connection, [did], 60.0)
        outcomes = [
            Settled(
                did=it.did,
                asked_at=it.asked_at,
                state="found",
                source="plc",
                next_check_seconds=3_600.0,
                pds=pds,
                signing_key=None if key is None else did_key(key),
                labeler=labeler,
                labeler_key=None if label_key is None else did_key(label_key),
            )
            for it in found
        ]
        save(connection, outcomes, usable_seconds=86_400.0)
