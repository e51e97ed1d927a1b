"""The database: sizes, growth, connections, transactions."""

from __future__ import annotations

from collections.abc import Callable

from appview_pipeline.operations.metrics.family import Family, Values, gauge, one
from appview_pipeline.operations.reading import Reading
from appview_pipeline.store.health_report import HealthReport, TableHealth

DAY_SECONDS = 86_400.0


def _tables(value: Callable[[TableHealth], float | int | None]) -> Callable[[Reading], Values]:
    """A value of each table, named `schema.table`."""

    def values(reading: Reading) -> Values:
        for name, table in reading.report.tables.items() if reading.report is not None else ():
            yield (name,), value(table)

    return values


def _server(reading: Reading) -> Values:
    if reading.report is not None:
        yield (reading.report.server.version,), 1


def _started(report: HealthReport) -> float | None:
    return None if report.server.started_at is None else report.server.started_at.timestamp()


FAMILIES: tuple[Family, ...] = (
    gauge("appview_database_info", "Version of PostgreSQL; 1.", "version", _server),
    gauge("appview_database_start_timestamp_seconds", "When PostgreSQL was started.", "", one(_started)),
    gauge("appview_database_size_bytes", "Bytes of the database.", "", one(lambda report: report.disk.bytes)),
    gauge(
        "appview_database_volume_bytes",
        "Bytes of its volume, where they are known.",
        "",
        one(lambda report: report.disk.volume_bytes),
    ),
    gauge(
        "appview_database_volume_free_bytes",
        "Bytes of it that are free.",
        "",
        one(lambda report: report.disk.free_bytes),
    ),
    gauge(
        "appview_database_growth_bytes_per_second",
        "Bytes a second that the tables grow by, as hourly measurements say.",
        "",
        one(lambda report: None if report.disk.growth is None else report.disk.growth / DAY_SECONDS),
    ),
    gauge(
        "appview_database_full_in_seconds",
        "Seconds until the volume is full, if they go on growing so.",
        "",
        one(lambda report: None if report.disk.days_left is None else report.disk.days_left * DAY_SECONDS),
    ),
    gauge(
        "appview_database_connections",
        "Connections to the server.",
        "",
        one(lambda report: report.server.connections),
    ),
    gauge(
        "appview_database_max_connections",
        "Connections that it allows.",
        "",
        one(lambda report: report.server.max_connections),
    ),
    gauge(
        "appview_database_oldest_transaction_seconds",
        "For how long the oldest transaction has been open.",
        "",
        one(lambda report: report.server.oldest_transaction_seconds or 0.0),
    ),
    gauge(
        "appview_database_transaction_id_age",
        "Transactions since the oldest row version that is not frozen.",
        "",
        one(lambda report: report.server.transaction_id_age),
    ),
    gauge(
        "appview_table_size_bytes",
        "Bytes of a table with its indexes, as of the last hourly measurement.",
        "table",
        _tables(lambda table: table.bytes),
    ),
    gauge("appview_table_rows", "Rows of it, by PostgreSQL's estimate.", "table", _tables(lambda table: table.rows)),
    gauge(
        "appview_table_dead_rows",
        "Row versions that vacuum has to remove, by PostgreSQL's estimate.",
        "table",
        _tables(lambda table: table.dead_rows),
    ),
)
