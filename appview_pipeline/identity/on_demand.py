"""An account resolved at once, because somebody waits for the answer: through the same queue as all others."""

from __future__ import annotations

from collections.abc import Callable

from appview_pipeline import backoff
from appview_pipeline.identity.attempt import Attempt
from appview_pipeline.settings import Settings
from appview_pipeline.store import accounts, identities
from appview_pipeline.store.database import Database
from appview_pipeline.store.identities import Wanted

Resolve = Callable[[Wanted], Attempt]
"""Asks the network about an account; raises nothing (`attempt.py`)."""


def resolve_now(database: Database, settings: Settings, did: str, resolve: Resolve) -> Attempt | None:
    """Resolves an account in the calling thread, and stores what came of it. None where the account is excluded.

    The account is in the queue meanwhile, out of the way of other processes: one of them goes on should this one end.
    No transaction is open while the network is asked.
    """
    usable = settings.identity_usable_seconds
    with database.connect("writer") as connection:
        identities.want(connection, [did])
        taken = identities.claim(connection, [did], backoff.RESOLUTION_CLAIM_SECONDS)
    if not taken:
        return None
    found = resolve(taken[0])
    if found.status is not None and found.status.blames_account:
        with database.connect("writer") as connection:  # rows of pipeline.repo are locked before those of bsky.actor
            accounts.save_statuses(connection, [found.status])
    with database.connect("writer") as connection:
        if found.settled is not None:
            identities.save(connection, [found.settled], usable_seconds=usable)
        if found.postponed is not None:
            identities.postpone(connection, [found.postponed], usable_seconds=usable)
    return found
