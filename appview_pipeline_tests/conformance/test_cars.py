"""Real repository exports, indexed from files: paths and CIDs as other tools list them, and the reference's tables.

The reference's tables were made with one moment for all records; ours have the records' own times as "indexedAt".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from appview_pipeline.backfill.car_file import NO_KEY, FileOutcome, backfill_from_file
from appview_pipeline.protocol.car import read_car
from appview_pipeline.protocol.cid import to_text
from appview_pipeline.protocol.commit import decode_commit
from appview_pipeline.protocol.export import Export, read_export
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline_tests.support import states, tables
from appview_pipeline_tests.support.database import connect

CARS = ("arroba-snarfed2", "dart-repo", "jetstream-corpus-repo", "microcosm-tiny")
NOW = 1_793_500_000_000_000
"""2026-11-01, in microseconds."""
EVER = 36_500.0
"""Days: all records notify, as in the reference."""


def read(conformance: Path, car: str) -> Export:
    data = (conformance / f"cars/{car}.car").read_bytes()
    roots, blocks = read_car(data)
    return read_export(data, decode_commit(blocks[roots[0]])["did"], NOW)


def indexed(database: Database, conformance: Path, car: str) -> FileOutcome:
    settings = Settings(database_url=database.url, notify_window=EVER)
    return backfill_from_file(settings, database, conformance / f"cars/{car}.car", read(conformance, car).did)


def without_times(state: states.State) -> states.State:
    """The tables without the times at which records were indexed."""

    def cut(row: dict[str, Any]) -> dict[str, Any]:
        return {column: value for column, value in row.items() if column != "indexedAt"}

    return {
        **state,
        "records": [cut(row) for row in state["records"]],
        "rows": {table: [cut(row) for row in found] for table, found in state["rows"].items()},
    }


@pytest.mark.parametrize("car", CARS)
def test_the_tables_are_those_of_the_reference(database: Database, conformance: Path, car: str) -> None:
    (path,) = (conformance / "golden").glob(f"car-{car}.tables.json*")
    data = path.read_bytes()
    if path.suffix == ".zst":
        data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    found = indexed(database, conformance, car)
    assert found.signature == NO_KEY
    assert found.outcome.counts.creates + found.outcome.counts.refused == found.outcome.counts.records
    with connect(database.url) as connection:
        got = states.dump(connection)
    assert states.differences(without_times(got), without_times(json.loads(data))) == []
    assert len(got["rejected"]) == found.outcome.counts.refused

    before = tables.dump(database.url)
    again = indexed(database, conformance, car).outcome.counts
    assert (again.creates, again.updates, again.deletes) == (0, 0, 0)
    assert tables.differences(tables.dump(database.url), before) == []


def test_paths_and_cids_are_those_of_a_go_program(conformance: Path) -> None:
    export = read(conformance, "jetstream-corpus-repo")
    listed = (conformance / "cars/jetstream-corpus-repo.expected_records.tsv").read_text().splitlines()
    assert [f"{path}\t{to_text(cid)}" for path, cid in export.records()] == listed
    commit = (conformance / "cars/jetstream-corpus-repo.expected_commit.txt").read_text()
    assert f"DID: {export.did}\n" in commit
    assert f"Revision: {export.rev}\n" in commit
    assert f"Data CID: {to_text(export.data)}\n" in commit


def test_records_are_those_of_a_python_program(database: Database, conformance: Path) -> None:
    found = indexed(database, conformance, "arroba-snarfed2")
    listed = json.loads((conformance / "cars/arroba-snarfed2.expected.json").read_text())
    want = {
        f"at://{found.outcome.did}/{collection}/{rkey}": with_links(record)
        for collection, records in listed.items()
        for rkey, record in records.items()
    }
    got = dict(tables.rows(database.url, "SELECT uri, json::jsonb FROM bsky.record"))
    assert got == want


def with_links(value: Any) -> Any:
    """The JSON of the AT Protocol for that of IPLD."""
    if isinstance(value, dict):
        return {"$link": value["/"]} if value.keys() == {"/"} else {key: with_links(it) for key, it in value.items()}
    return [with_links(it) for it in value] if isinstance(value, list) else value


def test_an_empty_repository_is_complete(database: Database, conformance: Path) -> None:
    found = indexed(database, conformance, "microcosm-empty")
    assert found.outcome.counts.records == 0
    assert tables.one(database.url, "SELECT count(*) FROM bsky.record") == 0
