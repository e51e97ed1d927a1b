"""At the end of a soak: whether the index is what the network is, and whether all checks are green by themselves."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from itertools import groupby
from operator import itemgetter
from random import Random
from typing import Any

import dagster as dg
import psycopg2
from sqlalchemy.exc import SQLAlchemyError

from appview_pipeline.backfill.audit import AuditSummary, audit
from appview_pipeline.backfill.fetch import Fetcher
from appview_pipeline.network.xrpc import Client
from appview_pipeline.operations.conditions import judge_all
from appview_pipeline.settings import Settings, load
from appview_pipeline.store.database import open_database
from appview_pipeline.store.errors import DatabaseError
from appview_pipeline.store.health_report import read_health
from appview_pipeline.store.labels import LabelRow
from appview_pipeline.store.reports import aggregate_drift
from appview_pipeline_tests.soak.network_process import Rest, digest
from appview_pipeline_tests.support.database import connect
from appview_pipeline_tests.support.deployment import Deployment
from appview_pipeline_tests.support.label_model import LabelModel
from appview_pipeline_tests.support.label_rows import rows_of_wire
from appview_pipeline_tests.support.tables import rows

OPEN = {
    "events": "SELECT %(newest)s - coalesce(max(seq), 0) FROM pipeline.cursor",
    "repositories desynchronized": "SELECT count(*) FROM pipeline.repo WHERE active AND NOT excluded "
    "AND sync_state = 'desynchronized' AND did = ANY(%(living)s)",
    "gaps": "SELECT count(*) FROM pipeline.gap WHERE resolved_at IS NULL",
    "urgent repositories": "SELECT count(*) FROM pipeline.backfill_queue WHERE finished_at IS NULL "
    "AND priority >= 2 AND NOT did = ANY(%(deleted)s)",
    "unchecked commits": "SELECT count(*) FROM pipeline.unchecked_commit",
    "removals": "SELECT count(*) FROM pipeline.repo WHERE did = ANY(%(deleted)s) "
    "AND EXISTS (SELECT FROM bsky.record r WHERE r.did = repo.did)",
    "labelers": "SELECT count(*) FROM pipeline.labeler l JOIN jsonb_each_text(%(labelers)s) AS wanted ON key = l.did "
    "WHERE coalesce(l.cursor, 0) < value::bigint",
}
"""What must be none when the network has come to rest."""


@dataclass
class Compared:
    """What was found. `differences`: what is wrong, in words; nothing: the index is what the network is."""

    seconds: float = 0.0
    repositories: int = 0
    records: int = 0
    audited: int = 0
    audited_records: int = 0
    labels: int = 0
    differences: list[str] = field(default_factory=list)


def wait_for_rest(url: str, rest: Rest, patience: float, step: Callable[[], None], say: Callable[[str], None]) -> float:
    """Waits until nothing of `OPEN` is left, and returns the seconds; AssertionError after `patience` seconds."""
    newest_labels = {did: max((seq for seq, _ in labels), default=0) for did, labels in rest.labels.items()}
    values: dict[str, Any] = {
        "newest": rest.newest,
        "living": rest.living,
        "deleted": rest.deleted,
        "labelers": json.dumps(newest_labels),
    }
    began = said = time.monotonic()
    quiet = 0
    while quiet < 3:  # looks in a row: what is queued next may not be queued yet
        time.sleep(0.5)
        step()
        left = {}
        try:
            with connect(url) as connection, connection.cursor() as cursor:
                for what, statement in OPEN.items():
                    cursor.execute(statement, values)
                    ((count,),) = cursor.fetchall()
                    if count > 0:
                        left[what] = int(count)
        except psycopg2.OperationalError as error:
            left["the database"] = str(error).partition("\n")[0]  # type: ignore[assignment]
        quiet = 0 if left else quiet + 1
        now = time.monotonic()
        if left and now - said > 15:
            said = now
            say(f"{now - began:,.0f} s after the network came to rest: {left}")
        assert now - began < patience, f"the index did not come to rest in {patience:g} s: {left}"
    return time.monotonic() - began


def compare(settings: Settings, rest: Rest, audit_seconds: float, say: Callable[[str], None]) -> Compared:
    """Compares every repository, every counter and the labels of an index at rest.

    Of every repository the records are compared by their CIDs. Those that differ, and others at random for
    `audit_seconds`, are audited besides: fetched, proved, and compared with the rows that are derived from them.
    """
    found = Compared()
    database = open_database(settings)
    began = time.monotonic()
    try:
        stored = stored_contents(database.url, rest, found)
        unlike = [did for did in rest.living if stored.get(did, digest(())) != rest.contents[did]]
        say(f"{found.repositories:,} repositories, {found.records:,} records compared; {len(unlike):,} differ")
        others = sorted(set(rest.living) - {*unlike})
        Random(0).shuffle(others)
        ends = time.monotonic() + audit_seconds
        with Client(settings) as client:
            fetcher = Fetcher(settings, database, client)
            summary = audit(settings, database, fetcher, unlike, deep=True)
            if not summary.differences and len(unlike) > summary.refused:
                found.differences.append(f"{len(unlike):,} repositories differ, and their audit does not say in what")
            for one in (
                summary,
                audit(settings, database, fetcher, others, deep=True, stopped=lambda: time.monotonic() > ends),
            ):
                _note(found, one)
        took = time.monotonic() - began
        say(f"audit: {found.audited:,} repositories, {found.audited_records:,} records, in {took:,.0f} s")
        # A recount of everything takes longer than a reader may.
        with database.connect("maintenance") as connection:
            now = datetime.now(timezone.utc)
            for check in ("post_aggregates", "profile_aggregates"):
                drift = aggregate_drift(connection, check, now - timedelta(days=1), now + timedelta(days=1), 10**9)
                if drift.differing:
                    found.differences.append(f"{drift.differing:,} counters of {check} differ from a recount")
        left = rows(database.url, "SELECT count(*) FROM bsky.record WHERE did = ANY(%s)", rest.deleted)[0][0]
        if left:
            found.differences.append(f"{left:,} records of deleted accounts")
        _compare_labels(database.url, rest, found)
    finally:
        database.close()
    found.seconds = time.monotonic() - began
    return found


def _note(found: Compared, summary: AuditSummary) -> None:
    found.audited += summary.repositories
    found.audited_records += summary.records
    for what in ("missing", "extra", "differing", "underived"):
        if count := getattr(summary, what):
            found.differences.append(f"{count:,} records {what}")
    found.differences += [f"{example}" for example in list(summary.examples)[:5]]
    if summary.failed:
        some = [f"{did} ({why})" for did, why in list(summary.failed.items())[:3]]
        found.differences.append(f"{len(summary.failed):,} repositories could not be audited: {', '.join(some)}")


def stored_contents(url: str, rest: Rest, found: Compared) -> dict[str, bytes]:
    """The digest of what is stored of each living account; counts repositories and records."""
    stored = {}
    with connect(url) as connection, connection.cursor("contents") as cursor:
        cursor.itersize = 50_000
        cursor.execute("SELECT did, uri, cid FROM bsky.record WHERE did = ANY(%s) ORDER BY did", (rest.living,))
        for did, its in groupby(cursor, key=itemgetter(0)):
            records = [(uri.removeprefix(f"at://{did}/"), record_cid) for _, uri, record_cid in its]
            stored[did] = digest(records)
            found.records += len(records)
    found.repositories = len(rest.living)
    return stored


_EVENTS = """
    SELECT src, uri, cid, val, neg, cts, (extract(epoch FROM cts_at) * 1000000)::bigint, exp,
        (extract(epoch FROM exp_at) * 1000000)::bigint, seq, sig, signed
    FROM pipeline.label_event"""


def _compare_labels(url: str, rest: Rest, found: Compared) -> None:
    """Everything that is in a labeler's stream is stored, nothing else, and `bsky.label` follows from it."""
    stored = [LabelRow(*row) for row in rows(url, _EVENTS)]
    label_rows = rows(url, "SELECT src, uri, cid, val, neg, cts, exp FROM bsky.label")
    actual = {tuple(row[:4]): tuple(row[4:]) for row in label_rows}
    found.labels = len(stored)
    follows = LabelModel()
    follows.add(stored)
    expected = follows.rows()
    wrong = sum(1 for key in expected.keys() | actual.keys() if expected.get(key) != actual.get(key))
    if wrong:
        found.differences.append(f"{wrong:,} rows of bsky.label do not follow from the label events")
    known = {_identity(row) for row in stored}
    for did, labels in rest.labels.items():
        offered = [row for seq, label in labels for row in rows_of_wire(seq, [label])]
        if missing := sum(1 for row in offered if _identity(row) not in known):
            found.differences.append(f"{missing:,} labels of {did} are missing")
        if did in rest.keeps_all:
            extra = {_identity(row) for row in stored if row.src == did} - {_identity(row) for row in offered}
            if extra:
                found.differences.append(f"{len(extra):,} labels of {did} were never sent")


def _identity(row: LabelRow) -> tuple[Any, ...]:
    """What makes a label event another one."""
    return row.src, row.uri, row.cid, row.val, row.cts_micros, row.neg, row.exp_micros or 0


# ---- checks


def red_conditions(settings: Settings) -> dict[str, str]:
    """The conditions of health that are not met, in words."""
    try:
        database = open_database(settings)
        try:
            with database.connect("health") as connection:
                verdicts = judge_all(read_health(connection, settings), settings)
        finally:
            database.close()
    except (DatabaseError, psycopg2.Error) as error:
        return {"database": str(error).partition("\n")[0]}
    return {verdict.name: verdict.words for verdict in verdicts if not verdict.passed}


def red_checks(deployment: Deployment) -> dict[str, str]:
    """Dagster's asset checks whose newest evaluation has failed, with what it says."""
    os.environ["DAGSTER_PG_URL"] = deployment.dagster_url
    with dg.DagsterInstance.from_config(str(deployment.home)) as instance:
        found = rows(deployment.dagster_url, "SELECT DISTINCT asset_key, check_name FROM asset_check_executions")
        keys = [dg.AssetCheckKey(dg.AssetKey.from_db_string(key), name) for key, name in found if key]  # type: ignore[arg-type]
        red = {}
        for key, record in instance.event_log_storage.get_latest_asset_check_execution_by_key(keys).items():
            evaluation = record.event.dagster_event.asset_check_evaluation_data if record.event else None  # type: ignore[union-attr]
            if evaluation is not None and not evaluation.passed:
                red[f"{key.asset_key.to_user_string()}/{key.name}"] = evaluation.description or ""
        return red


def wait_for_green(
    settings: Settings, deployment: Deployment, patience: float, step: Callable[[], None], say: Callable[[str], None]
) -> tuple[float, dict[str, str]]:
    """Waits until all checks pass; returns the seconds, and those that do not after `patience` seconds."""
    began = said = time.monotonic()
    while True:
        step()
        try:
            red: Mapping[str, str] = {**red_conditions(settings), **red_checks(deployment)}
        except (psycopg2.Error, SQLAlchemyError) as error:
            red = {"Dagster's storage": str(error).partition("\n")[0]}
        now = time.monotonic()
        if not red or now - began > patience:
            return now - began, dict(red)
        if now - said > 15:
            said = now
            say(f"{now - began:,.0f} s after the last trouble, not green: {dict(red)}")
        time.sleep(2.0)


def settings_of(deployment: Deployment) -> Settings:
    """The deployment's settings, for this process."""
    return load({**deployment.environment, "APPVIEW_DATABASE_URL": deployment.index_url})
