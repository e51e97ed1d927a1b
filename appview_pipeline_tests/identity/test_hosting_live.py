"""Accounts that leave, move and come back in a network of real sockets: who is shown, and who is removed."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from appview_pipeline.identity.dids import resolve_did
from appview_pipeline.identity.hosting import ask_status
from appview_pipeline.ingest.removal import remove_accounts
from appview_pipeline.network.xrpc import Client
from appview_pipeline.settings import Settings
from appview_pipeline.store.accounts import PdsStatus, save_statuses
from appview_pipeline.store.database import Database
from appview_pipeline_tests.simulated_network import SimulatedNetwork, World
from appview_pipeline_tests.support.batches import index
from appview_pipeline_tests.support.tables import one, rows


class Town:
    """A network, its index, and the client that asks."""

    def __init__(self, network: SimulatedNetwork, database: Database) -> None:
        self.network, self.database = network, database
        self.settings = Settings(database_url=database.url, plc_url=network.plc_url, allow_private_hosts=True)
        self.did = next(iter(network.world.by_did))
        index(database, *network.happen(network.world.write, self.did, 3))

    def confirm(self) -> PdsStatus:
        """Resolves the account, asks its PDS and saves the answer, as the identity process does."""
        with Client(self.settings) as client:
            found = resolve_did(client, self.settings, self.did)
            pds = found.document.pds if found.document else None
            said = ask_status(client, pds, self.did, state=found.state)
        with self.database.connect("writer") as connection:
            save_statuses(connection, [said])
        return said

    @property
    def wanted(self) -> bool:
        return bool(one(self.database.url, "SELECT status_wanted FROM pipeline.identity WHERE did = %s", self.did))

    def seen(self) -> str | None:
        status: str | None = one(self.database.url, 'SELECT "upstreamStatus" FROM bsky.actor WHERE did = %s', self.did)
        return status

    def records(self) -> int:
        return int(one(self.database.url, "SELECT count(*) FROM bsky.record WHERE did = %s", self.did))


@pytest.fixture
def town(database: Database) -> Iterator[Town]:
    with SimulatedNetwork(World(6, 30, start=time.time() - 60, pasts=())) as network:
        yield Town(network, database)


def test_an_account_that_leaves_and_comes_back(town: Town) -> None:
    world, records = town.network.world, town.records()
    index(town.database, *town.network.happen(world.deactivate, town.did, "deactivated"))
    assert (town.seen(), town.wanted) == ("deactivated", True)
    assert town.confirm() == PdsStatus(town.did, "deactivated", is_final=True)
    assert town.seen() == "deactivated"
    index(town.database, *town.network.happen(world.reactivate, town.did))
    assert town.confirm() == PdsStatus(town.did, "active", is_final=True)
    assert (town.seen(), town.records()) == (None, records)


def test_a_relay_that_is_wrong_hides_nobody_for_long(town: Town) -> None:
    announced = town.network.happen(town.network.world.announce, town.did, False, "deleted")
    index(town.database, *announced)
    assert town.confirm().status == "active"
    assert (town.seen(), rows(town.database.url, "SELECT * FROM pipeline.removal")) == (None, [])


def test_an_account_that_is_deleted_is_removed(town: Town) -> None:
    index(town.database, *town.network.happen(town.network.world.delete, town.did))
    assert town.confirm().status in ("gone", "tombstoned")
    assert town.seen() == "deleted"
    assert remove_accounts(town.settings, town.database).accounts == 1
    assert town.records() == 0
    assert rows(town.database.url, "SELECT did FROM bsky.actor WHERE did = %s", town.did) == []


def test_an_account_that_moves_keeps_its_repository(town: Town) -> None:
    """The old PDS says last that the account is deactivated."""
    records = town.records()
    index(town.database, *town.network.happen(town.network.world.migrate, town.did, both=True))
    assert town.wanted
    assert town.confirm().status == "active"
    assert town.seen() is None
    index(town.database, *town.network.happen(town.network.world.write, town.did, 2))
    assert town.seen() is None and town.records() > records
    assert rows(town.database.url, "SELECT * FROM pipeline.removal") == []
