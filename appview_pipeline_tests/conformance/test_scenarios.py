"""The conformance scenarios: what the reference makes of them, our model and our tables make of them too."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import zstandard

from appview_pipeline.indexing.changes import Change
from appview_pipeline.ingest.decoding import read_changes
from appview_pipeline.store.database import Database
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline_tests.properties.model import Model
from appview_pipeline_tests.properties.model_tables import tables_of
from appview_pipeline_tests.simulated_network.corpus import read_corpus
from appview_pipeline_tests.support.batches import batches_of, feed
from appview_pipeline_tests.support.changes import COLLECTIONS, changes_of_car, commit_of, validators
from appview_pipeline_tests.support.checkout import SHARED
from appview_pipeline_tests.support.conformance_modules import conformance_module
from appview_pipeline_tests.support.database import connect
from appview_pipeline_tests.support.label_rows import apply_rows
from appview_pipeline_tests.support.scenario_playing import in_batches, label_rows, play, segments
from appview_pipeline_tests.support.scenarios import Scenario, load
from appview_pipeline_tests.support.states import Cleaner, State, differences, dump
from appview_pipeline_tests.support.tables import fresh_database, rows

BETTER = {
    "06-duplicates-like": "the notification moves to the promoted duplicate, and the others point at it",
    "12-quotes": "the quoteCount of a deleted post is recounted too",
    "32-nul-and-odd-text": "U+0000 is removed and the record kept",
    "37-follow-block-delete": "a promoted duplicate is no longer listed as one",
    "41-out-of-order-rev": "an older rev is ignored",
    "46-gate-before-post": "hasThreadGate is set when the post arrives",
}
"""Scenarios in which our tables differ from the reference's, and why (docs/differences.md); their facts hold."""

OTHERWISE = {
    ("27-account-status", "throttled-ignored"): "{active: true, status: throttled} reactivates",
    ("27-account-status", "an account never seen gets no row from #account"): "its status is kept",
}
"""(scenario, checkpoint or claim) of facts that do not hold here, and why (docs/differences.md)."""


def scenario_ids() -> list[str]:
    folder = SHARED / "conformance" / "scenarios"
    return [path.stem for path in sorted(folder.glob("[0-9]*.json"))] or ["absent"]


def modelled(model: Model, changes: Iterable[Change]) -> Model:
    """The model after the changes, one at a time."""
    for change in changes:
        if (commit := commit_of(change)) is not None:
            model.apply(commit)
    return model


@pytest.fixture(scope="module")
def scenarios(conformance: Path) -> dict[str, Scenario]:
    return {scenario.id: scenario for scenario in load(conformance)}


@pytest.fixture(scope="module")
def checker(conformance: Path) -> ModuleType:
    return conformance_module(conformance, "check_facts")


@pytest.fixture(scope="module")
def index(server: EmbeddedPostgres, template_database: str) -> Iterator[tuple[Database, Any, Cleaner]]:
    """A database, a connection to look into it, and what empties it."""
    with (
        fresh_database(server, template_database) as database,
        connect(database.url) as connection,
    ):
        yield database, connection, Cleaner(connection)


def unheld(checker: ModuleType, scenario: Scenario, states: dict[str, State]) -> list[str]:
    """The facts that should hold and do not."""
    lines = []
    for fact in scenario.facts:
        check, at, claim = fact["check"], fact["at"], fact["claim"]
        if (scenario.id, at) in OTHERWISE or (scenario.id, claim) in OTHERWISE:
            continue
        holds, got = checker.evaluate(check, states[at], states)
        if not holds:
            lines.append(f"{at}: {claim}: {check} is {got}")
    if "41" in scenario.id:
        lines += differences(states["final"], states["newest"])
    return lines


@pytest.mark.parametrize("source", ["steps", "frames"])
@pytest.mark.parametrize("name", scenario_ids())
def test_model_agrees_with_the_reference(
    scenarios: dict[str, Scenario], checker: ModuleType, name: str, source: str
) -> None:
    scenario = scenarios[name]
    model = Model()
    states: dict[str, State] = {}
    rejected: list[dict[str, str]] = []
    for checkpoint, changes in segments(scenario, source):
        modelled(model, changes)
        rejected += [{"subject": f"at://{letter.did}/{letter.path}"} for it in changes for letter in it.dead_letters]
        states[checkpoint] = {**tables_of(model), "rejected": list(rejected)}
        if name not in BETTER:
            assert differences(states[checkpoint], scenario.expected[checkpoint]) == []
    facts = [fact for fact in scenario.facts if "actor" not in fact["check"]]
    assert unheld(checker, Scenario(name, [], facts, {}, []), states) == []


@pytest.mark.parametrize("size", [1, 7, 0], ids=["by 1", "by 7", "all"])
@pytest.mark.parametrize("source", ["steps", "frames"])
@pytest.mark.parametrize("name", scenario_ids())
def test_tables_agree_with_the_reference(
    scenarios: dict[str, Scenario],
    checker: ModuleType,
    index: tuple[Database, Any, Cleaner],
    name: str,
    source: str,
    size: int,
) -> None:
    scenario = scenarios[name]
    database, connection, clean = index
    clean()
    started = iso_now()
    states: dict[str, State] = {}
    for checkpoint in play(database, scenario, source, size):
        if checkpoint in scenario.effective:
            assert in_effect(database) == scenario.effective[checkpoint]
        states[checkpoint] = sorted_state(dump(connection))
        if name not in BETTER:
            assert differences(states[checkpoint], scenario.expected[checkpoint]) == []
        if (name, checkpoint) not in OTHERWISE:
            got, want = actors(states[checkpoint], scenario.expected[checkpoint], started)
            assert got == want
    assert unheld(checker, scenario, states) == []


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", scenario_ids())
def test_interleavings_give_the_tables_of_the_model(
    scenarios: dict[str, Scenario], index: tuple[Database, Any, Cleaner], name: str, seed: int
) -> None:
    """Each repository's own order is kept, nothing else is. Labels come in any order, before their subjects too."""
    scenario = scenarios[name]
    database, connection, clean = index
    changes = [change for _, segment in scenario.changes() for change in segment]
    want = tables_of(modelled(Model(), changes))
    labels = [row for step in scenario.label_steps() for row in label_rows(step, "steps")]
    random.Random(seed).shuffle(labels)
    clean()
    for some in in_batches(labels, (1, 3, 7)[seed]):
        apply_rows(database, some)
    feed(database, batches_of(interleaved(changes, random.Random(seed)), (1, 3, 7)[seed]))
    assert differences(dump(connection), want) == []
    if "final" in scenario.effective:
        assert in_effect(database) == scenario.effective["final"]


CARS = ("arroba-snarfed2", "dart-repo", "jetstream-corpus-repo", "microcosm-tiny")


def golden(conformance: Path, name: str) -> State:
    (path,) = (conformance / "golden").glob(f"{name}.tables.json*")
    data = path.read_bytes()
    if path.suffix == ".zst":
        data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    state: State = json.loads(data)
    return state


def test_model_makes_the_golden_tables_of_the_corpus(conformance: Path) -> None:
    frames = list(read_corpus(conformance / "frames/jetstream-corpus/frames.bin.zst"))
    model = modelled(Model(), read_changes(frames, validators(), COLLECTIONS))
    # docs/differences.md: the reference loses an update of a record that it never saw; we keep it.
    (difference,) = differences(tables_of(model), golden(conformance, "jetstream-corpus"))
    assert difference.startswith("records: too much") and "app.bsky.actor.status/self" in difference


@pytest.mark.parametrize("car", CARS)
def test_model_makes_the_golden_tables_of_repositories(conformance: Path, car: str) -> None:
    changes = changes_of_car((conformance / f"cars/{car}.car").read_bytes())
    assert differences(tables_of(modelled(Model(), changes)), golden(conformance, f"car-{car}")) == []


@pytest.mark.parametrize("size", [100, 0], ids=["by 100", "all"])
@pytest.mark.parametrize("car", CARS)
def test_repositories_make_the_golden_tables(
    conformance: Path, index: tuple[Database, Any, Cleaner], car: str, size: int
) -> None:
    database, connection, clean = index
    changes = changes_of_car((conformance / f"cars/{car}.car").read_bytes())
    clean()
    feed(database, batches_of(changes, size))
    assert differences(dump(connection), golden(conformance, f"car-{car}")) == []


def actors(got: State, want: State, started: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The accounts of two states. Where a refresh has found a change, which no event told, "indexedAt" is the time of
    the refresh: it is left out."""
    refreshed = {did for did, row in got["actors"].items() if started <= row["indexedAt"] <= iso_now()}

    def compared(state: State) -> dict[str, Any]:
        return {
            did: {column: value for column, value in row.items() if column != "indexedAt" or did not in refreshed}
            for did, row in state["actors"].items()
        }

    return compared(got), compared(want)


def in_effect(database: Database) -> set[tuple[str, str, str]]:
    """(src, uri, val) of the labels in effect that labelers gave."""
    return set(
        rows(
            database.url,
            "SELECT src, uri, val FROM pipeline.label_in_effect WHERE kind <> 'self'",
        )
    )


def iso_now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def interleaved(changes: Sequence[Change], rng: random.Random) -> list[Change]:
    queues: dict[str, list[Change]] = {}
    for change in changes:
        did = change.repo.did if change.repo else change.account.did if change.account else ""
        queues.setdefault(did, []).append(change)
    turns = [did for did, queue in queues.items() for _ in queue]
    rng.shuffle(turns)
    return [queues[did].pop(0) for did in turns]


def sorted_state(state: State) -> State:
    """Lists in an order of their own, so that equal states are equal."""
    return {part: sorted(value, key=str) if isinstance(value, list) else value for part, value in state.items()} | {
        "rows": {table: sorted(rows, key=str) for table, rows in state["rows"].items()}
    }
