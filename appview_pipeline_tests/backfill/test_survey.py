"""What happened in a gap of a stream, found by the relay's list: every repository that missed something is queued."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from appview_pipeline import backoff
from appview_pipeline.backfill import pages as pages_module
from appview_pipeline.backfill import survey as survey_module
from appview_pipeline.backfill.pages import RepositoryPage, repository_page
from appview_pipeline.backfill.survey import SurveySummary, close_stream_gaps
from appview_pipeline.network.xrpc import Client
from appview_pipeline.settings import Settings, load
from appview_pipeline.shards import number_of
from appview_pipeline.store.database import Database
from appview_pipeline.store.session_lock import LockTaken
from appview_pipeline_tests.simulated_network.network import SimulatedNetwork
from appview_pipeline_tests.simulated_network.world import World
from appview_pipeline_tests.support.batches import index
from appview_pipeline_tests.support.tables import one, rows

Behind = Callable[..., tuple[SimulatedNetwork, Settings, set[str]]]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "SURVEY_RECHECK_SECONDS", 0.05)
    monkeypatch.setattr("appview_pipeline.backfill.pages.PAGE", 20)


def know(database: Database, settings: Settings, frames: list[bytes]) -> None:
    """Indexes frames as if the consumer had, some time ago."""
    index(database, *frames)
    rows(
        database.url,
        "UPDATE pipeline.batch SET source = %s, last_seq = 1, applied_at = now() - interval '1 h'",
        settings.relay_url,
    )


def note_gap(database: Database, settings: Settings, *, shard: str = "0/1", ago: str = "0 s") -> None:
    rows(
        database.url,
        "INSERT INTO pipeline.gap (kind, relay, shard, from_text, to_text, detected_at)"
        " VALUES ('outdated_cursor', %s, %s, '10', '20', now() - %s::interval)",
        settings.relay_url,
        shard,
        ago,
    )


def missing(database: Database) -> set[str]:
    """The repositories that are queued because something is missing."""
    found = rows(
        database.url,
        "SELECT q.did FROM pipeline.backfill_queue q JOIN pipeline.repo r USING (did)"
        " JOIN pipeline.gap g USING (did) WHERE r.sync_state = 'desynchronized' AND g.resolved_at IS NULL"
        " AND q.priority = 2 AND g.kind = 'repository'",
    )
    return {did for (did,) in found}


def open_gaps(database: Database) -> int:
    return int(one(database.url, "SELECT count(*) FROM pipeline.gap WHERE relay IS NOT NULL AND resolved_at IS NULL"))


def changed_since(world: World, before: Mapping[str, str | None]) -> set[str]:
    """Active accounts that have committed since."""
    return {it.did for it in world.authors if it.account.active and it.repository.rev != before.get(it.did)}


def test_after_an_outage_of_a_week_nothing_is_silently_missing(database: Database) -> None:
    """What the relay sent for a week is lost, for its window is shorter. Accounts that never commit again are found."""
    world = World(5, 80, start=time.time() - 9 * 86_400, rate=0.005, pasts=())
    with SimulatedNetwork(world) as network:
        settings = replace(load(network.environment()), database_url=database.url)
        know(database, settings, network.advance(400))
        before = {it.did: it.repository.rev for it in world.authors}
        world.rate = 0.00025
        network.advance(150)
        truth = changed_since(world, before)
        assert 20 < len(truth) < 60
        note_gap(database, settings)
        found = close_stream_gaps(settings, database)
        assert (found.gaps, found.closed, found.ended) == (1, 1, "no gap of a stream is open any more")
        assert missing(database) == truth and found.missing == len(truth)
        assert open_gaps(database) == 0
        states = dict(rows(database.url, "SELECT did, sync_state FROM pipeline.repo"))
        assert "desynchronized" not in {states[did] for did in states.keys() - truth}, "their revs prove them"


def test_an_account_that_was_met_after_the_gap_is_looked_at(database: Database) -> None:
    """It began in the gap, and its first commits are lost: the one that came says what it follows."""
    world = World(5, 40, start=time.time() - 86_400, rate=0.02, pasts=())
    with SimulatedNetwork(world) as network:
        settings = replace(load(network.environment()), database_url=database.url)
        know(database, settings, network.advance(30))
        known = {did for (did,) in rows(database.url, "SELECT did FROM pipeline.repo")}
        before = {it.did: it.repository.rev for it in world.authors}
        network.advance(60)
        lost = changed_since(world, before)
        index(database, *network.advance(60))
        late = {did for (did,) in rows(database.url, "SELECT did FROM pipeline.repo")} - known
        assert late & lost
        note_gap(database, settings)
        close_stream_gaps(settings, database)
        incomplete = rows(database.url, "SELECT did FROM pipeline.repo WHERE sync_state = 'desynchronized'")
        assert {did for (did,) in incomplete} >= changed_since(world, before) & lost


def test_what_became_of_accounts_in_a_gap_is_noted(database: Database, behind: Behind) -> None:
    """Those that were deactivated, taken down, or active again, unless the stream has said something of them since."""
    network, settings, changed = behind(lost=0)
    world = network.world
    known = {did for (did,) in rows(database.url, "SELECT did FROM pipeline.repo WHERE active")}
    returned, away, down, late, *_ = [it.did for it in world.authors if it.did in known and it.account.active]
    index(database, *network.happen(world.deactivate, returned))
    network.happen(world.reactivate, returned)
    network.happen(world.write, returned, 3)
    network.happen(world.deactivate, away)
    network.happen(world.deactivate, down, "takendown")
    network.happen(world.deactivate, late)
    note_gap(database, settings, ago="20 min")
    # What came after the gap counts.
    rows(database.url, "UPDATE pipeline.repo SET account_at = now() - interval '1 min' WHERE did = %s", late)
    rows(database.url, "UPDATE pipeline.repo SET account_at = now() - interval '1 h' WHERE did = %s", returned)
    found = close_stream_gaps(settings, database)
    assert (found.closed, found.accounts) == (1, 3), found
    states = rows(
        database.url,
        'SELECT did, r.active, r.status, a."upstreamStatus" FROM pipeline.repo r JOIN bsky.actor a USING (did)'
        " WHERE did = ANY (%s)",
        [returned, away, down, late],
    )
    assert {it[0]: it[1:] for it in states} == {
        returned: (True, None, None),
        away: (False, "deactivated", "deactivated"),
        down: (False, "takendown", "takendown"),
        late: (True, None, None),
    }
    assert returned in missing(database) and changed == set(), "what it wrote meanwhile is queued"
    wanted = rows(database.url, "SELECT did FROM pipeline.identity WHERE status_wanted")
    assert {(away,), (down,)} <= set(wanted), "their PDSes are asked"


def test_without_a_gap_nobody_is_asked(database: Database) -> None:
    settings = Settings(database_url=database.url, relay_url="ws://127.0.0.1:1")
    assert close_stream_gaps(settings, database) == SurveySummary(ended="no gap of a stream is open")


@pytest.fixture
def behind(database: Database) -> Iterator[Behind]:
    """A network of 60 accounts of which the index has missed the last commits: the settings for it, and whose."""
    with ExitStack() as stack:

        def make(lost: int = 100) -> tuple[SimulatedNetwork, Settings, set[str]]:
            world = World(7, 60, start=time.time() - 86_400, rate=0.01, pasts=())
            network = stack.enter_context(SimulatedNetwork(world))
            settings = replace(load(network.environment()), database_url=database.url)
            know(database, settings, network.advance(300))
            before = {it.did: it.repository.rev for it in world.authors}
            network.advance(lost)
            return network, settings, changed_since(world, before)

        yield make


def test_a_survey_that_is_interrupted_is_gone_on_with(database: Database, behind: Behind) -> None:
    _, settings, changed = behind()
    note_gap(database, settings, ago="20 min")
    compared, runs = 0, 0
    while True:
        runs += 1
        left = iter(range(1 + runs))  # each gets a little farther
        try:
            found = close_stream_gaps(settings, database, stopped=lambda left=left: next(left, None) is None)  # type: ignore[misc]
        except LockTaken:  # the session of the run before has not ended yet
            continue
        compared += found.compared
        if found.closed:
            break
        assert found.ended == "it was asked to end"
    assert runs > 1 and compared < 60 * 2
    assert missing(database) == changed


def test_a_gap_that_is_found_during_a_survey_needs_another(
    database: Database, behind: Behind, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, settings, _ = behind()
    note_gap(database, settings)
    noted: list[int] = []

    def progress(so_far: SurveySummary) -> None:
        if so_far.compared and not noted:
            noted.append(1)
            note_gap(database, settings, shard="0/2", ago="-1 s")

    found = close_stream_gaps(settings, database, progress=progress)
    assert found.closed == 2 and found.compared > 60, "the second begins at the beginning"


def test_a_gap_that_is_found_while_a_survey_is_interrupted_needs_another(database: Database, behind: Behind) -> None:
    _, settings, _ = behind()
    note_gap(database, settings, ago="20 min")
    left = iter(range(3))
    first = close_stream_gaps(settings, database, stopped=lambda: next(left, None) is None)
    assert first.closed == 0 and first.ended == "it was asked to end"
    note_gap(database, settings, shard="0/2")
    found: SurveySummary | None = None
    while found is None:
        try:
            found = close_stream_gaps(settings, database)
        except LockTaken:  # the session of the run before has not ended yet
            continue
    assert found.closed == 2 and found.compared > 61, "the second begins at the beginning"


def test_only_repositories_of_the_shards_that_have_a_gap(database: Database, behind: Behind) -> None:
    _, settings, changed = behind()
    rows(database.url, "UPDATE pipeline.batch SET shard = '1/2'")
    note_gap(database, settings, shard="1/2")
    close_stream_gaps(settings, database)
    assert missing(database) == {did for did in changed if number_of(did.encode()) % 2 == 1}


def test_what_the_stream_brings_meanwhile_is_not_missing(
    database: Database, behind: Behind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "SURVEY_RECHECK_SECONDS", 0.5)
    network, settings, changed = behind(lost=0)
    late = network.advance(40)
    note_gap(database, settings)
    read = pages_module.repository_page
    pages: list[int] = []

    def page(*arguments: Any, **options: Any) -> Any:
        found = read(*arguments, **options)
        pages.append(1)
        if len(pages) == 1:
            index(database, *late)
        return found

    monkeypatch.setattr(survey_module, "repository_page", page)
    found = close_stream_gaps(settings, database)
    assert found.closed == 1 and found.missing == 0 and changed == set()


def test_a_stream_that_catches_up_goes_first(database: Database, behind: Behind) -> None:
    _, settings, _ = behind()
    note_gap(database, settings)
    rows(database.url, "UPDATE pipeline.batch SET applied_at = now(), relay_time = now() - interval '1 h'")
    found = close_stream_gaps(settings, database)
    assert found.closed == 0 and "once it has caught up" in found.ended
    assert open_gaps(database) == 1


def test_a_relay_that_fails_leaves_the_gap_open(
    database: Database, behind: Behind, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, settings, _ = behind()
    settings = replace(settings, relay_url="ws://127.0.0.1:1")
    note_gap(database, settings)
    found = close_stream_gaps(settings, database)
    assert found.failed == 1 and found.closed == 0 and "could not be read" in found.ended
    assert "tried again later" in close_stream_gaps(settings, database).ended
    assert open_gaps(database) == 1


def test_a_list_that_is_cut_off_leaves_the_gap_open(
    database: Database, behind: Behind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cursor leads to the same page again and again: nobody knows what the others would have said."""
    _, settings, _ = behind()
    note_gap(database, settings)
    read = repository_page

    def same_again(client: Client, origin: str, cursor: str | None, **more: Any) -> RepositoryPage:
        return replace(read(client, origin, None, **more), cursor="again")

    monkeypatch.setattr(survey_module, "repository_page", same_again)
    found = close_stream_gaps(settings, database)
    assert found.closed == 0 and "cut off" in found.ended
    assert open_gaps(database) == 1
