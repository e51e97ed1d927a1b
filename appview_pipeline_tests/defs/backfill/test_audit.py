"""The check `audit_sample`: what the network has and the index has not, and the other way round; and its schedule."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from appview_pipeline.defs import database as database_module
from appview_pipeline.defs.backfill.audit import audit_schedule
from appview_pipeline.defs.definitions import defs
from appview_pipeline.store.database import Database
from appview_pipeline_tests.simulated_network.network import SimulatedNetwork
from appview_pipeline_tests.support.batches import index
from appview_pipeline_tests.support.dagster_events import values
from appview_pipeline_tests.support.tables import one, rows


@pytest.fixture
def network(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedNetwork]:
    """A network, not indexed yet, that Dagster's part uses; and the test's database."""
    with SimulatedNetwork(seed=3, accounts=6) as made:
        for name, value in made.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("APPVIEW_DATABASE_URL", database.url)
        database_module.reopen()
        yield made
    database_module.reopen()


def evaluated() -> tuple[dg.AssetCheckEvaluation, dict[str, Any]]:
    """The check, run by its job."""
    with dg.DagsterInstance.ephemeral() as instance:
        done = defs.resolve_job_def("audit_repositories").execute_in_process(instance=instance)
    (evaluation,) = done.get_asset_check_evaluations()
    return evaluation, values(evaluation.metadata)


def ask() -> list[dg.RunRequest] | str:
    """What the schedule asks for, or why it does not."""
    with dg.instance_for_test() as instance:
        context = dg.build_schedule_context(instance=instance, repository_def=defs.get_repository_def())
        found = audit_schedule.evaluate_tick(context)
    return list(found.run_requests or ()) or str(found.skip_message)


def test_a_sample_is_what_the_network_says(database: Database, network: SimulatedNetwork) -> None:
    found, _ = evaluated()
    assert found.passed and "nothing to audit" in str(found.description)
    assert ask() == "No repository is said to be complete yet."
    index(database, *network.advance(300))
    rows(database.url, "UPDATE pipeline.repo SET sync_state = 'synchronized'")
    assert len(ask()) == 1
    found, numbers = evaluated()
    assert found.passed and numbers["repositories"] >= 6 and numbers["records"] > 50
    lost = one(database.url, "SELECT min(uri) FROM bsky.record")
    rows(database.url, "DELETE FROM bsky.record WHERE uri = %s", lost)
    did = one(database.url, "SELECT did FROM bsky.record WHERE did <> split_part(%s, '/', 3) LIMIT 1", lost)
    network.pds.faults.named[did] = "fail"
    found, numbers = evaluated()
    assert not found.passed and (numbers["missing"], numbers["not_audited"]) == (1, 1)
    assert [row.data["record"] for row in numbers["differences"].records if row.data["kind"] == "missing"] == [lost]
    assert [row.data["repository"] for row in numbers["failures"].records] == [did]
    said = str(found.description)
    assert "1 differ from the network. To repair them, launch the job resync" in said and "Not fetched: 1." in said
