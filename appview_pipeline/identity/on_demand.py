"""An account resolved at once, because somebody waits for the answer: through the same queue as all others."""

from __future__ import annotations

from collections.abc import Callable

from appview_pipeline import backoff
from appview_pipeline.settings import Settings
from appview_pipeline.store import identities
from appview_pipeline.store.database import Database
from appview_pipeline.store.identities import Postponed, Settled, Wanted

Resolve = Callable[[Wanted], Settled | Postponed]
"""Asks the network about an account; never raises for what upstream does."""


def resolve_now(database: Database, settings: Settings, did: str, resolve: Resolve) -> Settled | Postponed | None:
    """Resolves an account in the calling thread and stores the outcome. None where the account is excluded.

    The account is in the queue meanwhile, out of the way of other processes: one of them goes on should this one end.
    No transaction is open while the network is asked.
    """
    with database.connect("writer") as connection:
        identities.want(connection, [did])
        taken = identities.claim(connection, [did], backoff.RESOLUTION_CLAIM_SECONDS)
    if not taken:
        return None
    outcome = resolve(taken[0])
    with database.connect("writer") as connection:
        if isinstance(outcome, Settled):
            identities.save(connection, [outcome], usable_seconds=settings.identity_usable_seconds)
        else:
            identities.postpone(connection, [outcome], usable_seconds=settings.identity_usable_seconds)
    return outcome
