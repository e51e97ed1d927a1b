"""The materializations of the table groups, made of the numbers of applied batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import dagster as dg

from appview_pipeline.defs.in_sync import in_sync_tags
from appview_pipeline.defs.tables.groups import FIREHOSE_SENSOR, IN_ORDER, TableGroup
from appview_pipeline.defs.tables.partitions import key_of
from appview_pipeline.store.reports import Applied

ACTIONS = ("create", "update", "delete")


def operations_of(group: TableGroup, applied: Applied) -> dict[str, Counter[str]]:
    """Operations on the records of the group's collections: by collection, counts by action."""
    found: dict[str, Counter[str]] = {}
    for name, count in applied.ops.items():
        collection, _, action = name.partition(" ")
        if group.collections is None or collection in group.collections:
            found.setdefault(collection, Counter())[action] += count
    return found


def group_event(
    group: TableGroup, applied: Applied, in_hour: Mapping[str, int], *, always: bool = False
) -> dg.AssetMaterialization | None:
    """What the batches did to the group's tables since the report before; None when they did nothing, unless `always`.

    `in_hour`: rows by table since the hour began. Dagster plots every number, so there are few: by hour where a person
    looks at partitions (an hour's last report counts), by report where they look at events. The rest is in tables.
    """
    rows = {table: applied.written[table] for table in group.tables if applied.written.get(table)}
    operations = operations_of(group, applied)
    if not rows and not operations and not always:
        return None
    metadata: dict[str, int | dg.MetadataValue] = {
        "rows_in_hour": sum(in_hour.get(table, 0) for table in group.tables),
        "rows_last_minute": sum(rows.values()),
    }
    for action in ACTIONS:
        if count := sum(counts[action] for counts in operations.values()):
            metadata[f"records_{action}d_last_minute"] = count
    if len(operations) > 1:
        metadata["collections"] = _table("collection", {name: operations[name] for name in sorted(operations)}, ACTIONS)
    if len(group.tables) > 1 and rows:
        by_table = {table: {"last minute": count, "in hour": in_hour.get(table, 0)} for table, count in rows.items()}
        metadata["tables"] = _table("table", by_table, ("last minute", "in hour"))
    return dg.AssetMaterialization(
        asset_key=dg.AssetKey(group.key),
        partition=key_of(applied.hour),
        metadata=metadata,
        tags=in_sync_tags(group.upstream),
    )


def group_events(
    applied: Applied, in_hour: Mapping[str, int], *, all_groups: bool = False
) -> Iterator[dg.AssetMaterialization]:
    """The materializations of the groups that the batches did something to, each after those it is derived from; those
    that another sensor reports are left out.

    `all_groups`: of the others too. Each hour has them once, or rare collections would have hours that look missing.
    """
    for group in IN_ORDER:
        if group.sensor != FIREHOSE_SENSOR:
            continue
        event = group_event(group, applied, in_hour, always=all_groups)
        if event is not None:
            yield event


def _table(subject: str, rows: Mapping[str, Mapping[str, int]], numbers: tuple[str, ...]) -> dg.TableMetadataValue:
    records = [
        dg.TableRecord({subject: name, **{number: counts.get(number, 0) for number in numbers}})
        for name, counts in rows.items()
    ]
    columns = [dg.TableColumn(subject, "string"), *(dg.TableColumn(number, "int") for number in numbers)]
    return dg.MetadataValue.table(records, dg.TableSchema(columns))
