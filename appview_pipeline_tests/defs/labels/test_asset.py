"""Labelers materialized by hand: their rows are rebuilt from what they have said, and their streams begun anew."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from appview_pipeline.defs.definitions import defs
from appview_pipeline.defs.health.checks import health_checks
from appview_pipeline.defs.labels.asset import LABELS, labels
from appview_pipeline.defs.labels.partitions import NAME
from appview_pipeline.store.database import Database
from appview_pipeline.store.labelers import LOCK
from appview_pipeline.store.session_lock import session_lock
from appview_pipeline_tests.support.dagster_events import values
from appview_pipeline_tests.support.label_rows import apply_rows, label_row
from appview_pipeline_tests.support.labelers import add_labeler
from appview_pipeline_tests.support.tables import one, rows

A, B, C = "did:plc:aaaa", "did:plc:bbbb", "did:plc:cccc"


@pytest.fixture
def instance(index: None) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        made.add_dynamic_partitions(NAME, [A, B, C])
        yield made


def materialized(
    instance: dg.DagsterInstance, did: str, *, to: str | None = None, from_start: bool = False
) -> dg.ExecuteInProcessResult:
    """A run of the asset as the UI launches it, of a labeler, or of all from one to another."""
    tags = {"dagster/asset_partition_range_start": did, "dagster/asset_partition_range_end": to} if to else {}
    return dg.materialize(
        [labels],
        partition_key=None if to else did,
        tags=tags,
        run_config={"ops": {"labels": {"config": {"from_start": from_start}}}},
        resources=dict(defs.resources or {}),
        instance=instance,
    )


def event_of(instance: dg.DagsterInstance, did: str) -> dict[str, object]:
    """The newest materialization of a labeler."""
    (found,) = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=LABELS, asset_partitions=[did]), limit=1
    ).records
    assert found.asset_materialization is not None
    return values(found.asset_materialization.metadata)


def test_a_labeler_is_rebuilt_and_the_numbers_say_what_was_wrong(
    instance: dg.DagsterInstance, database: Database
) -> None:
    for did in (A, B):
        add_labeler(database.url, did, cursor=70)
        apply_rows(database, [label_row(did, f"at://x/{n}", "spam") for n in range(10)])
    before = rows(database.url, "SELECT * FROM bsky.label ORDER BY src, uri")
    rows(database.url, "DELETE FROM bsky.label WHERE uri = 'at://x/3'")
    rows(database.url, "UPDATE bsky.label SET neg = true WHERE uri = 'at://x/4'")
    rows(
        database.url,
        "INSERT INTO bsky.label (src, uri, cid, val, neg, cts) VALUES (%s, 'at://y', '', 'v', false, '')",
        A,
    )
    materialized(instance, A)
    found = event_of(instance, A)
    numbers = ("rows", "rows_added", "rows_removed", "rows_corrected")
    assert [found[name] for name in numbers] == [10, 1, 1, 1] and "stream" not in found
    assert one(database.url, "SELECT cursor FROM pipeline.labeler WHERE did = %s", A) == 70
    assert one(database.url, "SELECT count(*) FROM bsky.label WHERE src = %s", B) == 9, "of the others nothing"
    materialized(instance, A, to=C)
    assert [event_of(instance, B)[name] for name in numbers] == [10, 1, 0, 1]
    assert [event_of(instance, C)[name] for name in numbers] == [0, 0, 0, 0]
    assert rows(database.url, "SELECT * FROM bsky.label ORDER BY src, uri") == before


def test_from_the_start_the_stream_is_begun_anew(instance: dg.DagsterInstance, database: Database) -> None:
    for did in (A, B):
        add_labeler(database.url, did, cursor=70, caught_up_at="now()")
    materialized(instance, A, from_start=True)
    assert event_of(instance, A)["stream"] == "is read again from 0 by the label process"
    assert rows(database.url, "SELECT did, cursor, caught_up_at IS NULL FROM pipeline.labeler ORDER BY did") == [
        (A, 0, True),
        (B, 70, False),
    ]
    materialized(instance, C, from_start=True)
    assert "was never read" in str(event_of(instance, C)["stream"])


def test_the_checks_can_be_run_by_hand(instance: dg.DagsterInstance, database: Database) -> None:
    def evaluations() -> dict[str, dg.AssetCheckEvaluation]:
        done = dg.materialize(
            [*defs.assets, health_checks],  # type: ignore[misc]
            selection=dg.AssetSelection.checks_for_assets("labels"),
            resources=dict(defs.resources or {}),
            instance=instance,
        )
        return {it.check_name: it for it in done.get_asset_check_evaluations()}

    add_labeler(database.url, A, state="connected", labels=5, rejected=95, rejected_by_kind='{"label-source": 95}')
    found = evaluations()
    assert not found["reading_labels"].passed and "No label process runs" in str(found["reading_labels"].description)
    assert found["labelers_keep_up"].severity == dg.AssetCheckSeverity.ERROR
    with session_lock(database, LOCK, taken="it is taken"):
        found = evaluations()
    assert found["reading_labels"].passed
    assert "95 of 100 labels of did:plc:aaaa so far (label-source 95)" in str(found["labelers_keep_up"].description)
    assert found["labelers_keep_up"].severity == dg.AssetCheckSeverity.WARN
