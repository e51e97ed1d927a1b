"""Repositories out of the queue, on the simulated network: everything fetched, and nobody held up by anybody."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from appview_pipeline.backfill.listing import list_network
from appview_pipeline.backfill.worker import work
from appview_pipeline.protocol import cid
from appview_pipeline.settings import Settings, load
from appview_pipeline.store.database import Database
from appview_pipeline_tests.simulated_network.network import SimulatedNetwork
from appview_pipeline_tests.simulated_network.world import World
from appview_pipeline_tests.support.tables import one, rows


def settings_for(network: SimulatedNetwork, database: Database, **others: Any) -> Settings:
    return replace(load(network.environment()), database_url=database.url, backfill_days=-1, **others)


def differences(database: Database, world: World, *, active: bool = True) -> set[str]:
    """Paths of records of active accounts that the index has not as the network has them, or has and it has not."""
    there = {
        (f"at://{it.did}/{path}", cid.to_text(found[0]))
        for it in world.authors
        if it.account.active
        for path in it.repository.paths()
        if path.startswith("app.bsky.") and (found := it.repository.get(path)) is not None
    }
    here = {(uri, found) for uri, found in rows(database.url, "SELECT uri, cid FROM bsky.record")}
    refused = {uri for (uri,) in rows(database.url, "SELECT 'at://' || did || '/' || path FROM pipeline.dead_letter")}
    return {uri for uri, _ in there ^ here} - refused


def test_an_empty_index_is_filled_from_the_network(database: Database) -> None:
    world = World(11, 80, start=time.time() - 60, pasts=(), homes=3)
    with SimulatedNetwork(world) as network:
        network.advance(600)
        settings = settings_for(network, database)
        assert list_network(settings, database).queued > 70
        found = work(settings, database)
        assert found.ended == "nothing more may be fetched now"
        assert found.failed == 0 and found.left == 0 and found.repositories > 70, found
        assert differences(database, world) == set()
        assert one(database.url, "SELECT count(*) FROM pipeline.repo WHERE sync_state = 'synchronized'") > 70
        assert found.records == found.created > 300
        again = work(settings, database)
        assert again.repositories == 0
