"""`appview-pipeline backfill` and `audit` against a simulated network, as a person calls them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from appview_pipeline.backfill import by_hand
from appview_pipeline.cli import cli
from appview_pipeline.errors import OperatorError
from appview_pipeline.ingest.opting_out import switch_collection
from appview_pipeline.store.database import Database
from appview_pipeline_tests.simulated_network.network import SimulatedNetwork
from appview_pipeline_tests.simulated_network.world import World
from appview_pipeline_tests.support.frames import did_of
from appview_pipeline_tests.support.tables import one, rows

Command = Callable[..., Result]


@pytest.fixture
def network() -> Iterator[SimulatedNetwork]:
    with SimulatedNetwork(World(9, 8, start=time.time() - 60, pasts=())) as made:
        for author in made.world.authors:
            made.happen(made.world.write, author.did, 5)
        yield made


@pytest.fixture
def command(
    database: Database, network: SimulatedNetwork, monkeypatch: pytest.MonkeyPatch, restored_logging: None
) -> Command:
    """Runs a command in this process, on the simulated network."""
    monkeypatch.setattr("appview_pipeline.ingest.interpreter.favour_throughput", lambda: None)
    for name, value in network.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("APPVIEW_DATABASE_URL", database.url.replace("+psycopg2", ""))
    return lambda *arguments: CliRunner().invoke(cli, [str(it) for it in arguments])


def summary(result: Result, exit_code: int = 0) -> Any:
    assert result.exit_code == exit_code, (result.output, result.exception)
    return json.loads(result.stdout.splitlines()[-1])


def synchronized(database: Database) -> set[str]:
    return {did for (did,) in rows(database.url, "SELECT did FROM pipeline.repo WHERE sync_state = 'synchronized'")}


def test_accounts_are_fetched_and_audited(database: Database, network: SimulatedNetwork, command: Command) -> None:
    ann, bob = (author.account for author in network.world.authors[:2])
    done = summary(command("backfill", ann.did, f"@{bob.handle}"))
    assert (done["repositories"], done["failed"], done["incomplete"]) == (2, 0, {})
    assert done["records"] == done["created"] > 9
    assert synchronized(database) == {ann.did, bob.did}

    audited = command("audit", ann.did, bob.did, "--deep")
    assert summary(audited)["records"] == done["records"]
    assert summary(audited)["differences"] == 0
    assert f"{ann.did}  " in audited.stdout and "synchronized" in audited.stdout

    rows(database.url, "DELETE FROM bsky.record WHERE did = %s AND uri LIKE '%%.post/%%'", bob.did)
    differing = command("audit", "--sample", 10, "--json")
    assert summary(differing, 1)["missing"] == summary(differing, 1)["differences"] >= 5
    by_did = {it["did"]: it for it in map(json.loads, differing.stdout.splitlines()[:-1])}
    assert by_did[ann.did]["differences"] == 0
    assert by_did[bob.did]["missing"] == summary(differing, 1)["missing"]

    again = summary(command("backfill", bob.did))
    assert again["created"] == by_did[bob.did]["missing"]
    assert summary(command("audit", bob.did))["differences"] == 0


def test_what_can_not_be_fetched_is_said(database: Database, network: SimulatedNetwork, command: Command) -> None:
    ann, nobody = network.world.authors[0].did, did_of("nobody")
    done = summary(command("backfill", ann, nobody), 1)
    assert done["repositories"] == 1
    assert done["incomplete"].keys() == {nobody}
    failed = command("audit", ann, nobody)
    assert summary(failed, 3)["failed"].keys() == {nobody}
    assert f"{nobody} could not be audited" in failed.stdout
    assert command("audit").exit_code == command("audit", ann, "--sample", "3").exit_code == 2


def test_only_the_last_days_of_accounts(database: Database, network: SimulatedNetwork, command: Command) -> None:
    did = network.world.authors[0].did
    assert summary(command("backfill", did, "--days", "1"))["incomplete"] == {}
    assert one(database.url, "SELECT is_partial FROM pipeline.repo WHERE did = %s", did) is True
    assert summary(command("backfill", did))["incomplete"] == {}
    assert one(database.url, "SELECT is_partial FROM pipeline.repo WHERE did = %s", did) is False
    assert synchronized(database) == {did}


def test_the_whole_network_is_listed_and_fetched(
    database: Database, network: SimulatedNetwork, command: Command
) -> None:
    done = summary(command("backfill", "--all"))
    assert (done["repositories"], done["failed"], done["left"]) == (len(network.world.authors), 0, 0)
    assert done["listing"]["queued"] == len(network.world.authors)
    assert synchronized(database) == {author.did for author in network.world.authors}


def test_the_last_days_of_the_whole_network(database: Database, network: SimulatedNetwork, command: Command) -> None:
    done = summary(command("backfill", "--days", "1"))
    assert (done["repositories"], done["failed"], done["left"]) == (len(network.world.authors), 0, 0)
    assert one(database.url, "SELECT bool_and(is_partial) FROM pipeline.repo") is True


def test_a_mistyped_did_is_said_and_not_queued(database: Database, command: Command) -> None:
    for name in ("backfill", "audit"):
        result = command(name, "did:plc:abc")
        assert isinstance(result.exception, OperatorError) and "is not a DID" in str(result.exception)
    assert one(database.url, "SELECT count(*) FROM pipeline.backfill_queue") == 0


def test_an_account_that_may_not_be_indexed_is_not_fetched(
    database: Database, network: SimulatedNetwork, command: Command
) -> None:
    ann, bob = (author.did for author in network.world.authors[:2])
    summary(command("backfill", ann, bob))
    switch_collection(database, ann, forbid=True, purge=False)
    rows(database.url, "UPDATE pipeline.repo SET active = false, status = 'deactivated' WHERE did = %s", bob)
    asked = [pds.asked for pds in network.pdses]
    done = summary(command("backfill", ann, bob), 1)
    assert "forbids" in done["incomplete"][ann] and "not active" in done["incomplete"][bob]
    rows(database.url, "UPDATE pipeline.backfill_queue SET finished_at = NULL, parked_at = now(), error = 'it is gone'")
    rows(database.url, "UPDATE pipeline.backfill_queue SET not_before = now() + interval '1 day'")
    assert "not active" in summary(command("backfill", bob), 1)["reasons"][bob], "it waits, parked, and stays so"
    assert "forbids" in summary(command("audit", ann), 3)["failed"][ann]
    assert asked == [pds.asked for pds in network.pdses]


def test_a_sample_of_nothing_is_said(command: Command) -> None:
    result = command("audit", "--sample", 3)
    assert summary(result)["repositories"] == 0
    assert "nothing to audit" in result.stderr


def test_what_ends_the_listing_ends_the_command(
    database: Database, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("the listing is broken")

    monkeypatch.setattr(by_hand, "list_network", fail)
    failed = command("backfill", "--all")
    assert isinstance(failed.exception, RuntimeError)
