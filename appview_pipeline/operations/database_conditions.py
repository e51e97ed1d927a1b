"""Conditions of PostgreSQL itself: room on the disk, transactions that end, vacuum, connections."""

from __future__ import annotations

from appview_pipeline.operations.verdict import Check, Condition, Severity, Verdict
from appview_pipeline.operations.words import duration, share, size
from appview_pipeline.settings import Settings
from appview_pipeline.store.health_report import HealthReport

ASSET = "database"
MIN_DEAD_ROWS = 100_000
"""A table with fewer dead rows is small enough."""
LAST_TRANSACTION_IDS = 1_500_000_000
"""Age of row versions at which PostgreSQL is near to refuse all writing (2**31 less three million)."""
NAMED_TABLES = 3


DATABASE_ANSWERS = Check(
    name="database_answers",
    asset=ASSET,
    severity="error",
    setting=None,
    description="PostgreSQL answers all questions about the health of the pipeline within seconds.",
)
"""Evaluated by those who read a health report, or can't."""


def _disk_lasts(report: HealthReport, settings: Settings) -> Verdict:
    disk = report.disk
    numbers: dict[str, float] = {"database_bytes": disk.bytes}
    grows = "too few measurements say how it grows"
    if disk.growth is not None:
        numbers["growth_bytes_a_day"] = disk.growth
        grows = f"it grows by {size(disk.growth)} a day"
    words = f"The database has {size(disk.bytes)}, and {grows}."
    if disk.volume_bytes is None or disk.free_bytes is None:
        words += " The size of its volume is not known: set APPVIEW_DISK_BYTES to it."
        return DISK_LASTS.verdict(True, words, numbers)
    part = disk.free_bytes / max(disk.volume_bytes, 1)
    limit, days_limit = settings.disk_warning_share, settings.disk_warning_days
    numbers |= {"volume_bytes": disk.volume_bytes, "free_bytes": disk.free_bytes, "free_share": part}
    words += f" {size(disk.free_bytes)} of {size(disk.volume_bytes)} are free, {share(part)} (limit {share(limit)})."
    days = disk.days_left
    if days is not None:
        numbers["days_left"] = days
        words += f" That lasts {days:,.1f} days (limit {days_limit:g})."
    passed = part >= limit and (days is None or days >= days_limit)
    severity: Severity = "error" if part < limit / 3 or (days is not None and days < min(1.0, days_limit)) else "warn"
    return DISK_LASTS.verdict(passed, words, numbers, severity=severity)


DISK_LASTS = Condition(
    name="disk_lasts",
    asset=ASSET,
    severity="warn",
    setting="APPVIEW_DISK_WARNING_DAYS",
    description=(
        "The volume of the database lasts for some days, by how tables have grown, and some of it is free "
        "(APPVIEW_DISK_WARNING_SHARE)."
    ),
    judge=_disk_lasts,
)


def _transactions_end(report: HealthReport, settings: Settings) -> Verdict:
    seconds, limit = report.server.oldest_transaction_seconds, settings.transaction_warning_seconds
    if seconds is None:
        return TRANSACTIONS_END.verdict(True, "No other transaction is open.", {"oldest_transaction_seconds": 0.0})
    words = (
        f"The oldest transaction is open for {duration(seconds)} (limit {duration(limit)}): "
        f"{report.server.oldest_transaction}."
    )
    return TRANSACTIONS_END.verdict(seconds <= limit, words, {"oldest_transaction_seconds": seconds})


TRANSACTIONS_END = Condition(
    name="transactions_end",
    asset=ASSET,
    severity="warn",
    setting="APPVIEW_TRANSACTION_WARNING_SECONDS",
    description="No transaction of this database is open for long: while one is, VACUUM can remove nothing newer.",
    judge=_transactions_end,
)


def _transaction_ids_last(report: HealthReport, settings: Settings) -> Verdict:
    age, limit = report.server.transaction_id_age, settings.transaction_id_warning_age
    words = f"The oldest row version that is not frozen is {age:,} transactions old (limit {limit:,})."
    severity: Severity = "error" if age > LAST_TRANSACTION_IDS else "warn"
    return TRANSACTION_IDS_LAST.verdict(age <= limit, words, {"transaction_id_age": age}, severity=severity)


TRANSACTION_IDS_LAST = Condition(
    name="transaction_ids_last",
    asset=ASSET,
    severity="warn",
    setting="APPVIEW_TRANSACTION_ID_WARNING_AGE",
    description="Autovacuum freezes old row versions in time, so that transaction ids last.",
    judge=_transaction_ids_last,
)


def _vacuum_keeps_up(report: HealthReport, settings: Settings) -> Verdict:
    limit = settings.dead_rows_warning_share
    shares = {
        name: table.dead_rows / max(table.rows + table.dead_rows, 1)
        for name, table in report.tables.items()
        if table.dead_rows >= MIN_DEAD_ROWS
    }
    behind = sorted((name for name, part in shares.items() if part > limit), key=lambda name: -shares[name])
    numbers = {"tables_behind": len(behind), "largest_dead_share": max(shares.values(), default=0.0)}
    if not behind:
        words = f"No large table has more than {share(limit)} dead rows."
        return VACUUM_KEEPS_UP.verdict(True, words, numbers)
    named = ", ".join(f"{name} ({share(shares[name])})" for name in behind[:NAMED_TABLES])
    more = f" and {len(behind) - NAMED_TABLES:,} more" if len(behind) > NAMED_TABLES else ""
    words = f"Tables with more than {share(limit)} dead rows: {named}{more}."
    return VACUUM_KEEPS_UP.verdict(False, words, numbers)


VACUUM_KEEPS_UP = Condition(
    name="vacuum_keeps_up",
    asset=ASSET,
    severity="warn",
    setting="APPVIEW_DEAD_ROWS_WARNING_SHARE",
    description="Autovacuum removes dead rows as fast as they are made.",
    judge=_vacuum_keeps_up,
)


def _connections_left(report: HealthReport, settings: Settings) -> Verdict:
    taken, most = report.server.connections, report.server.max_connections
    part = taken / most if most > 0 else 0.0
    limit = settings.connections_warning_share
    words = f"{taken:,} of {most:,} connections are taken, {share(part)} (limit {share(limit)})."
    numbers = {"connections": taken, "max_connections": most, "connections_share": part}
    return CONNECTIONS_LEFT.verdict(part <= limit, words, numbers)


CONNECTIONS_LEFT = Condition(
    name="connections_left",
    asset=ASSET,
    severity="warn",
    setting="APPVIEW_CONNECTIONS_WARNING_SHARE",
    description="PostgreSQL takes more connections.",
    judge=_connections_left,
)


def _sweeps_end(report: HealthReport, settings: Settings) -> Verdict:
    limit = settings.sweep_warning_days * 86_400
    late = {name: it for name, it in report.sweeps.items() if it.seconds > limit}
    numbers = {"sweeps": len(report.sweeps), "sweeps_late": len(late)}
    if not late:
        return SWEEPS_END.verdict(True, f"No sweep is late (limit {duration(limit)}).", numbers)
    oldest = sorted(late, key=lambda name: -late[name].seconds)
    named = "; ".join(
        f"{name} ({duration(late[name].seconds)}{': ' + error if (error := late[name].error) else ''})"
        for name in oldest[:NAMED_TABLES]
    )
    more = f"; and {len(late) - NAMED_TABLES:,} more" if len(late) > NAMED_TABLES else ""
    words = f"Sweeps that have not come to an end for more than {duration(limit)}: {named}{more}."
    return SWEEPS_END.verdict(False, words, numbers)


SWEEPS_END = Condition(
    name="sweeps_end",
    asset=ASSET,
    severity="warn",
    setting="APPVIEW_SWEEP_WARNING_DAYS",
    description="What is to be deleted by age is deleted.",
    judge=_sweeps_end,
)

CONDITIONS = (DISK_LASTS, TRANSACTIONS_END, TRANSACTION_IDS_LAST, VACUUM_KEEPS_UP, CONNECTIONS_LEFT, SWEEPS_END)
