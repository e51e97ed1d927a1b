"""An index that is filled from the PDSes of a simulated network is the one that the stream makes.

Equal are all tables but for what an export can't say: when something was indexed, and what follows from that; and
records that were created and deleted unseen, of which only the stream leaves traces.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from appview_pipeline.backfill.audit import audit
from appview_pipeline.backfill.fetch import Fetcher
from appview_pipeline.backfill.resync import resync
from appview_pipeline.network.xrpc import Client
from appview_pipeline.settings import load
from appview_pipeline.store.database import Database
from appview_pipeline_tests.simulated_network.network import SimulatedNetwork
from appview_pipeline_tests.simulated_network.world import World
from appview_pipeline_tests.support.batches import batches_of, changes_of, feed, writer_for
from appview_pipeline_tests.support.tables import Dump, Fresh, differences, dump, rows

FROM_EXPORT = {"indexedAt", "sortAt", "rev", "quiet"}
"""Columns that differ by design."""
UNSEEN = {"bsky.op_thread_reply", "bsky.actor", "bsky.actor_sync"}
"""Tables of the history of threads, and of accounts: a deleted reply of the author is remembered by the stream only,
and accounts are not known by their repositories alone."""


@pytest.fixture
def network() -> Iterator[SimulatedNetwork]:
    with SimulatedNetwork(World(5, 30, start=time.time() - 600, pasts=())) as made:
        yield made


def comparable(tables: Dump, deleted: set[str]) -> Dump:
    """The tables without what an export can't say: also without rows that name records which were deleted unseen."""
    return {
        table: sorted(
            json.dumps(without(table, json.loads(line)), sort_keys=True)
            for line in lines
            if deleted.isdisjoint(it for it in json.loads(line).values() if isinstance(it, str))
        )
        for table, lines in tables.items()
        if table.startswith("bsky.") and table not in UNSEEN
    }


def without(table: str, row: dict[str, Any]) -> dict[str, Any]:
    left_out = FROM_EXPORT | ({"createdAt"} if table == "bsky.profile" else set())
    return {column: value for column, value in row.items() if column not in left_out}


def test_the_tables_are_those_of_the_stream(network: SimulatedNetwork, database: Database, fresh: Fresh) -> None:
    frames = network.advance(800)
    for author in network.world.authors:
        frames += network.happen(network.world.reactivate, author.did)
    feed(database, batches_of(changes_of(*frames), 200))
    dids = [did for (did,) in rows(database.url, "SELECT did FROM pipeline.repo WHERE rev IS NOT NULL")]
    assert len(dids) > 20
    with fresh() as emptied:
        settings = replace(load(network.environment()), database_url=emptied.url, notify_window=36_500.0)
        with Client(settings) as client:
            fetcher = Fetcher(settings, emptied, client)
            for did in dids:
                outcome = resync(settings, emptied, fetcher, writer_for(emptied, source="backfill"), did)
                assert outcome.state == "synchronized", outcome
            found = audit(settings, emptied, fetcher, dids, deep=True)
            assert (found.repositories, found.differences, found.failed) == (len(dids), 0, {})
            by_stream = audit(replace(settings, database_url=database.url), database, fetcher, dids, deep=True)
            assert by_stream.differences == 0, by_stream.examples
        deleted = {uri for (uri,) in rows(database.url, "SELECT uri FROM pipeline.tombstone")}
        want = comparable(dump(database.url), deleted)
        assert sum(map(len, want.values())) > 1_000
        assert differences(comparable(dump(emptied.url), deleted), want) == []
